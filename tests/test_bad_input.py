"Bad input of every kind: one sentence that says what is wrong, an exit code that is not 0, and nothing lost."
import os
import pickle
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import SHARD, Recipe, collect
from gpt_kit.networks.states import read_network
from gpt_kit.networks.store import Store, shard_file
from gpt_kit.networks.tasks import digits, digits_cnn, mlp
from gpt_kit.networks.weights import Layout
from gpt_kit.run.commands import main

ROOT = Path(__file__).parent.parent
QUICK = Recipe(epochs=1, n_saves=3)

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    "Run a command here, in a folder of its own, without waiting for a new process."
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    def run(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, args=args, stdout=out, stderr=err)
    return run

def lines(r):
    "What it said, without progress bars."
    said = [l for l in re.split(r'[\r\n]+', r.stderr) if l.strip()]
    return [l for l in said if not re.search(r'\d+%\||\d+/\d+ \[', l)]

def refused(r, *words, code=1):
    "The one sentence with which a command refused."
    assert r.returncode == code and len(lines(r)) == 1, (r.returncode, r.stderr)
    said, = lines(r)
    assert not re.search(r'[.!?] +[A-Z]', said), f'more than one sentence: {said}'
    assert said.startswith('gpt-kit: ') and 'Traceback' not in said
    assert [w for w in words if w not in said] == [], said
    return said

def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}

@pytest.fixture
def mine(store, tmp_path):
    "A copy of the shared store that may be damaged."
    return Path(shutil.copytree(store.path, tmp_path/'mine'))

TRAIN = '--width', 24, '--depth', 1, '--heads', 2, '--steps', 2, '--batch', 8

# Tasks and networks

TASKS = """
import torch
import torch.nn as nn
from gpt_kit.networks.tasks import classification
X, y, P = torch.randn(90, 4), torch.arange(90) % 3, torch.randn(90, 2*6*6)
def made(name, X, y, *layers, **kw): return classification(f'odd:{name}', X, y, nn.Sequential(*layers), **kw)
def conv(): return made('conv', X, y, nn.Linear(4, 4), nn.Conv1d(1, 1, 3), nn.Linear(4, 3))
def short(): return made('short', X, y[:80], nn.Linear(4, 3))
def wide(): return made('wide', X, y, nn.Linear(5, 3))
def labels(): return made('labels', X, y + 1, nn.Linear(4, 2))
def holes(): return made('holes', X/0, y, nn.Linear(4, 3))
def cnn(*between, image=(2, 6, 6)):
    layers = nn.Conv2d(2, 4, 3), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    return made('cnn', P, y, *layers, image=image)
def norm(): return cnn(nn.BatchNorm2d(4))
def order(): return cnn(nn.Flatten())
def blind(): return cnn(image=None)
def small(): return cnn(image=(2, 5, 5))
def tied():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = nn.Parameter(first.weight.data.T)
    return made('tied', X, y, first, nn.ReLU(), second, nn.ReLU(), nn.Linear(4, 3))
"""

@pytest.mark.parametrize('name, words', [
    ('conv', ['layer 1 (Conv1d)', 'not supported']), ('short', ['90', '80', 'pair up']),
    ('wide', ['(60, 4)', '(N, 5)']), ('labels', ['3 classes (1, 2, 3)', '2 outputs']),
    ('holes', ['not finite']),
    ('norm', ['layer 1 (BatchNorm2d)']), ('order', ['layer 2 (AdaptiveAvgPool2d)', 'takes pictures']),
    ('blind', ['image=(channels, height, width)']), ('small', ['(60, 72)', '2 × 5 × 5 stored flat']),
    ('tied', ['layer 2 (Linear)', 'shared']), ('none', ['odd:none', "'none'"])])
def test_a_task_that_cannot_be(kit, tmp_path, name, words):
    (tmp_path/'odd.py').write_text(TASKS)
    refused(kit('collect', tmp_path/'s', '--task', f'odd:{name}', '--runs', 2), *words)
    assert not (tmp_path/'s').exists()

@pytest.mark.parametrize('name, words', [
    ('digit', 'module:function'), ('digits-', 'module:function'), ('digits-a', 'module:function'),
    ('digits-0', '1 to 4096 neurons'), ('nowhere:task', 'run where nowhere.py lies')])
def test_a_task_that_is_not_there(kit, tmp_path, name, words):
    refused(kit('collect', tmp_path/'s', '--task', name), name, words)

def test_a_data_set_that_is_not_there(kit, tmp_path, monkeypatch):
    def nothing(*a, **kw): raise URLError('no network')
    monkeypatch.setattr('sklearn.datasets.fetch_openml', nothing)
    monkeypatch.setattr('gpt_kit.networks.fetch.urlopen', nothing)
    for name, home in dict(mnist='googleapis.com: no network', cifar10='openml.org').items():
        monkeypatch.setattr(f'gpt_kit.networks.datasets.{name}.__defaults__', (tmp_path,))
        refused(kit('collect', tmp_path/'s', '--task', name), 'put', str(tmp_path), home)

def test_neuron_tokens_need_a_hidden_layer(kit, tmp_path):
    "A linear classifier has no hidden neurons: refused by name, and learned in chunks."
    store, model = tmp_path/'s', tmp_path/'m.safetensors'
    quick = '--runs', 4, '--saves', 3, '--epochs', 1
    assert kit('collect', store, '--task', 'digits-linear', *quick).returncode == 0
    r = kit('train', store, model, *TRAIN, '--tokens', 'neuron')
    refused(r, 'need a network with a hidden layer', '--tokens chunk-256', "tokens='chunk-256'")
    assert not list(tmp_path.glob('m.*'))
    assert kit('train', store, model, *TRAIN, '--tokens', 'chunk-256').returncode == 0

def test_a_cnn_from_collection_to_prompt(kit, tmp_path):
    "Channels are neurons, kernels are edges."
    store, model, net = tmp_path/'s', tmp_path/'m.safetensors', tmp_path/'out.safetensors'
    quick = '--runs', 4, '--saves', 3, '--epochs', 1
    assert kit('collect', store, '--task', 'digits-cnn', *quick).returncode == 0
    assert kit('train', store, model, *TRAIN, '--width', 32).returncode == 0
    assert kit('prompt', model, 1, '--out', net).returncode == 0
    assert read_network(net, Layout(digits_cnn().layers)).isfinite().all()

def test_a_network_of_another_layout(kit, model_file, tmp_path):
    start, out = tmp_path/'wide.pt', tmp_path/'out.safetensors'
    torch.save(mlp((64, 20, 10)).state_dict(), start)
    refused(kit('prompt', model_file, 1, '--start', start, '--out', out), 'layout', '64, 16')
    assert not out.exists()

def test_a_network_that_is_not_finite(kit, model_file, tmp_path):
    net = mlp((64, 16, 10))
    net[0].bias.data[3] = float('nan')
    save_file(net.state_dict(), tmp_path/'nan.safetensors')
    refused(kit('prompt', model_file, 1, '--start', tmp_path/'nan.safetensors'), 'not finite')

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {shlex.quote(str(self.path))}',)

def pickled(x, file): Path(file).write_bytes(pickle.dumps(x))

@pytest.mark.parametrize('write', [torch.save, pickled], ids=['torch', 'pickle'])
def test_a_pickle_with_code_in_it(kit, model_file, tmp_path, write):
    "It is refused, and its code never runs; that it would otherwise is checked at the end."
    file, mark = tmp_path/'net.pt', tmp_path/'exploded'
    write({'0.weight': Bomb(mark)}, file)
    refused(kit('prompt', model_file, 1, '--start', file), str(file), 'state_dict')
    assert not mark.exists()
    if write is torch.save: torch.load(file, weights_only=False)
    else: pickle.loads(file.read_bytes())
    assert mark.exists()

@pytest.mark.parametrize('what', [mlp((64, 16, 10)), [torch.zeros(3)], {'a': 1}, 'text'],
                         ids=['module', 'list', 'numbers', 'text'])
def test_a_file_without_a_state_dict(tmp_path, what):
    torch.save(what, tmp_path/'net.pt')
    with pytest.raises(UserError, match='state_dict') as e:
        read_network(tmp_path/'net.pt', Layout(mlp((64, 16, 10))))
    assert '\n' not in str(e.value)

# Prompts

@pytest.mark.parametrize('prompt', ['nan', 'inf'])
def test_a_prompt_that_is_no_number(kit, model_file, tmp_path, prompt):
    out = tmp_path/'out.safetensors'
    refused(kit('prompt', model_file, prompt, '--out', out), prompt, 'ask for a test loss between')
    assert not out.exists()

def test_a_prompt_outside_of_what_was_seen(kit, model_file, tmp_path):
    "Allowed, but said."
    r = kit('prompt', model_file, 50, '--out', tmp_path/'out.safetensors')
    assert r.returncode == 0 and (tmp_path/'out.safetensors').exists()
    said, = lines(r)
    assert said.startswith('gpt-kit: ') and 'outside of what this model has seen' in said and '50' in said
    assert lines(kit('prompt', model_file, 2)) == []

# Stores

def test_a_store_made_for_another_task(kit, mine, model_file, tmp_path):
    before = contents(mine)
    refused(kit('collect', mine, '--task', 'digits-8'), str(mine), 'another task')
    refused(kit('collect', mine, '--lr', .5), str(mine), 'other settings')
    refused(kit('collect', mine, '--seed', 9), str(mine), 'another seed')
    collect(digits((8,)), tmp_path/'other', 2, recipe=QUICK, progress=False)
    refused(kit('evaluate', model_file, '--starts', 2, '--store', tmp_path/'other'), 'another task')
    refused(kit('calibrate', model_file, tmp_path/'other'), 'another task')
    assert contents(mine) == before

DRIFT = """
import torch
import torch.nn as nn
from gpt_kit.networks.tasks import classification
shift, y = 0., torch.arange(90)
def task():
    X = torch.ones(90, 4)*y[:, None]/90 + shift
    return classification('drift:task', X, y % 3, nn.Sequential(nn.Linear(4, 3)))
"""

def test_a_task_that_has_changed(kit, tmp_path):
    "Same name, other data: a store must not go on with it."
    (tmp_path/'drift.py').write_text(DRIFT)
    quick = '--task', 'drift:task', '--runs', 2, '--saves', 2, '--epochs', 1
    assert kit('collect', tmp_path/'s', *quick).returncode == 0
    before = contents(tmp_path/'s')
    sys.modules['drift'].shift = 1.
    refused(kit('collect', tmp_path/'s', *quick, '--runs', 4), 'another task')
    assert contents(tmp_path/'s') == before

@pytest.mark.parametrize('damage', ['cut short', 'altered', 'gone'])
def test_a_damaged_shard(kit, mine, tmp_path, damage):
    "The message names the shard and a command; that command makes it again, bit for bit."
    whole, file = contents(mine), mine/shard_file(0)
    data = file.read_bytes()
    if damage == 'gone': file.unlink()
    elif damage == 'cut short': file.write_bytes(data[:len(data)//2])
    else: file.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    said = refused(kit('train', mine, tmp_path/'m.safetensors', *TRAIN), str(file), damage)
    assert not list(tmp_path.glob('m.*'))
    command = shlex.split(said.rsplit('make it again with: ', 1)[1])
    assert command[:2] == ['gpt-kit', 'collect']
    assert kit(*command[1:]).returncode == 0
    assert contents(mine) == whole

@pytest.mark.parametrize('text, words', [
    (b'{"version": 2, "sha', ['damaged']), (b'\xff\xfe', ['damaged']),
    (b'{"version": 1, "task": "digits"}', ['version 1', 'version 2', 'gpt-kit collect']),
    (b'{"version": 99}', ['version 99', 'version 2'])], ids=['cut', 'garbage', 'old', 'version'])
def test_a_damaged_index(kit, mine, tmp_path, text, words):
    (mine/'index.json').write_bytes(text)
    shards = {k: v for k, v in contents(mine).items() if k.suffix == '.safetensors'}
    refused(kit('train', mine, tmp_path/'m.safetensors', *TRAIN), 'index.json', *words)
    refused(kit('collect', mine), 'index.json', *words)
    assert shards.items() <= contents(mine).items()

def test_no_store_at_all(kit, tmp_path):
    nowhere = tmp_path/'nowhere'
    r = kit('train', nowhere, tmp_path/'m.safetensors')
    refused(r, f'there is no store in {nowhere}', 'gpt-kit collect')

def test_runs_that_all_exploded(kit, tmp_path):
    recipe = Recipe(epochs=1, n_saves=3, lr=1e6)
    store = collect(digits(), tmp_path/'s', 4, recipe=recipe, progress=False)
    with pytest.raises(UserError, match='smaller learning rate'): prepare_data(store, 'test_loss')
    refused(kit('train', tmp_path/'s', tmp_path/'m.safetensors', *TRAIN), 'smaller learning rate')

# Models

CHANGES = dict(version=lambda data: data.replace(b'version\\": 2', b'version\\": 7'),
               cut=lambda data: data[:-100], cut_in_the_header=lambda data: data[:50],
               empty=lambda data: b'', text=lambda data: b'hello, I am no model')

@pytest.mark.parametrize('change, words', [
    ('version', ['version 7', 'version 2']), ('cut', ['cut short']), ('cut_in_the_header', ['cut short']),
    ('empty', ['cut short']), ('text', ['not a safetensors'])])
def test_a_model_that_cannot_be_read(kit, model_file, tmp_path, change, words):
    file, data = tmp_path/'m.safetensors', model_file.read_bytes()
    changed = CHANGES[change](data)
    assert changed != data
    file.write_bytes(changed)
    refused(kit('prompt', file, 1), str(file), *words)
    refused(kit('evaluate', file, '--starts', 2), str(file), *words)

def test_a_file_that_is_no_model(kit, tmp_path):
    save_file(dict(a=torch.zeros(2)), tmp_path/'a.safetensors')
    refused(kit('prompt', tmp_path/'a.safetensors', 1), 'not a description by gpt_kit')
    refused(kit('prompt', tmp_path/'b.safetensors', 1), 'there is no file')
    refused(kit('prompt', 'digits-lost', 1), 'did you mean digits-loss?')

# Devices

COMPUTING = dict(collect=['store', '--runs', 2], train=['store', 'm.safetensors'], prompt=['digits-loss', 1],
                 calibrate=['digits-loss', 'store'], evaluate=['digits-loss', '--starts', 2])

@pytest.mark.parametrize('device', ['cuda', 'cuda:3', 'gpu'])
@pytest.mark.parametrize('command', COMPUTING)
def test_a_device_that_is_not_there(kit, tmp_path, command, device):
    "Said before anything is read or written."
    if device != 'gpu' and torch.cuda.is_available(): pytest.skip('there is a CUDA device here')
    refused(kit(command, *COMPUTING[command], '--device', device), repr(device), 'cpu')
    assert not list(tmp_path.iterdir())

# Training

@pytest.mark.parametrize('args, words', [
    (['--metric', 'eror'], ['test_eror', 'test_error']), (['--tokens', 'words'], ["'words'", 'chunk-256']),
    (['--width', 25], ['25', '2 heads']), (['--sampling', 'odd'], ["'odd'", 'paper']),
    (['--condition', 'film'], ["'film'", 'adaptive']), (['--preset', 'mnist'], ["'mnist'", 'mnist-loss']),
    (['--behaviour', -1], ['-1.0', 'from 0 to']), (['--behaviour', 'inf'], ['inf', 'from 0 to'])],
    ids=lambda v: ' '.join(map(str, v)))
def test_options_that_make_no_sense(kit, store, tmp_path, args, words):
    refused(kit('train', store.path, tmp_path/'m.safetensors', *TRAIN, *args), *words)
    assert not list(tmp_path.glob('m.*'))

@pytest.mark.parametrize('args, words', [
    (['--runs', 0], ['0', 'from 1 to']), (['--saves', 1], ['checkpoints', 'from 2 to']),
    (['--saves', 100, '--epochs', 1], ['100 checkpoints', '2 to 11']),
    (['--optimizer', 'adan'], ['adan', 'adam']), (['--spacing', 'odd'], ['odd', 'uniform']),
    (['--preset', 'mnist'], ["'mnist'", 'mnist-loss'])],
    ids=lambda v: ' '.join(map(str, v)))
def test_a_collection_that_cannot_be(kit, tmp_path, args, words):
    refused(kit('collect', tmp_path/'s', *args), *words)

def test_a_command_that_is_not_there(kit): refused(kit('trian', 'a', 'b'), 'trian', 'train', code=2)

# Notebooks

SYMMETRY = ROOT/'nbs'/'networks'/'04_symmetry.ipynb'

@pytest.mark.parametrize('p, words', [
    (['epoch', 2], ["'epoch'", 'epochs']), (['epochs', 'two'], ['epochs', "'two'"]),
    (['epochs', 2.5], ['epochs', '2.5'])], ids=['unknown', 'no number', 'no whole number'])
def test_a_wrong_notebook_parameter(kit, tmp_path, p, words):
    refused(kit('run', SYMMETRY, '-p', *p, '--out', tmp_path/'out'), *words)
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('text, words', [
    ('networks/symmetry:\n  epoch: 2\n', ["'epoch'", 'epochs']),
    ('networks/symmetri:\n  epochs: 2\n', ['networks/symmetri', 'networks/symmetry']),
    ('networks/symmetry: [1', ['YAML']), ('- networks/symmetry\n', ['names and values']),
    ('networks/symmetry: 3\n', ['names and values', '3']),
    ('networks/symmetry:\n  epochs: many\n', ['epochs', "'many'"])],
    ids=['name', 'notebook', 'yaml', 'list', 'number', 'type'])
def test_a_wrong_parameter_file(kit, tmp_path, text, words):
    (tmp_path/'f.yaml').write_text(text)
    notebooks = [SYMMETRY] if 'symmetri:' not in text else [SYMMETRY, SYMMETRY.with_name('09_checks.ipynb')]
    refused(kit('run', *notebooks, '-f', tmp_path/'f.yaml', '--out', tmp_path/'out'), *words)
    assert not (tmp_path/'out').exists()

def test_a_parameter_that_no_notebook_has(kit, tmp_path):
    both = SYMMETRY, SYMMETRY.with_name('02_weights.ipynb')
    refused(kit('run', *both, '-p', 'epoch', 2), 'none of these', "'epoch'", 'epochs')
    refused(kit('run', *both, '-f', tmp_path/'f.yaml'), 'cannot be read')
    assert not list(tmp_path.iterdir())

def test_a_notebook_that_is_not_there(kit, tmp_path):
    refused(kit('run', 'nbs/77_nothing.ipynb'), '77_nothing')
    (tmp_path/'bare.ipynb').write_text('{"cells"')
    refused(kit('run', tmp_path/'bare.ipynb'), 'cannot be read as a notebook')

def test_no_report_of_nothing(kit, tmp_path):
    refused(kit('report', '--notebooks', tmp_path/'none', '--out', tmp_path/'out'), 'no executed notebooks')
    assert not (tmp_path/'out').exists()

# No space left on the disk

def limited():
    "Python ignores SIGXFSZ, so that a write fails with EFBIG."
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

def test_a_shard_that_does_not_fit(gpt_kit, tmp_path):
    "The operating system refuses the second shard's file; with more space the collection goes on."
    store, recipe = tmp_path/'s', ('--saves', 3, '--epochs', 1)
    collect(digits(), store, 5, recipe=QUICK, progress=False)
    before = contents(tmp_path)
    r = gpt_kit('collect', store, '--runs', SHARD, *recipe, before=limited)
    refused(r, 'no space left', 'run the same command again')
    assert contents(tmp_path) == before
    assert Store(store).verify().R == 5
    assert collect(digits(), store, SHARD, recipe=QUICK, progress=False).R == SHARD

FULL_DISK = """
mount -t tmpfs -o size=3m none "$1" || exit 77
"$2" - "$1" <<PYTHON
import os, sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from gpt_kit.run.commands import main
disk = Path(sys.argv[1])
def kit(*words):
    with open(os.devnull, 'w') as nothing, redirect_stdout(nothing): code = main([str(w) for w in words])
    print(f'code {code}', flush=True)
def train():
    small = '--width 24 --depth 1 --heads 2 --steps 1 --batch 8'.split()
    kit('train', disk/'s', disk/'m.safetensors', *small)
kit('collect', disk/'s', '--runs', 128, '--saves', 4, '--epochs', 1)
kit('collect', disk/'s', '--runs', 512)
with suppress(OSError): (disk/'filler').write_bytes(bytes(9_000_000))
train()
print('there:', *(f.name for folder in (disk, disk/'s') for f in folder.iterdir()))
(disk/'filler').unlink()
train()
PYTHON
"""

@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('unshare'), reason='a small disk of our own needs unshare (Linux)')
def test_a_full_disk(tmp_path):
    "A real one, of 3 MB. Slow because a process of its own, which alone sees the disk, imports torch."
    disk = tmp_path/'disk'
    disk.mkdir()
    r = subprocess.run(['unshare', '-rm', 'bash', '-c', FULL_DISK, 'bash', disk, sys.executable],
                       capture_output=True, text=True, timeout=300, cwd=ROOT)
    if r.returncode == 77 or 'unshare failed' in r.stderr or 'Operation not permitted' in r.stderr:
        pytest.skip(f'no file systems of our own here: {r.stderr.strip()}')
    said = [l for l in r.stderr.replace('\r', '\n').splitlines() if l.startswith('gpt-kit')]
    codes = [l for l in r.stdout.splitlines() if l.startswith('code')]
    assert codes == ['code 0', 'code 1', 'code 1', 'code 0'], r.stdout + r.stderr
    assert len(said) == 2 and 'no space left: this collection needs' in said[0]
    assert 'no space left for' in said[1] and 'm.training.safetensors' in said[1]
    assert '.tmp' not in r.stdout and 'm.safetensors' not in r.stdout.replace(said[1], '')

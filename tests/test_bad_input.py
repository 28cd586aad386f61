"Bad input of every kind: one sentence that says what is wrong, an exit code that is not 0, and nothing lost."
import os, pickle, re, resource, shlex, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from safetensors.torch import save_file

from gpt_kit.cli import main
from gpt_kit.collect import SHARD, Recipe, collect
from gpt_kit.store import Store, read_network, shard_file
from gpt_kit.tasks import digits, digits_cnn, mlp
from gpt_kit.train import prepare
from gpt_kit.weights import Layout

ROOT = Path(__file__).parent.parent
QUICK = Recipe(epochs=1, n_saves=3)

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    "Run a command here, in a folder of its own, without waiting for a new process."
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(tmp_path)
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        return SimpleNamespace(returncode=code, args=args, **dict(zip(('stdout', 'stderr'), capsys.readouterr())))
    return run

def lines(r): return [l for l in re.split(r'[\r\n]+', r.stderr) if l.strip() and not re.search(r'\d+%\||\d+/\d+ \[', l)]     # without progress bars

def refused(r, *words):
    "The one sentence with which a command refused."
    assert r.returncode == 1 and len(lines(r)) == 1, (r.returncode, r.stderr)
    said, = lines(r)
    assert not re.search(r'[.!?] +[A-Z]', said), f'more than one sentence: {said}'
    assert said.startswith('gpt-kit: ') and 'Traceback' not in said and [w for w in words if w not in said] == [], said
    return said

def contents(folder): return {f.relative_to(folder): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}

@pytest.fixture
def mine(store, tmp_path):
    "A copy of the shared store that may be damaged."
    return Path(shutil.copytree(store.path, tmp_path/'mine'))

TRAIN = '--width', 24, '--depth', 1, '--heads', 2, '--steps', 2, '--batch', 8

# Tasks and networks

TASKS = """
import torch, torch.nn as nn
from gpt_kit.tasks import classification
X, y = torch.randn(90, 4), torch.arange(90) % 3
def conv(): return classification('odd:conv', X, y, nn.Sequential(nn.Linear(4, 4), nn.Conv1d(1, 1, 3), nn.Linear(4, 3)))
def short(): return classification('odd:short', X, y[:80], nn.Sequential(nn.Linear(4, 3)))
def wide(): return classification('odd:wide', X, y, nn.Sequential(nn.Linear(5, 3)))
def labels(): return classification('odd:labels', X, y + 1, nn.Sequential(nn.Linear(4, 3)))
def holes(): return classification('odd:holes', X/0, y, nn.Sequential(nn.Linear(4, 3)))
P = torch.randn(90, 2*6*6)
def cnn(*between, image=(2, 6, 6)): return classification('odd:cnn', P, y, nn.Sequential(nn.Conv2d(2, 4, 3), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), image=image)
def norm(): return cnn(nn.BatchNorm2d(4))
def order(): return cnn(nn.Flatten())
def blind(): return cnn(image=None)
def small(): return cnn(image=(2, 5, 5))
def tied():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    net[2].weight = nn.Parameter(net[0].weight.data.T)
    return classification('odd:tied', X, y, net)
"""

@pytest.mark.parametrize('name, words', [('conv', ['layer 1 (Conv1d)', 'not supported']), ('short', ['90', '80', 'pair up']), ('wide', ['(60, 4)', '(N, 5)']), ('labels', ['1 to 3', '0..2']), ('holes', ['not finite']),
                                         ('norm', ['layer 1 (BatchNorm2d)']), ('order', ['layer 2 (AdaptiveAvgPool2d)', 'takes pictures']), ('blind', ['image=(channels, height, width)']), ('small', ['(60, 72)', '2 × 5 × 5 stored flat']), ('tied', ['layer 2 (Linear)', 'shared']),
                                         ('none', ["'odd:none'"])])
def test_a_task_that_cannot_be(kit, tmp_path, name, words):
    (tmp_path/'odd.py').write_text(TASKS)
    refused(kit('collect', tmp_path/'s', '--task', f'odd:{name}', '--runs', 2), *words)
    assert not (tmp_path/'s').exists()

@pytest.mark.parametrize('name', ['digit', 'digits-', 'digits-a', 'digits-0', 'nowhere:task'])
def test_a_task_that_is_not_there(kit, tmp_path, name): refused(kit('collect', tmp_path/'s', '--task', name), name, 'module:function')

def test_a_data_set_that_is_not_there(kit, tmp_path, monkeypatch):
    def fetch(*a, **kw): raise OSError('no network')
    monkeypatch.setattr('sklearn.datasets.fetch_openml', fetch)
    for name in ('mnist', 'cifar10'):
        monkeypatch.setattr(f'gpt_kit.datasets.{name}.__defaults__', (tmp_path,))
        refused(kit('collect', tmp_path/'s', '--task', name), 'put', str(tmp_path), 'openml.org')

def test_neuron_tokens_need_a_hidden_layer(kit, tmp_path):
    "A linear classifier has no hidden neurons: refused by name, and learned in chunks."
    assert kit('collect', tmp_path/'s', '--task', 'digits-linear', '--runs', 4, '--saves', 3, '--epochs', 1).returncode == 0
    refused(kit('train', tmp_path/'s', tmp_path/'m.safetensors', *TRAIN, '--tokens', 'neuron'), 'need a network with a hidden layer', 'chunk tokens')
    assert not list(tmp_path.glob('m.*'))
    assert kit('train', tmp_path/'s', tmp_path/'m.safetensors', *TRAIN, '--tokens', 'chunk-256').returncode == 0

def test_a_cnn_from_collection_to_prompt(kit, tmp_path):
    "Channels are neurons, kernels are edges."
    assert kit('collect', tmp_path/'s', '--task', 'digits-cnn', '--runs', 4, '--saves', 3, '--epochs', 1).returncode == 0
    assert kit('train', tmp_path/'s', tmp_path/'m.safetensors', *TRAIN, '--width', 32).returncode == 0
    assert kit('prompt', tmp_path/'m.safetensors', 1, '--out', tmp_path/'out.safetensors').returncode == 0
    assert read_network(tmp_path/'out.safetensors', Layout(digits_cnn().layers)).isfinite().all()

def test_a_network_of_another_layout(kit, model_file, tmp_path):
    torch.save(mlp((64, 20, 10)).state_dict(), tmp_path/'wide.pt')
    refused(kit('prompt', model_file, 1, '--start', tmp_path/'wide.pt', '--out', tmp_path/'out.safetensors'), 'layout', '64, 16')
    assert not (tmp_path/'out.safetensors').exists()

def test_a_network_that_is_not_finite(kit, model_file, tmp_path):
    net = mlp((64, 16, 10)); net[0].bias.data[3] = float('nan')
    save_file(net.state_dict(), tmp_path/'nan.safetensors')
    refused(kit('prompt', model_file, 1, '--start', tmp_path/'nan.safetensors'), 'not finite')

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {shlex.quote(str(self.path))}',)

@pytest.mark.parametrize('write', [torch.save, lambda x, f: Path(f).write_bytes(pickle.dumps(x))], ids=['torch', 'pickle'])
def test_a_pickle_with_code_in_it(kit, model_file, tmp_path, write):
    "It is refused, and its code never runs; that it would otherwise is checked at the end."
    file, mark = tmp_path/'net.pt', tmp_path/'exploded'
    write({'0.weight': Bomb(mark)}, file)
    refused(kit('prompt', model_file, 1, '--start', file), str(file), 'state_dict')
    assert not mark.exists()
    torch.load(file, weights_only=False) if write is torch.save else pickle.loads(file.read_bytes())
    assert mark.exists()

@pytest.mark.parametrize('what', [mlp((64, 16, 10)), [torch.zeros(3)], {'a': 1}, 'text'], ids=['module', 'list', 'numbers', 'text'])
def test_a_file_without_a_state_dict(tmp_path, what):
    torch.save(what, tmp_path/'net.pt')
    with pytest.raises(ValueError, match='state_dict') as e: read_network(tmp_path/'net.pt', Layout(mlp((64, 16, 10))))
    assert '\n' not in str(e.value)

# Prompts

@pytest.mark.parametrize('prompt', ['nan', 'inf'])
def test_a_prompt_that_is_no_number(kit, model_file, tmp_path, prompt):
    refused(kit('prompt', model_file, prompt, '--out', tmp_path/'out.safetensors'), prompt, 'ask for a test loss between')
    assert not (tmp_path/'out.safetensors').exists()

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
    collect(digits((8,)), tmp_path/'other', 2, QUICK, progress=False)
    refused(kit('evaluate', model_file, '--starts', 2, '--store', tmp_path/'other'), 'another task')
    assert contents(mine) == before

def test_a_task_that_has_changed(kit, tmp_path):
    "Same name, other data: a store must not go on with it."
    (tmp_path/'drift.py').write_text("import torch, torch.nn as nn\nfrom gpt_kit.tasks import classification\nshift = 0.\ndef task(): return classification('drift:task', torch.ones(90, 4)*torch.arange(90)[:, None]/90 + shift, torch.arange(90) % 3, nn.Sequential(nn.Linear(4, 3)))\n")
    assert kit('collect', tmp_path/'s', '--task', 'drift:task', '--runs', 2, '--saves', 2, '--epochs', 1).returncode == 0
    before = contents(tmp_path/'s')
    sys.modules['drift'].shift = 1.
    refused(kit('collect', tmp_path/'s', '--runs', 4), 'another task')
    assert contents(tmp_path/'s') == before

@pytest.mark.parametrize('damage', ['cut short', 'altered', 'gone'])
def test_a_damaged_shard(kit, mine, tmp_path, damage):
    "The message names the shard and a command; that command makes it again, bit for bit."
    whole, file = contents(mine), mine/shard_file(0)
    data = file.read_bytes()
    if damage == 'gone': file.unlink()
    else: file.write_bytes(data[:len(data)//2] if damage == 'cut short' else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    said = refused(kit('train', mine, tmp_path/'m.safetensors', *TRAIN), str(file), damage)
    assert not list(tmp_path.glob('m.*'))
    command = shlex.split(said.rsplit('make it again with: ', 1)[1])
    assert command[:2] == ['gpt-kit', 'collect']
    assert kit(*command[1:]).returncode == 0
    assert contents(mine) == whole

@pytest.mark.parametrize('text, words', [(b'{"version": 1, "sha', ['damaged']), (b'\xff\xfe', ['damaged']), (b'{"version": 99}', ['version 99', 'version 1'])], ids=['cut', 'garbage', 'version'])
def test_a_damaged_index(kit, mine, tmp_path, text, words):
    (mine/'index.json').write_bytes(text)
    shards = {k: v for k, v in contents(mine).items() if k.suffix == '.safetensors'}
    for r in (kit('train', mine, tmp_path/'m.safetensors', *TRAIN), kit('collect', mine)): refused(r, 'index.json', *words)
    assert shards.items() <= contents(mine).items()

def test_no_store_at_all(kit, tmp_path): refused(kit('train', tmp_path/'nowhere', tmp_path/'m.safetensors'), 'there is no store', 'gpt-kit collect')

def test_runs_that_all_exploded(kit, tmp_path):
    store = collect(digits(), tmp_path/'s', 4, Recipe(epochs=1, n_saves=3, lr=1e6), progress=False)
    with pytest.raises(ValueError, match='smaller learning rate'): prepare(store, 'test_loss')
    refused(kit('train', tmp_path/'s', tmp_path/'m.safetensors', *TRAIN), 'smaller learning rate')

# Models

VERSION = lambda data: data.replace(b'version\\": 1', b'version\\": 7')
@pytest.mark.parametrize('change, words', [(VERSION, ['version 7', 'version 1']), (lambda d: d[:-100], ['cut short']), (lambda d: d[:50], ['cut short']), (lambda d: b'', ['cut short']), (lambda d: b'hello, I am no model', ['not a safetensors'])],
                         ids=['version', 'cut', 'cut in the header', 'empty', 'text'])
def test_a_model_that_cannot_be_read(kit, model_file, tmp_path, change, words):
    file, data = tmp_path/'m.safetensors', model_file.read_bytes()
    assert change(data) != data
    file.write_bytes(change(data))
    for r in (kit('prompt', file, 1), kit('evaluate', file, '--starts', 2)): refused(r, str(file), *words)

def test_a_file_that_is_no_model(kit, tmp_path):
    save_file(dict(a=torch.zeros(2)), tmp_path/'a.safetensors')
    refused(kit('prompt', tmp_path/'a.safetensors', 1), 'not a description by gpt_kit')
    refused(kit('prompt', tmp_path/'b.safetensors', 1), 'there is no file')

# Training

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device here')
def test_cuda_where_there_is_none(kit, store, tmp_path):
    refused(kit('train', store.path, tmp_path/'m.safetensors', *TRAIN, '--device', 'cuda'), "'cuda'", 'cpu')
    assert not list(tmp_path.glob('m.*'))

@pytest.mark.parametrize('args, words', [(['--device', 'gpu'], ["'gpu'", 'cpu']), (['--metric', 'eror'], ['test_eror', 'test_error']), (['--tokens', 'words'], ["'words'", 'chunk-256']), (['--width', 25], ['25', '2 heads']), (['--draw', 'odd'], ["'odd'", 'paper']),
                                         (['--condition', 'film'], ["'film'", 'adaptive']), (['--preset', 'mnist'], ["'mnist'", 'mnist-loss'])], ids=lambda a: a[0])
def test_options_that_make_no_sense(kit, store, tmp_path, args, words):
    refused(kit('train', store.path, tmp_path/'m.safetensors', *TRAIN, *args), *words)
    assert not list(tmp_path.glob('m.*'))

@pytest.mark.parametrize('args, words', [(['--runs', 0], ['1 or more']), (['--saves', 1], ['1 checkpoints', '2 to']), (['--saves', 100, '--epochs', 1], ['100 checkpoints', '2 to 11']), (['--optimizer', 'adan'], ['adan', 'adam']), (['--spacing', 'odd'], ['odd', 'uniform'])], ids=lambda a: str(a[:2]))
def test_a_collection_that_cannot_be(kit, tmp_path, args, words): refused(kit('collect', tmp_path/'s', *args), *words)

def test_a_command_that_is_not_there(kit): refused(kit('trian', 'a', 'b'), 'trian', 'train')

# Notebooks

@pytest.mark.parametrize('p, words', [(['epoch', 2], ["'epoch'", 'epochs']), (['epochs', 'two'], ['epochs', "'two'"]), (['epochs', 2.5], ['epochs', '2.5'])], ids=['unknown', 'no number', 'no whole number'])
def test_a_wrong_notebook_parameter(kit, tmp_path, p, words):
    refused(kit('run', ROOT/'nbs'/'05_symmetry.ipynb', '-p', *p, '--out', tmp_path/'out'), *words)
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('text, words', [('05_symmetry:\n  epoch: 2\n', ["'epoch'", 'epochs']), ('05_symmetri:\n  epochs: 2\n', ['05_symmetri', '05_symmetry']), ('05_symmetry: [1', ['YAML']), ('05_symmetry:\n  epochs: many\n', ['epochs', "'many'"])], ids=['name', 'notebook', 'yaml', 'type'])
def test_a_wrong_parameter_file(kit, tmp_path, text, words):
    (tmp_path/'f.yaml').write_text(text)
    refused(kit('run', ROOT/'nbs'/'05_symmetry.ipynb', '-f', tmp_path/'f.yaml', '--out', tmp_path/'out'), *words)
    assert not (tmp_path/'out').exists()

def test_a_notebook_that_is_not_there(kit): refused(kit('run', 'nbs/77_nothing.ipynb'), '77_nothing')

# No space left on the disk

def limited(): resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))    # Python ignores SIGXFSZ, so that a write fails with EFBIG

def test_a_shard_that_does_not_fit(gpt_kit, tmp_path):
    "The operating system refuses the second shard's file: the first stays as it was, and with more space the collection goes on."
    recipe = '--saves', 3, '--epochs', 1
    collect(digits(), tmp_path/'s', 5, QUICK, progress=False)
    before = contents(tmp_path)
    said = refused(gpt_kit('collect', tmp_path/'s', '--runs', SHARD, *recipe, preexec_fn=limited), 'no space left', 'run the same command again')
    assert contents(tmp_path) == before
    assert Store(tmp_path/'s').verify().R == 5
    assert collect(digits(), tmp_path/'s', SHARD, QUICK, progress=False).R == SHARD

FULL_DISK = """
mount -t tmpfs -o size=3m none "$1" || exit 77
kit() { "$2" -m gpt_kit.cli "${@:3}" >/dev/null 2>"$1/../said"; code=$?; grep '^gpt-kit' "$1/../said"; echo "code $code"; }
kit "$1" "$2" collect "$1/s" --runs 128 --saves 4 --epochs 1
kit "$1" "$2" collect "$1/s" --runs 512
head -c 9000000 /dev/zero > "$1/filler" 2>/dev/null
kit "$1" "$2" train "$1/s" "$1/m.safetensors" --width 24 --depth 1 --heads 2 --steps 1 --batch 8
ls -A "$1" "$1/s"
rm "$1/filler"
kit "$1" "$2" train "$1/s" "$1/m.safetensors" --width 24 --depth 1 --heads 2 --steps 1 --batch 8
"""

@pytest.mark.slow
@pytest.mark.skipif(not shutil.which('unshare'), reason='a small disk of our own needs unshare (Linux)')
def test_a_full_disk(tmp_path):
    "A real one, of 3 MB. Slow because it lives in a namespace of its own, so each of the four commands is a process that imports torch."
    disk = tmp_path/'disk'; disk.mkdir()
    r = subprocess.run(['unshare', '-rm', 'bash', '-c', FULL_DISK, 'bash', disk, sys.executable], capture_output=True, text=True, timeout=300, cwd=ROOT)
    if r.returncode == 77 or 'unshare failed' in r.stderr or 'Operation not permitted' in r.stderr: pytest.skip(f'no file systems of our own here: {r.stderr.strip()}')
    said, codes = [l for l in r.stdout.splitlines() if l.startswith('gpt-kit')], [l for l in r.stdout.splitlines() if l.startswith('code')]
    assert codes == ['code 0', 'code 1', 'code 1', 'code 0'], r.stdout + r.stderr
    assert len(said) == 2 and 'no space left: this collection needs' in said[0] and 'no space left for' in said[1] and 'm.training.safetensors' in said[1]
    assert '.tmp' not in r.stdout and 'm.safetensors' not in r.stdout.replace(said[1], '')

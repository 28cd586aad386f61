"Nothing unfinished replaces what is good, no output is its source, and what cannot be written is said first."
import json
import math
import os
import re
import shlex
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file

import gpt_kit
from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.loop import TrainConfig, TrainState, check_model_place, fit, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import save_model, train_gpt
from gpt_kit.networks.checks import UserError, check_output, command_text
from gpt_kit.networks.exports import write_network, write_table
from gpt_kit.networks.store import Store, read_tensors, write_tensors
from gpt_kit.networks.weights import Layout
from gpt_kit.pdiff.zoo import optimize_module
from gpt_kit.run.commands import COMMANDS, main
from gpt_kit.run.jobs import job_of, run_jobs

def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in Path(folder).rglob('*') if f.is_file()}

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    "`kit(word, ...)` runs a command here; gives its code, its sentence and what it printed."
    monkeypatch.chdir(tmp_path)
    def run(*words):
        capsys.readouterr()
        code = main([str(w) for w in words])
        out, err = capsys.readouterr()
        return code, err, out
    return run

def refused(got, *words):
    "In one sentence, and before it began: nothing was printed."
    code, err, out = got
    assert (code, out) == (1, '') and re.fullmatch(r'gpt-kit: .*\n', err), got
    assert [w for w in words if str(w) not in err] == [], err

SMALL = '--width', 24, '--depth', 1, '--heads', 2, '--batch', 8

# A training that cannot go on

def toy(**kw):
    torch.manual_seed(0)
    return TrainState(nn.Linear(3, 1), TrainConfig(**dict(steps=20, warmup=1, lr=1e-3) | kw))

def steep(at):
    "A loss that is finite always; its gradient is not after so many steps."
    calls = []
    def loss(model, g):
        calls.append(1)
        x = torch.randn(4, 3, generator=g)
        root = (model.weight - model.weight.detach()).abs().sum().sqrt() if len(calls) > at else 0.
        return model(x).square().mean() + root
    return loss

def test_a_gradient_that_is_not_finite():
    "It stops before the step: weights, EMA and moments are what they were."
    state, losses = toy(), []
    why = r'the gradient of weight is not finite at step 3, while the loss is \d'
    with pytest.raises(UserError, match=why) as e:
        for r in train(state, steep(3)):
            losses.append(r.loss)
            before = {n: t.clone() for n, t in state.tensors().items()}
    assert '\n' not in str(e.value) and 'learning rate than 0.001' in str(e.value)
    after = state.tensors()
    assert len(losses) == state.step == 3 and all(math.isfinite(l) for l in losses)
    assert all(t.equal(after[n]) for n, t in before.items() if n != 'generator')
    state.check()

def test_a_norm_that_overflows():
    "Each gradient is finite, their norm is not."
    state = toy()
    with pytest.raises(UserError, match="the gradient's norm is not finite at step 0"):
        next(train(state, lambda model, g: model.weight.sum()*3e38))

def test_what_was_saved_can_be_gone_on_with(tmp_path):
    file, about = tmp_path/'s.safetensors', dict(data='noise')
    with pytest.raises(UserError, match='not finite at step 7'):
        fit(toy(), steep(7), path=file, about=about, every=2, progress=False)
    assert read_tensors(file, 'training')[1]['step'] == 6
    history = fit(toy(), steep(99), path=file, about=about, every=2, progress=False)
    assert [h['step'] for h in history] == list(range(7, 21))

@pytest.mark.parametrize('part', ['model', 'ema', 'optimizer'])
def test_a_state_that_cannot_go_on_is_not_saved(tmp_path, part):
    file, state = tmp_path/'s.safetensors', toy()
    for _ in zip(range(3), train(state, steep(99))): pass
    state.save(file, {})
    before = file.read_bytes()
    name = next(n for n in state.tensors() if n.startswith(f'{part}.') and 'step' not in n)
    state.tensors()[name].detach().view(-1)[0] = math.nan
    with pytest.raises(UserError, match=re.escape(f'{name} is not finite, so nothing was saved')):
        state.save(file, {})
    assert file.read_bytes() == before
    with pytest.raises(UserError, match='not finite|the loss is nan'):          # nor gone on with
        fit(state, steep(99), every=1, progress=False)

def test_a_model_that_does_not_fit_half_precision(tmp_path):
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, 1e6)
    with pytest.raises(UserError, match='weight is not finite in half precision'):
        save_model(tmp_path/'m.safetensors', net, dict(config={}))
    assert not list(tmp_path.iterdir())

def test_networks_of_a_zoo_stop_too():
    net = nn.Linear(4, 3)
    with torch.no_grad(): net.weight.fill_(1e38)
    data = dict(train=(torch.full((8, 4), 1e-38), torch.zeros(8, dtype=torch.int64)))
    net.register_forward_hook(lambda m, x, y: y + (m.weight - m.weight.detach()).abs().sum().sqrt())
    with pytest.raises(UserError, match='the gradient of weight is not finite at step 0'):
        next(optimize_module(net, data, 3, batch=4))
    assert net.weight.isfinite().all()

# A good model is replaced by a finished one alone

@pytest.fixture
def good(model_file, tmp_path): return Path(shutil.copy(model_file, tmp_path/'good.safetensors'))

def test_no_training_and_a_failed_one_replace_nothing(kit, store, good):
    before = good.read_bytes()
    refused(kit('train', store.path, good, '--steps', 0, *SMALL), '0 is no number of training steps')
    code, err, out = kit('train', store.path, good, '--steps', 40, '--lr', 1e6, *SMALL)
    assert code == 1 and 'learning rate' in err.splitlines()[-1]
    assert good.read_bytes() == before and list(good.parent.iterdir()) == [good]

def test_a_finished_training_replaces_a_model(kit, store, good):
    before = good.read_bytes()
    assert kit('train', store.path, good, '--steps', 2, *SMALL)[0] == 0
    assert good.read_bytes() != before and load_model(good)[1]['training']['steps'] == 2

def test_training_replaces_nothing_but_models(kit, store, tmp_path, good):
    network, state = tmp_path/'net.safetensors', tmp_path/'state.safetensors'
    save_file({'0.weight': torch.ones(2)}, network)
    toy().save(state, {})
    before = contents(tmp_path)
    for file in (network, state):
        refused(kit('train', store.path, file, '--steps', 1, *SMALL), 'no model of the kit', file)
        with pytest.raises(UserError, match='no model of the kit'): check_model_place(file)
    assert contents(tmp_path) == before
    (tmp_path/'cut.safetensors').write_bytes(good.read_bytes()[:500])        # a damaged one may go
    check_model_place(tmp_path/'cut.safetensors')

def damage(file, how):
    tensors, info = read_tensors(file, 'training')
    name = next(n for n in tensors if n.startswith('model.'))
    if how == 'cut': return file.write_bytes(file.read_bytes()[:-50])
    if how == 'empty': return file.write_bytes(b'')
    if how == 'nan': tensors[name][..., 0] = math.nan
    if how == 'lacking': tensors.pop(name)
    if how == 'shape': tensors[name] = torch.ones(7)
    if how == 'moments': tensors = {n: t for n, t in tensors.items() if 'exp_avg_sq' not in n}
    if how == 'generator': tensors['generator'] = torch.ones(3)
    if how == 'about': info.pop('about')
    write_tensors(file, tensors, info)

@pytest.mark.parametrize('how', ['cut', 'empty', 'nan', 'lacking', 'shape', 'moments', 'generator', 'about'])
def test_a_damaged_training_state(store, tmp_path, how):
    "The sentence names the file to delete; once it is deleted, the same call trains."
    data = prepare_data(store, 'test_loss')
    out, state = tmp_path/'m.safetensors', tmp_path/'m.training.safetensors'
    def train_it(stop=99):
        def watch(state, about):
            if state.step == stop: raise KeyboardInterrupt
        torch.manual_seed(0)
        model = GPT(store.info['layers'], width=24, depth=1, heads=2)
        train_gpt(model, data, TrainConfig(steps=3, batch=4), out, every=1, progress=False, watch=watch)
    with pytest.raises(KeyboardInterrupt): train_it(2)
    damage(state, how)
    before = contents(tmp_path)
    why = 'is damaged .* delete that file, and the same command trains anew'
    with pytest.raises(UserError, match=why) as e:
        train_it()
    assert str(state) in str(e.value) and '\n' not in str(e.value) and contents(tmp_path) == before
    state.unlink()
    train_it()
    assert out.exists()

# No output is its source, and each has a place

FOLDER, NAME = 'a folder', 'out'

def commands_that_write(store, model, folder): # name -> its words, {} for the output, and that one's ending
    return dict(
        train=(['train', store, '{}', '--steps', 1, *SMALL], '.safetensors'),
        prompt=(['prompt', model, 1, '--out', '{}'], '.onnx'),
        evaluate=(['evaluate', model, '--starts', 2, '--opt_steps', 2, '--json', '{}'], '.json'),
        export=(['export', store, '{}'], '.csv'),
        released=(['import', 'gpt-model', folder/'mnist_loss.pt', '{}'], '.safetensors'),
        folder=(['import', 'folder', folder, '{}', '--task', 'digits'], FOLDER),
        lmdb=(['import', 'gpt-lmdb', folder, '{}', '--task', 'mnist'], FOLDER),
        collect=(['collect', '{}', '--runs', 2], FOLDER),
        report=(['report', '--notebooks', folder, '--out', '{}'], FOLDER))

WRITERS = list(commands_that_write('', '', Path()))

@pytest.fixture
def sources(store, model_file, tmp_path):
    "Copies of what is read: a store, a model and a folder with something in it."
    folder = tmp_path/'folder'
    folder.mkdir()
    torch.save({'0.weight': torch.ones(2)}, folder/'mnist_loss.pt')
    (folder/'note.txt').write_text('mine')
    return (Path(shutil.copytree(store.path, tmp_path/'store')),
            Path(shutil.copy(model_file, tmp_path/'model.safetensors')), folder)

def filled(words, out): return [out if w == '{}' else w for w in words]

@pytest.mark.parametrize('name', WRITERS)
def test_outputs_that_cannot_be_written(kit, sources, tmp_path, name):
    "Said before the work begins, whatever is in the way; nothing is made."
    words, ending = commands_that_write(*sources)[name]
    suffix = '' if ending is FOLDER else ending
    (tmp_path/f'blocked{suffix}').mkdir()
    (tmp_path/'file').write_text('mine')
    places = {'file': tmp_path/'file'/f'out{suffix}', 'too long': tmp_path/('x'*240 + suffix),
              'nothing can be made': Path('/proc/nowhere')/f'out{suffix}'}
    if ending is FOLDER: places['is a file'] = tmp_path/'file'
    else: places |= {'is a folder': tmp_path/f'blocked{suffix}', 'should end in': tmp_path/'out.doc'}
    before = contents(tmp_path)
    for said, place in places.items(): refused(kit(*filled(words, place)), said)
    assert contents(tmp_path) == before and {f.name for f in tmp_path.iterdir()} == {
        'store', 'model.safetensors', 'folder', 'file', f'blocked{suffix}'}

def own_places(name, store, model, folder): # outputs that are, or lie in, what is read
    return dict(train=[store/'m.safetensors', store/'shard-00000.safetensors'],
                prompt=[model, store/'shard-00000.safetensors'], evaluate=[store/'index.json'],
                export=[store/'metrics.csv'], released=[folder/'mnist_loss.pt'],
                folder=[folder, folder/'store'], lmdb=[folder, folder/'a'/'store']).get(name, [])

@pytest.mark.parametrize('name', [n for n in WRITERS if own_places(n, Path(), Path(), Path())])
def test_outputs_that_are_their_sources(kit, sources, tmp_path, name):
    words, before = commands_that_write(*sources)[name][0], contents(tmp_path)
    for place in own_places(name, *sources):
        refused(kit(*filled(words, place)), place)
        refused(kit(*filled(words, os.path.relpath(place))))                    # and by another name
    assert contents(tmp_path) == before

def test_a_start_and_a_link_to_a_source(kit, sources, tmp_path):
    store, model, folder = sources
    start, link = tmp_path/'start.safetensors', tmp_path/'link.safetensors'
    write_network(start, Store(store).rows([0], [0])[0], Layout(Store(store).info['layers']))
    link.symlink_to(start)
    before = contents(tmp_path)
    for out in (start, link):
        refused(kit('prompt', model, 1, '--start', start, '--out', out), 'is what is read here')
    os.link(model, tmp_path/'hard.safetensors')
    refused(kit('prompt', model, 1, '--out', tmp_path/'hard.safetensors'), 'is what is read here')
    refused(kit('calibrate', tmp_path/'store', store))
    assert {k: v for k, v in contents(tmp_path).items() if k.name != 'hard.safetensors'} == before

def test_write_protected(tmp_path, monkeypatch):
    "A person's own lock on a file counts, though replacing it would be possible."
    file = tmp_path/'a.csv'
    file.write_text('1')
    file.chmod(0o444)
    if os.access(file, os.W_OK):                                            # as for root
        monkeypatch.setattr('os.access', lambda path, mode: path != file)
    with pytest.raises(UserError, match='write-protected'): check_output(file)

def test_the_library_says_it_too(store, tmp_path):
    with pytest.raises(UserError, match='in .parquet or .csv'): write_table(store, tmp_path/'a.txt')
    with pytest.raises(UserError, match='lies in'): write_table(store, store.path/'a.csv')
    with pytest.raises(UserError, match='should end in'): write_network(tmp_path/'a.pt', torch.ones(3), None)
    assert not list(tmp_path.iterdir())

def test_a_package_that_is_missing(kit, sources, monkeypatch):
    "Before the work, too."
    monkeypatch.setattr('gpt_kit.networks.exports.find_spec', lambda name: None)
    refused(kit('prompt', sources[1], 1, '--out', 'net.onnx'), 'pip install onnx onnxscript')
    refused(kit('export', sources[0], 'table.parquet'), 'pip install pyarrow')

# Notebooks

def notebook(path, code='print(n)'):
    v4 = nbformat.v4
    first = v4.new_code_cell('n: int = 1', id='p', metadata=dict(tags=['parameters']))
    cells = [first, v4.new_code_cell(code, id='c')]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path

def test_a_notebook_into_its_own_folder(kit, tmp_path):
    nb, other = notebook(tmp_path/'a'/'one.ipynb'), notebook(tmp_path/'b'/'one.ipynb')
    room = notebook(tmp_path/'nbs'/'gpt'/'04_mine.ipynb')
    before = contents(tmp_path)
    refused(kit('run', nb, '--out', nb.parent), nb, 'is what is read here')
    refused(kit('run', room, '--out', tmp_path/'nbs'), room, 'is what is read here')
    refused(kit('run', nb, '--out', other.parent), other, 'no notebook that was run here')
    refused(kit('run', nb, other, '--out', tmp_path/'out'), nb, other, 'both')
    refused(kit('run', nb, '--out', nb), nb)
    refused(kit('run', nb, '--out', tmp_path/'b'/'one.ipynb'), 'is a file')
    (tmp_path/'c').mkdir()
    for text in ('[]', '{"mine": 1}', '{"mine": {"file": 1}}'):
        (tmp_path/'c'/'jobs.json').write_text(text)
        refused(kit('run', nb, '--out', tmp_path/'c'), 'jobs.json is no log')
        assert (tmp_path/'c'/'jobs.json').read_text() == text
    assert {k: v for k, v in contents(tmp_path).items() if k.parts[0] != 'c'} == before

def test_an_executed_notebook_is_replaced_when_the_new_one_has_run(tmp_path):
    out, quiet = tmp_path/'out', dict(progress=False, say=lambda text: None)
    here = json.dumps(str(out/'one.ipynb'))
    nb = notebook(tmp_path/'one.ipynb', f"from pathlib import Path\nold = Path({here})\n"
                              "print(n, old.exists() and '1 ' + 'False' in old.read_text())\n1/(3 - n)")
    run_jobs([job_of(nb)], {}, out, **quiet)
    with pytest.raises(UserError, match='ZeroDivisionError'):
        run_jobs([job_of(nb)], {'one': dict(n=3)}, out, **quiet)
    done = nbformat.read(out/'one.ipynb', 4)
    said = [c.outputs[0].text for c in done.cells if c.id == 'c']
    assert said == ['3 True\n'] and {f.name for f in out.iterdir()} == {'one.ipynb', 'jobs.json'}

def test_jobs_in_another_order_than_they_are_read_in(tmp_path):
    "A lesson that is numbered late and run early has run when all are done, and none runs again."
    jobs = [job_of(notebook(tmp_path/f'{name}.ipynb')) for name in ('02_late', '01_early')]
    said, quiet = [], dict(progress=False)
    log = run_jobs(jobs, {}, tmp_path/'out', say=lambda text: None, **quiet)
    assert all(entry['key'] for entry in log.values())
    run_jobs(jobs, {}, tmp_path/'out', say=said.append, **quiet)
    assert not any('took' in line for line in said)

@pytest.mark.parametrize('left', [None, '', '{"cells": [', '[]'])
def test_what_papermill_left_half_written_replaces_nothing(left, tmp_path, monkeypatch):
    "Stopped before it began, or while it wrote: nothing is left that would be in the way of the next run."
    def stopped(file, *args, **options):
        if left is not None: Path(file).write_text(left)
        raise KeyboardInterrupt
    quiet, nb = dict(progress=False, say=lambda text: None), notebook(tmp_path/'one.ipynb')
    book, out = json.loads(nb.read_text()), tmp_path/'out'
    book['metadata']['papermill'] = {}
    monkeypatch.setattr('papermill.execute_notebook', stopped)
    for old in (None, json.dumps(book)):
        if old: (out/'one.ipynb').write_text(old)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt): run_jobs([job_of(nb)], {}, out, **quiet)
        assert {f.name for f in out.iterdir()} == {'jobs.json'} | ({'one.ipynb'} if old else set())
        assert old is None or (out/'one.ipynb').read_text() == old

def test_a_log_that_is_damaged_is_not_replaced(kit, tmp_path):
    nb, log = notebook(tmp_path/'one.ipynb'), tmp_path/'out'/'jobs.json'
    log.parent.mkdir()
    for text in (b'{"one": ', b'', b'\xff'):
        log.write_bytes(text)
        refused(kit('run', nb, '--out', log.parent), 'jobs.json is no log')
        assert contents(log.parent) == {Path('jobs.json'): text}

def test_refused_figures_write_no_gallery(kit, tmp_path):
    "A notebook of somebody else's is in the way: the folder stays as it was."
    notebook(tmp_path/'nbs'/'figures'/'fig01_c.ipynb')
    notebook(tmp_path/'mine'/'fig01_c.ipynb')
    before = contents(tmp_path)
    refused(kit('figures', '--out', tmp_path/'mine'), 'no notebook that was run here')
    assert contents(tmp_path) == before

# What is suggested can be copied

def suggested(err): return shlex.split(re.search(r'(gpt-kit [a-z].*)', err.partition('gpt-kit: ')[2])[1])

@pytest.mark.parametrize('name', ['my store', "it's mine", 'a;b', '$HOME', 'plain'])
def test_suggested_commands_take_any_path(kit, store, tmp_path, name):
    place = tmp_path/name
    code, err, _ = kit('train', place, 'm.safetensors')
    assert suggested(err) == ['gpt-kit', 'collect', str(place)]
    code, err, _ = kit('import', 'folder', place, tmp_path/f'{name} 2')
    words = 'gpt-kit', 'import', 'folder', str(place), str(tmp_path/f'{name} 2'), '--task', 'NAME'
    assert suggested(err) == list(words)
    shutil.copytree(store.path, place)
    (place/'shard-00000.safetensors').write_bytes(b'')
    code, err, _ = kit('train', place, 'm.safetensors')
    assert suggested(err) == ['gpt-kit', 'collect', str(place)]
    (place/'index.json').write_text(json.dumps(dict(version=1, task='digits')))
    code, err, _ = kit('train', place, 'm.safetensors')
    assert suggested(err)[:3] == ['gpt-kit', 'collect', str(place)]
    file = tmp_path/f'{name}.safetensors'
    save_file(dict(a=torch.ones(1)), file, dict(gpt_kit=json.dumps(dict(version=1))))
    code, err, _ = kit('prompt', file, 1)
    assert suggested(err)[:4] == ['gpt-kit', 'train', 'STORE', str(file)]

def test_how_an_import_is_gone_on_with(kit, store, tmp_path):
    folder = tmp_path/'my runs'/'a'
    folder.mkdir(parents=True)
    for s in (0, 5): write_network(folder/f'step{s}.safetensors', store.rows([0], [s])[0], store.layout)
    words = ['import', 'folder', str(tmp_path/'my runs'), str(tmp_path/'my store'), '--task', 'digits']
    code, err, _ = kit(*words)
    assert code == 0, err
    assert Store(tmp_path/'my store').info['again'] == command_text(*words)
    assert shlex.split(command_text(*words)) == ['gpt-kit', *words]

# Version and help

def test_version_and_help(kit):
    assert kit('--version') == (0, '', f'gpt-kit {gpt_kit.__version__}\n')
    assert kit('help') == kit('--help') == kit('help', 'help') and kit('help')[0] == 0
    for name in COMMANDS: assert kit('help', name) == kit(name, '--help') and kit('help', name)[0] == 0
    code, err, out = kit('help', 'trian')
    assert (code, out) == (2, '') and 'did you mean train?' in err

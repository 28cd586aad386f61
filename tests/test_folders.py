"Folders of checkpoints as people keep them: read right, or refused by name; nothing is guessed."
import json
from argparse import Namespace

import numpy as np, pytest, torch
import torch.nn as nn
from hypothesis import given, strategies as st
from safetensors.torch import save_file

from gpt_kit.networks.checks import UserError
from gpt_kit.networks.states import read_network, read_state
from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import digits, mlp
from gpt_kit.networks.weights import Layout, measure
from gpt_kit.outside.folders import find_steps, import_folder, read_table
from gpt_kit.outside.imports import DamagedRun, ImportedRun, StoreWriter, import_runs
from test_imports import TINY, kit, tiny  # noqa: F401  (kit is a fixture)

class Named(nn.Module):
    "Linear layers of any names, 'net.0' too, in the order of their definition."
    def __init__(self, names, widths, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        for name, n, m in zip(names, widths, widths[1:]):
            *outer, last = name.split('.')
            here = self
            for part in outer:
                if part not in here._modules: here.add_module(part, nn.Module())
                here = here._modules[part]
            here.add_module(last, nn.Linear(n, m))

def flat(state): return torch.cat([t.detach().float().flatten() for t in state.values()])

def save(state, file):
    "In the way that the file's ending asks for."
    file.parent.mkdir(parents=True, exist_ok=True)
    (save_file if file.suffix.lower() == '.safetensors' else torch.save)(state, file)
    return file

SQUARE = 12, 12, 12, 12
MATCHED = [     # names, widths, right in a .safetensors file too?
    (('inp', 'hid', 'out'), (12, 12, 12, 5), False), (('inp', 'hid', 'out'), SQUARE, False),
    (('input', 'head'), (12, 4, 5), True), (('input', 'head'), (12, 12, 12), False),
    (('zeta', 'alpha'), (12, 4, 5), True), (tuple(f'net.{i}' for i in range(12)), (12,)*13, True),
    (tuple(f'net.{2*i}' for i in range(12)), (12,)*13, True), (('fc1', 'fc2', 'fc3'), SQUARE, True),
    (('module.0', 'module.2', 'module.4'), SQUARE, True), (('model.0', 'model.2', 'model.4'), SQUARE, True),
    (('_orig_mod.net.0', '_orig_mod.net.2', '_orig_mod.net.4'), SQUARE, True),
    (('enc.0', 'enc.1', 'dec.0'), SQUARE, False), (('b.9.fc', 'b.10.fc', 'b.11.fc'), SQUARE, True),
    (('body.0', 'body.2', 'head'), (12, 4, 4, 5), True),
    (('inp', 'up1', 'up2', 'out'), (12, 4, 4, 4, 5), False),
    (('layer_1', 'layer_2', 'layer_10'), SQUARE, True)]

@pytest.mark.parametrize('names, widths, sorted_too', MATCHED, ids=lambda v: '-'.join(v[:3]) if v and
                         isinstance(v, tuple) and isinstance(v[0], str) else None)
def test_the_same_network_or_none(names, widths, sorted_too, tmp_path):
    "From a pickle, which keeps the order, always; from a file that is sorted by name when names tell it."
    state, layout = Named(names, widths).state_dict(), Layout(mlp(widths))
    assert torch.equal(read_network(save(state, tmp_path/'a.pt'), layout), flat(state))
    file = save(state, tmp_path/'a.safetensors')
    if sorted_too: assert torch.equal(read_network(file, layout), flat(state))
    else:
        with pytest.raises(UserError, match='have the same shape, and .* sorted by name; save it with torch'):
            read_network(file, layout)

@pytest.mark.parametrize('names, words', [
    (('inp', 'up2', 'up1', 'out'), 'up1 and up2 have the same shape'),
    (('fc3', 'fc2', 'fc1', 'fc0'), 'fc3, fc1, fc2, fc0 do not rise')])
def test_layers_that_are_numbered_backwards(names, words, tmp_path):
    "In a file that is sorted by name, counting upwards would exchange two of them."
    widths = 12, 4, 4, 4, 5
    file = save(Named(names, widths).state_dict(), tmp_path/'a.safetensors')
    with pytest.raises(UserError, match=words): read_network(file, Layout(mlp(widths)))

@given(st.data())
def test_a_network_is_never_another_one(tmp_path_factory, data):
    "Whatever layers are called: the network that was saved, or a refusal; in a pickle never a refusal."
    n = data.draw(st.integers(1, 12), 'layers')
    widths = data.draw(st.lists(st.sampled_from([3, 4]), min_size=n + 1, max_size=n + 1), 'widths')
    prefix = data.draw(st.sampled_from(['', 'module.', 'net.', 'a.b.', '_orig_mod.']), 'prefix')
    style = data.draw(st.sampled_from(['{}', 'fc{}', 'l{}.linear', 'word']), 'style')
    words = data.draw(st.permutations('abcdefghijkl'), 'words')
    first = data.draw(st.integers(0, 12), 'first')
    names = [prefix + (words[i] if style == 'word' else style.format(first + i)) for i in range(n)]
    state, layout = Named(names, widths).state_dict(), Layout(mlp(widths))
    folder = tmp_path_factory.mktemp('any')
    assert torch.equal(read_network(save(state, folder/'a.pt'), layout), flat(state))
    try: row = read_network(save(state, folder/'a.safetensors'), layout)
    except UserError: assert style == 'word' and n > 1
    else: assert torch.equal(row, flat(state))

def test_numbers_against_the_order_of_saving(tmp_path):
    widths = 12, 4, 4, 4
    state = Named(('first', 'l2', 'l1'), widths).state_dict()
    with pytest.raises(UserError, match='l2 and l1 .*their numbers say another order than the file'):
        read_network(save(state, tmp_path/'a.pt'), Layout(mlp(widths)))

@pytest.mark.parametrize('change, words', [
    (dict(norm=nn.LayerNorm(5)), 'it has norm with'), (dict(more=nn.Linear(12, 4)), 'it has more with'),
    (dict(fc2=nn.Linear(4, 6)), r'it lacks a layer with bias \(5,\)'),
    (dict(fc1=nn.Identity()), 'it lacks a layer')])
def test_layers_that_are_others(change, words, tmp_path):
    net = Named(('fc1', 'fc2'), (12, 4, 5))
    for name, layer in change.items(): net.add_module(name, layer)
    with pytest.raises(UserError, match=f'does not have the layout .*{words}') as e:
        read_network(save(net.state_dict(), tmp_path/'a.pt'), Layout(tiny().layers))
    assert 'a.pt' in str(e.value)

STATE = Named(('module.a', 'module.b'), (12, 4, 5)).state_dict()
MOMENTS = dict(step=torch.tensor(3.), exp_avg=torch.ones(4, 12))
OPTIMIZER = dict(state={0: MOMENTS}, param_groups=[dict(lr=.1)])
LIGHTNING = {'epoch': 3, 'global_step': 100, 'pytorch-lightning_version': '2.4.0', 'state_dict': STATE,
             'loops': {},
             'callbacks': {'ModelCheckpoint': {'best_model_score': torch.tensor(.3), 'best_model_path': 'a'}},
             'optimizer_states': [OPTIMIZER], 'hyper_parameters': {'lr': .1}}
OFTEN = dict(epoch=3, model_state_dict=STATE, optimizer_state_dict=OPTIMIZER, loss=.5)
WRAPPED = dict(model_state_dict=OFTEN,
               model=dict(model=STATE, optimizer=OPTIMIZER, metrics=dict(loss=torch.tensor(.3))),
               net=dict(net=STATE, acc=97.1), weights=dict(weights=STATE), lightning=LIGHTNING,
               ema=dict(state_dict=STATE, ema=STATE),
               example=dict(state_dict=STATE, best_acc=np.float64(.9), args=Namespace(lr=.1), n=np.int64(3)),
               model_and_ema=dict(model=STATE, ema=STATE),
               net_and_ema=dict(ema=STATE, net=STATE), extra=STATE | {'act._extra_state': None})

@pytest.mark.parametrize('name', WRAPPED)
@pytest.mark.parametrize('ending', ['.pt', '.PTH', '.ckpt', '.bin', '.pth.tar'])
def test_a_state_dict_among_other_things(name, ending, tmp_path):
    torch.save(WRAPPED[name], tmp_path/f'a{ending}')
    assert torch.equal(read_network(tmp_path/f'a{ending}', Layout(tiny().layers)), flat(STATE))

@pytest.mark.parametrize('what, words', [
    (OPTIMIZER, 'state of an optimizer'), (dict(a=STATE, b=STATE), "several networks, under 'a' and 'b'"),
    (dict(model=STATE, net=STATE), "under 'model' and 'net'"), ({0: torch.zeros(4, 12)}, "is called 0"),
    (dict(STATE, **{'module.a.weight': torch.zeros(4, 12).to_sparse()}), 'sparse, quantized or complex'),
    (dict(STATE, **{'module.a.weight': torch.zeros(4, 12, dtype=torch.complex64)}), 'complex'),
    (dict(STATE, **{'module.a.weight': torch.full((4, 12), float('nan'))}), 'not finite'),
    (dict(STATE, **{'module.a.weight': torch.zeros(4, 12, dtype=torch.int8)}), 'numbers of type int8'),
    *((STATE | {name: torch.zeros(3)}, f'holds {name} too, which changes')
      for name in ('lora_A', 'a.weight_scale', 'zero_point', 'module.a.weight_mask', 'a.weight_g')),
    (dict(model=nn.Linear(2, 2)), 'is not run'), ([], 'does not hold a state_dict'), ({}, 'does not hold')])
def test_what_is_no_network(what, words, tmp_path):
    torch.save(what, tmp_path/'a.pt')
    with pytest.raises(UserError, match=words) as e: read_network(tmp_path/'a.pt', Layout(tiny().layers))
    assert 'a.pt' in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('change', [torch.Tensor.bfloat16, torch.Tensor.half, torch.Tensor.double,
                                    lambda t: t.t().contiguous().t(),
                                    lambda t: torch.stack([t, t], -1)[..., 0]],
                         ids=['bfloat16', 'half', 'double', 'transposed', 'every second'])
def test_numbers_as_they_were(change, tmp_path):
    state = {n: change(t) for n, t in STATE.items()}
    assert torch.equal(read_network(save(state, tmp_path/'a.pt'), Layout(tiny().layers)), flat(state))

def test_what_is_no_weight_is_left_out_and_said(tmp_path):
    state = STATE | {'bn.num_batches_tracked': torch.tensor(3), 'mean': torch.zeros(12, 3)}
    with pytest.warns(UserWarning, match='bn.num_batches_tracked, mean: no weights of the layout'):
        row = read_network(save(state, tmp_path/'a.pt'), Layout(tiny().layers))
    assert torch.equal(row, flat(STATE))

STEPS = [   # names in the order of time, and their steps
    ('ep1_acc0.97 ep2_acc0.93 ep10_acc0.99', [1, 2, 10]),
    ('epoch=2-val_loss=0.9 epoch=10-val_loss=0.5', [2, 10]),
    ('epoch=0-step=50 epoch=1-step=100-v1', [50, 100]), ('epoch1 epoch2 epoch10', [1, 2, 10]),
    ('checkpoint-500 checkpoint-1000', [500, 1000]), ('s1 s2 s10', [1, 2, 10]),
    ('net3_iter2 net3_iter10', [2, 10]), ('model.1 model.2.acc0.5', [1, 2]),
    ('global_step9 global_step10', [9, 10]), ('ep000_it00000 ep000_it00007 ep003_it00002', [0, 7, 26]),
    ('900 1k', [900, 1000]), ('loss=0.3-epoch=1 loss=1-epoch=2', [1, 2]), ('a', [0]), ('net2_5', [5]),
    ('s1_acc97 s2_acc93', [1, 2]), ('s1 s2-v1', [1, 2]), ('last-step5', [5]),
    ('run0_s5 run1_s10', None), ('start middle end', None), ('step5 other-step5', None),
    ('a1 b2', None), ('epoch=1-step=100 epoch=1-step=100-v1', None),
    ('checkpoint_0_200 checkpoint_1_100', None),
    ('mlp_10epochs_95acc 20epochs_92acc', None),
    ('10epochs_95acc 20epochs_92acc 30epochs_97acc', [10, 20, 30]),
    ('mlp_100steps mlp_20_200steps', None), ('epoch1step5 epoch2step10', [5, 10]), ('model_seed0', [0]),
    ('fold0_best_epoch7 fold1_best_epoch12 fold2_best_epoch9', None), ('adam_epoch5 sgd_epoch9', None),
    ('model_seed0 model_seed1 model_seed2 model_seed3', None), ('bs32_epoch10 bs64_epoch20', None),
    ('worker0_step0 worker1_step5', None), ('trial3-rank0 trial3-rank1', None),
    ('bs32_epoch10_loss=0.5 bs32_epoch20', [10, 20]), ('seed3_10 seed3_20', [10, 20])]

@pytest.mark.parametrize('names, steps', STEPS, ids=lambda v: v.split()[0] if isinstance(v, str) else None)
def test_when_a_checkpoint_was_saved(names, steps):
    names = names.split()
    for mixed in (names, names[::-1], sorted(names)):
        if steps: assert list(find_steps(mixed).items()) == list(zip(names, steps))
        else:
            words = 'not tell the order|tell the same|differ in more'
            with pytest.raises(DamagedRun, match=words): find_steps(mixed)

def test_copies_are_left_out():
    assert find_steps(['best', 'last', 'step1', 'step2']) == {'step1': 1, 'step2': 2}
    assert find_steps(['900', '1k', '1.5']) == {'900': 900, '1k': 1000}              # a fraction is no step
    assert find_steps(['best_step2', 'step1', 'step2', 'final-step3']) == {'step1': 1, 'step2': 2}
    assert find_steps(['best_epoch_17', 'epoch_5', 'epoch_20']) == {'epoch_5': 5, 'epoch_20': 20}
    assert find_steps(['best_epoch1', 'best_epoch2']) == {'best_epoch1': 1, 'best_epoch2': 2}

def rows_of(store): return [store.rows([r]*store.S, range(store.S)) for r in range(store.R)]

def network(seed): return Named(('fc1', 'fc2'), (12, 4, 5), seed).state_dict()

def fill(folder, steps, first=0, name='step{}.pt'):
    "A run: a file for each step; what its rows have to be."
    states = [network(first + s) for s in steps]
    for s, state in zip(steps, states): save(state, folder/name.format(s))
    return torch.stack([flat(state) for state in states])

def test_names_beside_the_checkpoints(kit, tmp_path):
    "Hidden files, copies, optimizers and other endings; what is left out is said, and it is no failure."
    rows = fill(tmp_path/'in/a', (1, 2, 10)), fill(tmp_path/'in/b', (1, 2, 10), 50, 'epoch{}_acc0.97.PTH')
    (tmp_path/'in/a/._step1.pt').write_bytes(b'Mac OS X')
    (tmp_path/'in/.cache').mkdir()
    save(network(9), tmp_path/'in/.cache/step7.pt')
    save(network(99), tmp_path/'in/a/best.pt')
    for name in ('optimizer.pt', 'scheduler-10.pt', 'rng_state_0.pth', 'training_args.bin'):
        torch.save(OPTIMIZER, tmp_path/'in/b'/name)
    for name in ('opt.pt', 'random_states_0.pt', 'sampler.bin', 'sched.pt'):
        torch.save(OPTIMIZER, tmp_path/'in/a'/name)
    (tmp_path/'in/a/notes.txt').write_text('good ones')
    code, out, said = kit('import', 'folder', 'in', 'store', *TINY)
    assert code == 0 and len(said) == 2, said
    assert 'opt.pt, optimizer.pt, random_states_0.pt' in said[0] and 'and 3 more' in said[0], said
    assert 'a/best.pt' in said[1]
    store = Store(tmp_path/'store')
    assert store.steps.tolist() == [[1, 2, 10]]*2 and all(map(torch.equal, rows_of(store), rows))

def test_folders_of_one_checkpoint(tmp_path):
    "As Hugging Face's Trainer leaves them: the step is the folder's, and together they are a run."
    name = 'checkpoint-{}/model.safetensors'
    rows = [fill(tmp_path/f'in/run{r}', (100, 1000, 200), r, name) for r in range(2)]
    torch.save(OPTIMIZER, tmp_path/'in/run0/checkpoint-100/optimizer.pt')
    save(network(0), tmp_path/'in/run1/model.safetensors')
    with pytest.warns(UserWarning, match='optimizer.pt|run1/model.safetensors'):
        store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert store.names == ['run0', 'run1'] and store.steps.tolist() == [[100, 200, 1000]]*2
    for there, saved in zip(rows_of(store), rows): assert torch.equal(there, saved[[0, 2, 1]])

@pytest.mark.parametrize('name', ['{}', 'global_step{}', 'epoch_3_step_{}', 'checkpoint-epoch-{}',
                                  'epoch={}-val_loss=0.2', 'ckpt_{}', 'model-{}'])
def test_folders_whose_names_tell_a_step(name, tmp_path):
    "And copies beside them are none of the run's."
    rows = fill(tmp_path/'in/run0', (1, 2, 10), name=f'{name}/model.pt')
    save(network(9), tmp_path/'in/run0/best/model.pt')
    with pytest.warns(UserWarning, match='run0/best/model.pt'):
        store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert store.names == ['run0'] and store.steps.tolist() == [[1, 2, 10]]
    assert torch.equal(rows_of(store)[0], rows)

@pytest.mark.parametrize('name', ['seed_{}/model.pt', 'run{}/x.pt', '{}/best_epoch7.pt', '{}/step7.pth.tar'])
def test_folders_of_one_network_that_are_runs(name, tmp_path):
    fill(tmp_path/'in', (1, 2), name=name)
    store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert store.names == [name.format(s).split('/')[0] for s in (1, 2)] and store.S == 1

def test_another_folder_with_the_same_names(kit, tmp_path):
    "Its runs are others, and are not taken for those that are there; the same command again says nothing."
    rows = fill(tmp_path/'in/a', (1, 2))
    fill(tmp_path/'other/a', (1, 2), 7), fill(tmp_path/'other/b', (1, 2), 8)
    assert kit('import', 'folder', 'in', 'store', *TINY)[0] == 0
    for _ in range(2):
        code, out, said = kit('import', 'folder', 'other', 'store', *TINY)
        assert code == 1 and len(said) == 1 and 'run a is left out' in said[0], said
        assert 'from another import; choose another store' in said[0]
    assert kit('import', 'folder', 'other', 'store', *TINY)[0] == 1
    store = Store(tmp_path/'store')
    assert store.names == ['a', 'b'] and torch.equal(rows_of(store)[0], rows)

def test_equal_names_within_one_import(tmp_path):
    run = ImportedRun(np.zeros((2, 77), np.float32), [1, 2], np.zeros((2, 1)))
    def bring_in():
        writer = StoreWriter(tmp_path/'store', tiny(), source='here', metrics=['test_loss'], again='this')
        return import_runs(writer, (pair for pair in [('a', lambda: run)]*2), progress=False)
    with pytest.warns(UserWarning, match='run a is left out: another run of this import has that name'):
        assert bring_in().R == 1

def test_links_are_followed_once(tmp_path):
    "A run that is a link comes in; one that leads back, or to a run that is there, doesn't."
    a, b = fill(tmp_path/'in/a', (1, 2)), fill(tmp_path/'elsewhere', (1, 2), 7)
    for link, to in (('b', 'elsewhere'), ('a/up', 'in'), ('0-again', 'in/a')):
        (tmp_path/'in'/link).symlink_to(tmp_path/to)
    store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert store.names == ['a', 'b'] and all(map(torch.equal, rows_of(store), (a, b)))

TABLES = {
    'mark': '\ufefffile,test_loss\nrun0/step1.pt,0.5\nrun0/step2.pt,2',
    'semicolons': 'file;test_loss\nrun0/step1.pt;0.5\nrun0/step2.pt;2',
    'decimal commas': 'file;test_loss\nrun0/step1.pt;0,5\nrun0/step2.pt;2,0',
    'tabs': 'file\ttest_loss\nrun0/step1.pt\t0.5\nrun0/step2.pt\t2',
    'large letters': ' File , Test_Loss\nrun0/step1.pt,0.5\nrun0/step2.pt, 2 ',
    'a text column': 'note,file,test_loss\n"good, really",run0/step1.pt,0.5\nbad,run0/step2.pt,2',
    'an empty cell': 'file,test_loss,test_error\nrun0/step1.pt,0.5,\nrun0/step2.pt,2,',
    'from here': 'file,test_loss\n./run0/step1.pt,0.5\nrun0/../run0/step2.pt,2',
    'backslashes': 'file,test_loss\nrun0\\step1.pt,0.5\n.\\run0\\step2.pt,2',
    'empty lines': '\n\nfile,test_loss\r\nrun0/step1.pt,0.5\r\n\r\nrun0/step2.pt,2\r\n\r\n'}

@pytest.mark.parametrize('how', TABLES)
@pytest.mark.parametrize('code', ['utf-8', 'utf-16'])
def test_tables_as_programs_write_them(how, code, tmp_path):
    fill(tmp_path/'in/run0', (1, 2))
    text = TABLES[how].lstrip('\ufeff') if code == 'utf-16' else TABLES[how]
    (tmp_path/'in/Metrics.CSV').write_bytes(text.encode(code))
    store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert list(store.metrics) == ['test_loss'] and store.values('test_loss').tolist() == [[.5, 2]]

def test_a_table_with_whole_paths(tmp_path):
    fill(tmp_path/'in/run0', (1, 2))
    lines = [f"{tmp_path/'in/run0'/name},{v}" for name, v in (('step1.pt', .5), ('step2.pt', 2))]
    (tmp_path/'t.csv').write_text('\n'.join(['file,test_loss', *lines]))
    store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), metrics=tmp_path/'t.csv', progress=False)
    assert store.values('test_loss').tolist() == [[.5, 2]] and '--metrics' in store.info['again']

@pytest.mark.parametrize('text, words', [
    ('[]', 'dictionary of dictionaries'), ('{"a": 3}', 'dictionary of dictionaries'), ('{', 'no table'),
    ('['*100_000, 'no table'), ('name,test_loss\na,1', "no column 'file'"), ('', "no column 'file'"),
    ('file,test_loss\na,1,2', 'line 2 has more cells'), ('file,test_loss\na,1\n./a,2', 'tells of a twice'),
    (b'\xff\xfe\x00', 'no table'), (b'file,test_loss\n\xe4,1', 'no table')])
def test_tables_that_are_none(text, words, tmp_path):
    data = text if isinstance(text, bytes) else text.encode()
    file = tmp_path/('t.json' if data[:1] in (b'[', b'{') else 't.csv')
    file.write_bytes(data)
    with pytest.raises(UserError, match=words) as e: read_table(file)
    assert str(file) in str(e.value) and '\n' not in str(e.value)

@pytest.mark.parametrize('name, text', [('metrics.csv', 'epoch,step,train_loss\n0,9,0.5\n'),
                                        ('metrics.json', '[{"epoch": 0}]'), ('metrics.json', '{"acc": 0.9}')])
def test_another_programs_metrics(name, text, tmp_path):
    "Lie in the folder and are left alone; given by --metrics they are no table."
    fill(tmp_path/'in/run0', (1, 2))
    (tmp_path/'in'/name).write_text(text)
    with pytest.warns(UserWarning, match=f"left out, .*: {name}"):
        store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert 'test_error' in store.metrics
    with pytest.raises(UserError, match='is no table of metrics'):
        import_folder(tmp_path/'in', tmp_path/'x', tiny(), metrics=tmp_path/'in'/name, progress=False)

def importing(kit, tmp_path, words):
    "Import what is in `in`, of which one run is left out: named, exit code 1, and the store is there."
    code, out, said = kit('import', 'folder', 'in', 'store', *TINY)
    assert code == 1 and any(w.startswith('gpt-kit: note: run ') and words in w for w in said), said
    assert 'store: ' in out
    return Store(tmp_path/'store')

@pytest.mark.parametrize('steps', [(1,), (1, 2, 3)])
def test_most_runs_say_how_many_checkpoints(kit, tmp_path, steps):
    "Also when the first one has fewer, or more."
    fill(tmp_path/'in/a', steps)
    for name in 'bc': fill(tmp_path/'in'/name, (1, 2))
    words = f'run a is left out: it has {len(steps)} checkpoints, and the others have 2'
    assert importing(kit, tmp_path, words).names == ['b', 'c']

def test_a_run_whose_names_tell_no_order(kit, tmp_path):
    for name in 'abc': fill(tmp_path/'in'/name, (1, 2))
    save(network(1), tmp_path/'in/b/other-step1.pt')
    store = importing(kit, tmp_path, 'run b is left out: other-step1 and step1 tell the same step, 1')
    assert store.names == ['a', 'c'] and list(store.info['left_out']) == ['b']

def with_table(folder, change):
    "Three runs and their table of two metrics, changed by `change(table)`."
    for name in 'abc': fill(folder/name, (1, 2))
    names = [f'{r}/step{s}.pt' for r in 'abc' for s in (1, 2)]
    table = {n: dict(test_loss=i/10, test_error=50) for i, n in enumerate(names)}
    change(table)
    (folder/'metrics.json').write_text(json.dumps(table))

def without_error(table): del table['a/step1.pt']['test_error']
def with_nan(table): table['a/step2.pt']['test_loss'] = float('nan')
def with_infinity(table): table['a/step2.pt']['test_loss'] = float('inf')
def without_file(table): del table['a/step1.pt']

@pytest.mark.parametrize('change, words', [
    (without_error, 'says no finite test_error of in/a/step1.pt'),
    (with_nan, 'says no finite test_loss of in/a/step2.pt'),
    (with_infinity, 'says no finite test_loss of in/a/step2.pt'), (without_file, 'lacks in/a/step1.pt')])
def test_a_metric_that_one_run_lacks(change, words, kit, tmp_path):
    with_table(tmp_path/'in', change)
    store = importing(kit, tmp_path, f'run a is left out: the table of metrics {words}')
    assert store.names == ['b', 'c'] and list(store.metrics) == ['test_loss', 'test_error']
    assert np.isfinite(store.values('test_loss')).all()

def test_a_metric_that_most_runs_lack(tmp_path):
    def change(table):
        for name, row in table.items():
            if name[0] != 'a': del row['test_error']
    with_table(tmp_path/'in', change)
    with pytest.warns(UserWarning, match='metric test_error is left out: 1 of 3 runs have it'):
        store = import_folder(tmp_path/'in', tmp_path/'store', tiny(), progress=False)
    assert store.R == 3 and list(store.metrics) == ['test_loss']

def test_weights_that_are_not_finite(kit, tmp_path):
    for name in 'abc': fill(tmp_path/'in'/name, (1, 2))
    state = network(0)
    state['fc1.bias'][0] = float('nan')
    save(state, tmp_path/'in/b/step2.pt')
    assert importing(kit, tmp_path, 'in/b/step2.pt holds weights that are not finite').names == ['a', 'c']

def test_a_start_is_read_as_an_import_reads_it(kit, model_file, tmp_path):
    "The same network, whatever its file is like."
    state = Named(('inp', 'hid'), (64, 16, 10)).state_dict()
    before = measure(digits(), flat(state)[None])['loss'].item()
    save({f'_orig_mod.{n}': t for n, t in state.items()}, tmp_path/'a.safetensors')
    torch.save(dict(model_state_dict=state, optimizer=OPTIMIZER), tmp_path/'a.CKPT')
    for file in ('a.safetensors', 'a.CKPT'):
        code, out, said = kit('prompt', model_file, 1, '--start', file)
        assert code == 0 and f'before {before:.4g},' in out, said
    torch.save(OPTIMIZER, tmp_path/'optimizer.pt')
    for file, words in (('optimizer.pt', 'an optimizer'), ('.', 'is a folder')):
        code, out, said = kit('prompt', model_file, 1, '--start', file)
        assert code == 1 and len(said) == 1 and words in said[0]

def test_states_are_read_without_their_layout(tmp_path):
    assert read_state(save(STATE, tmp_path/'a.SafeTensors')).keys() == STATE.keys()

"One model, other networks: of other widths, and of other tasks of a family."
import pytest
import torch

from gpt_kit.gpt.behaviour import behaviour_for
from gpt_kit.gpt.calibrate import calibrate_model, calibration
from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig, TrainState, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import known_widths, prepare_data, prepare_stores, task_info, width_info
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.gpt.train import _draw_store, sample_pairs, save_model, train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.families import Family, angle_condition, digit_subset
from gpt_kit.networks.layers import hidden_widths
from gpt_kit.networks.registry import get_family, get_task, resize_task
from gpt_kit.networks.store import read_tensors, write_tensors
from gpt_kit.networks.symmetry import permute, random_permutations
from gpt_kit.networks.tasks import cnn, mlp
from gpt_kit.networks.weights import Layout, measure, start_rows

NEW = Layout(mlp((64, 24, 10)))
CONDITIONS = [[float(b) for b in bits] for bits in ('1000000000', '1100000000', '0100000010')]


def noisy(model):
    "With weights that do something."
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters(): p.copy_(torch.randn(p.shape, generator=g)*.1)
    return model.eval()


def inputs(layout, K=3):
    g = torch.Generator().manual_seed(1)
    future, start = torch.randn(2, K, layout.D, generator=g)
    return future, torch.tensor([10, 500, 900])[:K], start, torch.full((K,), .4), torch.full((K,), 2.3)


@pytest.fixture(scope='module')
def wide_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wide')/'store'
    return collect(get_task('digits-24'), folder, 16, recipe=Recipe(epochs=2, n_saves=6), progress=False)

@pytest.fixture(scope='module')
def two_widths(store, wide_store, tmp_path_factory):
    "A model of both, after a moment; read it, don't touch it."
    file = tmp_path_factory.mktemp('two')/'model.safetensors'
    data = prepare_stores([store, wide_store], 'test_loss')
    config = TrainConfig(steps=4, batch=4, behaviour=1.)
    model = GPT(store.layout.layers, width=24, depth=1, heads=2, metric_scale=data[0].metric_scale)
    train_gpt(model, data, config, file, progress=False, behaviour=[behaviour_for(d, 1.) for d in data])
    return file

@pytest.mark.parametrize('own, other', [
    (mlp((64, 16, 10)), mlp((64, 40, 10))), (mlp((64, 16, 10)), mlp((64, 1, 10))),
    (mlp((64, 12, 8, 10)), mlp((64, 9, 20, 10))), (cnn((1, 8, 8), (4, 6), 10), cnn((1, 8, 8), (7, 3), 10))])
def test_a_model_writes_networks_of_any_width(own, other):
    "Renumbering the neurons of the input renumbers the output there, too, and its own width is untouched."
    own, other = Layout(own), Layout(other)
    model = noisy(GPT(own.layers, width=32, depth=2, heads=2))
    future, j, start, *metrics = inputs(other)
    turn = random_permutations(other, 3, torch.Generator().manual_seed(2))
    with torch.no_grad():
        before = model(*inputs(own))
        out = model(future, j, start, *metrics, layout=other)
        turned = model(permute(other, future, turn), j, permute(other, start, turn), *metrics, layout=other)
        torch.testing.assert_close(model(*inputs(own)), before)
    torch.testing.assert_close(turned, permute(other, out, turn), atol=1e-3, rtol=1e-3)
    assert (out - start).abs().mean() > .01

@pytest.mark.parametrize('net', [mlp((64, 16, 16, 10)), mlp((63, 24, 10)), mlp((64, 24, 9)), mlp((64, 10))])
def test_other_networks_are_refused(net):
    with pytest.raises(UserError, match='train one for such networks'):
        GPT(Layout(mlp((64, 16, 10))).layers, width=24, depth=1, heads=2).view(Layout(net))

def test_chunks_are_bound_to_one_width():
    model = GPT(Layout(mlp((64, 16, 10))).layers, tokens='chunk-256', width=24, depth=1, heads=2)
    assert model.view(Layout(mlp((64, 16, 10)))) is None
    with pytest.raises(UserError, match='train one with neuron tokens'): model.view(NEW)

def test_asked_for_another_width(ask):
    "`ask(.., hidden=24)` is `ask.at(24)(..)`; the task is that of the width, and it is called a guess."
    with pytest.warns(UserWarning, match=r'24 hidden neurons were asked for, .* \(16\)'): some = ask.at(24)
    assert (some.layout, some.task.name) == (NEW, 'digits-24')
    assert some.task.fingerprint == get_task('digits-24').fingerprint
    with pytest.warns(UserWarning, match='the answer is a guess'): rows = ask(1., hidden=24, n=2, seed=3).rows
    torch.testing.assert_close(rows, some(1., n=2, seed=3).rows)
    starts = start_rows(some.task, [1, 2])
    for guidance in (0, .5, 1): assert some(starts, 1., guidance=guidance).rows.shape == (2, NEW.D)
    assert some.at(16).layout == ask.layout
    torch.testing.assert_close(some.at(16)(1., seed=3).rows, ask(1., seed=3).rows)

@pytest.mark.parametrize('hidden', [0, -3, 2.5, (8, 8), 5000, 'many'])
def test_widths_without_sense(ask, hidden):
    with pytest.raises(UserError): ask.at(hidden)

def test_resized_tasks():
    for name, widths in (('digits', (16,)), ('digits-40', (40,)), ('digits-8-12', (8, 12))):
        task = resize_task(get_task('digits' if len(widths) == 1 else 'digits-16-16'), widths)
        assert (task.name, task.fingerprint) == (name, get_task(name).fingerprint)
    policy = resize_task(get_task('cartpole'), tuple(2*n for n in hidden_widths(get_task('cartpole').layers)))
    assert measure(policy, start_rows(policy, [0]))['return'] > 0

def test_stores_of_several_widths_have_one_scale(store, wide_store):
    "And every run is as likely as any other."
    one, other = prepare_stores([store, wide_store], 'test_loss')
    alone = prepare_data(wide_store, 'test_loss')
    assert one.scale == other.scale != alone.scale
    assert other.largest/other.scale == pytest.approx(alone.largest/alone.scale)
    g = torch.Generator().manual_seed(0)
    share = sum(_draw_store([one, other], g) for _ in range(2000))/2000
    assert share == pytest.approx(len(other.runs)/(len(one.runs) + len(other.runs)), abs=.04)
    deep = type('Odd', (), dict(layout=Layout(mlp((64, 4, 4, 10))), path='there', conditions=None))
    with pytest.raises(UserError, match='differ in the widths'): prepare_stores([store, deep], 'test_loss')

def test_stores_of_other_tasks_are_refused(store, family_store, tmp_path):
    "Also of networks that look the same, and of families."
    turned = get_family('turned-digits').task(angle_condition(90))
    other = collect(turned, tmp_path/'turned', 4, recipe=Recipe(epochs=1, n_saves=3), progress=False)
    with pytest.raises(UserError, match='for another task'): prepare_stores([store, other], 'test_loss')
    with pytest.raises(UserError, match='holds a family'): prepare_stores([family_store]*2, 'test_loss')

def test_a_model_of_two_widths(two_widths, store, wide_store, tmp_path):
    "It says what it knows; what lies between is read off, and it is calibrated on both."
    ask = load(two_widths)
    known = known_widths(ask.info)
    assert [w['hidden'] for w in known] == [[16], [24]] and 'calibration' not in known[0]
    between = ask.at(20)
    assert sorted([known[0]['best'], between.best, known[1]['best']])[1] == between.best
    tensors, info = read_tensors(two_widths, 'model')
    copy = tmp_path/'copy.safetensors'
    write_tensors(copy, tensors, info)
    with pytest.raises(UserError, match='has learned from 2 stores, and 1 were given'):
        calibrate_model(copy, store, n_starts=2)
    curve = calibrate_model(copy, [store, wide_store], n_starts=4)['calibration']
    widths = load(copy).info['widths']
    assert widths[0]['calibration'] == curve != widths[1]['calibration']
    assert {'calibration', 'calibration_from_noise'} <= set(width_info(load(copy).info, (20,)))

@pytest.mark.parametrize('widths', [
    [], [dict(hidden=[16], runs=3, best=.1)], [dict(hidden=[16, 2], runs=3, best=.1, seen=[.1, 2.])],
    [dict(hidden=[0], runs=3, best=.1, seen=[.1, 2.])], [dict(hidden=[16], runs=3, best=.1, seen=[.1])],
    [dict(hidden=[16], runs=3, best=1e30, seen=[.1, 2.])], 'all'])
def test_damaged_widths_are_refused(two_widths, tmp_path, widths):
    tensors, info = read_tensors(two_widths, 'model')
    odd = tmp_path/'odd.safetensors'
    write_tensors(odd, tensors, dict(info, widths=widths))
    with pytest.raises(UserError, match='get it again, or train the model again'): load(odd)

# families

def some_subsets():
    "Three tasks, and one that is held out."
    held_out = torch.tensor([[0, 0, 1., 1, 0, 0, 0, 0, 0, 0]])
    return Family('some', digit_subset, torch.tensor(CONDITIONS), held_out, labels=[*'0123456789'], bits=True)

@pytest.fixture(scope='module')
def family(): return some_subsets()

@pytest.fixture(scope='module')
def family_store(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp('family')/'store'
    return collect(family, folder, 12, recipe=Recipe(epochs=2, n_saves=6), progress=False)

@pytest.fixture(scope='module')
def family_ask(family, family_store, tmp_path_factory):
    file = tmp_path_factory.mktemp('family')/'model.safetensors'
    data, config = prepare_data(family_store, 'test_loss'), TrainConfig(steps=4, batch=4, behaviour=1.)
    model = GPT(family.layers, width=24, depth=1, heads=2, metric_scale=data.metric_scale, n_conditions=10)
    behaves = behaviour_for(data, 1., task=family)
    train_gpt(noisy(model), data, config, file, progress=False, behaviour=behaves)
    return load(file, task=family)

def test_pairs_know_their_task(family_store):
    data = prepare_data(family_store, 'test_loss')
    pairs = sample_pairs(data, data.runs, 32, torch.Generator().manual_seed(0))
    rows = torch.from_numpy(family_store.rows(data.runs, 0*data.runs).numpy()*data.scale)
    for start, condition in zip(pairs.start, pairs.condition):
        mine = data.runs[((rows - start).abs().amax(1) < 1e-6).numpy()]
        if len(mine): assert condition.tolist() == family_store.conditions[mine[0]].tolist()
    assert {tuple(c) for c in pairs.condition.tolist()} <= {*map(tuple, CONDITIONS)}

def test_a_model_of_a_family(family, family_ask):
    "Says what it needs to know; each condition has a task of its own, and other bits give another network."
    with pytest.raises(UserError, match='say which one is meant'): family_ask(.4)
    one, other = (family_ask.at(condition=c) for c in (CONDITIONS[0], family.held_out[0].tolist()))
    assert one.task is family.task(CONDITIONS[0]) and one.info['known'] and not other.info['known']
    rows = one(.4, n=2, seed=1).rows
    assert not torch.allclose(rows, other(.4, n=2, seed=1).rows)
    torch.testing.assert_close(family_ask(.4, condition=CONDITIONS[0], n=2, seed=1).rows, rows)
    starts = start_rows(one.task, [1, 2])
    torch.testing.assert_close(one(starts, .4).metric, measure(one.task, one(starts, .4).rows)['loss'])
    assert one(starts, .4, guidance=.5).rows.shape == rows.shape
    with pytest.warns(UserWarning, match='24 hidden'): wide = family_ask.at(24, condition=CONDITIONS[0])
    assert wide(.4).metric.isfinite().all()
    moved = wide.at(condition=CONDITIONS[1])                # keeps the width
    assert moved.layout == wide.layout and moved(.4).metric.isfinite().all()
    assert one.seen[0] == one.best and one.seen[1] == family_ask.seen[1]

def test_a_model_is_told_what_it_knows(family, family_store):
    "One task: no condition; a family: always one."
    for n, which in ((0, torch.ones(3, 10)), (10, None)):
        model = GPT(family.layers, width=24, depth=1, heads=2, n_conditions=n)
        with pytest.raises(UserError, match='family'): model(*inputs(Layout(family.layers)), which=which)

@pytest.mark.parametrize('tasks', [
    'all', {}, dict(conditions=[], best=[]), dict(conditions=[[1., 0.]], best=[.1]),
    dict(conditions=CONDITIONS, best=[.1])])
def test_damaged_tasks_are_refused(family, family_ask, tmp_path, tasks):
    model, odd = family_ask.model, tmp_path/'odd.safetensors'
    save_model(odd, model, dict(family_ask.info, tasks=tasks))
    with pytest.raises(UserError, match='get it again, or train the model again'): load(odd, task=family)
    save_model(odd, model, {k: v for k, v in family_ask.info.items() if k != 'tasks'})
    with pytest.raises(UserError, match='get it again, or train the model again'): load(odd, task=family)

def test_a_whole_turn_is_none():
    "The angle of 360 degrees is that of 0, though its sine is not quite."
    tasks = dict(conditions=[[1., 0.], [0., 1.]], best=[.1, .3])
    info = dict(tasks=tasks, seen=[.1, 2.], metric=dict(minimize=True))
    assert [task_info(info, angle_condition(a))['known'] for a in (360, 45)] == [True, False]

@pytest.mark.parametrize('condition', [(1, 0), (1.5,)*10, (0,)*10, (1,)*10, 'even', None])
def test_conditions_without_sense(family_ask, condition):
    with pytest.raises(UserError):
        family_ask.at(condition=condition)(.4)

def test_one_task_has_no_conditions(ask):
    with pytest.raises(UserError, match='knows one task'): ask.at(condition=(1, 0))

def test_a_family_is_calibrated_on_each_ones_task(family_ask, family_store):
    runs = prepare_data(family_store, 'test_loss').runs[:4]
    rows = family_store.rows(runs, 0*runs)
    for guidance in (0, 1):
        curve = calibration(family_ask, rows, conditions=family_store.conditions[runs], guidance=guidance,
                            n_prompts=4)
        assert sorted(curve['given']) == curve['given'] and len(curve['told']) == 64

def test_what_to_expect_of_an_unseen_task(family_ask):
    "A known one's own best, and the mean of its neighbours' otherwise."
    info = family_ask.info
    assert task_info(info, tuple(CONDITIONS[1]))['best'] == pytest.approx(info['tasks']['best'][
        info['tasks']['conditions'].index(CONDITIONS[1])])
    expected = task_info(info, (0,)*9 + (1,))['best']
    assert expected == pytest.approx(sum(info['tasks']['best'])/len(info['tasks']['best']))

# the optimizers of blocks

def test_muon_is_for_matrices_within_blocks(data_of_store, tmp_path):
    "All others stay with AdamW; and a training that is saved and gone on with is the same, bit for bit."
    def state():
        torch.manual_seed(0)
        model = GPT(data_of_store.store.layout.layers, width=24, depth=2, heads=2)
        return TrainState(model, TrainConfig(steps=6, optimizer='muon', warmup=2))
    def loss(model, g):
        p = sample_pairs(data_of_store, data_of_store.runs, 4, g)
        guess = model(p.future, torch.full((4,), 300), p.start, p.prompt, p.metric)
        return (guess - p.future).square().mean()
    one = state()
    adamw, muon = one.optimizer.each
    names = {id(p): n for n, p in one.model.named_parameters()}
    inner = {names[id(p)] for group in muon.param_groups for p in group['params']}
    assert len(inner) == 8 and all(n.startswith('blocks.') and 'adapt' not in n for n in inner)
    assert len(one.optimizer.params) == len(names)
    steps = train(one, loss)
    for _ in range(3): next(steps)
    one.save(tmp_path/'state.safetensors', {})
    two = state().resume(tmp_path/'state.safetensors', {})
    assert two.step == 3
    for _ in steps: pass
    for _ in train(two, loss): pass
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values()):
        assert torch.equal(a, b), name

@pytest.fixture
def data_of_store(store): return prepare_data(store, 'test_loss')

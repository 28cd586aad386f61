"Families: what is held out stays so, runs side by side are runs alone, each is measured on its own task."
import importlib
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from gpt_kit.networks import registry
from gpt_kit.networks.cartpole import cartpole
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import (SHARD, Recipe, collect, estimate, local_shards, run_seeds, train_each,
                                      train_runs)
from gpt_kit.networks.families import (Family, angle_condition, class_logits, condition_angle, digit_subset,
                                       loss_each, measure_each, run_conditions, run_tasks, side_by_side,
                                       turned_task)
from gpt_kit.networks.registry import (family_of, get_family, get_task, get_task_or_family, known_task,
                                       known_task_or_family, task_of)
from gpt_kit.networks.store import Store, delete_store, shard_file
from gpt_kit.networks.tasks import Task, classification, cnn, cross_entropy, digits, digits_cnn, mlp
from gpt_kit.networks.weights import Layout, forward, measure, start_rows
from gpt_kit.play.draw import Drawing, draw_predictions, predicted_classes
from gpt_kit.play.many import predict_together
from gpt_kit.study.families import (ANY, family_table, known_networks, nearest_answers, nearest_known,
                                    negate_outputs, summed_logits, turn_networks)

QUICK = Recipe(epochs=2, n_saves=3, batch=40)
MINE = """
import torch
from gpt_kit.networks.families import Family
from gpt_kit.networks.tasks import classification, mlp
X = torch.randn(90, 2, generator=torch.Generator().manual_seed(0))
def band(condition):
    return classification('band', X, (X[:, 0] > condition[0]).long(), mlp((2, 3, 2)))
def bands(): return Family('whatever', band, [[-.5], [0.], [.5]], [[.25]], ['edge'])
def one(): return band((0.,))
"""
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))

def sides(condition): # inputs and labels of their own
    y = (torch.arange(60) + (condition[0] > 0)) % 3
    return classification('sides', X + condition[0], y, mlp((4, 3, 3)))

def family(make=sides, conditions=((0.,), (1.,), (2.,)), **parts):
    return Family('test', make, list(conditions), torch.zeros(0, 1), ['shift'], **parts)

def turned_cnn(condition):
    pictures = turned_task(condition)
    return replace(pictures, net=cnn((1, 8, 8), (2, 3), 10))

@pytest.fixture(scope='module')
def subsets(): return get_family('digit-subsets')

@pytest.fixture(scope='module')
def turned(): return get_family('turned-digits')

@pytest.fixture
def forgotten(monkeypatch, tmp_path):
    "A folder of one's own with mine.py and a trap; nothing was named yet."
    (tmp_path/'mine.py').write_text(MINE)
    (tmp_path/'trap.py').write_text(f"open({str(tmp_path/'sprung')!r}, 'w')\nfrom mine import bands\n")
    monkeypatch.setattr(registry, 'NAMED', set())
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path)])
    for name in ('mine', 'trap'): monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    yield tmp_path
    for name in ('mine', 'trap'): sys.modules.pop(name, None)

# What is held out

def test_subsets_are_held_out_with_their_complements(subsets):
    both = subsets.conditions, subsets.held_out
    known, unseen = ({tuple(c) for c in part.int().tolist()} for part in both)
    assert (len(known), len(unseen)) == (900, 122) and not known & unseen
    for part in (known, unseen): assert {tuple(1 - v for v in c) for c in part} == part
    assert all(0 < sum(c) < 10 for c in known | unseen)

@given(st.integers(0, 2**30 - 5000), st.integers(1, 3000))
@settings(max_examples=20)
def test_held_out_is_never_trained_on(first, n):
    for name in ('digit-subsets', 'turned-digits'):
        some = get_family(name)
        found = run_conditions(some, list(range(first, first + n)))
        unseen = {tuple(c) for c in some.held_out.tolist()}
        assert not unseen & {tuple(c) for c in found.tolist()}
        counts = found.unique(dim=0, return_counts=True)[1]
        assert len(counts) == min(n, len(some.conditions)) and counts.max() - counts.min() <= 1

def test_held_out_angles(turned):
    known, unseen = ([condition_angle(c) for c in part] for part in (turned.conditions, turned.held_out))
    assert sorted(known + unseen) == list(range(0, 360, 6)) and len(unseen) == 16
    assert {a for a in range(85, 120) if a % 6 == 0} <= set(unseen)             # a whole sector

def test_what_is_trained_on_cannot_be_held_out():
    with pytest.raises(UserError, match='condition 1 is both to train on and held out'):
        Family('test', sides, [[0], [1]], [[1]], ['shift'])
    with pytest.raises(UserError, match='no conditions to train on'):
        Family('test', sides, torch.zeros(0, 1), [[1]], ['shift'])

# Tasks of a condition

@given(st.lists(st.sampled_from([0, 1]), min_size=10, max_size=10).filter(lambda bits: 0 < sum(bits) < 10))
@settings(max_examples=20)
def test_labels_of_a_subset(bits):
    some, base = get_family('digit-subsets'), digits()
    task, other = some.task(bits), some.task([1 - b for b in bits])
    for split, (x, y) in base.inputs.items():
        assert task.inputs[split][1].tolist() == [bits[c] for c in y.tolist()]
        assert torch.equal(task.inputs[split][1], 1 - other.inputs[split][1])
        assert task.inputs[split][0] is other.inputs[split][0] and torch.equal(task.inputs[split][0], x)
        assert getattr(task, split)[0] is getattr(other, split)[0]
    assert task is some.task(torch.tensor(bits)) is some.task(np.array(bits, float))
    assert task.scaling is not None and len(task.classes) == 2

WRONG = [('digit-subsets', (1, 0), 'give 10 numbers: 0, 1, 2'), ('digit-subsets', [.5]*10, 'are 0 or 1'),
         ('digit-subsets', [0]*10, 'choose from 1 to 9 digits'), ('digit-subsets', [1]*10, 'choose from'),
         ('digit-subsets', [[1]*10], 'give 10 numbers'), ('digit-subsets', '1010101010', 'give 10 numbers'),
         ('digit-subsets', [float('nan')]*10, 'give 10 numbers'), ('digit-subsets', None, 'give 10 numbers'),
         ('turned-digits', (.5, .5), 'not the cosine and the sine of an angle'),
         ('turned-digits', (30.,), 'give 2 numbers: cosine, sine')]

@pytest.mark.parametrize('name, condition, said', WRONG)
def test_wrong_conditions_are_refused(name, condition, said):
    with pytest.raises(UserError, match=said) as e: get_family(name).task(condition)
    assert '\n' not in str(e.value)

def test_dials(subsets, turned):
    assert subsets.dials['3'] == (0, 1) and subsets.bits and subsets.encode(1, 0) == (1, 0)
    assert turned.dials == {'angle (degrees)': (0, 360)}
    assert turned.task(turned.encode(359.9)).name == 'turned-digits[0.999998, -0.00174533]'

@given(st.floats(0, 359.9))
def test_an_angle_and_back(degrees):
    gap = abs(condition_angle(torch.tensor(angle_condition(degrees))) - degrees)
    assert min(gap, 360 - gap) < 2e-3

def test_turned_pictures(turned):
    "By 90 degrees pixels move and nothing else; upright digits are those of the task digits."
    tasks = [turned.task(angle_condition(90*k)) for k in range(4)]
    for k, task in enumerate(tasks):
        raw = [t.scaling.undo(t.test[0]).view(-1, 8, 8) for t in (tasks[0], task)]
        torch.testing.assert_close(raw[0].rot90(k, (1, 2)), raw[1], atol=1e-4, rtol=0)
        assert torch.equal(task.test[1], tasks[0].test[1])
    assert torch.equal(tasks[0].train[0], digits().train[0])

BAD = [(lambda c: digits((3 + int(c[0]),)), 'another layers than test'),
       (lambda c: replace(sides(c), loss=lambda z, y: cross_entropy(z, y)*c[0]), 'another loss than'),
       (lambda c: replace(sides(c), start=lambda *a: torch.zeros(a[0])*c[0]), 'another start than'),
       (lambda c: classification('short', X[int(c[0]):], torch.arange(60)[int(c[0]):] % 3, mlp((4, 3, 3)),
                                 n_train=30 - int(c[0])), 'another number of inputs to train on'),
       (lambda c: {}['x'], "failed for 0 with KeyError: 'x'; mend it there"),
       (lambda c: None, 'gave a NoneType, but a Task was expected'), (lambda c: cartpole(), 'needs labels')]

@pytest.mark.parametrize('make, said', BAD)
def test_tasks_that_are_no_family(make, said):
    with pytest.raises(UserError, match=said): [family(make).task((c,)) for c in (0, 1, 2)]

def test_functions_of_the_same_text_are_the_same():
    "A loss that is defined within the function is another object each time, and still the same loss."
    def make(condition):
        def loss(logits, y): return cross_entropy(logits, y)
        return replace(sides(condition), loss=loss)
    assert family(make).task((1.,)).layers == mlp_layers()

def mlp_layers(): return sides((0.,)).layers

def test_fingerprints(subsets, turned):
    assert subsets.fingerprint == replace(subsets, name='another').fingerprint != turned.fingerprint
    ours = family().fingerprint
    assert ours != family(conditions=((0.,), (1.,), (3.,))).fingerprint
    assert ours != family(lambda c: replace(sides(c), test=sides((9.,)).test)).fingerprint
    assert ours != replace(family(), held_out=[[7.]]).fingerprint
    assert ours != family(lambda c: sides(c)).fingerprint               # the text of the function counts

# Side by side

GROUPS = dict(subsets=lambda: get_family('digit-subsets'), own=family,
              turned=lambda: get_family('turned-digits'),
              cnn=lambda: replace(get_family('turned-digits'), make=turned_cnn))

@pytest.mark.parametrize('kind', GROUPS)
def test_a_group_is_each_alone(kind):
    "Also when inputs are each network's own, and when these are pictures."
    some = GROUPS[kind]()
    seeds = [0, 1, 2, 40, 63]
    together, steps = train_runs(some, seeds, QUICK)
    for k in (0, 2, 4):
        task = some.task(some.conditions[seeds[k] % len(some.conditions)])
        alone, at = train_runs(task, [seeds[k]], QUICK)
        assert torch.equal(at[0], steps[k]) and (alone[0, -1] - alone[0, 0]).abs().max() > 1e-3
        torch.testing.assert_close(alone[0], together[k], atol=2e-5, rtol=1e-4)

def test_a_run_depends_on_its_seed_alone(subsets):
    seeds = run_seeds(1, 70)                                  # more than one group
    together, _ = train_runs(subsets, seeds, QUICK)
    for k in (3, 69):
        alone, _ = train_runs(subsets, [seeds[k]], QUICK)
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)

def not_mapped(logits, y): # a loss that looks at values, which `vmap` cannot
    return cross_entropy(logits, y)*(1 if y.float().mean().item() > .3 else 2)

def test_losses_of_ones_own():
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(5, 3, 20, generator=g), torch.randint(0, 3, (5, 20), generator=g)
    for loss in (cross_entropy, not_mapped):
        one_by_one = torch.cat([loss(z[k:k + 1], y[k]) for k in range(5)])
        torch.testing.assert_close(loss_each(loss, z, y), one_by_one)
    some = family(lambda c: replace(sides(c), loss=not_mapped))
    kept, _ = train_runs(some, [0, 1], QUICK)
    alone, _ = train_runs(some.task((1.,)), [1], QUICK)
    torch.testing.assert_close(kept[1:], alone, atol=1e-5, rtol=1e-5)

def test_augmentation_needs_shared_inputs():
    def noisy(X, g): return X + torch.randn(X.shape, generator=g)
    with pytest.raises(UserError, match='works for tasks that share them alone'):
        train_runs(family(lambda c: replace(sides(c), augment=noisy)), [0, 1], QUICK)
    labels = family(lambda c: replace(sides((0.,)), train=(X, (torch.arange(60) + int(c[0])) % 3),
                                      augment=noisy))
    assert train_runs(labels, [0, 1], QUICK)[0].isfinite().all()

def test_tasks_of_any_condition(subsets):
    "Held-out ones can be trained for, too, when it is asked for."
    tasks = [subsets.task(c) for c in subsets.held_out[:3]]
    rows, _ = train_each(tasks, [2**31, 2**31 + 1, 2**31 + 2], Recipe(epochs=10, n_saves=2))
    errors = measure_each(tasks, rows)['error']
    assert errors.shape == (3, 2) and errors[:, 1].max() < 15 < errors[:, 0].min()

# Stores

def test_store_of_a_family(subsets, tmp_path):
    store = collect(subsets, tmp_path/'store', 6, recipe=QUICK, progress=False).verify()
    assert store.info['task'] == 'digit-subsets' and store.info['family'] == [*'0123456789']
    assert store.conditions.dtype == np.float32 and np.array_equal(store.conditions, subsets.conditions[:6])
    for run in range(6):
        task, rows = subsets.task(store.conditions[run]), store.rows([run]*3, range(3))
        for split in ('test', 'train'):
            for name, v in measure(task, rows, split).items():
                torch.testing.assert_close(v, torch.from_numpy(store.values(f'{split}_{name}')[run]),
                                           atol=1e-4, rtol=1e-4)
    assert family_of(store.info) is subsets and get_task_or_family('digit-subsets') is subsets
    with pytest.raises(UserError, match='a family of tasks, and one task is needed'): task_of(store.info)
    delete_store(store.path)
    assert not store.path.exists()

def test_stores_of_single_tasks_know_nothing_of_families(store):
    assert store.conditions is None and 'family' not in store.info
    assert 'conditions' not in load_file(store.path/shard_file(0))

def test_an_interrupted_collection_goes_on(tmp_path):
    "The first shard is kept, the others are made, and all are as if nothing had happened."
    some, n = family(), SHARD + 5
    def interrupted(task, shards, recipe, **kw):
        yield next(iter(local_shards(task, shards, recipe, **kw)))
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        collect(some, tmp_path/'a', n, recipe=QUICK, progress=False, make_shards=interrupted)
    assert len(Store(tmp_path/'a').conditions) == SHARD
    made = []
    def watched(task, shards, recipe, **kw):
        made.extend(shards)
        return local_shards(task, shards, recipe, **kw)
    collect(some, tmp_path/'a', n, recipe=QUICK, progress=False, make_shards=watched)
    collect(some, tmp_path/'b', n, recipe=QUICK, progress=False)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path/name).iterdir()} for name in 'ab')
    assert made == [1] and a == b
    assert Store(tmp_path/'a').conditions[:, 0].tolist() == [i % 3 for i in range(n)]

def test_a_family_travels(subsets):
    "To other processes, as Ray sends it."
    there = pickle.loads(pickle.dumps(subsets))
    assert there.fingerprint == subsets.fingerprint
    assert torch.equal(there.task(there.held_out[5]).train[1], subsets.task(subsets.held_out[5]).train[1])

def test_another_family_is_another_store(tmp_path):
    collect(family(), tmp_path, 3, recipe=QUICK, progress=False)
    with pytest.raises(UserError, match='was made for another task'):
        collect(family(conditions=((5.,), (6.,))), tmp_path, 3, recipe=QUICK, progress=False)

DAMAGE = [(lambda index: index.update(family=5), "where a list was expected"),
          (lambda index: index.update(family=[1]), "where a text was expected"),
          (lambda index: index.update(family=['a', 'b']), 'has other shapes than the index says')]

@pytest.mark.parametrize('damage, said', DAMAGE)
def test_damaged_stores_are_refused(damage, said, tmp_path):
    collect(family(), tmp_path, 3, recipe=QUICK, progress=False)
    index = json.loads((tmp_path/'index.json').read_text())
    damage(index)
    (tmp_path/'index.json').write_text(json.dumps(index))
    with pytest.raises(UserError, match=said): Store(tmp_path)

def test_a_shard_without_conditions_is_refused(tmp_path):
    collect(family(), tmp_path, 3, recipe=QUICK, progress=False)
    tensors = load_file(tmp_path/shard_file(0))
    del tensors['conditions']
    data, index = save(tensors), json.loads((tmp_path/'index.json').read_text())
    (tmp_path/shard_file(0)).write_bytes(data)
    index['shards']['0']['bytes'] = len(data)
    (tmp_path/'index.json').write_text(json.dumps(index))
    with pytest.raises(UserError, match='has other shapes than the index says'): Store(tmp_path)

def test_what_it_costs(subsets):
    cost = estimate(subsets, Recipe(epochs=1, n_saves=2), 64)
    assert 0 < cost['seconds'] < 60 and cost['bytes'] == 64*2*(1057*4 + 24)

# By name

def test_a_family_of_ones_own(forgotten):
    bands = get_family('mine:bands')
    assert bands.name == 'mine:bands' and bands.task((0,)).name == 'mine:bands[0]'
    store = collect(bands, forgotten/'store', 4, recipe=QUICK, progress=False)
    assert store.conditions[:, 0].tolist() == [-.5, 0., .5, -.5]
    assert family_of(store.info).fingerprint == bands.fingerprint       # it has been named
    assert get_task('mine:one').layers == bands.layers
    with pytest.raises(UserError, match='mine:bands is a family of tasks'): get_task('mine:bands')
    with pytest.raises(UserError, match='mine:one is one task, and a family'): get_family('mine:one')
    with pytest.raises(UserError, match='was made for another task'): get_family('mine:bands', '0'*12)

def test_nothing_that_a_file_names_is_run(forgotten):
    info = dict(task='trap:bands', fingerprint='0'*12, family=['edge'])
    for ask in (family_of, task_of):
        with pytest.raises(UserError, match='nothing that a file names is run'): ask(info)
    for name in ('trap:bands', 'mine:bands', 'digit-subset', 'os:abort', None):
        with pytest.raises(UserError, match='nothing that a file names is run'): known_task_or_family(name)
    assert not (forgotten/'sprung').exists() and 'trap' not in sys.modules
    with pytest.raises(UserError, match='a family of tasks'): known_task('digit-subsets')

def test_mistyped():
    with pytest.raises(UserError, match='did you mean digit-subsets'): get_family('digit-subset')

# One output

def test_yes_or_no():
    "Two outputs, of which the first is zero, say the same as one."
    g = torch.Generator().manual_seed(0)
    z, y = torch.randn(4, 1, 50, generator=g), torch.randint(0, 2, (50,), generator=g)
    task = digit_subset((1., 0)*5)
    torch.testing.assert_close(task.loss(z, y), cross_entropy(class_logits(z), y))
    torch.testing.assert_close(task.loss(z, y),
                               torch.stack([F.binary_cross_entropy_with_logits(k[0], y.float()) for k in z]))
    wrong = (class_logits(z).argmax(1) != y).float().mean(1)*100
    torch.testing.assert_close(task.metrics['error'].fn(z, y), wrong)
    assert class_logits(torch.zeros(1, 3, 2)).shape == (1, 3, 2)

def test_labels_for_one_output():
    task = digit_subset((1., 0)*5)
    X, y = task.train
    with pytest.raises(UserError, match='0..1 are allowed'): replace(task, train=(X, y + 1))
    with pytest.raises(UserError, match='0..0 are allowed'): Task('test', task.net, task.train, task.test)
    with pytest.raises(UserError, match='a name for each of 2 outputs'): replace(task, classes=['yes'])

def test_what_one_output_says_is_shown(subsets):
    "The class that is drawn, and what several networks say together."
    task, picks = subsets.example, torch.arange(20)
    rows = start_rows(task, range(5))
    yes = forward(Layout(task.layers), rows, task.inputs['test'][0])[:, 0] > 0             # (5, 500)
    assert 0 < yes.float().mean() < 1
    assert predicted_classes(task, rows[0], picks).tolist() == yes[0, :20].int().tolist()
    assert torch.equal(predict_together(task, rows).said, yes.long())
    figure = Drawing([['all']], {})
    draw_predictions(figure, 'all', task, rows[0], picks)
    words = [w for trace in figure.data for w in trace.get('text') or ()]
    assert {w.removeprefix('✗ ') for w in words} == {'no', 'yes'} and len(words) == 20

# Without a model

def test_negated_networks_answer_for_the_complement(subsets):
    layout, rows = Layout(subsets.layers), start_rows(subsets.example, range(3))
    bits = subsets.conditions[0]
    task, other = subsets.task(bits), subsets.task(1 - bits)
    negated = negate_outputs(layout, rows)
    x = task.inputs['test'][0]
    assert torch.equal(forward(layout, negated, x), -forward(layout, rows, x))
    for name, v in measure(task, rows).items(): torch.testing.assert_close(v, measure(other, negated)[name])

@given(st.integers(0, 121), st.integers(1, 200))
@settings(max_examples=20)
def test_nearest_known_subsets(h, R):
    some = get_family('digit-subsets')
    known, asked = some.conditions[:R], some.held_out[h]
    near, away = nearest_known(known, asked), (known != asked).sum(1)
    assert set(near.tolist()) == set((away == away.min()).nonzero().flatten().tolist()) and away.min() > 0

def test_answers_of_neighbours(subsets, tmp_path):
    store = collect(subsets, tmp_path, 60, recipe=QUICK, progress=False)
    known = known_networks(store, negate=True)
    assert len(known[0]) == 120
    rows = nearest_answers(subsets, known, subsets.held_out[:2], 3)[ANY]
    for asked, some in zip(subsets.held_out, rows):
        near = known[1][nearest_known(known[0], asked)]
        assert torch.cdist(some, near).amin(1).max() < 1e-3
    values = dict(loss=torch.tensor([[1., 3.], [4., 6.]]))
    assert family_table(dict(mine=values), 'loss').loc['mine'].tolist() == [3.5, 2., 2., 5.]

def test_turned_networks(turned):
    rows = start_rows(turned.example, range(4))
    a, b = (turned.task(angle_condition(d)) for d in (6, 186))
    moved = turn_networks(Layout(turned.layers), rows, 180.)
    torch.testing.assert_close(measure(b, moved)['loss'], measure(a, rows)['loss'], atol=1e-4, rtol=1e-4)

def test_sums_of_probabilities():
    z, bits = torch.randn(2, 10, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([1., 0]*5)
    p = z.softmax(1)[:, ::2].sum(1, keepdim=True)
    torch.testing.assert_close(summed_logits(z, bits).sigmoid(), p)

def test_points_are_found_by_name(gpt_kit, tmp_path):
    "In a process that has imported nothing else."
    done = gpt_kit('collect', tmp_path/'store', '--task', 'point-sets', '--runs', 2)
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path/'store').conditions.tolist() == [[0, 0], [1, 0]]

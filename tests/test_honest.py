"Numbers that say what they seem to say: copies are not new, bad metrics are named, seeds are unused."
import inspect
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data, split_runs
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import FREE_ORDERS, GROUP, Recipe, collect, local_shards, run_seeds
from gpt_kit.pdiff.compare import compare_sets, compare_settings, compare_zoos, sample_noised
from gpt_kit.pdiff.zoo import Zoo, zoo_from_run
from gpt_kit.study import audit, diversity, updates

@pytest.fixture(scope='module')
def zoo(): return zoo_from_run('mlp3', what='all', which=(None, None), n=12, epochs=1)

# Copies are not new

def test_exact_copies_have_no_share_of_what_is_new(zoo):
    "Own places in the list are left out, nothing else: also when the very originals are offered as new."
    twice = torch.cat([zoo.rows, zoo.rows])
    df = compare_sets(zoo, dict(same=zoo.rows, copies=zoo.rows.clone(), twice=twice, one=zoo.rows[3:4]))
    for name in ('same', 'copies', 'twice', 'one'):
        assert df.loc[name, 'distance nearest'] == 0 and df.loc[name, 'IoU nearest'] == 1
    assert df.loc['originals', 'distance nearest'] > 0

def test_an_original_that_stands_there_twice_is_a_copy(zoo):
    doubled = Zoo(zoo.part, torch.cat([zoo.rows, zoo.rows[:1]]), zoo.data)
    two, one = (compare_sets(z, {}).loc['originals', 'distance nearest'] for z in (doubled, zoo))
    assert two < one

# Rules see full precision

def test_tables_are_not_rounded(zoo, task, store):
    def noised(size, seed): return sample_noised(zoo.rows, 5, size=size, seed=seed)
    data = prepare_data(store, 'test_loss')
    sets = dict(generated=store.rows(data.held_out, [0]*len(data.held_out)))
    tables = [compare_sets(zoo, dict(noise=noised(1., 0))),
              compare_settings(zoo, dict(a=1.), noised, seeds=2),
              compare_zoos(dict(one=zoo), lambda zoo, seed: noised(1., seed), seeds=1),
              audit.audit_of_store(task, data)(sets)]
    for df in tables:
        means = df['mean' if 'mean' in df else 'loss'].to_numpy()
        assert (means != means.round(3)).any()

# Metrics that cannot be learned from

def changed(task, folder, change, n=12):
    "A small store whose metrics (R, S, M) are changed while it is made."
    def make(*args, **kw):
        for k, tensors in local_shards(*args, **kw):
            yield k, dict(tensors, metrics=change(tensors['metrics'].clone()))
    recipe = Recipe(epochs=1, n_saves=4)
    return collect(task, folder/'store', n, recipe=recipe, progress=False, make_shards=make)

def test_runs_without_a_metric_are_left_out_by_name(task, tmp_path):
    def lose(metrics):
        metrics[[2, 5], 1] = torch.tensor([torch.nan, torch.inf])[:, None]
        return metrics
    store = changed(task, tmp_path, lose)
    with pytest.warns(UserWarning, match=r'test_loss is not a number in 2 of 12 runs \(run 2, run 5\)'):
        data = prepare_data(store, 'test_loss')
    assert not {2, 5} & {*data.runs, *data.held_out} and data.dropped == 2
    assert np.isfinite(data.metric_scale) and np.isfinite(data.seen).all()

def test_a_metric_that_is_never_a_number_is_refused(task, tmp_path):
    store = changed(task, tmp_path, lambda metrics: metrics*torch.nan)
    with pytest.warns(UserWarning), pytest.raises(UserError, match='0 runs whose test_loss is a number'):
        prepare_data(store, 'test_loss')

def test_a_metric_that_is_always_the_same_is_refused(task, tmp_path):
    store = changed(task, tmp_path, torch.zeros_like)
    with pytest.raises(UserError, match='test_error is 0 in every checkpoint.*choose another metric'):
        prepare_data(store, 'test_error')

CHANGES = {'negative': lambda m: m - 1000, 'best is zero': lambda m: m - m.amin((0, 1)),
           'starts are zero': lambda m: m - m[:, :1], 'starts are nearly zero': lambda m: m - m[:, :1] + 1e-9}

@pytest.mark.parametrize('sampling', ['even', 'paper'])
@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
def test_zero_and_below_can_be_learned_from(task, tmp_path, change, sampling):
    store = changed(task, tmp_path, change)
    data = prepare_data(store, 'test_loss')
    assert np.abs(data.seen).max()/data.metric_scale <= 100 and data.metric_scale > 0
    model = GPT(store.info['layers'], width=24, depth=1, heads=2, metric_scale=data.metric_scale)
    config, file = TrainConfig(steps=4, batch=4, warmup=1), tmp_path/'model.safetensors'
    history = train_gpt(model, data, config, file, sampling=sampling, progress=False)
    assert all(np.isfinite(h['loss']) for h in history)
    ask = load(file)
    answer = ask(unseen_starts(task, 2), ask.best, metric=data.values[:2, 0], steps=2)
    assert answer.rows.isfinite().all()

def test_a_scale_is_what_it_was_for_ordinary_metrics(store):
    "Shipped models were trained with it: the starts' mean where less is better."
    data = prepare_data(store, 'test_error')
    assert data.metric_scale == data.values[data.runs, 0].mean().item()

# Held-out runs are drawn

def test_held_out_runs_are_drawn():
    runs = np.arange(3000)
    kept, held_out = split_runs(runs)
    assert len(held_out) == 90 and sorted([*kept, *held_out]) == runs.tolist()
    assert (np.diff(held_out) > 0).all() and (np.diff(kept) > 0).all()
    assert abs(held_out.mean() - 1500) < 250 and held_out.min() < 200          # from everywhere
    assert np.array_equal(split_runs(runs)[1], held_out)                       # and always the same

@given(st.integers(2, 60), st.floats(0, 1))
def test_both_parts_have_a_run(n, share):
    kept, held_out = split_runs(np.arange(10, 10 + n), share)
    assert len(kept) >= 1 and len(held_out) >= 1 and len(kept) + len(held_out) == n

# Starts that a model cannot know

@pytest.mark.parametrize('bad', [torch.nan, torch.inf])
def test_a_start_without_a_metric_is_refused(ask, task, bad):
    metric = torch.tensor([2., bad])
    with pytest.raises(UserError, match=f'test loss of {bad}.*measure it'):
        ask(unseen_starts(task, 2), 1., metric=metric)

def test_a_start_far_too_large_is_told(ask, task):
    rows = unseen_starts(task, 2)
    with pytest.warns(UserWarning, match='far outside of what this model has learned from') as told:
        ask(100*rows, 1., metric=torch.full((2,), 2.))
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ask(rows, 1., metric=torch.full((2,), 2.))

def test_an_answer_that_is_not_finite_is_refused(model_file, task):
    broken = load(model_file)
    with torch.no_grad(): next(broken.model.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="model's answer has weights that are not finite"):
        broken(unseen_starts(task, 1), 1.)

# Seeds of minibatches that no collection has

@given(st.integers(0, 2**10 - 1), st.integers(1, 2**20))
def test_no_collection_has_a_free_order(seed, n):
    first, last = (k//GROUP for k in (seed*2**20, seed*2**20 + n - 1))
    assert run_seeds(seed, 1)[0]//GROUP == first <= last < FREE_ORDERS

def test_studies_train_in_free_orders(task):
    "And the audit's are different from those of diversity."
    used = []
    class Noted:
        def n_steps(self, task): return 1
        def optimize(self, task, starts, order_seed):
            used.append(order_seed)
            yield 1, starts
    starts = unseen_starts(task, 1)
    diversity.train_ends(task, starts, Noted(), 3)
    updates.train_starts(SimpleNamespace(task=task, world=SimpleNamespace(recipe=Noted())), starts)
    used.append(inspect.signature(audit.train_from).parameters['order_seed'].default)
    assert all(FREE_ORDERS <= order < 2**32 for order in used)
    assert set(used[:3]).isdisjoint(used[4:])

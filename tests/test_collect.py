"Collecting: optimizers are torch's, runs don't depend on neighbours, seeds fix every bit, growing is safe."
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import (OPTIMIZERS, SHARD, Recipe, checkpoint_steps, collect, cosine_share,
                                      minibatches, optimize, run_seeds, train_runs)
from gpt_kit.networks.store import Store, read_tensors, shard_file, write_tensors
from gpt_kit.networks.tasks import digits, digits_cnn
from gpt_kit.networks.weights import Layout, as_module, measure, start_rows, to_row

QUICK = Recipe(epochs=1, n_saves=3)
TORCH = dict(sgd=torch.optim.SGD, momentum=partial(torch.optim.SGD, momentum=.9),
             nesterov=partial(torch.optim.SGD, momentum=.9, nesterov=True), adam=torch.optim.Adam)

@pytest.mark.parametrize('cosine', [False, True], ids=['constant', 'cosine'])
@pytest.mark.parametrize('name, make', [*((name, digits) for name in OPTIMIZERS), ('nesterov', digits_cnn)])
def test_optimize_is_torch_optim(name, make, cosine):
    "Three networks, 12 minibatches over two epochs, against one torch optimizer each."
    task = make()
    layout, rows, n = Layout(task.layers), start_rows(task, range(3)), 12
    lr = .01 if name == 'adam' else .1
    run = optimize(task, rows, n, optimizer=name, lr=lr, weight_decay=5e-3, cosine=cosine, order_seed=7)
    *_, (step, ours) = run
    assert step == n
    X, y = task.train
    for row, our in zip(rows, ours):
        net, order = as_module(row, layout), minibatches(len(y), 100, torch.Generator().manual_seed(7))
        opt = TORCH[name](net.parameters(), lr=lr, weight_decay=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=2)
        for s in range(n):
            ix = next(order)
            opt.zero_grad()
            F.cross_entropy(net(X[ix]), y[ix]).backward()
            opt.step()
            if cosine and s % 10 == 9: schedule.step()
        theirs = to_row(net, layout)
        assert (theirs - row).abs().max() > .01
        atol = 2e-4 if name == 'adam' else 2e-5           # Adam divides tiny gradients by tiny ones
        torch.testing.assert_close(our, theirs, atol=atol, rtol=1e-4)

def test_what_is_yielded_stays(task):
    "Each step's rows are their own: they may be kept or changed, and the networks given stay as they were."
    starts = start_rows(task, range(2))
    before, kept = starts.clone(), []
    for _, rows in optimize(task, starts, 4, cosine=False): kept.append(rows)
    again = []
    for _, rows in optimize(task, starts, 4, cosine=False):
        again.append(rows.clone())
        rows.zero_()
    assert torch.equal(starts, before) and torch.equal(torch.stack(kept), torch.stack(again))
    assert all((a != b).any() for a, b in zip(kept, kept[1:]))

def test_augmented_inputs(task):
    "They are drawn by a seed, change what is learned, and are part of what the task is."
    noisy = replace(task, augment=lambda X, g: X + torch.randn(X.shape, generator=g))
    def last_rows(task):
        *_, (_, rows) = optimize(task, start_rows(task, range(3)), 5, order_seed=3)
        return rows
    varied = last_rows(noisy)
    assert torch.equal(last_rows(noisy), varied) and (varied != last_rows(task)).any()
    assert noisy.fingerprint != task.fingerprint

def test_half_a_cosine():
    assert [round(cosine_share(i, 4), 3) for i in range(5)] == [1., .854, .5, .146, 0.]

def test_own_rate_and_decay_of_each_network(task):
    rows = start_rows(task, [5, 5])
    rates, decays = torch.tensor([.1, .01]), torch.tensor([0., .1])
    *_, (_, both) = optimize(task, rows, 5, optimizer='sgd', lr=rates, weight_decay=decays)
    for i, (lr, wd) in enumerate(((.1, 0.), (.01, .1))):
        *_, (_, alone) = optimize(task, rows[:1], 5, optimizer='sgd', lr=lr, weight_decay=wd)
        torch.testing.assert_close(both[i], alone[0], atol=1e-6, rtol=1e-5)

def test_a_run_does_not_depend_on_its_neighbours(task):
    seeds = run_seeds(3, 70)                                  # more than one group
    together, steps = train_runs(task, seeds, QUICK)
    for k in (0, 5, 63, 64, 69):
        alone, at = train_runs(task, [seeds[k]], QUICK)
        assert torch.equal(at[0], steps[k])
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)

def test_same_seed_same_bits(task, tmp_path):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)):
        collect(task, tmp_path/name, 8, recipe=QUICK, seed=seed, progress=False)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path/n).iterdir()} for n in 'abc')
    assert a == b and len(a) == 2
    assert a[shard_file(0)] != c[shard_file(0)]

@given(st.integers(1, 500), st.data())
def test_checkpoint_steps(n, data):
    S, spacing = data.draw(st.integers(2, n + 1)), data.draw(st.sampled_from(['log', 'uniform']))
    seeds = data.draw(st.lists(st.integers(0, 2**60), min_size=1, max_size=4))
    steps = checkpoint_steps(n, S, seeds, spacing=spacing)
    assert steps.shape == (len(seeds), S)
    assert (steps[:, 0] == 0).all() and (steps[:, -1] == n).all() and (steps.diff(dim=1) > 0).all()
    assert torch.equal(steps[-1:], checkpoint_steps(n, S, seeds[-1:], spacing=spacing))

@given(st.integers(1, 100), st.integers(-3, 200), st.sampled_from(['log', 'uniform', 'linear']))
def test_impossible_checkpoint_steps(n, S, spacing):
    if 2 <= S <= n + 1 and spacing != 'linear':
        assert checkpoint_steps(n, S, [0], spacing=spacing).shape == (1, S)
        return
    with pytest.raises(UserError, match="ask for 2 to|no spacing 'linear'; use one of log, uniform"):
        checkpoint_steps(n, S, [0], spacing=spacing)

def test_store_round_trip(task, tmp_path):
    "What comes out of the store is what training gave, and its metrics are those of the rows."
    store = collect(task, tmp_path, 8, recipe=QUICK, progress=False).verify()
    kept, steps = train_runs(task, run_seeds(0, 8), QUICK)
    assert (store.R, store.S, store.D) == kept.shape
    assert np.array_equal(store.steps, steps.numpy()) and list(store.seeds) == run_seeds(0, 8)
    r, s = np.array([7, 0, 3, 7]), np.array([2, 0, 1, 2])
    assert torch.equal(store.rows(r, s), kept[r, s])
    for split in ('test', 'train'):
        for name, v in measure(task, kept.flatten(0, 1), split).items():
            np.testing.assert_allclose(store.values(f'{split}_{name}'), v.view(8, 3), rtol=1e-5)
    assert math.isclose(store.std(range(8)), kept.std(correction=0).item(), rel_tol=1e-5)

def test_exploded_runs_are_told(task, tmp_path):
    store = collect(task, tmp_path/'s', 8, recipe=Recipe(epochs=1, n_saves=3, lr=1e6), progress=False)
    fine = collect(task, tmp_path/'t', 8, recipe=QUICK, progress=False)
    assert len(store.healthy()) == 0 and list(fine.healthy()) == list(range(8))

def test_growing_keeps_finished_shards(task, tmp_path):
    "Twice as many runs: the first shard is not even touched, and the whole is what one go would have made."
    collect(task, tmp_path/'grown', SHARD, recipe=QUICK, progress=False)
    first = tmp_path/'grown'/shard_file(0)
    stat = first.stat()
    grown = collect(task, tmp_path/'grown', 2*SHARD, recipe=QUICK, progress=False)
    at_once = collect(task, tmp_path/'at once', 2*SHARD, recipe=QUICK, progress=False)
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert grown.R == 2*SHARD and grown.info == at_once.info
    for k in map(shard_file, range(2)): assert (grown.path/k).read_bytes() == (at_once.path/k).read_bytes()

def test_growing_a_part_of_a_shard(task, tmp_path):
    collect(task, tmp_path, 10, recipe=QUICK, progress=False)
    store = collect(task, tmp_path, 20, recipe=QUICK, progress=False).verify()
    kept, _ = train_runs(task, run_seeds(0, 20), QUICK)
    torch.testing.assert_close(store.rows(range(20), [2]*20), kept[:, 2], atol=1e-5, rtol=1e-5)

def test_asking_for_fewer_loses_nothing(task, tmp_path):
    before = collect(task, tmp_path, 20, recipe=QUICK, progress=False).rows(range(20), [2]*20)
    collect(task, tmp_path, 10, recipe=QUICK, progress=False)
    store = Store(tmp_path).verify()
    assert store.R == 20 and torch.equal(store.rows(range(20), [2]*20), before)

def test_a_metric_that_the_store_has_not(store):
    with pytest.raises(UserError, match="no metric 'test_eror'; it has test_loss, test_error"):
        store.values('test_eror')

def test_a_file_of_another_kind(tmp_path):
    file, kept = tmp_path/'m.safetensors', dict(a=torch.arange(3.))
    write_tensors(file, kept, dict(kind='toy'))
    assert torch.equal(read_tensors(file, 'toy')[0]['a'], kept['a'])
    with pytest.raises(UserError, match='holds a toy, but a G.pt was expected'): read_tensors(file, 'G.pt')

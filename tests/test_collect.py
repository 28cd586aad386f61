"Collecting: the optimizers are torch's, runs don't depend on their neighbours, seeds fix every bit, growing keeps what is there."
import math

import numpy as np, pytest, torch
from hypothesis import given, strategies as st

from gpt_kit.collect import OPTIMIZERS, SHARD, Recipe, checkpoint_steps, collect, descend, minibatches, run_seeds, train_runs
from gpt_kit.store import Store, shard_file
from gpt_kit.weights import Layout, as_module, measure, start_rows, to_row

QUICK = Recipe(epochs=1, n_saves=3)
TORCH = dict(sgd=lambda p, **k: torch.optim.SGD(p, **k), momentum=lambda p, **k: torch.optim.SGD(p, momentum=.9, **k),
             nesterov=lambda p, **k: torch.optim.SGD(p, momentum=.9, nesterov=True, **k), adam=lambda p, **k: torch.optim.Adam(p, **k))

@pytest.mark.parametrize('cosine', [False, True], ids=['constant', 'cosine'])
@pytest.mark.parametrize('name', OPTIMIZERS)
def test_descend_is_torch_optim(task, name, cosine):
    "Three networks, 12 minibatches over two epochs, against one torch optimizer each."
    layout, rows, n = Layout(task.layers), start_rows(task, range(3)), 12
    lr = .01 if name == 'adam' else .1
    *_, (step, ours) = descend(task, rows, n, name, lr, 5e-3, cosine=cosine, order_seed=7)
    assert step == n
    X, y = task.train
    for row, our in zip(rows, ours):
        net, order = as_module(row, layout), minibatches(len(y), 100, torch.Generator().manual_seed(7))
        opt = TORCH[name](net.parameters(), lr=lr, weight_decay=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, T_max=2)
        for s in range(n):
            ix = next(order)
            opt.zero_grad(); torch.nn.functional.cross_entropy(net(X[ix]), y[ix]).backward(); opt.step()
            if cosine and s % 10 == 9: schedule.step()
        theirs = to_row(net, layout)
        assert (theirs - row).abs().max() > .01
        torch.testing.assert_close(our, theirs, atol=2e-4 if name == 'adam' else 2e-5, rtol=1e-4)   # Adam divides tiny gradients by tiny ones

def test_own_rate_and_decay_of_each_network(task):
    rows = start_rows(task, [5, 5])
    *_, (_, both) = descend(task, rows, 5, 'sgd', torch.tensor([.1, .01]), torch.tensor([0., .1]))
    for i, (lr, wd) in enumerate(((.1, 0.), (.01, .1))):
        *_, (_, alone) = descend(task, rows[:1], 5, 'sgd', lr, wd)
        torch.testing.assert_close(both[i], alone[0], atol=1e-6, rtol=1e-5)

def test_a_run_does_not_depend_on_its_neighbours(task):
    seeds = run_seeds(3, 70)                                  # more than one group
    together, steps = train_runs(task, seeds, QUICK)
    for k in (0, 5, 63, 64, 69):
        alone, at = train_runs(task, [seeds[k]], QUICK)
        assert torch.equal(at[0], steps[k])
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=1e-5)

def test_same_seed_same_bits(task, tmp_path):
    for name, seed in (('a', 1), ('b', 1), ('c', 2)): collect(task, tmp_path/name, 8, QUICK, seed, progress=False)
    a, b, c = ({f.name: f.read_bytes() for f in (tmp_path/n).iterdir()} for n in 'abc')
    assert a == b and len(a) == 2
    assert a[shard_file(0)] != c[shard_file(0)]

@given(st.integers(1, 500), st.data())
def test_checkpoint_steps(n, data):
    S, spacing = data.draw(st.integers(2, n + 1)), data.draw(st.sampled_from(['log', 'uniform']))
    seeds = data.draw(st.lists(st.integers(0, 2**60), min_size=1, max_size=4))
    steps = checkpoint_steps(n, S, seeds, spacing)
    assert steps.shape == (len(seeds), S)
    assert (steps[:, 0] == 0).all() and (steps[:, -1] == n).all() and (steps.diff(dim=1) > 0).all()
    assert torch.equal(steps[-1:], checkpoint_steps(n, S, seeds[-1:], spacing))

@given(st.integers(1, 100), st.integers(-3, 200), st.sampled_from(['log', 'uniform', 'linear']))
def test_impossible_checkpoint_steps(n, S, spacing):
    if 2 <= S <= n + 1 and spacing != 'linear': return
    with pytest.raises(ValueError, match='ask for 2 to|spacing is'): checkpoint_steps(n, S, [0], spacing)

def test_store_round_trip(task, tmp_path):
    "What comes out of the store is what training gave, and its metrics are those of the rows."
    store = collect(task, tmp_path, 8, QUICK, progress=False).verify()
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
    store = collect(task, tmp_path, 8, Recipe(epochs=1, n_saves=3, lr=1e6), progress=False)
    assert len(store.healthy()) == 0

def test_growing_keeps_finished_shards(task, tmp_path):
    "Twice as many runs: the first shard is not even touched, and the whole is what one go would have made."
    collect(task, tmp_path/'grown', SHARD, QUICK, progress=False)
    first = tmp_path/'grown'/shard_file(0)
    stat = first.stat()
    grown, at_once = (collect(task, tmp_path/n, 2*SHARD, QUICK, progress=False) for n in ('grown', 'at once'))
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (stat.st_mtime_ns, stat.st_ino)
    assert grown.R == 2*SHARD and grown.info == at_once.info
    assert all((grown.path/shard_file(k)).read_bytes() == (at_once.path/shard_file(k)).read_bytes() for k in (0, 1))

def test_growing_a_part_of_a_shard(task, tmp_path):
    collect(task, tmp_path, 10, QUICK, progress=False)
    store = collect(task, tmp_path, 20, QUICK, progress=False).verify()
    torch.testing.assert_close(store.rows(range(20), [2]*20), train_runs(task, run_seeds(0, 20), QUICK)[0][:, 2], atol=1e-5, rtol=1e-5)

def test_asking_for_fewer_loses_nothing(task, tmp_path):
    before = collect(task, tmp_path, 20, QUICK, progress=False).rows(range(20), [2]*20)
    collect(task, tmp_path, 10, QUICK, progress=False)
    store = Store(tmp_path).verify()
    assert store.R == 20 and torch.equal(store.rows(range(20), [2]*20), before)

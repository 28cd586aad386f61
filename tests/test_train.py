"Training: stopped and resumed is the same as not stopped, bit for bit; it learns; what is saved comes back."
import sys

import pytest, torch

from forked import forked
from gpt_kit.gpt.diffusion import linear_schedule
from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.loop import TrainConfig, TrainState, fit, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.presets import seconds_per_step
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import PAIR_SAMPLERS, diffusion_loss, sample_pairs, save_model
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.store import Store, read_tensors

def fitted(store, file, stop, threads):
    "Train, and stop as by Ctrl-C before that step."
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data, ab = prepare_data(Store(store), 'test_loss'), linear_schedule()
    model = GPT(data.store.info['layers'], tokens='chunk-256', width=24, depth=1, heads=2)
    state = TrainState(model, TrainConfig(steps=12, batch=16, warmup=3))
    def loss(model, g):
        if state.step == stop: raise KeyboardInterrupt
        return diffusion_loss(model, sample_pairs(data, data.runs, 16, g, augment=True), ab, g)
    try: fit(state, loss, path=file, about={}, every=4, progress=False)
    except KeyboardInterrupt: sys.exit(130)

@pytest.mark.slow
def test_resumed_is_uninterrupted(store, tmp_path):
    """Stopped at step 6, two steps after a save, and gone on with in another process: every tensor is the
    same, bit for bit. With chunk tokens, whose permutations have to be the same too."""
    def run(file, stop):
        p = forked(fitted, store.path, tmp_path/file, stop, torch.get_num_threads())
        p.join()
        return p.exitcode
    assert run('a.safetensors', 6) == 130
    assert read_tensors(tmp_path/'a.safetensors', 'training')[1]['step'] == 4
    for file in ('a', 'b'): assert run(f'{file}.safetensors', -1) == 0
    (a, info), (b, other) = (read_tensors(tmp_path/f'{file}.safetensors', 'training') for file in ('a', 'b'))
    assert info['step'] == other['step'] == 12 and set(a) == set(b)
    for name in a: assert torch.equal(a[name], b[name]), name

def generator(seed=0): return torch.Generator().manual_seed(seed)

def small(store): return GPT(store.info['layers'], width=24, depth=1, heads=2)

@pytest.fixture
def data(store): return prepare_data(store, 'test_loss')

@pytest.fixture
def loss(data):
    "Of 4 pairs, or as many as are asked for."
    ab = linear_schedule()
    def loss(model, g, B=4, runs=data.runs, **kw):
        return diffusion_loss(model, sample_pairs(data, runs, B, g, **kw), ab, g)
    return loss

@pytest.mark.parametrize('sampling', PAIR_SAMPLERS)
def test_it_learns(store, data, loss, sampling):
    "Sixty steps lower the loss on runs that were held out, of the model and of its EMA."
    torch.manual_seed(0)
    state = TrainState(small(store), TrainConfig(steps=60, batch=64, lr=5e-3, warmup=5))
    @torch.no_grad()
    def held_out(m): return loss(m, generator(), 512, data.held_out, sampling=sampling).item()
    before = held_out(state.model)
    reports = list(train(state, lambda m, g: loss(m, g, 64, sampling=sampling)))
    assert [r.step for r in reports] == list(range(1, 61))
    assert held_out(state.model) < .9*before and held_out(state.ema) < .9*before

def test_ema_is_the_formula(store, loss):
    torch.manual_seed(0)
    config = TrainConfig(steps=4, batch=4, warmup=1, lr=.01, ema=.3)
    state = TrainState(small(store), config)
    slow = [p.detach().clone() for p in state.model.parameters()]
    for s, _ in enumerate(train(state, loss)):
        d = min(.3, (1 + s)/(10 + s))
        slow = [d*a + (1 - d)*b.detach() for a, b in zip(slow, state.model.parameters())]
        assert config.decay(s) == d
    for a, b in zip(slow, state.ema.parameters()): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)

@pytest.mark.parametrize('sampling', PAIR_SAMPLERS)
def test_pairs_are_of_one_run(store, data, sampling):
    "The start is earlier than the future, both are of one run, and held-out runs are never drawn from."
    assert not set(data.runs) & set(data.held_out) and len(data.runs) + len(data.held_out) == store.R
    every = torch.stack([store.rows([r]*store.S, range(store.S)) for r in data.runs])*data.scale  # (R, S, D)
    pairs, again = (sample_pairs(data, data.runs, 40, generator(1), sampling=sampling)[:5] for _ in range(2))
    assert all(map(torch.equal, pairs, again))
    for start, future, metric, prompt, hidden in zip(*pairs):
        (r1, s1), = (every == start).all(2).nonzero().tolist()
        (r2, s2), = (every == future).all(2).nonzero().tolist()
        values = data.values[data.runs[r1]]
        assert r1 == r2 and s1 < s2 and metric == values[s1] and prompt == values[s2] and not hidden

def test_half_precision_round_trip(store, data, tmp_path):
    "A saved model is its weights in half precision, no more and no less, and answers nearly as before."
    torch.manual_seed(0)
    m, file = small(store), tmp_path/'m.safetensors'
    for p in m.parameters(): torch.nn.init.normal_(p, std=.05)
    save_model(file, m, dict(config=m.config))
    again, info = load_model(file)
    assert info['config'] == m.config
    assert file.stat().st_size < 2.2*sum(p.numel() for p in m.parameters()) + 5000
    for a, b in zip(m.state_dict().values(), again.state_dict().values()):
        assert torch.equal(a.half().float(), b)
    p = sample_pairs(data, data.runs, 8, generator())
    args = p.future, torch.arange(8)*100, p.start, p.prompt, p.metric
    with torch.no_grad(): a, b = m(*args), again(*args)
    assert 0 < (a - b).abs().max() < .05*(a - p.start).abs().max()

def test_state_of_another_training_is_refused(store, tmp_path):
    def fresh(steps=5): return TrainState(small(store), TrainConfig(steps=steps))
    file, about = tmp_path/'s.safetensors', dict(seed=0)
    fresh().save(file, about)
    assert fresh().resume(file, about).step == 0
    with pytest.raises(UserError, match='state of another training'): fresh(6).resume(file, about)
    with pytest.raises(UserError, match='state of another training'): fresh().resume(file, dict(seed=1))

def test_a_loss_that_is_not_finite_stops(store):
    state = TrainState(small(store), TrainConfig(steps=5))
    before = [p.clone() for p in state.model.parameters()]
    def loss(m, g): return sum(p.sum() for p in m.parameters())*float('nan')
    with pytest.raises(UserError, match='smaller learning rate'): list(train(state, loss))
    assert state.step == 0 and all(map(torch.equal, before, state.model.parameters()))

def test_fit_without_a_file(store, loss):
    state, watched = TrainState(small(store), TrainConfig(steps=3, batch=4)), []
    def watch(state): watched.append(state.step)
    history = fit(state, loss, held_out=lambda m: 7., every=2, watch=watch, progress=False)
    assert watched == [h['step'] for h in history] == [1, 2, 3]
    assert [h.get('held_out') for h in history] == [None, 7., 7.]

def test_measuring_a_step_leaves_no_gradient(store, data):
    model = small(store)
    assert seconds_per_step(model, data, TrainConfig(batch=8)) > 0
    assert all(p.grad is None for p in model.parameters())

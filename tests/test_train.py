"Training: stopped and resumed is the same as not stopped, to the last bit; it learns; what is saved comes back."
import subprocess, sys

import pytest, torch

from gpt_kit.diffusion import linear_schedule
from gpt_kit.model import GPT, restore
from gpt_kit.store import read_tensors
from gpt_kit.train import DRAWS, Plan, State, diffusion_loss, draw_pairs, fit, load_model, prepare, resume, save_model, save_state, train

SCRIPT = """
import sys, torch
from gpt_kit.diffusion import linear_schedule
from gpt_kit.model import GPT
from gpt_kit.store import Store
from gpt_kit.train import Plan, State, diffusion_loss, draw_pairs, fit, prepare
store, file, stop, tokens, threads = sys.argv[1:]
torch.set_num_threads(int(threads)); torch.manual_seed(0)
data, ab = prepare(Store(store), 'test_loss'), linear_schedule()
state = State(GPT(data.store.info['layers'], tokens, width=24, depth=1, heads=2), Plan(steps=12, batch=16, warmup=3))
def loss(model, g):
    if state.step == int(stop): raise KeyboardInterrupt
    return diffusion_loss(model, draw_pairs(data, data.runs, 16, g, augment=tokens != 'neuron'), ab, g)
fit(state, loss, file, {}, every=4, progress=False)
"""

@pytest.mark.slow
def test_resumed_is_uninterrupted(store, tmp_path):
    """Stopped at step 6, two steps after a save, and gone on with in another process: every tensor of the state is the same, bit for bit.
    With chunk tokens, whose permutations have to be the same too. Slow because each of the three processes imports torch."""
    def run(file, stop): return subprocess.run([sys.executable, '-c', SCRIPT, store.path, tmp_path/file, str(stop), 'chunk-256', str(torch.get_num_threads())], capture_output=True, text=True)
    stopped = run('a.safetensors', 6)
    assert 'KeyboardInterrupt' in stopped.stderr and read_tensors(tmp_path/'a.safetensors', 'training')[1]['step'] == 4
    for file in ('a', 'b'): assert run(f'{file}.safetensors', -1).returncode == 0
    (a, info), (b, other) = (read_tensors(tmp_path/f'{file}.safetensors', 'training') for file in ('a', 'b'))
    assert info['step'] == other['step'] == 12 and set(a) == set(b)
    for name in a: assert torch.equal(a[name], b[name]), name

def small(store, **kw): return GPT(store.info['layers'], width=24, depth=1, heads=2, **kw)

@pytest.mark.parametrize('draw', DRAWS)
def test_it_learns(store, draw):
    "Sixty steps lower the loss on runs that were held out, of the model and of its EMA."
    torch.manual_seed(0)
    data, ab = prepare(store, 'test_loss'), linear_schedule()
    loss = lambda m, g: diffusion_loss(m, draw_pairs(data, data.runs, 64, g, draw), ab, g)
    def held_out(m):
        with torch.no_grad(): g = torch.Generator().manual_seed(0); return diffusion_loss(m, draw_pairs(data, data.held_out, 512, g, draw), ab, g).item()
    state = State(small(store), Plan(steps=60, batch=64, lr=5e-3, warmup=5))
    before = held_out(state.model)
    reports = list(train(state, loss))
    assert [r.step for r in reports] == list(range(1, 61))
    assert held_out(state.model) < .9*before and held_out(state.ema) < .9*before

def test_ema_is_the_formula(store):
    torch.manual_seed(0)
    data, ab = prepare(store, 'test_loss'), linear_schedule()
    state, plan = State(small(store), Plan(steps=4, batch=4, warmup=1, lr=.01, ema=.3)), Plan(ema=.3)
    slow = [p.detach().clone() for p in state.model.parameters()]
    for s, _ in enumerate(train(state, lambda m, g: diffusion_loss(m, draw_pairs(data, data.runs, 4, g), ab, g))):
        d = min(.3, (1 + s)/(10 + s))
        slow = [d*a + (1 - d)*b.detach() for a, b in zip(slow, state.model.parameters())]
        assert plan.decay(s) == d
    for a, b in zip(slow, state.ema.parameters()): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)

def test_pairs_are_of_one_run(store):
    "The start is earlier than the future, both are checkpoints of one training run, and held-out runs are never drawn from."
    data = prepare(store, 'test_loss')
    assert not set(data.runs) & set(data.held_out) and len(data.runs) + len(data.held_out) == store.R
    every = torch.stack([store.rows([r]*store.S, range(store.S)) for r in data.runs])*data.scale     # (R, S, D)
    for draw in DRAWS:
        p = draw_pairs(data, data.runs, 40, torch.Generator().manual_seed(1), draw)
        for start, future, metric, prompt in zip(*p):
            (r1, s1), = (every == start).all(2).nonzero().tolist()
            (r2, s2), = (every == future).all(2).nonzero().tolist()
            values = data.values[data.runs[r1]]
            assert r1 == r2 and s1 < s2 and metric == values[s1] and prompt == values[s2]

def test_half_precision_round_trip(store, tmp_path):
    "A saved model is its weights in half precision, no more and no less, and answers nearly as before."
    torch.manual_seed(0)
    m, data = small(store), prepare(store, 'test_loss')
    for p in m.parameters(): torch.nn.init.normal_(p, std=.05)
    save_model(tmp_path/'m.safetensors', m, dict(config=m.config))
    again, info = load_model(tmp_path/'m.safetensors', restore)
    assert info['config'] == m.config and (tmp_path/'m.safetensors').stat().st_size < 2.2*sum(p.numel() for p in m.parameters()) + 5000
    assert all(torch.equal(a.half().float(), b) for a, b in zip(m.state_dict().values(), again.state_dict().values()))
    p = draw_pairs(data, data.runs, 8, torch.Generator().manual_seed(0))
    with torch.no_grad(): a, b = (g(p.future, torch.arange(8)*100, p.start, p.prompt, p.metric) for g in (m, again))
    assert 0 < (a - b).abs().max() < .05*(a - p.start).abs().max()

def test_state_of_another_training_is_refused(store, tmp_path):
    file, about = tmp_path/'s.safetensors', dict(seed=0)
    save_state(file, State(small(store), Plan(steps=5)), about)
    assert resume(file, State(small(store), Plan(steps=5)), about).step == 0
    for plan, other in ((Plan(steps=6), about), (Plan(steps=5), dict(seed=1))):
        with pytest.raises(ValueError, match='state of another training'): resume(file, State(small(store), plan), other)

def test_a_loss_that_is_not_finite_stops(store):
    state = State(small(store), Plan(steps=5))
    before = [p.clone() for p in state.model.parameters()]
    with pytest.raises(FloatingPointError, match='smaller learning rate'): list(train(state, lambda m, g: sum(p.sum() for p in m.parameters())*float('nan')))
    assert state.step == 0 and all(map(torch.equal, before, state.model.parameters()))

def test_fit_without_a_file(store):
    data, ab = prepare(store, 'test_loss'), linear_schedule()
    history = fit(State(small(store), Plan(steps=3, batch=4)), lambda m, g: diffusion_loss(m, draw_pairs(data, data.runs, 4, g), ab, g), held_out=lambda m: 7., every=2, progress=False)
    assert [h['step'] for h in history] == [1, 2, 3] and [h.get('held_out') for h in history] == [None, 7., 7.]

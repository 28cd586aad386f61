"What networks do, as a part of the loss: blind to how neurons are numbered, shared among processes without a difference, and something that a model learns from."
import json

import pytest, torch

from gpt_kit.behaviour import Behaviour, cosine_distance, kl_divergence
from gpt_kit.collect import Recipe, collect
from gpt_kit.diffusion import linear_schedule
from gpt_kit.model import GPT, restore
from gpt_kit.symmetry import permute_alike
from gpt_kit.tasks import task_named
from gpt_kit.train import Plan, State, diffusion_loss, draw_pairs, load_model, prepare, train, train_gpt
from gpt_kit.weights import as_module

RECIPES = {'digits-cnn': Recipe(epochs=2, n_saves=6), 'cartpole': Recipe(epochs=4, n_saves=6, optimizer='ppo', lr=2e-3, weight_decay=0.)}
METRICS = {'digits-cnn': 'test_loss', 'cartpole': 'test_return'}

@pytest.fixture(scope='module', params=list(RECIPES))
def world(request, tmp_path_factory):
    "A task, what a model learns from, and what networks do."
    task = task_named(request.param)
    data = prepare(collect(task, tmp_path_factory.mktemp('behaviour')/'store', 24, RECIPES[request.param], progress=False), METRICS[request.param])
    return task, data, Behaviour(task, data)

def small(data, **kw): torch.manual_seed(0); return GPT(data.store.layout.layers, width=32, depth=1, heads=2, edge_width=16, **kw)

def test_the_same_for_renumbered_neurons(world):
    _, data, behaves = world
    p, seeded = draw_pairs(data, data.runs, 12, torch.Generator().manual_seed(0)), lambda: torch.Generator().manual_seed(1)
    start, future = permute_alike(data.store.layout, p.start, p.future, generator=torch.Generator().manual_seed(2))
    assert not torch.equal(start, p.start)
    assert torch.allclose(behaves(start, future, seeded()), behaves(p.start, p.future, seeded()), atol=1e-5)
    assert behaves(start, p.start, seeded()) < 1e-5 < behaves(p.start, p.future, seeded())        # other weights, same network

def test_what_it_measures(world):
    "By hand, on all inputs that it may draw: probabilities for classes, signs of outputs for policies."
    task, data, behaves = world
    (a, b), x = data.store.rows(data.runs[:2], [0, data.store.S - 1]), behaves.inputs
    u, v = (as_module(r, data.store.layout)(x.T).detach() for r in (a, b))                       # (N, C) each
    if task.game: want = 1 - (u*v).sum()/(u.norm()*v.norm())
    else: want = (v.softmax(1)*(v.log_softmax(1) - u.log_softmax(1))).sum(1).mean()
    got = (cosine_distance if task.game else kl_divergence)(u.T[None], v.T[None])
    assert got.shape == (1,) and torch.allclose(got[0], want, atol=1e-5)

def test_no_labels_and_no_test_inputs(world):
    task, data, behaves = world
    if task.game: assert torch.equal(behaves.inputs, Behaviour(task, data).inputs) and behaves.inputs.shape[0] == 4
    else: assert torch.equal(behaves.inputs, task.inputs['train'][0])

def test_parts_of_a_batch_add_up(world):
    "Shared among three processes, it is the same loss with the same gradient."
    _, data, behaves = world
    model, ab, p = small(data), linear_schedule(), draw_pairs(data, data.runs, 12, torch.Generator().manual_seed(0))
    loss = lambda part: diffusion_loss(model, p, ab, torch.Generator().manual_seed(1), 'cpu', part, behaves, 2.)
    parts = [loss((i, 3)) for i in range(3)]
    assert torch.allclose(sum(parts)/3, loss((0, 1)), atol=1e-5)
    assert loss((0, 1)) > diffusion_loss(model, p, ab, torch.Generator().manual_seed(1))

def test_a_model_learns_from_it(world):
    "The same few steps with and without: with it, guesses behave more like the true networks."
    _, data, behaves = world
    ab, got = linear_schedule(), {}
    late = torch.full((64,), 999)
    for weight in (0., 10.):
        state = State(small(data), Plan(steps=30, batch=16, warmup=5))
        for _ in train(state, lambda m, g: diffusion_loss(m, draw_pairs(data, data.runs, 16, g), ab, g, 'cpu', (0, 1), behaves, weight)): pass
        g = torch.Generator().manual_seed(3)
        p = draw_pairs(data, data.held_out, 64, g)
        with torch.no_grad(): got[weight] = behaves(state.ema(torch.randn(p.future.shape, generator=g), late, p.start, p.prompt, p.metric), p.future, g).item()
    assert got[10.] < .97*got[0.], got

def test_a_plan_where_it_counts(world, tmp_path):
    _, data, behaves = world
    plan, file = Plan(steps=3, batch=4, warmup=1, behaviour=2.), tmp_path/'m.safetensors'
    with pytest.raises(ValueError, match='give train_gpt a `behaviour`'): train_gpt(small(data), data, plan, file, progress=False)
    assert not list(tmp_path.iterdir())
    history = train_gpt(small(data), data, plan, file, progress=False, behaviour=behaves)
    assert load_model(file, restore)[1]['plan']['behaviour'] == 2 and 'held_out' in history[-1]

def test_without_the_task_s_inputs(gpt_kit, tmp_path):
    "Networks whose task cannot be had: one sentence, and the way that is left."
    assert gpt_kit('collect', tmp_path/'s', '--task', 'digits-cnn', '--runs', 4, '--saves', 3, '--epochs', 1).returncode == 0
    index = json.loads((tmp_path/'s'/'index.json').read_text())
    (tmp_path/'s'/'index.json').write_text(json.dumps(index | dict(task='elsewhere:birds')))
    train = lambda *more: gpt_kit('train', tmp_path/'s', tmp_path/'m.safetensors', '--steps', 2, '--batch', 4, '--width', 32, *more)
    said = train()
    assert said.returncode and 'Traceback' not in said.stderr and 'elsewhere' in said.stderr and '--behaviour 0' in said.stderr
    assert not list(tmp_path.glob('m.*'))
    assert train('--behaviour', 0).returncode == 0
    assert '0 or more' in train('--behaviour', -1).stderr

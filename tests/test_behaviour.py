"What networks do, as a part of the loss: blind to how neurons are numbered, and something to learn from."
import json

import pytest, torch
import torch.nn.functional as F

from gpt_kit.gpt.behaviour import BehaviourLoss, behaviour_for
from gpt_kit.gpt.diffusion import add_noise, linear_schedule
from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.loop import TrainConfig, TrainState, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import diffusion_loss, sample_pairs, train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.symmetry import permute_alike
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.weights import as_module

PPO = dict(optimizer='ppo', lr=2e-3, weight_decay=0.)
RECIPES = {'digits-cnn': Recipe(epochs=2, n_saves=6), 'cartpole': Recipe(epochs=4, n_saves=6, **PPO)}
METRICS = {'digits-cnn': 'test_loss', 'cartpole': 'test_return'}

@pytest.fixture(scope='module', params=list(RECIPES))
def world(request, tmp_path_factory):
    "A task, what a model learns from, and what networks do."
    task, path = get_task(request.param), tmp_path_factory.mktemp('behaviour')/'store'
    store = collect(task, path, 24, recipe=RECIPES[request.param], progress=False)
    data = prepare_data(store, METRICS[request.param])
    return task, data, BehaviourLoss(task, data)

def generator(seed=0): return torch.Generator().manual_seed(seed)

def small(data):
    torch.manual_seed(0)
    return GPT(data.store.layout.layers, width=32, depth=1, heads=2, edge_width=16)

def test_the_same_for_renumbered_neurons(world):
    _, data, behaves = world
    p = sample_pairs(data, data.runs, 12, generator())
    start, future = permute_alike(data.store.layout, p.start, p.future, generator=generator(2))
    assert not torch.equal(start, p.start)
    changed = behaves(p.start, p.future, generator(1))
    assert torch.allclose(behaves(start, future, generator(1)), changed, atol=1e-5)
    assert behaves(start, p.start, generator(1)) < 1e-5 < changed        # other weights, same network

def test_what_it_measures(world):
    "By hand, on the inputs that it draws: probabilities for classes, signs of outputs for policies."
    task, data, behaves = world
    rows = data.store.rows(data.runs[:2], [0, data.store.S - 1])
    inputs = behaves.inputs
    x = inputs[:, torch.randint(inputs.shape[1], (behaves.n,), generator=generator(1))].T
    u, v = (as_module(r, data.store.layout)(x).detach() for r in rows)   # (N, C) each
    if task.game: want = 1 - (u*v).sum()/(u.norm()*v.norm())
    else: want = (v.softmax(1)*(v.log_softmax(1) - u.log_softmax(1))).sum(1).mean()
    start, future = (rows*data.scale)[:, None]                           # (1, D) each
    assert want > .01 and torch.allclose(behaves(start, future, generator(1)), want, atol=1e-4)
    triple = BehaviourLoss(task, data, weight=3.)
    assert torch.allclose(triple(start, future, generator(1)), 3*want, atol=3e-4)

def test_how_good_they_are(world):
    "By hand: the squared difference of two losses on the training inputs that it draws; a game has none."
    task, data, behaves = world
    if task.game:
        with pytest.raises(UserError, match='leave loss_gap at 0'): BehaviourLoss(task, data, loss_gap=1.)
        return
    rows, (inputs, labels) = data.store.rows(data.runs[:2], [0, data.store.S - 1]), task.inputs['train']
    ix = torch.randint(inputs.shape[1], (behaves.n,), generator=generator(1))
    u, v = (F.cross_entropy(as_module(r, data.store.layout)(inputs[:, ix].T), labels[ix]) for r in rows)
    start, future = (rows*data.scale)[:, None]                           # (1, D) each
    gap = behaviour_for(data, 0., loss_gap=3.)
    want = 3*(u - v).square().clamp(max=1)
    assert want > .01 and torch.allclose(gap(start, future, generator(1)), want, atol=1e-4)
    both = BehaviourLoss(task, data, weight=2., loss_gap=3.)(start, future, generator(1))
    assert torch.allclose(both, want + 2*behaves(start, future, generator(1)), atol=1e-3)
    with pytest.raises(UserError, match='from 0 to'): behaviour_for(data, 0., loss_gap=-1.)

def test_no_labels_and_no_test_inputs(world):
    task, data, behaves = world
    if not task.game: assert torch.equal(behaves.inputs, task.inputs['train'][0])
    else:
        assert behaves.inputs.shape[0] == 4
        assert torch.equal(behaves.inputs, BehaviourLoss(task, data).inputs)
    assert torch.equal(behaves.inputs, behaviour_for(data, 3.).inputs)

def test_parts_of_a_batch_add_up(world):
    "Shared among three processes, it is the same loss with the same gradient."
    task, data, _ = world
    model, p = small(data), sample_pairs(data, data.runs, 36, generator())       # some get little noise
    behaviour = BehaviourLoss(task, data, weight=20.)
    def loss(part=(0, 1), behaviour=behaviour):
        return diffusion_loss(model, p, linear_schedule(), generator(1), part=part, behaviour=behaviour)
    def gradient(value):
        model.zero_grad(); value.backward()
        return torch.cat([q.grad.flatten() for q in model.parameters()])
    whole, parts = loss(), sum(loss((i, 3)) for i in range(3))/3
    assert torch.allclose(parts, whole, atol=1e-5) and whole > loss(behaviour=None)
    some, all_ = gradient(parts), gradient(whole)
    assert (some - all_).norm() < 1e-4*all_.norm()

def test_a_model_learns_from_it(world):
    "The same few steps with and without: with it, guesses behave more like the true networks."
    task, data, behaves = world
    ab, got = linear_schedule(), []
    for behaviour in (None, BehaviourLoss(task, data, weight=100.)):         # it counts in few pairs
        def loss(m, g):
            pairs = sample_pairs(data, data.runs, 16, g)
            return diffusion_loss(m, pairs, ab, g, behaviour=behaviour)
        state = TrainState(small(data), TrainConfig(steps=30, batch=16, warmup=5))
        for _ in train(state, loss): pass
        g = generator(3)
        p = sample_pairs(data, data.held_out, 64, g)
        j, noise = torch.full((64,), 50), torch.randn(p.future.shape, generator=g)
        noised = add_noise(p.future, ab[j], noise)                              # little, as where it counts
        with torch.no_grad(): guess = state.ema(noised, j, p.start, p.prompt, p.metric)
        got.append(behaves(guess, p.future, g).item())
    without, with_it = got
    assert with_it < .97*without, got

def test_config_and_loss_have_to_agree(world, tmp_path):
    task, data, behaves = world
    config, file = TrainConfig(steps=3, batch=4, warmup=1, behaviour=2.), tmp_path/'m.safetensors'
    for other in (None, behaves):
        with pytest.raises(UserError, match=r'behaviour=behaviour_for\(data, 2, loss_gap=0\)'):
            train_gpt(small(data), data, config, file, progress=False, behaviour=other)
    assert not list(tmp_path.iterdir())
    twice = BehaviourLoss(task, data, weight=2.)
    history = train_gpt(small(data), data, config, file, progress=False, behaviour=twice)
    assert load_model(file)[1]['training']['behaviour'] == 2 and 'held_out' in history[-1]

def test_without_the_task_s_inputs(gpt_kit, tmp_path):
    "Networks whose task cannot be had: one sentence, and the way that is left."
    store, few = tmp_path/'s', ('--runs', 4, '--saves', 3, '--epochs', 1)
    assert gpt_kit('collect', store, '--task', 'digits-cnn', *few).returncode == 0
    index = json.loads((store/'index.json').read_text())
    (store/'index.json').write_text(json.dumps(dict(index, task='elsewhere:birds')))
    def train(*more):
        sizes = '--steps', 2, '--batch', 4, '--width', 32
        return gpt_kit('train', store, tmp_path/'m.safetensors', *sizes, *more)
    said = train('--behaviour', 5)
    assert said.returncode and 'Traceback' not in said.stderr
    assert 'elsewhere' in said.stderr and '--behaviour 0' in said.stderr
    assert not list(tmp_path.glob('m.*'))
    said = train()
    assert said.returncode == 0 and 'weights alone' in said.stderr and 'Traceback' not in said.stderr
    assert 'from 0 to' in train('--behaviour', -1).stderr

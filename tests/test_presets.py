"The paper's models: they are built at full size, and take one step."
import math
from dataclasses import replace

import psutil, pytest, torch

from gpt_kit.gpt.diffusion import linear_schedule
from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.loop import TrainState, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.presets import (PRESETS, WORLDS, default_model, default_training, get_world, training_needs,
                                 usual_world)
from gpt_kit.gpt.train import Pairs, diffusion_loss
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.layers import read_layers
from gpt_kit.networks.registry import get_task, get_task_or_family
from gpt_kit.networks.tasks import mlp
from gpt_kit.networks.weights import Layout

@pytest.mark.parametrize('name', ['mnist-loss', 'cifar10-loss', 'cartpole'])
def test_full_size_has_gradients(name):
    "Forward and backward without numbers, so that it takes no memory: every parameter has a part in it."
    w, D = PRESETS[name], Layout(PRESETS[name].layers).D
    with torch.device('meta'):
        model, rows, v, j = GPT(w.layers, **w.model), torch.empty(2, D), torch.empty(2), torch.zeros(2).long()
    guess = model(rows, j, rows, v, v)
    guess.square().mean().backward()
    assert guess.shape == (2, D) and len(model.blocks) == w.model['depth'] == 12
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())

@pytest.mark.slow   # the whole one needs 6 GB of memory and ten seconds
@pytest.mark.parametrize('name, depth', [('mnist-loss', 1), ('cifar10-loss', 1), ('cartpole', 12)])
def test_takes_a_step(name, depth):
    "One of them whole, the two larger ones with one of their equal blocks."
    w = replace(PRESETS[name], model=PRESETS[name].model | dict(depth=depth))
    with torch.device('meta'): memory = training_needs(GPT(w.layers, **w.model), w.training)['memory']
    if psutil.virtual_memory().available < 1.1*memory: pytest.skip(f"needs {memory/1e9:.0f} GB of memory")
    g, D = torch.Generator().manual_seed(0), Layout(w.layers).D
    start, future = torch.randn(2, 2, D, generator=g)
    metric, prompt = torch.rand(2, 2, generator=g)
    pairs = Pairs(start, future, metric, prompt, torch.zeros(2, dtype=torch.bool))
    torch.manual_seed(0)
    state = TrainState(GPT(w.layers, **w.model), replace(w.training, batch=2))
    first = next(train(state, lambda m, g: diffusion_loss(m, pairs, linear_schedule(), g)))
    untrained = (future - start).square().mean().item()             # an untrained model gives back the start
    assert math.isclose(first.loss, untrained, rel_tol=1e-5) and first.norm > 0
    for decoder in state.model.tokens.decoders:                 # from zero, by a first step of Adam: the rate
        moved = decoder.weight.abs().max().item()
        assert math.isclose(moved, w.training.rate(0), rel_tol=.01)

@pytest.mark.parametrize('a, b', [('mnist-loss', 'mnist-error'), ('cifar10-loss', 'cifar10-error')])
def test_models_of_loss_and_error_are_alike(a, b):
    "So a step of one of them is enough."
    a, b = PRESETS[a], PRESETS[b]
    assert (a.model, a.layers, a.recipe) == (b.model, b.layers, b.recipe) and a.metric != b.metric

def test_paper_worlds_are_whole():
    for w in PRESETS.values():
        assert w.best_at <= w.training.steps and w.training.rate(w.training.warmup) <= w.training.lr
    assert get_task('cartpole-paper').layers == PRESETS['cartpole'].layers

def test_usual_sizes():
    "Several hidden layers: smaller batches, at a lower rate."
    flat, deep = (read_layers(mlp(w)) for w in ((64, 16, 10), (64, 16, 16, 10)))
    convolutions, policy = (get_task(name).layers for name in ('digits-cnn', 'cartpole'))
    assert default_model(convolutions)['edge_width'] == 32
    usual = [default_training(layers) for layers in (flat, deep, convolutions, policy)]
    assert [t.batch for t in usual] == [32, 16, 16, 16] and default_training(deep, 'layer').batch == 32
    assert [t.behaviour for t in usual] == [10, 10, 60, 10]
    assert all(t.hide == .3 and t.objective == 'even' for t in usual)
    assert default_training(flat, behaviour=0.) == replace(usual[0], behaviour=0.)

@pytest.mark.parametrize('name', PRESETS)
def test_the_paper_hides_no_start(name):
    training = PRESETS[name].training
    assert (training.hide, training.objective, training.behaviour) == (0, 'squared', 0)

def test_networks_whose_inputs_are_not_to_be_had(store, monkeypatch):
    "A model of them is trained on weights alone, and says why."
    assert usual_world(store).training.behaviour == 10
    monkeypatch.setitem(store.info, 'task', 'mine:task')
    with pytest.warns(UserWarning, match='weights alone'): world = usual_world(store)
    assert world.training.behaviour == 0

def test_there_is_no_such_world():
    with pytest.raises(UserError, match='mnist-loss'): get_world('mnist')

@pytest.mark.parametrize('name', WORLDS)
def test_our_worlds_are_whole(name, request):
    "Their models can be built, their tasks have the metric, and their recipes fit the task."
    if name == 'fashion-loss': request.getfixturevalue('fashion_folder')
    w = get_world(name)
    task = get_task_or_family(w.task)
    task = getattr(task, 'example', task)                   # of a family, one of its tasks
    assert w.layers == task.layers and w.metric in task.metrics
    assert name in (f'{w.task}-{w.metric}', 'points-loss')
    assert w.recipe.n_saves <= w.recipe.n_steps(task) + 1
    with torch.device('meta'): assert training_needs(GPT(w.layers, **w.model), w.training)['flops'] > 0

def test_as_a_command(gpt_kit, store, tmp_path):
    "A preset's settings, and what is given beside it goes before."
    file, sizes = tmp_path/'m.safetensors', ('--width', 32, '--heads', 4, '--depth', 1)
    said = gpt_kit('train', store.path, file, '--preset', 'mnist-error', '--steps', 2, '--batch', 2, *sizes)
    assert said.returncode == 0 and "floating-point operations" in said.stdout, said.stderr
    info = load_model(file)[1]
    assert info['metric']['name'] == 'test_error' and info['sampling'] == 'paper'
    model = dict(tokens='chunk-1000', condition='tokens', octaves=14, width=32, depth=1)
    training = dict(steps=2, batch=2, lr=4e-4, beta2=.95, clip=.75)
    assert model.items() <= info['config'].items() and training.items() <= info['training'].items()

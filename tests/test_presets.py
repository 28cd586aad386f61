"The paper's models at full size: they are built, and take one step."
import math
from dataclasses import replace

import psutil, pytest, torch

from gpt_kit.diffusion import linear_schedule
from gpt_kit.model import GPT, restore
from gpt_kit.presets import PRESETS, needs
from gpt_kit.train import Pairs, State, diffusion_loss, load_model, train
from gpt_kit.weights import Layout

@pytest.mark.slow   # 7 to 13 GB of memory and half a minute each
@pytest.mark.parametrize('name', ['mnist-loss', 'cifar10-loss', 'cartpole'])
def test_full_size_takes_a_step(name):
    p = PRESETS[name]
    with torch.device('meta'): need = needs(GPT(p.layers, **p.model), p.plan)['memory']
    if psutil.virtual_memory().available < 1.1*need: pytest.skip(f"needs {need/1e9:.0f} GB of memory")
    g, D = torch.Generator().manual_seed(0), Layout(p.layers).D
    pairs = Pairs(*(torch.randn(2, D, generator=g) for _ in range(2)), *(torch.rand(2, generator=g) for _ in range(2)))
    torch.manual_seed(0)
    state = State(GPT(p.layers, **p.model), replace(p.plan, batch=2))
    first = next(train(state, lambda m, g: diffusion_loss(m, pairs, linear_schedule(), g)))
    untrained = (pairs.future - pairs.start).square().mean().item()             # an untrained model gives back the start
    assert math.isclose(first.loss, untrained, rel_tol=1e-5) and first.norm > 0
    moved = [d.weight.abs().max().item() for d in state.model.tokens.decoders]  # from zero, by a first step of Adam: the rate
    assert all(math.isclose(m, p.plan.rate(0), rel_tol=.01) for m in moved)

@pytest.mark.parametrize('a, b', [('mnist-loss', 'mnist-error'), ('cifar10-loss', 'cifar10-error')])
def test_models_of_loss_and_error_are_alike(a, b):
    "So a step of one of them is enough."
    a, b = PRESETS[a], PRESETS[b]
    assert (a.model, a.layers, a.recipe) == (b.model, b.layers, b.recipe) and a.metric != b.metric

def test_as_a_command(gpt_kit, store, tmp_path):
    "A preset's settings, and what is given beside it goes before."
    said = gpt_kit('train', store.path, tmp_path/'m.safetensors', '--preset', 'mnist-error', '--steps', 2, '--batch', 2, '--width', 32, '--heads', 4, '--depth', 1)
    assert said.returncode == 0 and "floating-point operations" in said.stdout, said.stderr
    info = load_model(tmp_path/'m.safetensors', restore)[1]
    assert info['config'] | dict(tokens='chunk-1000', condition='tokens', octaves=14, width=32, depth=1) == info['config'] and info['metric']['name'] == 'test_error' and info['draw'] == 'paper'
    assert info['plan'] | dict(steps=2, batch=2, lr=4e-4, beta2=.95, clip=.75) == info['plan']

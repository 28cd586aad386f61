"The symmetry of scale: rescaled rows are the same functions, and balance makes one row of them all."
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.layers import ACTIVATIONS, n_inputs
from gpt_kit.networks.symmetry import (balance, by_unit, canonicalize, hidden_groups, homogeneous_layers,
                                       rescale)
from gpt_kit.networks.tasks import digits_cnn, mlp
from gpt_kit.networks.weights import Layout, forward
from test_networks import CLOSE, architectures, some

SAME = dict(atol=1e-9, rtol=1e-9)
seeds = st.integers(0, 2**31)
WORLDS = [Layout(layers) for layers in (mlp((64, 16, 10)), mlp((64, 16, 16, 10)), mlp((9, 8, 7, 6, 5)),
                                        digits_cnn().layers)]

def random_factors(layout, B, g):
    "From 1/10 to 10 where a hidden layer can be rescaled."
    return [10**(2*torch.rand(B, n, generator=g, dtype=torch.float64) - 1) if free else None
            for free, (n, _) in zip(homogeneous_layers(layout), hidden_groups(layout))]

def sides(layout, rows):
    "Norms (B, n) of what comes into and of what leaves the units of each hidden layer that can be rescaled."
    parts, out = layout.split(rows), []
    for free, (n, axes) in zip(homogeneous_layers(layout), hidden_groups(layout)):
        squares = [0, 0]
        for name, axis in axes:
            squares[axis] = squares[axis] + by_unit(parts[name], n, axis).square().sum((1, 3))
        if free: out.append([s.sqrt() for s in squares])
    return out

def drawn(layers, seed):
    "As `some`, in 64 bits."
    layout, rows, x, g = some(layers, seed)
    return layout, rows.double(), x.double(), g

@settings(max_examples=30)
@given(architectures(), seeds)
def test_scale_changes_rows_not_functions_and_balanced_is_one_row_for_all(layers, seed):
    layout, rows, x, g = drawn(layers, seed)
    scaled, balanced = rescale(layout, rows, random_factors(layout, len(rows), g)), balance(layout, rows)
    assert (scaled != rows).any() == any(homogeneous_layers(layout))
    for new in (scaled, balanced):
        torch.testing.assert_close(forward(layout, new, x), forward(layout, rows, x), **SAME)
    torch.testing.assert_close(balance(layout, scaled), balanced, atol=1e-6, rtol=1e-6)
    for incoming, outgoing in sides(layout, balanced):
        torch.testing.assert_close(incoming, outgoing, atol=1e-6, rtol=1e-6)
    for others in (rows, scaled): assert (balanced.norm(dim=1) <= others.norm(dim=1) + 1e-9).all()  # shortest

@pytest.mark.parametrize('layout', WORLDS, ids=str)
def test_ordinary_networks_are_balanced_in_32_bits(layout):
    g = torch.Generator().manual_seed(1)
    rows = torch.randn(6, layout.D, generator=g)*.3
    inputs = torch.randn(n_inputs(layout.layers), 20, generator=g)
    scaled = rescale(layout, rows, random_factors(layout, 6, g))
    balanced = balance(layout, scaled)
    assert scaled.dtype == balanced.dtype == torch.float32
    torch.testing.assert_close(balanced, balance(layout, rows), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(forward(layout, balanced, inputs), forward(layout, rows, inputs), **CLOSE)
    assert torch.equal(balanced, torch.cat([balance(layout, row[None]) for row in scaled]))
    assert balance(layout, rows[:0]).shape == canonicalize(layout, rows[:0]).shape == (0, layout.D)

@pytest.mark.parametrize('kind', sorted({*ACTIVATIONS} - {'ReLU'}))
def test_only_relu_lets_a_factor_through(kind):
    layers = [['Linear', 3, 4, True], [kind], ['Linear', 4, 4, True], ['ReLU'], ['Linear', 4, 2, True]]
    layout = Layout(layers)
    assert homogeneous_layers(layout) == [False, True]
    rows = torch.randn(5, layout.D, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match='hidden layer 1 .*only ReLU'):
        rescale(layout, rows, [torch.full((5, 4), 2.), None])
    first = layout.sizes['0.weight'] + layout.sizes['0.bias']
    assert torch.equal(balance(layout, rows)[:, :first], rows[:, :first])
    alone = Layout(layers[:2] + layers[4:])
    rows = torch.randn(5, alone.D)
    assert torch.equal(balance(alone, rows), rows)

def test_what_is_dead_stays_as_it_is():
    layout = Layout(mlp((3, 4, 4, 2)))
    rows = torch.randn(3, layout.D, generator=torch.Generator().manual_seed(0))
    parts = layout.split(rows)                                      # views
    parts['0.weight'][0, 1] = parts['0.bias'][0, 1] = 0             # hears nothing
    parts['2.weight'][0, :, 2] = 0                                  # says nothing
    parts['4.weight'][0, :, 3] = 0
    rows[1] = 0
    rows[2, 5] = torch.nan
    new = layout.split(balance(layout, rows))
    for neuron in (1, 2): assert torch.equal(new['0.weight'][0, neuron], parts['0.weight'][0, neuron])
    assert torch.equal(new['2.bias'][0, 3], parts['2.bias'][0, 3])
    assert not new['0.weight'][1].any()
    assert all(p[:2].isfinite().all() for p in new.values())

@pytest.mark.parametrize('factor', [0., -2., torch.nan])
def test_factors_are_above_0(factor):
    layout = WORLDS[0]
    with pytest.raises(UserError, match='above 0'):
        rescale(layout, torch.randn(2, layout.D), [torch.tensor([[1.]*15 + [factor]]*2)])

def test_a_tanh_neuron_has_a_switch():
    layout = Layout([['Linear', 3, 4, True], ['Tanh'], ['Linear', 4, 2, True]])
    rows, x = torch.randn(2, layout.D), torch.randn(3, 9)
    turned = rows.clone()
    parts = layout.split(turned)
    for p in (parts['0.weight'][:, 0], parts['0.bias'][:, 0], parts['2.weight'][:, :, 0]): p.neg_()
    torch.testing.assert_close(forward(layout, turned, x), forward(layout, rows, x))

def test_a_start_may_have_any_scale(ask, task):
    "Whoever is asked balances it first; there is no warning of large weights that were none."
    starts = unseen_starts(task, 2)
    wild = rescale(ask.layout, starts, [torch.tensor([[.01, 100.]]).repeat(2, 8)])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.testing.assert_close(ask(wild, 1.).rows, ask(starts, 1.).rows, atol=1e-4, rtol=0)

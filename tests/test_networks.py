"Random architectures: many networks at once do what one does, and permutations leave every function alone."
import pytest, torch, torch.nn as nn
from hypothesis import given, strategies as st

from gpt_kit.symmetry import align, permute, random_permutations
from gpt_kit.tasks import ACTIVATIONS, build_net, read_layers
from gpt_kit.weights import Layout, as_module, forward, to_row

@st.composite
def architectures(draw):
    "Layers: one to four Linear, zero to two activations after each but the last."
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers.append(['Linear', a, b, draw(st.booleans())])
        layers += [[draw(st.sampled_from(sorted(ACTIVATIONS)))] for _ in range(draw(st.sampled_from([1, 2, 0])))]
    while layers[-1][0] != 'Linear': layers.pop()
    return layers

def some(layers, seed, K=5, N=7):
    "A layout, K networks and N inputs."
    layout, g = Layout(layers), torch.Generator().manual_seed(seed)
    return layout, torch.randn(K, layout.D, generator=g)*.7, torch.randn(layers[0][1], N, generator=g), g

seeds = st.integers(0, 2**31)

@given(architectures())
def test_layers_round_trip(layers): assert read_layers(build_net(layers)) == layers

@given(architectures(), seeds)
def test_row_round_trip(layers, seed):
    layout, rows, _, _ = some(layers, seed)
    assert all(torch.equal(to_row(as_module(r, layout), layout), r) for r in rows)
    assert to_row(build_net(layers), layout).shape == (layout.D,)

@given(architectures(), seeds)
def test_many_at_once_is_one_at_a_time(layers, seed):
    layout, rows, x, _ = some(layers, seed)
    one_by_one = torch.stack([as_module(r, layout)(x.T).T for r in rows])
    torch.testing.assert_close(forward(layout, rows, x), one_by_one, atol=1e-4, rtol=1e-4)

@given(architectures(), seeds)
def test_gradients_too(layers, seed):
    layout, rows, x, _ = some(layers, seed)
    leaf = rows.clone().requires_grad_()
    together, = torch.autograd.grad(forward(layout, leaf, x).square().sum(), leaf)
    for r, g in zip(rows, together):
        net = as_module(r, layout)
        net(x.T).square().sum().backward()
        alone = torch.cat([p.grad.flatten() for p in net.parameters()])
        torch.testing.assert_close(g, alone, atol=1e-4, rtol=1e-3)

@given(architectures(), seeds)
def test_permuting_changes_rows_not_functions(layers, seed):
    layout, rows, x, g = some(layers, seed)
    moved = permute(layout, rows, random_permutations(layout, len(rows), g))
    torch.testing.assert_close(forward(layout, moved, x), forward(layout, rows, x), atol=1e-4, rtol=1e-4)
    assert torch.equal(moved.sort(1).values, rows.sort(1).values)

def test_permuting_does_something():
    layout, rows, _, g = some([['Linear', 3, 9, True], ['Tanh'], ['Linear', 9, 2, False]], 0)
    assert (permute(layout, rows, random_permutations(layout, 5, g)) != rows).any(1).all()

@given(architectures(), seeds)
def test_aligning_comes_nearer_and_keeps_functions(layers, seed):
    layout, rows, x, _ = some(layers, seed)
    near = align(layout, rows, rows[0])
    torch.testing.assert_close(forward(layout, near, x), forward(layout, rows, x), atol=1e-4, rtol=1e-4)
    assert ((near - rows[0]).norm(dim=1) <= (rows - rows[0]).norm(dim=1) + 1e-4).all()
    assert torch.equal(near[0], rows[0])

@given(st.integers(2, 9), seeds)
def test_aligning_undoes_a_permutation(n, seed):
    "With one hidden layer matching is exact."
    layout, rows, _, g = some([['Linear', 4, n, True], ['ReLU'], ['Linear', n, 3, True]], seed)
    moved = permute(layout, rows, random_permutations(layout, len(rows), g))
    assert torch.equal(align(layout, moved, rows), rows)

@pytest.mark.parametrize('odd', [nn.Conv2d(4, 4, 1), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Dropout(), nn.Embedding(4, 4), nn.Flatten(), nn.PReLU(), nn.LSTM(4, 4),
                                 nn.MultiheadAttention(4, 1), nn.Sequential(nn.Linear(4, 4)), nn.GELU('tanh'), nn.Softmax(1)], ids=lambda m: type(m).__name__)
def test_unsupported_layers_are_named(odd):
    with pytest.raises(ValueError, match=rf'layer 1 \({type(odd).__name__}\) is not supported: .*; build the network from'): read_layers(nn.Sequential(nn.Linear(4, 4), odd, nn.Linear(4, 2)))

def test_first_last_and_shared_layers():
    shared = nn.Linear(4, 4)
    for net, says in ((nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), r'layer 0 \(ReLU\)'), (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), r'layer 1 \(ReLU\)'),
                      (nn.Sequential(shared, nn.ReLU(), shared), r'layer 2 \(Linear\).*shared'), (nn.Sequential(), 'at least one layer'), (nn.Linear(4, 2), 'nn.Sequential')):
        with pytest.raises(ValueError, match=says): read_layers(net)

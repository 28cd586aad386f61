"Random architectures: many networks at once do what one does, and permutations leave every function alone."
import math
from dataclasses import replace
from pathlib import Path

import pytest, torch, torch.nn as nn
from hypothesis import given, strategies as st

from gpt_kit.model import restore
from gpt_kit.symmetry import align, canonical, hidden_groups, permute, random_permutations
from gpt_kit.tasks import ACTIVATIONS, build_net, classification, cnn, digits, digits_cnn, layer_shapes, n_inputs, read_layers, task_named, uniform_start
from gpt_kit.train import load_model
from gpt_kit.weights import Layout, as_module, first_outputs, forward, measure, start_rows, to_row

ROOT = Path(__file__).parent.parent

def activations(draw): return [[draw(st.sampled_from(sorted(ACTIVATIONS)))] for _ in range(draw(st.sampled_from([1, 2, 0])))]

@st.composite
def mlps(draw):
    "Layers: one to four Linear, zero to two activations after each but the last."
    widths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=5))
    layers = []
    for a, b in zip(widths, widths[1:]): layers += [['Linear', a, b, draw(st.booleans())], *activations(draw)]
    while layers[-1][0] != 'Linear': layers.pop()
    return layers

@st.composite
def cnns(draw):
    "Layers: one to three Conv2d of any kernel, stride and padding that fit, pooling or not, flat, and one or two Linear."
    layers = [['Image', *draw(st.tuples(st.integers(1, 3), st.integers(3, 7), st.integers(3, 7)))]]
    for _ in range(draw(st.integers(1, 3))):
        c, *size = layer_shapes(layers)[-1]
        p = draw(st.integers(0, 2)); k = draw(st.integers(1, min(3, min(size) + 2*p)))
        layers += [['Conv2d', c, draw(st.integers(1, 5)), k, draw(st.integers(1, 2)), p, draw(st.booleans())], *activations(draw)]
        if draw(st.booleans()) and min(layer_shapes(layers)[-1][1:]) > 1: layers.append(['AvgPool2d', 2, draw(st.integers(1, 2)), draw(st.integers(0, 1))])
    layers += [['AdaptiveAvgPool2d', 1]]*draw(st.integers(0, 1)) + [['Flatten']]
    n = math.prod(layer_shapes(layers)[-1])
    if draw(st.booleans()): layers += [['Linear', n, 4, draw(st.booleans())], *activations(draw)]; n = 4
    return layers + [['Linear', n, draw(st.integers(1, 3)), True]]

def architectures(): return mlps() | cnns()

def some(layers, seed, K=5, N=7):
    "A layout, K networks and N inputs."
    layout, g = Layout(layers), torch.Generator().manual_seed(seed)
    return layout, torch.randn(K, layout.D, generator=g)*.7, torch.randn(n_inputs(layers), N, generator=g), g

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
    if layers[0][0] == 'Linear': torch.testing.assert_close(forward(layout, rows, x, first_outputs(layout, rows, x)), one_by_one, atol=1e-4, rtol=1e-4)

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

@given(cnns(), seeds)
def test_chunks_of_inputs_are_all_inputs(layers, seed):
    "A few networks on many inputs are measured some inputs at a time; the numbers must not show it."
    layout, rows, x, g = some(layers, seed, K=3, N=40)
    y = torch.randint(layers[-1][2], (40,), generator=g)
    task = classification('some', x.T, y, build_net(layers), n_train=20, image=layers[0][1:])
    whole, pieces = measure(task, rows), {}
    with pytest.MonkeyPatch.context() as m:
        m.setattr('gpt_kit.weights.chunk', lambda *_: (2, 3)); pieces = measure(task, rows)
    for name in whole: torch.testing.assert_close(pieces[name], whole[name], atol=1e-4, rtol=1e-4)

@given(architectures(), seeds)
def test_canonical_order_is_one_for_all_numberings(layers, seed):
    layout, rows, x, g = some(layers, seed)
    torch.testing.assert_close(forward(layout, canonical(layout, rows), x), forward(layout, rows, x), atol=1e-4, rtol=1e-4)
    moved = permute(layout, rows, random_permutations(layout, len(rows), g))
    if not [name for name, l in layout.weighted.items() if layout.sizes[f'{name}.weight'] == l[2] and not l[-1]]:       # one input and no bias: neurons that share it may tie
        assert torch.equal(canonical(layout, moved), canonical(layout, rows))

@given(architectures())
def test_every_hidden_unit_is_in_a_group(layers):
    "Each parameter's axis of outputs is moved by its own layer's group, and its axis of inputs by the one of the layer before."
    layout, names = Layout(layers), list(Layout(layers).weighted)
    groups = hidden_groups(layout)
    assert [n for n, _ in groups] == [layout.weighted[name][2] for name in names[:-1]]
    for (n, axes), a, b in zip(groups, names, names[1:]):
        assert {(f'{a}.weight', 0), (f'{b}.weight', 1)} <= set(axes) and layout.shapes[f'{b}.weight'][1] % n == 0

@given(architectures(), seeds)
def test_aligning_comes_nearer_and_keeps_functions(layers, seed):
    layout, rows, x, _ = some(layers, seed)
    near = align(layout, rows, rows[0])
    assert torch.equal(near.sort(1).values, rows.sort(1).values)
    torch.testing.assert_close(forward(layout, near, x), forward(layout, rows, x), atol=1e-4, rtol=1e-4)
    assert ((near - rows[0]).norm(dim=1) <= (rows - rows[0]).norm(dim=1) + 1e-4).all()
    assert torch.equal(near[0], rows[0])

@given(st.integers(2, 9), seeds)
def test_aligning_undoes_a_permutation(n, seed):
    "With one hidden layer, of neurons or of channels, matching is exact."
    for layers in ([['Linear', 4, n, True], ['ReLU'], ['Linear', n, 3, True]],
                   [['Image', 2, 4, 4], ['Conv2d', 2, n, 3, 1, 0, False], ['ReLU'], ['Flatten'], ['Linear', 4*n, 3, True]]):
        layout, rows, _, g = some(layers, seed)
        moved = permute(layout, rows, random_permutations(layout, len(rows), g))
        assert torch.equal(align(layout, moved, rows), rows)

@pytest.mark.parametrize('odd', [nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Dropout(), nn.Embedding(4, 4), nn.Flatten(), nn.PReLU(), nn.LSTM(4, 4),
                                 nn.MultiheadAttention(4, 1), nn.Sequential(nn.Linear(4, 4)), nn.GELU('tanh'), nn.Softmax(1)], ids=lambda m: type(m).__name__)
def test_unsupported_layers_are_named(odd):
    with pytest.raises(ValueError, match=rf'layer 1 \({type(odd).__name__}\) is not supported: .*; build the network from'): read_layers(nn.Sequential(nn.Linear(4, 4), odd, nn.Linear(4, 2)))

def test_first_last_and_shared_layers():
    shared = nn.Linear(4, 4)
    for net, says in ((nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), r'layer 0 \(ReLU\)'), (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), r'layer 1 \(ReLU\)'),
                      (nn.Sequential(shared, nn.ReLU(), shared), r'layer 2 \(Linear\).*shared'), (nn.Sequential(), 'at least one layer'), (nn.Linear(4, 2), 'nn.Sequential')):
        with pytest.raises(ValueError, match=says): read_layers(net)

IMAGE = 2, 6, 6
CONV, TAIL = nn.Conv2d(2, 4, 3), [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
@pytest.mark.parametrize('layers, says', [
    ([nn.Conv2d(2, 4, 3, groups=2), *TAIL], r'layer 0 \(Conv2d\).*groups has to be 1'), ([nn.Conv2d(2, 4, 3, dilation=2), *TAIL], 'dilation has to be 1'),
    ([nn.Conv2d(2, 4, 3, padding=1, padding_mode='circular'), *TAIL], "padding_mode has to be 'zeros', not 'circular'"), ([nn.Conv2d(2, 4, (3, 1)), *TAIL], r'kernel_size.*\(3, 1\)'),
    ([nn.Conv2d(2, 4, 3, padding='same'), *TAIL], "padding.*'same'"), ([nn.Conv2d(1, 4, 3), *TAIL], r'takes 1 channels, but gets pictures of 2 × 6 × 6'), ([nn.Conv2d(2, 4, 7), *TAIL], '7 × 7 do not fit into pictures of 6 × 6'),
    ([CONV, nn.BatchNorm2d(4), *TAIL], r'layer 1 \(BatchNorm2d\)'), ([CONV, nn.GroupNorm(2, 4), *TAIL], r'layer 1 \(GroupNorm\)'), ([CONV, nn.MaxPool2d(2), *TAIL], r'layer 1 \(MaxPool2d\)'), ([CONV, nn.Dropout2d(), *TAIL], r'layer 1 \(Dropout2d\)'),
    ([CONV, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)], 'output_size has to be 1'), ([CONV, nn.AvgPool2d(2, ceil_mode=True), *TAIL], 'ceil_mode'), ([CONV, nn.AvgPool2d(5), *TAIL], '5 × 5 do not fit'),
    ([CONV, nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)], r'layer 2 \(Linear\).*put an nn.Flatten\(\) before it'), ([CONV, nn.Flatten(), nn.Linear(4, 3)], 'takes 4 inputs, but the layer before gives 64'),
    ([CONV, nn.Flatten(), nn.Flatten(), nn.Linear(64, 3)], r'layer 2 \(Flatten\)'), ([CONV, nn.Flatten(0), nn.Linear(64, 3)], 'start_dim'), ([nn.Flatten(), nn.Linear(72, 3)], 'the first layer has to be'),
    ([nn.AvgPool2d(2), CONV, *TAIL], 'the first layer has to be'), ([CONV, nn.ReLU()], 'last layer'), ([CONV, nn.Flatten(), nn.Linear(64, 72), CONV, *TAIL], r'layer 3 \(Conv2d\).*rows of 72 numbers|shared')], ids=lambda x: x if isinstance(x, str) else '')
def test_convolutions_we_cannot_do_are_named(layers, says):
    with pytest.raises(ValueError, match=says) as e: read_layers(nn.Sequential(*layers), IMAGE)
    assert '\n' not in str(e.value) and e.value.__suppress_context__

def test_tied_weights_are_found():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    for weight in (a.weight, nn.Parameter(a.weight.data.T)):
        b.weight = weight
        with pytest.raises(ValueError, match=r'layer 2 \(Linear\).*shared'): read_layers(nn.Sequential(a, nn.ReLU(), b))
    net = cnn((1, 8, 8), (8, 16), 10)
    nn.utils.vector_to_parameters(torch.zeros(1394), net.parameters())            # views of one vector are not the same weights
    assert read_layers(net) == digits_cnn().layers

@pytest.mark.parametrize('image, says', [(None, r'image=\(channels, height, width\)'), ((8, 8), 'three whole numbers'), ((1, 8, 0), 'three whole numbers'), ((1, 7, 8), 'pictures of 1 × 7 × 8 stored flat'), ((4, 4, 4), 'takes 1 channels')], ids=str)
def test_pictures_of_another_size(image, says):
    X, y = torch.randn(30, 64), torch.arange(30) % 10
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), *TAIL[:2], nn.Linear(4, 10))
    with pytest.raises(ValueError, match=says): classification('odd', X, y, conv, image=image)
    assert classification('even', X, y, conv, image=(1, 8, 8)).layers[0] == ['Image', 1, 8, 8]

def test_a_network_of_ones_own_has_the_same_names():
    "A state_dict of a CNN that begins with nn.Conv2d fits the layout, which has the size of the picture in front."
    own = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    layout, x = Layout(digits_cnn().layers), torch.randn(7, 64)
    torch.testing.assert_close(forward(layout, to_row(own.state_dict(), layout)[None], x.T)[0].T, own(x.view(7, 1, 8, 8)))

def test_starts_of_convolutions():
    "Within one over the square root of the fan-in, for each parameter, as PyTorch's own."
    layout, rows = Layout(digits_cnn().layers), start_rows(replace(digits_cnn(), start=uniform_start), range(200))
    for name, p in layout.split(rows).items(): assert .98/layout.fan_in[name]**.5 < p.abs().max() <= 1/layout.fan_in[name]**.5

def test_kaimings_start_keeps_signals():
    "Its spread is PyTorch's own initialisation of that name; biases are 0."
    layout = Layout(digits_cnn().layers)
    parts, own = layout.split(start_rows(digits_cnn(), range(100))), nn.init.kaiming_uniform_(torch.empty(1600, 8, 3, 3), nonlinearity='relu')
    assert abs(parts['2.weight'].std()/own.std() - 1) < .01 and not parts['6.bias'].any()

def test_mlps_keep_their_description():
    "Stores and models written before there were convolutions are found by it."
    assert digits().layers == [['Linear', 64, 16, True], ['ReLU'], ['Linear', 16, 10, True]]
    for file in (ROOT/'data'/'models').glob('digits-*.safetensors'):
        _, info = load_model(file, restore)
        assert info['fingerprint'] == task_named(info['task']).fingerprint

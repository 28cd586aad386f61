"Random architectures: many networks at once do what one does, and permutations leave every function alone."
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st

from gpt_kit.gpt.load import load_model
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.exports import write_network, write_table
from gpt_kit.networks.layers import ACTIVATIONS, build_net, layer_shapes, layers_text, n_inputs, read_layers
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.symmetry import align, canonicalize, hidden_groups, permute, random_permutations
from gpt_kit.networks.tasks import (Task, classification, cnn, digits, digits_cnn, error_percent,
                                    mlp, uniform_start)
from gpt_kit.networks.weights import Layout, as_module, first_outputs, forward, measure, start_rows, to_row

ROOT = Path(__file__).parent.parent
CLOSE = dict(atol=1e-4, rtol=1e-4)

def activations(draw):
    n = draw(st.sampled_from([1, 2, 0]))
    return [[draw(st.sampled_from(sorted(ACTIVATIONS)))] for _ in range(n)]

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
    "Layers: one to three Conv2d of any window that fits, pooling or not, flat, and one or two Linear."
    layers = [['Image', *draw(st.tuples(st.integers(1, 3), st.integers(3, 7), st.integers(3, 7)))]]
    for _ in range(draw(st.integers(1, 3))):
        c, *size = layer_shapes(layers)[-1]
        padding = draw(st.integers(0, 2))
        kernel = draw(st.integers(1, min(3, min(size) + 2*padding)))
        n_out, stride, bias = draw(st.integers(1, 5)), draw(st.integers(1, 2)), draw(st.booleans())
        layers += [['Conv2d', c, n_out, kernel, stride, padding, bias], *activations(draw)]
        if draw(st.booleans()) and min(layer_shapes(layers)[-1][1:]) > 1:
            layers.append(['AvgPool2d', 2, draw(st.integers(1, 2)), draw(st.integers(0, 1))])
    layers += [['AdaptiveAvgPool2d', 1]]*draw(st.integers(0, 1)) + [['Flatten']]
    n = math.prod(layer_shapes(layers)[-1])
    if draw(st.booleans()):
        layers += [['Linear', n, 4, draw(st.booleans())], *activations(draw)]
        n = 4
    return layers + [['Linear', n, draw(st.integers(1, 3)), True]]

def architectures(): return mlps() | cnns()

def some(layers, seed, K=5, N=7):
    "A layout, K networks, N inputs and a generator."
    layout, g = Layout(layers), torch.Generator().manual_seed(seed)
    rows = torch.randn(K, layout.D, generator=g)*.7
    return layout, rows, torch.randn(n_inputs(layers), N, generator=g), g

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
    torch.testing.assert_close(forward(layout, rows, x), one_by_one, **CLOSE)
    if layers[0][0] == 'Linear':
        first = first_outputs(layout, rows, x)
        torch.testing.assert_close(forward(layout, rows, x, first=first), one_by_one, **CLOSE)

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
    torch.testing.assert_close(forward(layout, moved, x), forward(layout, rows, x), **CLOSE)
    assert torch.equal(moved.sort(1).values, rows.sort(1).values)

def test_permuting_does_something():
    layout, rows, _, g = some([['Linear', 3, 9, True], ['Tanh'], ['Linear', 9, 2, False]], 0)
    assert (permute(layout, rows, random_permutations(layout, 5, g)) != rows).any(1).all()

@given(cnns(), seeds)
def test_chunks_of_inputs_are_all_inputs(layers, seed):
    "A few networks on many inputs are measured some inputs at a time; the numbers must not show it."
    layout, rows, x, g = some(layers, seed, K=3, N=40)
    y = torch.randint(layers[-1][2], (40,), generator=g)
    splits = (x.T[:20], y[:20]), (x.T[20:], y[20:])
    task = Task('some', build_net(layers), *splits, image=layers[0][1:])
    whole, asked = measure(task, rows), []
    def small(*args):
        asked.append(args)
        return 2, 3
    with pytest.MonkeyPatch.context() as m:
        m.setattr('gpt_kit.networks.weights.batch_sizes', small)
        pieces = measure(task, rows)
    assert asked
    for name in whole: torch.testing.assert_close(pieces[name], whole[name], **CLOSE)

@given(architectures(), seeds)
def test_canonical_order_is_one_for_all_numberings(layers, seed):
    layout, rows, x, g = some(layers, seed)
    canonical = canonicalize(layout, rows)
    torch.testing.assert_close(forward(layout, canonical, x), forward(layout, rows, x), **CLOSE)
    moved = permute(layout, rows, random_permutations(layout, len(rows), g))
    # with one input and no bias, neurons that share it may tie
    weighted = layout.weighted.items()
    tie = [name for name, l in weighted if layout.sizes[f'{name}.weight'] == l[2] and not l[-1]]
    if not tie: assert torch.equal(canonicalize(layout, moved), canonical)

@given(architectures())
def test_every_hidden_unit_is_in_a_group(layers):
    "A parameter's axis of outputs is moved by its own layer's group, that of inputs by the group before."
    layout, names = Layout(layers), list(Layout(layers).weighted)
    groups = hidden_groups(layout)
    assert [n for n, _ in groups] == [layout.weighted[name][2] for name in names[:-1]]
    for (n, axes), a, b in zip(groups, names, names[1:]):
        assert {(f'{a}.weight', 0), (f'{b}.weight', 1)} <= set(axes)
        assert layout.shapes[f'{b}.weight'][1] % n == 0

@given(architectures(), seeds)
def test_aligning_comes_nearer_and_keeps_functions(layers, seed):
    layout, rows, x, _ = some(layers, seed)
    near = align(layout, rows, rows[0])
    assert torch.equal(near.sort(1).values, rows.sort(1).values)
    torch.testing.assert_close(forward(layout, near, x), forward(layout, rows, x), **CLOSE)
    assert ((near - rows[0]).norm(dim=1) <= (rows - rows[0]).norm(dim=1) + 1e-4).all()
    assert torch.equal(near[0], rows[0])

@given(st.integers(2, 9), seeds)
def test_aligning_undoes_a_permutation(n, seed):
    "With one hidden layer, of neurons or of channels, matching is exact."
    mlp = [['Linear', 4, n, True], ['ReLU'], ['Linear', n, 3, True]]
    conv = [['Image', 2, 4, 4], ['Conv2d', 2, n, 3, 1, 0, False], ['ReLU'], ['Flatten'],
            ['Linear', 4*n, 3, True]]
    for layers in (mlp, conv):
        layout, rows, _, g = some(layers, seed)
        moved = permute(layout, rows, random_permutations(layout, len(rows), g))
        assert torch.equal(align(layout, moved, rows), rows)

ODD = [nn.Conv2d(4, 4, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4),
       nn.LayerNorm(4), nn.Dropout(), nn.Embedding(4, 4), nn.Flatten(), nn.PReLU(), nn.LSTM(4, 4),
       nn.MultiheadAttention(4, 1), nn.GELU('tanh'), nn.Softmax(1),
       nn.LazyLinear(4)]
@pytest.mark.parametrize('odd', ODD, ids=lambda m: type(m).__name__)
def test_unsupported_layers_are_named(odd):
    name = type(odd).__name__
    with pytest.raises(UserError, match=rf'layer 1 \({name}\) is not supported: .*; build the network from'):
        read_layers(nn.Sequential(nn.Linear(4, 4), odd, nn.Linear(4, 2)))

SHARED = nn.Linear(4, 4)
@pytest.mark.parametrize('net, message', [
    (nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), r'layer 0 \(ReLU\)'),
    (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), r'layer 1 \(ReLU\)'),
    (nn.Sequential(SHARED, nn.ReLU(), SHARED), r'layer 2 \(Linear\).*shared'),
    (nn.Sequential(), 'at least one layer'), (nn.Linear(4, 2), 'nn.Sequential'),
    (nn.Sequential(nn.Unflatten(1, (2, 2))), r'layer 0 \(Unflatten\)'),
    (nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Linear(2, 3)), r'layer 0 \(Unflatten\)')], ids=range(7))
def test_first_last_and_shared_layers(net, message):
    with pytest.raises(UserError, match=message): read_layers(net)

IMAGE = 2, 6, 6
CONV, TAIL = nn.Conv2d(2, 4, 3), [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
RING = nn.Conv2d(2, 4, 3, padding=1, padding_mode='circular')
@pytest.mark.parametrize('layers, message', [
    ([nn.Conv2d(2, 4, 3, groups=2), *TAIL], r'layer 0 \(Conv2d\).*groups has to be 1'),
    ([nn.Conv2d(2, 4, 3, dilation=2), *TAIL], 'dilation has to be 1'),
    ([RING, *TAIL], "padding_mode has to be 'zeros', not 'circular'"),
    ([nn.Conv2d(2, 4, (3, 1)), *TAIL], r'kernel_size.*\(3, 1\)'),
    ([nn.Conv2d(2, 4, 3, padding='same'), *TAIL], "padding.*'same'"),
    ([nn.Conv2d(1, 4, 3), *TAIL], r'takes 1 channels, but gets pictures of 2 × 6 × 6'),
    ([nn.Conv2d(2, 4, 7), *TAIL], '7 × 7 do not fit into pictures of 6 × 6'),
    ([CONV, nn.BatchNorm2d(4), *TAIL], r'layer 1 \(BatchNorm2d\)'),
    ([CONV, nn.GroupNorm(2, 4), *TAIL], r'layer 1 \(GroupNorm\)'),
    ([CONV, nn.MaxPool2d(2), *TAIL], r'layer 1 \(MaxPool2d\)'),
    ([CONV, nn.Dropout2d(), *TAIL], r'layer 1 \(Dropout2d\)'),
    ([CONV, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)], 'output_size has to be 1'),
    ([CONV, nn.AvgPool2d(2, ceil_mode=True), *TAIL], 'ceil_mode'),
    ([CONV, nn.AvgPool2d(5), *TAIL], '5 × 5 do not fit'),
    ([CONV, nn.AdaptiveAvgPool2d(1), nn.Linear(4, 3)], r'layer 2 \(Linear\).*nn.Flatten\(\) before it'),
    ([CONV, nn.Flatten(), nn.Linear(4, 3)], 'takes 4 inputs, but the layer before gives 64'),
    ([CONV, nn.Flatten(), nn.Flatten(), nn.Linear(64, 3)], r'layer 2 \(Flatten\)'),
    ([CONV, nn.Flatten(0), nn.Linear(64, 3)], 'start_dim'),
    ([nn.Flatten(), nn.Linear(72, 3)], 'the first layer has to be'),
    ([nn.AvgPool2d(2), CONV, *TAIL], 'the first layer has to be'),
    ([CONV, nn.ReLU()], 'last layer'),
    ([CONV, nn.Flatten(), nn.Linear(64, 72), nn.Conv2d(2, 4, 3), *TAIL], r'layer 3 \(Conv2d\).*rows of 72')],
    ids=lambda x: x if isinstance(x, str) else '')
def test_convolutions_we_cannot_do_are_named(layers, message):
    with pytest.raises(UserError, match=message) as e: read_layers(nn.Sequential(*layers), IMAGE)
    assert '\n' not in str(e.value) and e.value.__suppress_context__

def test_tied_weights_are_found():
    a, b = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    for weight in (a.weight, nn.Parameter(a.weight.data.T)):
        b.weight = weight
        with pytest.raises(UserError, match=r'layer 2 \(Linear\).*shared'):
            read_layers(nn.Sequential(a, nn.ReLU(), b))
    net = cnn((1, 8, 8), (8, 16), 10)
    nn.utils.vector_to_parameters(torch.zeros(1394), net.parameters())    # views of one vector are not shared
    assert read_layers(net) == digits_cnn().layers

@pytest.mark.parametrize('image, message', [
    (None, r'image=\(channels, height, width\)'), ((8, 8), 'three whole numbers'),
    ((1, 8, 0), 'three whole numbers'), ((1, 7, 8), 'pictures of 1 × 7 × 8 stored flat'),
    ((4, 4, 4), 'takes 1 channels')], ids=str)
def test_pictures_of_another_size(image, message):
    X, y = torch.randn(30, 64), torch.arange(30) % 10
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), *TAIL[:2], nn.Linear(4, 10))
    with pytest.raises(UserError, match=message): classification('odd', X, y, conv, image=image)
    assert classification('even', X, y, conv, image=(1, 8, 8)).layers[0] == ['Image', 1, 8, 8]

def test_a_network_of_ones_own_has_the_same_names():
    "A state_dict of a CNN that begins with nn.Conv2d fits the layout, which has the picture's size in front."
    a, b = nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 16, 3, 1, 1, bias=False)
    own = nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    layout, x = Layout(digits_cnn().layers), torch.randn(7, 64)
    row = to_row(own.state_dict(), layout)
    torch.testing.assert_close(forward(layout, row[None], x.T)[0].T, own(x.view(7, 1, 8, 8)))

def test_a_state_dict_in_another_order():
    layout, net = Layout([['Linear', 3, 2, True]]), nn.Sequential(nn.Linear(3, 2))
    state = dict(reversed(net.state_dict().items()))
    assert list(state) == ['0.bias', '0.weight'] and torch.equal(to_row(state, layout), to_row(net, layout))

def test_starts_of_convolutions():
    "Within one over the square root of the fan-in, for each parameter, as PyTorch's own."
    task = replace(digits_cnn(), start=uniform_start)
    layout, rows = Layout(task.layers), start_rows(task, range(200))
    for name, p in layout.split(rows).items():
        bound = 1/layout.fan_in[name]**.5
        assert .98*bound < p.abs().max() <= bound

def test_kaimings_start_keeps_signals():
    "Its spread is PyTorch's own initialisation of that name; biases are 0."
    parts = Layout(digits_cnn().layers).split(start_rows(digits_cnn(), range(100)))
    own = nn.init.kaiming_uniform_(torch.empty(1600, 8, 3, 3), nonlinearity='relu')
    assert abs(parts['2.weight'].std()/own.std() - 1) < .01 and not parts['6.bias'].any()

def test_layers_are_told_briefly():
    "What PyTorch would take for granted is left out."
    conv, pool = ['Conv2d', 1, 8, 3, 2, 1, False], ['AvgPool2d', 2, 2, 0]
    layers = [['Image', 1, 8, 8], conv, ['ReLU'], pool, ['Flatten'], ['Linear', 32, 10, True]]
    assert layers_text(layers) == ('Image(1, 8, 8) Conv2d(1, 8, 3, stride 2, padding 1, no bias) ReLU '
                                   'AvgPool2d(2) Flatten Linear(32, 10)')
    others = [['Conv2d', 1, 8, 3, 1, 0, True], ['AvgPool2d', 2, 1, 1], ['Linear', 3, 2, False]]
    assert layers_text(others) == 'Conv2d(1, 8, 3) AvgPool2d(2, stride 1, padding 1) Linear(3, 2, no bias)'

def test_mlps_keep_their_description():
    "Stores and models written before there were convolutions are found by it."
    assert digits().layers == [['Linear', 64, 16, True], ['ReLU'], ['Linear', 16, 10, True]]
    files = list((ROOT/'data'/'models').glob('digits-*.safetensors'))
    assert len(files) >= 3
    for file in files:
        _, info = load_model(file)
        assert info['fingerprint'] == get_task(info['task']).fingerprint

# Rows

def test_rows_of_another_layout():
    layout = Layout(mlp((64, 16, 10)))
    with pytest.raises(UserError, match='1211 weights'): layout.split(torch.zeros(1, 1211))
    with pytest.raises(UserError, match='alone'): to_row(mlp((64, 17, 10)), layout)

def test_seeds_that_a_generator_cannot_tell_apart():
    with pytest.raises(UserError, match='32 bits'): start_rows(digits(), [2**32 + 5])

def test_no_networks_at_all():
    assert measure(digits_cnn(), start_rows(digits_cnn(), [0])[:0])['loss'].shape == (0,)

def test_other_endings(store, tmp_path):
    with pytest.raises(UserError, match='.safetensors or .onnx'):
        write_network(tmp_path/'net.h5', store.rows([0], [0])[0], store.layout)
    with pytest.raises(UserError, match='.parquet or .csv'): write_table(store, tmp_path/'metrics.xlsx')

# Tasks

def test_a_task_is_itself_alone():
    "Tasks can be kept in sets and as keys; what is in them is compared by the fingerprint."
    a, b = digits(), digits()
    assert a == a and a != b and len({a, b, a}) == 2 and a.fingerprint == b.fingerprint

@pytest.mark.parametrize('logits', [[0., 0., 0.], [math.nan]*3, [math.nan, 1., 0.]], ids=str)
def test_ties_and_nan_are_errors(logits):
    assert error_percent(torch.tensor(logits)[None, :, None], torch.tensor([1])).item() == 100.

def test_a_classifier_without_hidden_layers():
    assert get_task(digits(()).name).layers == [['Linear', 64, 10, True]]

def test_a_task_that_was_another():
    with pytest.raises(UserError, match='another task'): get_task('digits', digits((8,)).fingerprint)

@pytest.fixture
def own_module(monkeypatch):
    own = ModuleType('own_tasks')
    own.shared = digits((3,))
    own.mine, own.other = (lambda: own.shared), (lambda: 'no task')
    monkeypatch.setitem(sys.modules, 'own_tasks', own)
    return own

def test_looking_a_task_up_does_not_change_it(own_module):
    task = get_task('own_tasks:mine', own_module.shared.fingerprint)
    assert task.name == 'own_tasks:mine' and own_module.shared.name == 'digits-3'
    assert torch.equal(task.train[0], own_module.shared.train[0]) and 'digits-3' in repr(own_module.shared)

@pytest.mark.parametrize('name, words', [
    ('own_tasks:none', "own_tasks.py has no function 'none', so there is no task own_tasks:none"),
    ('own_tasks:other', 'own_tasks:other gave a str, but a Task was expected'),
    ('no_such_module:task', 'run where no_such_module.py lies'), (':', 'there is no task'),
    ('digits-0', '1 to 4096 neurons'), ('digits-', 'there is no task'),
    ('digits-²', 'there is no task'), ('mnits-8', 'did you mean mnist')])
def test_names_of_no_task(own_module, name, words):
    with pytest.raises(UserError, match=words): get_task(name)

"G.pt: untrained it changes nothing, neuron tokens don't see the numbering, and every parameter learns."
import pytest, torch
from hypothesis import given, settings, strategies as st

from gpt_kit.gpt.diffusion import linear_schedule, sample
from gpt_kit.gpt.load import restore
from gpt_kit.gpt.model import GPT, Block, Link
from gpt_kit.gpt.tokens import EdgeTokens, NeuronView, chunk_sizes
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.symmetry import permute, random_permutations
from gpt_kit.networks.tasks import build_net, digits_cnn, mlp
from gpt_kit.networks.weights import Layout

# a network without output biases has no rest, and its encoder no weights
pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')

def dense(widths, bias, activation='Tanh'):
    "A network of linear layers."
    layers = []
    for a, b in zip(widths, widths[1:]): layers += [['Linear', a, b, bias], [activation]]
    return build_net(layers[:-1])

TOKENS, CONDITIONS = ['neuron', 'layer', 'chunk-50'], ['adaptive', 'tokens']
NETS = dict(digits=mlp((64, 16, 10)), no_bias=dense((5, 4, 3), False), deep=mlp((7, 6, 5, 4, 3)),
            deep_no_bias=dense((5, 4, 6, 3), False, 'SELU'))
every_token = pytest.mark.parametrize('tokens', TOKENS)
every_condition = pytest.mark.parametrize('condition', CONDITIONS)
every_net = pytest.mark.parametrize('net', NETS)
flat_and_deep = pytest.mark.parametrize('net', ['digits', 'deep'])

def generator(seed): return torch.Generator().manual_seed(seed)

def randomize(model):
    for p in model.parameters(): torch.nn.init.normal_(p, std=.3)
    return model

def gpt(tokens, condition='adaptive', net='digits', random=False):
    "A small model, untrained, or with every parameter random."
    torch.manual_seed(0)
    layers = Layout(NETS[net]).layers
    m = GPT(layers, tokens=tokens, width=24, depth=2, heads=2, condition=condition, edge_width=4)
    return randomize(m) if random else m

def inputs(net='digits', B=3):
    "noised, j, start, prompt, metric"
    D, g = Layout(NETS[net]).D, generator(1)
    noised, start = torch.randn(B, D, generator=g), torch.randn(B, D, generator=g)
    return noised, torch.tensor([0, 500, 999]), start, torch.tensor([.1, .5, 1.]), torch.tensor([2.3, 2., .1])

@every_token
@every_condition
@every_net
def test_untrained_is_the_identity(tokens, condition, net):
    m, (noised, j, start, prompt, metric) = gpt(tokens, condition, net), inputs(net)
    guess = lambda x, j: m(x, j, start, prompt, metric)
    with torch.no_grad():
        assert (guess(noised, j) - start).abs().max() <= 1e-6
        for solver in ('ddpm', 'ddim', 'dpm'):
            x = sample(guess, noised, linear_schedule(), solver=solver, steps=5)
            assert (x - start).abs().max() <= 1e-6

def renumbered(m, layout, noised, j, start, prompt, metric):
    "The answer, and how far renumbering the input is from renumbering the output."
    turn = random_permutations(layout, len(start), generator(2))
    with torch.no_grad():
        out = m(noised, j, start, prompt, metric)
        turned = m(permute(layout, noised, turn), j, permute(layout, start, turn), prompt, metric)
    return out, (turned - permute(layout, out, turn)).abs().max().item()

def off_and_changed(tokens, condition, net='digits'):
    "How far renumbering the input is from renumbering the output, and how far the output is from the start."
    args = [t.double() for t in inputs(net)]
    out, off = renumbered(gpt(tokens, condition, net, random=True).double(), Layout(NETS[net]), *args)
    return off, (out - args[2]).abs().mean().item()

@every_condition
@every_net
def test_neuron_tokens_do_not_see_the_numbering(condition, net):
    off, changed = off_and_changed('neuron', condition, net)
    assert off < 1e-10*max(1, changed) and changed > .1

@pytest.mark.parametrize('tokens', ['layer', 'chunk-50'])
def test_other_tokens_do(tokens):
    "Else the test above would prove nothing."
    off, changed = off_and_changed(tokens, 'adaptive')
    assert off > .1 and changed > .1

@every_token
@every_condition
@flat_and_deep
def test_every_parameter_learns(tokens, condition, net):
    "At zero only the decoders do; once they have moved, a gradient reaches everything."
    m, args = gpt(tokens, condition, net), inputs(net)
    hidden = torch.arange(len(args[0])) < 1
    loss = lambda: (m(*args, hidden) - torch.ones_like(args[0])).square().mean()
    loss().backward()
    moved = {n for n, p in m.named_parameters() if p.grad.abs().sum() > 0}
    assert moved and all('decoder' in n for n in moved)
    with torch.no_grad():
        for p in m.parameters(): p.sub_(p.grad)
    m.zero_grad(); loss().backward()
    assert [n for n, p in m.named_parameters() if not p.grad.abs().sum() > 0] == []

@every_token
@every_condition
@flat_and_deep
def test_every_input_matters(tokens, condition, net):
    "Noised weights, step, start, prompt and metric each have a say in what is added to the start."
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    added = lambda args: m(*args) - args[2]
    for i in range(5):
        others = [a.flip(0) if k == i else a for k, a in enumerate(args)]
        with torch.no_grad(): assert (added(args) - added(others)).abs().mean() > 1e-4, f'input {i}'

@every_token
@every_condition
@flat_and_deep
def test_networks_of_a_batch_do_not_mix(tokens, condition, net):
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    one = [a[1:2] for a in args]
    with torch.no_grad(): torch.testing.assert_close(m(*one), m(*args)[1:2], atol=1e-5, rtol=1e-4)

@every_token
@every_condition
@flat_and_deep
def test_restored_is_the_same(tokens, condition, net):
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    with torch.no_grad(): assert torch.equal(restore(m.config, m.state_dict())(*args), m(*args))

@pytest.mark.parametrize('kw, why', [
    (dict(width=50, heads=6), 'multiple of 6'), (dict(condition='film'), 'use one of adaptive, tokens'),
    (dict(tokens='words'), "'chunk-256'"), (dict(tokens='chunk-0'), '0 is no number of weights in a chunk')])
def test_refused(kw, why):
    with pytest.raises(UserError, match=why): GPT(Layout(NETS['digits']).layers, **kw)

def test_neuron_tokens_need_a_hidden_layer():
    layers = Layout(mlp((4, 3))).layers
    with pytest.raises(UserError, match='use chunk tokens'): GPT(layers, tokens='neuron', width=24, heads=2)

def test_edges_fit_the_width():
    layers = Layout(NETS['deep']).layers
    with pytest.raises(UserError, match='the width of an edge'): GPT(layers, width=24, heads=2, edge_width=16)

@given(st.lists(st.integers(1, 7), min_size=4, max_size=5), st.booleans(), st.sampled_from(CONDITIONS),
       st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_renumbering_any_hidden_layer_renumbers_the_answer(widths, bias, condition, seed):
    "Networks with two or three hidden layers, in double precision: nothing but the order of sums is left."
    layout = Layout(dense(widths, bias, 'ReLU'))
    torch.manual_seed(seed)
    m = GPT(layout.layers, tokens='neuron', width=12, depth=2, heads=2, condition=condition, edge_width=4)
    m, (noised, start) = randomize(m).double(), torch.randn(2, 3, layout.D, dtype=torch.double)
    prompt, metric = torch.tensor([[.1, .5, 1.], [2., 1., .4]]).double()
    out, off = renumbered(m, layout, noised, torch.tensor([0, 500, 999]), start, prompt, metric)
    assert off < 1e-9*max(1, out.abs().max()) and (out - start).abs().mean() > .01

def test_answers_depend_on_who_is_connected_to_whom():
    "Renumbering a layer in one table of edges alone is another network: the messages have to see it."
    m, layout = gpt('neuron', net='deep', random=True), Layout(NETS['deep'])
    noised, j, start, prompt, metric = inputs('deep')
    parts = layout.split(start)
    parts['2.weight'] = parts['2.weight'].flip(2)
    other = torch.cat([p.flatten(1) for p in parts.values()], 1)
    def added(start): return layout.split(m(noised, j, start, prompt, metric) - start)['0.bias']
    with torch.no_grad(): assert (added(start) - added(other)).abs().mean() > 1e-3

# a channel of the second owns 9 + 1 + 2·4 weights; edges of the CNN are 3 × 3 kernels
BLOCKS = [['Image', 1, 4, 4], ['Conv2d', 1, 3, 3, 2, 1, True], ['Tanh'], ['Flatten'], ['Linear', 12, 2, True]]

@pytest.mark.parametrize('net, heads, sizes', [
    (mlp((64, 16, 10)), [(16,), ()], [75, 10]), (BLOCKS, [(3,), ()], [18, 2]),
    (mlp((64, 32, 16, 10)), [(32,), (16,), (16, 32), ()], [65, 11, 1, 10]),
    (digits_cnn().layers, [(8,), (16,), (16, 8), ()], [9, 10, 9, 10])])
def test_tables_and_back(net, heads, sizes):
    view = NeuronView(Layout(net))
    rows = torch.randn(4, view.layout.D, generator=generator(0))
    assert (view.heads, view.C) == (heads, sizes)
    assert torch.equal(view.rows(view.tables(rows)), rows)

def test_edges_are_the_weights_between_hidden_layers():
    layout = Layout(mlp((64, 32, 16, 10)))
    rows = torch.randn(4, layout.D, generator=generator(0))
    assert torch.equal(NeuronView(layout).tables(rows)[2][..., 0], layout.split(rows)['2.weight'])

def test_chunks_add_up():
    layout, cnn = Layout(NETS['digits']), Layout(digits_cnn().layers)
    assert all(sum(chunk_sizes(layout, size)) == layout.D for size in (None, 1, 7, 1000, 5000))
    assert chunk_sizes(cnn) == [72, 1152, 160, 10]

@pytest.mark.parametrize('adaptive', [True, False])
def test_blocks_keep_shapes_and_sets(adaptive):
    torch.manual_seed(0)
    h, c, turned = torch.randn(3, 17, 24), torch.randn(3, 24), torch.randperm(17)
    block = Block(24, 4, adaptive)
    torch.testing.assert_close(block(h[:, turned], c), block(h, c)[:, turned], atol=1e-5, rtol=1e-4)
    layout = Layout(NETS['deep'])
    edged = EdgeTokens(layout, 24, 4)
    h, e = edged.encode(*torch.randn(2, 3, layout.D))
    h2, e2 = Link(24, 4, adaptive)(h, e, edged.view, c if adaptive else None)
    assert h2.shape == h.shape and e2.shape == e.shape
    assert (e2 - e).abs().mean() > 1e-3 and (h2 - h).abs().mean() > 1e-3

@every_token
@every_condition
@flat_and_deep
def test_a_hidden_start_is_not_looked_at(tokens, condition, net):
    "Nor is its metric; the other networks of the batch are answered as ever."
    m, (noised, j, start, prompt, metric) = gpt(tokens, condition, net), inputs(net)
    for p in m.parameters(): torch.nn.init.normal_(p, std=.1)
    hidden = torch.arange(len(j)) < 1
    with torch.no_grad():
        seen = m(noised, j, start, prompt, metric)
        one = m(noised, j, start, prompt, metric, hidden)
        other = m(noised, j, start + 1, prompt, metric + 1, hidden)
    assert torch.equal(one[0], other[0]) and not torch.allclose(one[0], seen[0])
    torch.testing.assert_close(one[1:], seen[1:])

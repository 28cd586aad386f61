"G.pt: untrained it changes nothing, neuron tokens don't see the numbering, and every parameter learns."
import pytest, torch
from hypothesis import given, settings, strategies as st

from gpt_kit.diffusion import linear_schedule, sample
from gpt_kit.model import GPT, restore
from gpt_kit.symmetry import permute, random_permutations
from gpt_kit.tasks import build_net, mlp
from gpt_kit.weights import Layout

pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')    # a network without output biases has no rest
TOKENS, CONDITIONS = ['neuron', 'layer', 'chunk-50'], ['adaptive', 'tokens']
NETS = dict(digits=mlp((64, 16, 10)), no_bias=build_net([['Linear', 5, 4, False], ['Tanh'], ['Linear', 4, 3, False]]),
            deep=mlp((7, 6, 5, 4, 3)), deep_no_bias=build_net([['Linear', 5, 4, False], ['Tanh'], ['Linear', 4, 6, False], ['SELU'], ['Linear', 6, 3, False]]))
every_kind = lambda f: pytest.mark.parametrize('tokens', TOKENS)(pytest.mark.parametrize('condition', CONDITIONS)(f))

def gpt(tokens, condition='adaptive', net='digits', random=False):
    "A small model, untrained, or with every parameter random."
    torch.manual_seed(0)
    m = GPT(Layout(NETS[net]).layers, tokens, width=24, depth=2, heads=2, condition=condition, edge_width=4)
    if random: [torch.nn.init.normal_(p, std=.3) for p in m.parameters()]
    return m

def inputs(net='digits', B=3):
    "noised, j, start, prompt, metric"
    D, g = Layout(NETS[net]).D, torch.Generator().manual_seed(1)
    return torch.randn(B, D, generator=g), torch.tensor([0, 500, 999]), torch.randn(B, D, generator=g), torch.tensor([.1, .5, 1.]), torch.tensor([2.3, 2., .1])

@every_kind
@pytest.mark.parametrize('net', NETS)
def test_untrained_is_the_identity(tokens, condition, net):
    m, (noised, j, start, prompt, metric) = gpt(tokens, condition, net), inputs(net)
    with torch.no_grad():
        assert (m(noised, j, start, prompt, metric) - start).abs().max() <= 1e-6
        for solver in ('ddpm', 'ddim', 'dpm'):
            x = sample(lambda x, j: m(x, j, start, prompt, metric), noised, linear_schedule(), solver, 5, generator=torch.Generator().manual_seed(0))
            assert (x - start).abs().max() <= 1e-6

def unlike(tokens, condition, net='digits'):
    "How far renumbering the input is from renumbering the output, and how far the output is from the start."
    m, (noised, j, start, prompt, metric), layout = gpt(tokens, condition, net, random=True).double(), [t.double() for t in inputs(net)], Layout(NETS[net])
    turn = random_permutations(layout, 3, torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = m(noised, j, start, prompt, metric)
        turned = m(permute(layout, noised, turn), j, permute(layout, start, turn), prompt, metric)
    return (turned - permute(layout, out, turn)).abs().max().item(), (out - start).abs().mean().item()

@pytest.mark.parametrize('condition', CONDITIONS)
@pytest.mark.parametrize('net', NETS)
def test_neuron_tokens_do_not_see_the_numbering(condition, net):
    off, changed = unlike('neuron', condition, net)
    assert off < 1e-10*max(1, changed) and changed > .1

@pytest.mark.parametrize('tokens', ['layer', 'chunk-50'])
def test_other_tokens_do(tokens):
    "Else the test above would prove nothing."
    off, changed = unlike(tokens, 'adaptive')
    assert off > .1 and changed > .1

@every_kind
@pytest.mark.parametrize('net', ['digits', 'deep'])
def test_every_parameter_learns(tokens, condition, net):
    "At zero only the decoders do; once they have moved, a gradient reaches everything."
    m, args = gpt(tokens, condition, net), inputs(net)
    loss = lambda: (m(*args) - torch.ones_like(args[0])).square().mean()
    loss().backward()
    moved = {n for n, p in m.named_parameters() if p.grad.abs().sum() > 0}
    assert moved and all('decoder' in n for n in moved)
    with torch.no_grad(): [p.sub_(p.grad) for p in m.parameters()]
    m.zero_grad(); loss().backward()
    assert [n for n, p in m.named_parameters() if not p.grad.abs().sum() > 0] == []

@every_kind
@pytest.mark.parametrize('net', ['digits', 'deep'])
def test_every_input_matters(tokens, condition, net):
    "Noised weights, step, start, prompt and metric each have a say in what is added to the start."
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    added = lambda args: m(*args) - args[2]
    with torch.no_grad():
        for i in range(5): assert (added(args) - added([a.flip(0) if k == i else a for k, a in enumerate(args)])).abs().mean() > 1e-4, f'input {i}'

@every_kind
@pytest.mark.parametrize('net', ['digits', 'deep'])
def test_networks_of_a_batch_do_not_mix(tokens, condition, net):
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    with torch.no_grad(): torch.testing.assert_close(m(*(a[1:2] for a in args)), m(*args)[1:2], atol=1e-5, rtol=1e-4)

@every_kind
@pytest.mark.parametrize('net', ['digits', 'deep'])
def test_restored_is_the_same(tokens, condition, net):
    m, args = gpt(tokens, condition, net, random=True), inputs(net)
    with torch.no_grad(): assert torch.equal(restore(m.config, m.state_dict())(*args), m(*args))

@pytest.mark.parametrize('kw, says', [(dict(width=50, heads=6), 'multiple of 6'), (dict(condition='film'), "'adaptive' or 'tokens'"), (dict(tokens='words'), "'chunk-256'"), (dict(tokens='chunk-0'), 'at least 1 weight')])
def test_refused(kw, says):
    with pytest.raises(ValueError, match=says): GPT(Layout(NETS['digits']).layers, **kw)

def test_neuron_tokens_need_a_hidden_layer():
    with pytest.raises(ValueError, match='use chunk tokens'): GPT(Layout(mlp((4, 3))).layers, 'neuron', width=24, heads=2)

def test_edges_fit_the_width():
    with pytest.raises(ValueError, match='the width of an edge'): GPT(Layout(NETS['deep']).layers, width=24, heads=2, edge_width=16)

@given(st.lists(st.integers(1, 7), min_size=4, max_size=5), st.booleans(), st.sampled_from(CONDITIONS), st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_renumbering_any_hidden_layer_renumbers_the_answer(widths, bias, condition, seed):
    "Random networks with two or three hidden layers. In double precision, so that nothing but the order of sums is left."
    layout = Layout(build_net([l for a, b in zip(widths, widths[1:]) for l in (['Linear', a, b, bias], ['ReLU'])][:-1]))
    torch.manual_seed(seed)
    m = GPT(layout.layers, 'neuron', width=12, depth=2, heads=2, condition=condition, edge_width=4)
    [torch.nn.init.normal_(p, std=.3) for p in m.parameters()]
    m, (noised, start) = m.double(), torch.randn(2, 3, layout.D, dtype=torch.double)
    turn = random_permutations(layout, 3, torch.Generator().manual_seed(seed))
    ask = lambda x, s: m(x, torch.tensor([0, 500, 999]), s, torch.tensor([.1, .5, 1.]).double(), torch.tensor([2., 1., .4]).double())
    with torch.no_grad(): out, turned = ask(noised, start), ask(permute(layout, noised, turn), permute(layout, start, turn))
    torch.testing.assert_close(turned, permute(layout, out, turn), atol=1e-9, rtol=1e-9)
    assert (out - start).abs().mean() > .01

def test_answers_depend_on_who_is_connected_to_whom():
    "Renumbering a layer in one table of edges alone is another network: the messages have to see it."
    m, (noised, j, start, prompt, metric), layout = gpt('neuron', net='deep', random=True), inputs('deep'), Layout(NETS['deep'])
    parts = layout.split(start)
    parts['2.weight'] = parts['2.weight'].flip(2)
    other = torch.cat([p.flatten(1) for p in parts.values()], 1)
    with torch.no_grad(): a, b = (layout.split(m(noised, j, s, prompt, metric) - s) for s in (start, other))
    assert (a['0.bias'] - b['0.bias']).abs().mean() > 1e-3

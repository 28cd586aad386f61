"G.pt: untrained it changes nothing, neuron tokens don't see the numbering, and every parameter learns."
import pytest, torch

from gpt_kit.diffusion import linear_schedule, sample
from gpt_kit.model import GPT, restore
from gpt_kit.symmetry import permute, random_permutations
from gpt_kit.tasks import build_net, mlp
from gpt_kit.weights import Layout

pytestmark = pytest.mark.filterwarnings('ignore:Initializing zero-element')    # a network without output biases has no rest
TOKENS, CONDITIONS = ['neuron', 'layer', 'chunk-50'], ['adaptive', 'tokens']
NETS = dict(digits=mlp((64, 16, 10)), no_bias=build_net([['Linear', 5, 4, False], ['Tanh'], ['Linear', 4, 3, False]]))
every_kind = lambda f: pytest.mark.parametrize('tokens', TOKENS)(pytest.mark.parametrize('condition', CONDITIONS)(f))

def gpt(tokens, condition='adaptive', net='digits', random=False):
    "A small model, untrained, or with every parameter random."
    torch.manual_seed(0)
    m = GPT(Layout(NETS[net]).layers, tokens, width=24, depth=2, heads=2, condition=condition)
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
    m, (noised, j, start, prompt, metric), layout = gpt(tokens, condition, net, random=True), inputs(net), Layout(NETS[net])
    turn = random_permutations(layout, 3, torch.Generator().manual_seed(2))
    with torch.no_grad():
        out = m(noised, j, start, prompt, metric)
        turned = m(permute(layout, noised, turn), j, permute(layout, start, turn), prompt, metric)
    return (turned - permute(layout, out, turn)).abs().max().item(), (out - start).abs().mean().item()

@pytest.mark.parametrize('condition', CONDITIONS)
@pytest.mark.parametrize('net', NETS)
def test_neuron_tokens_do_not_see_the_numbering(condition, net):
    off, changed = unlike('neuron', condition, net)
    assert off < 1e-4 and changed > .1

@pytest.mark.parametrize('tokens', ['layer', 'chunk-50'])
def test_other_tokens_do(tokens):
    "Else the test above would prove nothing."
    off, changed = unlike(tokens, 'adaptive')
    assert off > .1 and changed > .1

@every_kind
def test_every_parameter_learns(tokens, condition):
    "At zero only the decoders do; once they have moved, a gradient reaches everything."
    m, args = gpt(tokens, condition), inputs()
    loss = lambda: (m(*args) - torch.ones_like(args[0])).square().mean()
    loss().backward()
    moved = {n for n, p in m.named_parameters() if p.grad.abs().sum() > 0}
    assert moved and all('decoder' in n for n in moved)
    with torch.no_grad(): [p.sub_(p.grad) for p in m.parameters()]
    m.zero_grad(); loss().backward()
    assert [n for n, p in m.named_parameters() if not p.grad.abs().sum() > 0] == []

@every_kind
def test_every_input_matters(tokens, condition):
    "Noised weights, step, start, prompt and metric each have a say in what is added to the start."
    m, args = gpt(tokens, condition, random=True), inputs()
    added = lambda args: m(*args) - args[2]
    with torch.no_grad():
        for i in range(5): assert (added(args) - added([a.flip(0) if k == i else a for k, a in enumerate(args)])).abs().mean() > 1e-4, f'input {i}'

@every_kind
def test_networks_of_a_batch_do_not_mix(tokens, condition):
    m, args = gpt(tokens, condition, random=True), inputs()
    with torch.no_grad(): torch.testing.assert_close(m(*(a[1:2] for a in args)), m(*args)[1:2], atol=1e-5, rtol=1e-5)

@every_kind
def test_restored_is_the_same(tokens, condition):
    m, args = gpt(tokens, condition, random=True), inputs()
    with torch.no_grad(): assert torch.equal(restore(m.config, m.state_dict())(*args), m(*args))

@pytest.mark.parametrize('kw, says', [(dict(width=50, heads=6), 'multiple of 6'), (dict(condition='film'), "'adaptive' or 'tokens'"), (dict(tokens='words'), "'chunk-256'"), (dict(tokens='chunk-0'), 'at least 1 weight')])
def test_refused(kw, says):
    with pytest.raises(ValueError, match=says): GPT(Layout(NETS['digits']).layers, **kw)

def test_neuron_tokens_need_one_hidden_layer():
    for widths in ((4, 3), (6, 5, 4, 3)):
        with pytest.raises(ValueError, match='use chunk tokens'): GPT(Layout(mlp(widths)).layers, 'neuron', width=24, heads=2)

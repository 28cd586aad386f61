"""G.pt's released models: the numbers that the authors' own code gave, and, for configurations that it was
not run with, an independent computation in NumPy."""
import json, re
from pathlib import Path

import numpy as np, pytest, torch
from safetensors.torch import load_file
from scipy.special import erf

from gpt_kit.gpt.load import ReleasedGPT, load_model
from gpt_kit.gpt.model import GPT
from gpt_kit.networks import datasets
from gpt_kit.networks.cartpole import cartpole
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.layers import read_layers
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.tasks import cnn, mlp
from gpt_kit.networks.weights import Layout, measure, start_rows
from gpt_kit.outside import released
from gpt_kit.outside.released import convert_released, read_released_state

GOLDEN = Path(__file__).parent/'golden'
LAYERS, SIZES = read_layers(mlp((12, 4, 5))), [48, 4, 20, 5]
POLICY_LAYERS = [['Linear', 4, 6, True], ['SELU'], ['Linear', 6, 1, True]]                  # 37 weights

def cut(n, chunk): return [chunk]*(n//chunk) + [n % chunk]*(n % chunk > 0)

def pieces(sizes, policy, chunk=None):
    """Sizes of tokens, as the paper and the authors' configurations name the policies.
    `sizes` is a list of inputs, each a list of parameters."""
    if policy == 'layer_by_layer': return [n for s in sizes for n in s]
    if policy == 'chunk_within_layer': return [c for s in sizes for n in s for c in cut(n, chunk)]
    if policy == 'chunk_within_input': return [c for s in sizes for c in cut(sum(s), chunk)]
    return cut(sum(n for s in sizes for n in s), chunk)

def random_state(rng, inputs, outputs, *, E=32, depth=2, n_freq=8, octaves=6):
    "A state dict with the authors' names and random numbers."
    def w(*shape): return rng.normal(0, .2, shape).astype(np.float32)
    sd = {'pos_emb': w(1, len(inputs), E)}
    for n in ['ln_in', 'ln_f'] + [f'blocks.{i}.ln{k}' for i in range(depth) for k in (1, 2)]:
        sd.update({f'{n}.weight': 1 + w(E), f'{n}.bias': w(E)})
    layers = [(f'attn.{p}', E, E) for p in ('key', 'query', 'value', 'proj')]
    layers += [('mlp.0', 4*E, E), ('mlp.2', E, 4*E)]
    for i in range(depth):
        for n, a, b in layers: sd.update({f'blocks.{i}.{n}.weight': w(a, b), f'blocks.{i}.{n}.bias': w(a)})
    for i, c in enumerate(inputs): sd[f'input_parameter_projections.{i}.0.weight'] = w(E, c)
    for i, c in enumerate(outputs): sd[f'output_parameter_projections.{i}.0.weight'] = w(c, E)
    frequencies = (2**np.linspace(0, octaves, n_freq)).astype(np.float32)
    return {f'decoder.{n}': v for n, v in sd.items()} | {'scalar_embedder.frequencies': frequencies}

def converted(sd, layers, heads=4):
    return convert_released({n: torch.from_numpy(v) for n, v in sd.items()}, layers, heads=heads)

class Reference:
    "A released model in double precision, written from the paper's description."
    def __init__(self, sd, heads, n_scalars=4):
        self.p = {n.removeprefix('decoder.'): v.astype(np.float64) for n, v in sd.items()}
        self.frequencies = np.float32(sd['scalar_embedder.frequencies'])
        self.heads, self.n_scalars = heads, n_scalars

    def norm(self, h, n):
        c = h - h.mean(-1, keepdims=True)
        return c/np.sqrt((c**2).mean(-1, keepdims=True) + 1e-5)*self.p[n + '.weight'] + self.p[n + '.bias']

    def linear(self, h, n): return h @ self.p[n + '.weight'].T + self.p[n + '.bias']

    def scalar(self, s):
        "Angles in single precision, as there: the sine of step 999 times frequency 64 depends on it."
        z = (np.float32(s)[:, None]*self.frequencies).astype(np.float64)
        return np.concatenate([np.sin(z), np.cos(z), s[:, None]], 1)

    def count(self, part): return sum(n.startswith(part) for n in self.p)

    def encode(self, row):
        tokens, at = [], 0
        for i in range(self.count('input_parameter_projections')):
            W = self.p[f'input_parameter_projections.{i}.0.weight']
            tokens.append(row[:, at:at + W.shape[1]] @ W.T)
            at += W.shape[1]
        assert at == row.shape[1]
        return self.norm(np.stack(tokens, 1), 'ln_in') + self.p['pos_emb']

    def attend(self, h, b):
        B, L, E = h.shape
        q, k, v = (self.linear(h, f'{b}attn.{m}').reshape(B, L, self.heads, -1).transpose(0, 2, 1, 3)
                   for m in ('query', 'key', 'value'))
        a = q @ k.transpose(0, 1, 3, 2)/np.sqrt(E//self.heads)
        a = np.exp(a - a.max(-1, keepdims=True))
        a /= a.sum(-1, keepdims=True)
        return self.linear((a @ v).transpose(0, 2, 1, 3).reshape(B, L, E), b + 'attn.proj')

    def __call__(self, x, t, x_prev, target, prev):
        scalars = t, np.float32(target) - np.float32(prev), target, prev
        h = self.encode(np.concatenate([x, x_prev, *map(self.scalar, scalars[:self.n_scalars])], 1))
        for i in range(sum(n.endswith('ln1.weight') for n in self.p)):
            b = f'blocks.{i}.'
            h = h + self.attend(self.norm(h, b + 'ln1'), b)
            m = self.linear(self.norm(h, b + 'ln2'), b + 'mlp.0')
            h = h + self.linear(m*.5*(1 + erf(m/np.sqrt(2))), b + 'mlp.2')
        h = self.norm(h, 'ln_f')
        n = self.count('output_parameter_projections')
        out = [h[:, i] @ self.p[f'output_parameter_projections.{i}.0.weight'].T for i in range(n)]
        return x_prev + np.concatenate(out, 1)

def ask(model, *args):
    tensors = [torch.as_tensor(v, dtype=torch.float32) for v in args]
    with torch.no_grad(): return model(*tensors).numpy()

def as_double(*args): return [np.asarray(a, np.float32).astype(np.float64) for a in args]

@pytest.mark.parametrize('which', ['G', 'G_ema'])
def test_the_authors_numbers(which):
    "And the other tests' reference gives them, too."
    io, config = load_file(GOLDEN/'gpt_tiny_io.safetensors'), json.loads((GOLDEN/'gpt_tiny.json').read_text())
    state, expected = read_released_state(GOLDEN/'gpt_tiny.pt', which), io[f'out_{which}'].numpy()
    args = as_double(io['x'], io['t'][:, 0], io['x_prev'], io['loss_target'][:, 0], io['loss_prev'][:, 0])
    model = convert_released(state, LAYERS, heads=config['n_head'])
    reference = Reference({n: v.numpy() for n, v in state.items()}, config['n_head'])
    assert np.abs(ask(model, *args) - expected).max() <= 1e-5
    assert np.abs(reference(*args) - expected).max() <= 1e-5
    assert np.abs(expected - args[2]).max() > .1                  # it does not just repeat the start

CONFIGURATIONS = [     # policy, chunk, and whether scalars stay whole
    ('chunk_within_layer', 12, False), ('chunk_within_layer', 20, True), ('layer_by_layer', None, True),
    ('chunk_within_input', 9, False), ('chunk_within_input', 30, True),
    ('chunk', 10, False), ('chunk', 100, False)]

@pytest.mark.parametrize('policy, chunk, whole', CONFIGURATIONS)
@pytest.mark.parametrize('n_scalars', [4, 2])
def test_every_configuration(policy, chunk, whole, n_scalars):
    "Chunked and layer by layer, scalars split and whole, with and without the absolute metrics."
    rng = np.random.default_rng(0)
    inputs = pieces([SIZES, SIZES] + [[17]]*n_scalars, policy, chunk)
    assert (inputs[-n_scalars:] == [17]*n_scalars) == whole or policy == 'chunk'
    sd = random_state(rng, inputs, pieces([SIZES], policy, chunk))
    x, x_prev, steps = rng.normal(size=(6, 77)), rng.normal(size=(6, 77)), [0, 10, 250, 500, 998, 999]
    args = as_double(x, steps, x_prev, rng.random(6), rng.random(6)*2)
    expected = Reference(sd, 4, n_scalars)(*args)
    assert np.abs(ask(converted(sd, LAYERS), *args) - expected).max() <= 1e-5
    assert np.abs(expected - x_prev).max() > .1

def as_gpt(model):
    "A released model as our GPT: the one LayerNorm in each token's place."
    c, ours = model.config, model.state_dict()
    n, whole = len(c['outputs']), c['outputs'] == list(Layout(c['layers']).sizes.values())
    options = {k: c[k] for k in ('width', 'depth', 'heads', 'n_frequencies')}
    options['octaves'] = round(model.frequencies[-1].log2().item())
    gpt = GPT(c['layers'], tokens='layer' if whole else f"chunk-{max(c['outputs'])}", condition='tokens',
              step_scale=1., metric_scale=1., start_gain=1., **options)
    sd = {k: t for k, t in ours.items() if k.startswith(('blocks', 'norm.'))}
    sd.update({'tokens.position': ours['position'][:2*n], 'position': ours['position'][2*n:]})
    for i in range(n): sd[f'tokens.decoders.{i}.weight'] = ours[f'decoders.{i}.weight']
    places = [(f'tokens.encoders.{i}', f'tokens.norms.{i}') for i in range(2*n)]
    places += [(f'scalars.{i}', f'scalar_norms.{i}') for i in range(4)]
    for i, (encoder, norm) in enumerate(places):
        sd[f'{encoder}.weight'] = ours[f'encoders.{i}.weight']
        for end in ('weight', 'bias'): sd[f'{norm}.{end}'] = ours[f'norm_in.{end}']
    ours_alone = {n: t for n, t in gpt.state_dict().items() if n in ('hidden', 'errors')}
    gpt.load_state_dict(sd | ours_alone)
    return gpt.eval()

@pytest.mark.parametrize('policy, chunk', [('chunk_within_layer', 20), ('layer_by_layer', None)])
def test_our_gpt_is_the_same_function(policy, chunk):
    "Where scalars are whole tokens and chunks stay within a layer."
    rng = np.random.default_rng(0)
    sd = random_state(rng, pieces([SIZES, SIZES] + [[17]]*4, policy, chunk), pieces([SIZES], policy, chunk))
    (x, x_prev), (target, prev) = rng.normal(size=(2, 3, 77)), rng.random((2, 3))*2
    args = as_double(x, [0, 250, 999], x_prev, target, prev)
    assert np.abs(ask(as_gpt(converted(sd, LAYERS)), *args) - Reference(sd, 4)(*args)).max() <= 1e-5

def test_policies_have_a_log_std():
    "A released model of policies writes one number more than our layout has, in front."
    rng, sizes = np.random.default_rng(0), [1, 24, 6, 6, 1]
    sd = random_state(rng, sizes*2 + [17]*4, sizes)
    model = converted(sd, POLICY_LAYERS)
    (x, x_prev), (target, prev) = rng.normal(size=(2, 3, 38)), rng.random((2, 3))*500
    args = as_double(x, [0, 9, 99], x_prev, target, prev)
    assert np.abs(ask(model, *args) - Reference(sd, 4)(*args)).max() <= 1e-5
    args[0][:, 0] = args[2][:, 0] = 0
    x, t, x_prev, *metrics = args
    without = ask(model, x[:, 1:], t, x_prev[:, 1:], *metrics)
    np.testing.assert_allclose(without, ask(model, *args)[:, 1:], atol=1e-6)

def plain_pictures(*shape):
    "Three training and two test pictures, each of one shade: 0, 85, 170."
    def some(n): return np.stack([np.full(shape, 85*i, np.uint8) for i in range(n)])
    return [some(3), np.arange(3), some(2), np.arange(2)]

def test_the_tasks_scale_as_theirs_did(monkeypatch):
    "One mean for MNIST, one for each channel of CIFAR-10; the tasks are found by their names."
    monkeypatch.setattr(datasets, 'find_pictures', lambda name, raw: name)
    monkeypatch.setattr(datasets, 'read_pictures', lambda files: plain_pictures(28, 28))
    monkeypatch.setattr(datasets, 'read_cifar10', lambda raw: plain_pictures(3, 32, 32))
    mnist, cifar10 = (get_task(released.RELEASED_TASKS[n]) for n in ('mnist', 'cifar10'))
    assert mnist.name == 'mnist-released' == datasets.released_mnist().name
    assert cifar10.name == 'cifar10-released' == datasets.released_cifar10().name
    (X, y), (Xt, yt) = mnist.train, cifar10.test
    expected = (torch.tensor([0., 85, 170])/255 - .1307)/.3081
    assert torch.allclose(X, expected[:, None].expand(3, 784), atol=1e-5) and y.tolist() == [0, 1, 2]
    means, stds = torch.tensor([125.3, 123., 113.9]), torch.tensor([63., 62.1, 66.7])
    expected = (torch.tensor([0., 85])[:, None] - means)/stds                                  # (2, 3)
    assert torch.allclose(Xt.view(2, 3, 1024), expected[:, :, None].expand(2, 3, 1024), atol=1e-5)
    assert yt.tolist() == [0, 1] and (mnist.image, cifar10.image) == ((1, 28, 28), (3, 32, 32))

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    "Run a command in this process: its exit code, what it printed, and what it said on stderr."
    from gpt_kit.run.commands import main
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(Path(__file__).parent)
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        out, err = capsys.readouterr()
        return code, out, [l for l in err.splitlines() if l.strip()]
    return run

GIVEN = dict(task='test_imports:tiny', metric='loss', heads=2, scale=2, best=1.2)

def options(**changes): return [w for n, v in (GIVEN | changes).items() for w in (f'--{n}', v)]

def test_as_commands(kit, tmp_path):
    "Imported, it is a model file in full precision, and `gpt-kit prompt` asks it."
    code, out, said = kit('import', 'gpt-model', GOLDEN/'gpt_tiny.pt', 'tiny.safetensors', *options())
    assert code == 0 and 'M parameters' in out, said
    model, info = load_model('tiny.safetensors')
    expected = convert_released(read_released_state(GOLDEN/'gpt_tiny.pt'), LAYERS, heads=2).state_dict()
    assert model.state_dict().keys() == expected.keys()
    for n, t in model.state_dict().items(): assert torch.equal(t, expected[n]), n
    assert (info['scale'], info['best'], info['metric']['name']) == (2, 1.2, 'test_loss')
    task = get_task('test_imports:tiny')
    worst = measure(task, start_rows(task, range(16)))['loss'].max().item()
    assert info['seen'] == [1.2, worst] and worst > 1.3
    code, out, said = kit('prompt', 'tiny.safetensors', 1.4, '--out', 'net.onnx', '--task', GIVEN['task'])
    assert code == 0 and 'achieved' in out and (tmp_path/'net.onnx').stat().st_size > 300, said

def test_the_files_name_tells(tmp_path, monkeypatch):
    "What is given counts more than what the name tells."
    path, seen = tmp_path/'mnist_error.pt', {}
    path.write_bytes((GOLDEN/'gpt_tiny.pt').read_bytes())
    def tiny_task(name):
        seen['task'] = name
        from test_imports import tiny
        return tiny()
    monkeypatch.setattr(released, 'get_task', tiny_task)
    released.import_model(path, heads=2, best=7.)
    model, info = load_model(tmp_path/'mnist_error.safetensors')
    assert seen['task'] == released.RELEASED_TASKS['mnist'] and info['metric']['name'] == 'test_error'
    assert (info['scale'], info['best'], model.config['heads']) == (4.185, 7., 2)

def test_refused_in_one_sentence(kit, tmp_path):
    tiny = GOLDEN/'gpt_tiny.pt'
    def refused(*args):
        code, out, said = kit('import', 'gpt-model', *args)
        assert code == 1 and len(said) == 1 and not re.search(r'[.!?] +[A-Z]', said[0]), said
        return said[0]
    def refused_file(content):
        if isinstance(content, bytes): (tmp_path/'bad.pt').write_bytes(content)
        else: torch.save(content, 'bad.pt')
        return refused('bad.pt', 'm.safetensors', *options())
    assert 'no file' in refused('nowhere.pt', 'm.safetensors', *options())
    assert '--task, --metric, --heads, --scale, --best' in refused(tiny)
    assert 'cut short' in refused_file(tiny.read_bytes()[:5000])
    assert 'nothing in it was run' in refused_file(torch.nn.Linear(2, 2))
    assert "'G' and 'G_ema'" in refused_file({'a': torch.zeros(1)})
    assert 'no released G.pt' in refused_file({'G_ema': {'a': torch.zeros(1)}})
    assert 'multiple of 5 heads' in refused(tiny, 'm.safetensors', *options(heads=5))
    assert 'choose the task' in refused(tiny, 'm.safetensors', *options(task='digits'))
    assert 'end in .safetensors' in refused(tiny, 'm.pt', *options())
    assert 'there is no metric' in refused(tiny, 'm.safetensors', *options(metric='return'))
    assert not (tmp_path/'m.safetensors').exists()

def other_state(sd, change):
    sd, part = dict(sd), 'decoder.input_parameter_projections'
    if change == 'deep': sd[f'{part}.0.2.weight'] = sd['decoder.pos_emb']
    if change == 'three scalars': sd.pop(f'{part}.11.0.weight')
    if change == 'a number more': sd[f'{part}.11.0.weight'] = np.zeros((32, 18), np.float32)
    return sd

@pytest.mark.parametrize('change, words', [
    ('deep', 'of several layers'), ('three scalars', 'reads 205 numbers'), ('a number more', 'reads 223')])
def test_other_architectures(change, words):
    sd = random_state(np.random.default_rng(0), SIZES*2 + [17]*4, SIZES)
    with pytest.raises(UserError, match=words): converted(other_state(sd, change), LAYERS)
    with pytest.raises(UserError, match='networks of 77 weights'): converted(sd, read_layers(mlp((12, 4, 4))))

def test_sizes_of_table_1():
    "Parameters in millions, as the paper's Table 1 has them."
    def millions(layers, sizes, E, heads):
        with torch.device('meta'):
            model = ReleasedGPT(layers, inputs=sizes*2 + [257]*4, outputs=sizes, width=E, depth=12,
                                heads=heads, n_frequencies=128)
        return round(sum(p.numel() for p in model.parameters())/1e6)
    mnist = [c for n in (7840, 10, 100, 10) for c in cut(n, 1000)]
    cifar10 = [c for n in (432, 4608, 320, 10) for c in cut(n, 576)]
    assert millions(read_layers(mlp((784, 10, 10))), mnist, 1536, 16) == 378
    assert millions(read_layers(cnn((3, 32, 32), (16, 32), 10)), cifar10, 2048, 16) == 639
    assert millions(cartpole().layers, [1, 128, 32, 1024, 32, 32, 1], 1536, 12) == 347

"G.pt's released models: the numbers that the authors' own code gave, and, for configurations that it was not run with, an independent computation in NumPy."
import json, re, warnings
from pathlib import Path

import numpy as np, pytest, torch
from safetensors.torch import load_file
from scipy.special import erf

from gpt_kit.cli import main
from gpt_kit.prompt import Prompter
from gpt_kit.released import ReleasedGPT, as_gpt, convert, read_checkpoint, restore
from gpt_kit.tasks import mlp, read_layers
from gpt_kit.train import load_model

GOLDEN = Path(__file__).parent/'golden'
LAYERS, SIZES = read_layers(mlp((12, 4, 5))), [48, 4, 20, 5]
POLICY = [['Linear', 4, 6, True], ['SELU'], ['Linear', 6, 1, True]]                  # 37 weights

def pieces(sizes, policy, chunk=None):
    "Sizes of tokens, as the paper and the authors' configurations name the policies. `sizes` is a list of inputs, each a list of parameters."
    cut = lambda n: [chunk]*(n//chunk) + [n % chunk]*(n % chunk > 0)
    if policy == 'layer_by_layer': return [n for s in sizes for n in s]
    if policy == 'chunk_within_layer': return [c for s in sizes for n in s for c in cut(n)]
    if policy == 'chunk_within_input': return [c for s in sizes for c in cut(sum(s))]
    return cut(sum(n for s in sizes for n in s))

def released(rng, sizes, inputs, outputs, E=32, depth=2, n_freq=8, octaves=6):
    "A state dict with the authors' names and random numbers."
    w = lambda *shape: rng.normal(0, .2, shape).astype(np.float32)
    sd = {'decoder.pos_emb': w(1, len(inputs), E), 'scalar_embedder.frequencies': (2**np.linspace(0, octaves, n_freq)).astype(np.float32)}
    for n in ['ln_in', 'ln_f'] + [f'blocks.{i}.ln{k}' for i in range(depth) for k in (1, 2)]: sd |= {f'decoder.{n}.weight': 1 + w(E), f'decoder.{n}.bias': w(E)}
    for i in range(depth):
        for n, a, b in [(f'attn.{p}', E, E) for p in ('key', 'query', 'value', 'proj')] + [('mlp.0', 4*E, E), ('mlp.2', E, 4*E)]: sd |= {f'decoder.blocks.{i}.{n}.weight': w(a, b), f'decoder.blocks.{i}.{n}.bias': w(a)}
    sd |= {f'decoder.input_parameter_projections.{i}.0.weight': w(E, c) for i, c in enumerate(inputs)}
    return sd | {f'decoder.output_parameter_projections.{i}.0.weight': w(c, E) for i, c in enumerate(outputs)}

def compute(sd, heads, x, t, x_prev, target, prev, n_scalars):
    "What a released model says, in double precision, written from the paper's description."
    sd = {n: v.astype(np.float64) for n, v in sd.items()}
    p = lambda n: sd[f'decoder.{n}']
    def norm(h, n): c = h - h.mean(-1, keepdims=True); return c/np.sqrt((c**2).mean(-1, keepdims=True) + 1e-5)*p(n + '.weight') + p(n + '.bias')
    def linear(h, n): return h @ p(n + '.weight').T + p(n + '.bias')
    def scalar(s): # the angles in single precision, as they are there: step 999 times frequency 64 is far more than double and single precision agree on the sine of
        z = (np.float32(s)[:, None]*np.float32(sd['scalar_embedder.frequencies'])).astype(np.float64); return np.concatenate([np.sin(z), np.cos(z), s[:, None]], 1)
    row = np.concatenate([x, x_prev] + [scalar(s) for s in (t, np.float32(target) - np.float32(prev), target, prev)[:n_scalars]], 1)
    tokens, at = [], 0
    while f'decoder.input_parameter_projections.{len(tokens)}.0.weight' in sd:
        W = p(f'input_parameter_projections.{len(tokens)}.0.weight'); tokens.append(row[:, at:at + W.shape[1]] @ W.T); at += W.shape[1]
    assert at == row.shape[1]
    h = norm(np.stack(tokens, 1), 'ln_in') + p('pos_emb')
    B, L, E = h.shape
    for i in range(sum(n.endswith('ln1.weight') for n in sd)):
        b, split = f'blocks.{i}.', lambda v: v.reshape(B, L, heads, E//heads).transpose(0, 2, 1, 3)
        n = norm(h, b + 'ln1'); q, k, v = (split(linear(n, f'{b}attn.{m}')) for m in ('query', 'key', 'value'))
        a = q @ k.transpose(0, 1, 3, 2)/np.sqrt(E//heads); a = np.exp(a - a.max(-1, keepdims=True)); a /= a.sum(-1, keepdims=True)
        h = h + linear((a @ v).transpose(0, 2, 1, 3).reshape(B, L, E), b + 'attn.proj')
        m = linear(norm(h, b + 'ln2'), b + 'mlp.0'); h = h + linear(m*.5*(1 + erf(m/np.sqrt(2))), b + 'mlp.2')
    h, i, out = norm(h, 'ln_f'), 0, []
    while f'decoder.output_parameter_projections.{i}.0.weight' in sd: out.append(h[:, i] @ p(f'output_parameter_projections.{i}.0.weight').T); i += 1
    return x_prev + np.concatenate(out, 1)

def ask(model, x, t, x_prev, target, prev):
    with torch.no_grad(): return model(*(torch.as_tensor(np.asarray(v), dtype=torch.float32) for v in (x, t, x_prev, target, prev))).numpy()

@pytest.mark.parametrize('which', ['G', 'G_ema'])
def test_the_authors_numbers(which):
    io = load_file(GOLDEN/'gpt_tiny_io.safetensors')
    model = convert(read_checkpoint(GOLDEN/'gpt_tiny.pt', which), LAYERS, json.loads((GOLDEN/'gpt_tiny.json').read_text())['n_head'])
    args = io['x'], io['t'][:, 0], io['x_prev'], io['loss_target'][:, 0], io['loss_prev'][:, 0]
    assert np.abs(ask(model, *args) - io[f'out_{which}'].numpy()).max() <= 1e-5
    sd = {n: v.numpy() for n, v in read_checkpoint(GOLDEN/'gpt_tiny.pt', which).items()}
    assert np.abs(compute(sd, 2, *(a.numpy().astype(np.float64) for a in args), 4) - io[f'out_{which}'].numpy()).max() <= 1e-5   # so the other tests' reference is right, too

@pytest.mark.parametrize('policy, chunk, whole', [('chunk_within_layer', 12, False), ('chunk_within_layer', 20, True), ('layer_by_layer', None, True), ('chunk', 10, False), ('chunk', 100, False), ('chunk_within_input', 30, True), ('chunk_within_input', 9, False)])
@pytest.mark.parametrize('n_scalars', [4, 2])
def test_every_configuration(policy, chunk, whole, n_scalars):
    "Chunked and layer by layer, scalars split and whole, with and without the absolute metrics."
    rng = np.random.default_rng(0)
    inputs, outputs = pieces([SIZES, SIZES] + [[17]]*n_scalars, policy, chunk), pieces([SIZES], policy, chunk)
    assert (inputs[-n_scalars:] == [17]*n_scalars) == whole or policy == 'chunk'
    sd = released(rng, SIZES, inputs, outputs)
    model = convert({n: torch.from_numpy(v) for n, v in sd.items()}, LAYERS, 4)
    args = rng.normal(size=(6, 77)), np.array([0., 10, 250, 500, 998, 999]), rng.normal(size=(6, 77)), rng.random(6), rng.random(6)*2
    args = [a.astype(np.float32).astype(np.float64) for a in args]
    expected = compute(sd, 4, *args, n_scalars)
    assert np.abs(ask(model, *args) - expected).max() <= 1e-5 and np.abs(expected - args[2]).max() > .1
    if whole and n_scalars == 4 and policy != 'chunk_within_input': assert np.abs(ask(as_gpt(model), *args) - expected).max() <= 1e-5      # our own GPT is the same function
    else:
        with pytest.raises(ValueError): as_gpt(model)

def test_policies_have_a_log_std():
    "A released model of policies writes one number more than our layout has, in front."
    rng, sizes = np.random.default_rng(0), [1, 24, 6, 6, 1]
    sd = released(rng, sizes, sizes*2 + [17]*4, sizes)
    model = convert({n: torch.from_numpy(v) for n, v in sd.items()}, POLICY, 4)
    args = [rng.normal(size=(3, 38)), np.array([0., 9, 99]), rng.normal(size=(3, 38)), rng.random(3)*500, rng.random(3)*500]
    assert np.abs(ask(model, *args) - compute(sd, 4, *[a.astype(np.float32).astype(np.float64) for a in args], 4)).max() <= 1e-5
    args[0][:, 0] = args[2][:, 0] = 0
    np.testing.assert_allclose(ask(model, args[0][:, 1:], args[1], args[2][:, 1:], *args[3:]), ask(model, *args)[:, 1:], atol=1e-6)

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(Path(__file__).parent)
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        out, err = capsys.readouterr()
        return code, out, [l for l in err.splitlines() if l.strip()]
    return run

TOLD = '--task', 'test_imports:tiny', '--metric', 'loss', '--heads', 2, '--scale', 2, '--best', 1.2

def test_as_commands(kit, tmp_path):
    "Imported, it is a model file in full precision, and `gpt-kit prompt` asks it."
    code, out, said = kit('import', 'gpt-model', GOLDEN/'gpt_tiny.pt', 'tiny.safetensors', *TOLD)
    assert code == 0 and 'M parameters' in out, said
    model, info = load_model('tiny.safetensors', restore)
    assert all(torch.equal(t, u) for t, u in zip(model.state_dict().values(), convert(read_checkpoint(GOLDEN/'gpt_tiny.pt'), LAYERS, 2).state_dict().values()))
    code, out, said = kit('prompt', 'tiny.safetensors', 1.4, '--out', 'net.onnx')
    assert code == 0 and 'achieved' in out and (tmp_path/'net.onnx').stat().st_size > 300, said

def test_refused_in_one_sentence(kit, tmp_path):
    def refused(*args):
        code, out, said = kit('import', 'gpt-model', *args)
        assert code == 1 and len(said) == 1 and not re.search(r'[.!?] +[A-Z]', said[0]), said
        return said[0]
    assert 'no file' in refused('nowhere.pt', 'm.safetensors', *TOLD)
    assert '--task, --metric, --heads, --scale, --best' in refused(GOLDEN/'gpt_tiny.pt')
    (tmp_path/'half.pt').write_bytes((GOLDEN/'gpt_tiny.pt').read_bytes()[:5000]); assert 'cut short' in refused('half.pt', 'm.safetensors', *TOLD)
    torch.save(torch.nn.Linear(2, 2), 'whole.pt'); assert 'nothing in it was run' in refused('whole.pt', 'm.safetensors', *TOLD)
    torch.save({'a': torch.zeros(1)}, 'other.pt'); assert "'G' and 'G_ema'" in refused('other.pt', 'm.safetensors', *TOLD)
    torch.save({'G_ema': {'a': torch.zeros(1)}}, 'other.pt'); assert 'no released G.pt' in refused('other.pt', 'm.safetensors', *TOLD)
    assert 'multiple of 5 heads' in refused(GOLDEN/'gpt_tiny.pt', 'm.safetensors', *TOLD[:5], 5, *TOLD[6:])
    assert 'choose the task' in refused(GOLDEN/'gpt_tiny.pt', 'm.safetensors', '--task', 'digits', *TOLD[2:])
    assert 'ends in .safetensors' in refused(GOLDEN/'gpt_tiny.pt', 'm.pt', *TOLD)
    assert 'has no metric' in refused(GOLDEN/'gpt_tiny.pt', 'm.safetensors', *TOLD[:3], 'return', *TOLD[4:])

def test_sizes_of_table_1():
    "Parameters in millions, as the paper's Table 1 has them."
    def millions(layers, sizes, E, heads):
        with torch.device('meta'): return round(sum(p.numel() for p in ReleasedGPT(layers, sizes*2 + [257]*4, sizes, E, 12, heads, 128).parameters())/1e6)
    cut = lambda sizes, m: [c for n in sizes for c in [m]*(n//m) + [n % m]*(n % m > 0)]
    from gpt_kit.cartpole import POLICY
    from gpt_kit.tasks import cnn
    assert millions(read_layers(mlp((784, 10, 10))), cut([7840, 10, 100, 10], 1000), 1536, 16) == 378
    assert millions(read_layers(cnn((3, 32, 32), (16, 32), 10)), cut([432, 4608, 320, 10], 576), 2048, 16) == 639
    assert millions(POLICY, [1, 128, 32, 1024, 32, 32, 1], 1536, 12) == 347

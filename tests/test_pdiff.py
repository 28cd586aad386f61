"p-diff: what it refuses and says, what stays as it was, and every table of it at a tiny size."
import json, pickle, re, sys, warnings
from pathlib import Path

import pytest, torch, torch.nn as nn
import gpt_kit.zoo
from safetensors.torch import save_file

from gpt_kit.batch import read_parameters, run_notebooks
from gpt_kit.compare import Judge, noised, soup, table
from gpt_kit.gallery import WORDS, write_gallery
from gpt_kit.pdiff import Codec, Config, check_reconstruction, fit_codec, fit_pdiff
from gpt_kit.zoo import Part, build, choose, folder_zoo, one_run, runner, splits

ROOT = Path(__file__).parent.parent
FIGURES = sorted((ROOT/'nbs'/'figures').glob('pdiff_*.ipynb'))
TINY = Config(latent=4).sized(4, 6)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))

def refused(kind, does, *words):
    "The one sentence with which something is refused."
    with pytest.raises(kind) as e: does()
    said = str(e.value)
    assert not re.search(r'[.!?] +[A-Z]', said) and '\n' not in said and [w for w in words if w not in said] == [], said

@pytest.fixture
def folder(tmp_path):
    "Six checkpoints as the released code lays them out."
    for i in range(6): torch.save({n: t + .01*i for n, t in net().state_dict().items() if t.is_floating_point()}, tmp_path/f'{i:04}_acc0.97.pth')
    return tmp_path

# Bad input

def test_no_parameter_matches():
    refused(ValueError, lambda: choose(net(), '*attention*'), 'no parameter matches', '*attention*')
    refused(ValueError, lambda: choose(net(), nn.LSTM), 'no parameter matches')

def test_other_shapes(folder):
    torch.save(nn.Sequential(nn.Conv2d(1, 5, 3)).state_dict(), folder/'0007.pth')
    refused(ValueError, lambda: folder_zoo(folder, net(), splits(), ['0.weight']), '0007.pth', '(5, 1, 3, 3)', '(4, 1, 3, 3)')

def test_missing_keys(folder):
    torch.save({'0.weight': net()[0].weight.data}, folder/'0007.pth')
    refused(ValueError, lambda: folder_zoo(folder, net(), splits()), '0007.pth', 'lacks 0.bias')

def test_not_finite(folder):
    save_file({n: t/0 for n, t in net().state_dict().items() if t.is_floating_point()}, folder/'0007.safetensors')
    refused(ValueError, lambda: folder_zoo(folder, net(), splits()), '0007.safetensors', 'not finite')
    refused(ValueError, lambda: Codec(torch.full((3, 20), float('nan')), TINY), '3 of 3 originals', 'not finite')

class Evil:
    def __reduce__(self): return (open, (str(Path(__file__).with_name('never-made')), 'w'))

def test_pickle_that_is_no_weights(folder):
    (folder/'0007.pth').write_bytes(pickle.dumps(Evil()))
    refused(ValueError, lambda: folder_zoo(folder, net(), splits()), '0007.pth', 'not run')
    assert not Path(__file__).with_name('never-made').exists()
    torch.save([1, 2], folder/'0007.pth')
    refused(ValueError, lambda: folder_zoo(folder, net(), splits()), 'does not hold names and tensors')

def test_empty_folder(tmp_path): refused(ValueError, lambda: folder_zoo(tmp_path, net(), splits()), 'there are no checkpoints')

def test_latent_larger_than_data(): refused(ValueError, lambda: Codec(torch.randn(5, 20), Config(latent=21)), '21', '20', 'smaller than the data')

def test_one_original_runs_with_a_warning():
    rows = torch.randn(1, 40)
    with pytest.warns(UserWarning, match='one original only'): p = fit_pdiff(rows, TINY)
    new = p.sample(3, steps=5)
    assert new.isfinite().all() and (new - rows).norm(dim=1).max() < .05*rows.norm()

def test_names_that_do_not_exist():
    refused(ValueError, lambda: build('alexnet'), 'resnet18')
    for bad in (Config(latent=4, layers='rnn'), Config(latent=4, norm='spectral')): refused(ValueError, lambda: Codec(torch.randn(5, 20), bad), 'use one of')
    refused(ValueError, lambda: fit_pdiff(torch.randn(5, 20), TINY).sample(2, solver='euler'), 'euler')

def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    refused(ValueError, lambda: build('vit'), 'transformers', "pip install 'gpt_kit[hub]'")

def test_destroyed_reconstruction_is_said():
    rows = torch.randn(5, 20)
    codec, accuracy = Codec(rows, TINY), lambda r: 90. - 80*(r != rows).any(1).float()
    with pytest.warns(UserWarning, match='loses what networks can do: 90.0 % before and 10.0 % after'): check_reconstruction(codec, rows, accuracy)

# Zoos and parts

def test_folder_as_released(folder):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        zoo = folder_zoo(folder, net(), splits(), choose(net(), 'norm', slice(-1, None)), buffers=True)
    assert zoo.rows.shape == (6, 16)                                     # weight, bias, mean, variance
    torch.testing.assert_close(zoo.rows[3], zoo.part.row(net()) + .03)

def test_frozen_parts_that_differ_are_said(folder):
    with pytest.warns(UserWarning, match='differ between the checkpoints'): folder_zoo(folder, net(), splits(), ['4.weight'])

@pytest.mark.parametrize('arch, what', [('resnet18', 'norm'), ('resnet18', '*shortcut.convolution*'), ('vit', 'norm'), ('convnext', 'norm'), ('convnet3', 'all'), ('convnet3', 'linear')])
def test_many_at_once_is_one_at_a_time(arch, what):
    "With the frozen part run once, and for all at once."
    whole = build(arch); X = splits(arch == 'convnet3')['test'][0][:20]
    part = Part(whole, choose(whole, what, slice(-2, None) if what == 'norm' else slice(None)))
    rows = part.row(whole) + .1*torch.randn(3, part.D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        many = runner(part, X, 2)(rows)
        for row, logits in zip(rows, many):
            one = part.module(row)(X)
            torch.testing.assert_close(logits.T, getattr(one, 'logits', one), atol=1e-4, rtol=1e-4)

def test_behaviour_has_a_gradient():
    part = Part(net()); x, y = splits()['train']
    rows = part.row(net()) + .01*torch.randn(8, part.D)
    config = Config(latent=4, behaviour=1.).sized(3, 3)
    plain, behaving = (fit_codec(rows, config, behaviour=b).history for b in (None, runner(part, x[:30])))
    assert all(b['loss'] > p['loss'] for p, b in zip(plain[:1], behaving))

def test_buffers_are_frozen_or_in_the_row():
    whole = net().train(); part = Part(whole, choose(whole, 'norm'), buffers=True)
    state = part.state_dict(torch.arange(16.))
    assert state['1.running_mean'].tolist() == [8, 9, 10, 11] and '1.num_batches_tracked' in state
    assert Part(whole, choose(whole, 'norm')).state_dict(torch.arange(8.))['1.running_mean'].tolist() == [0]*4

# Drawing

def test_same_seed_same_networks():
    rows = torch.randn(10, 30)
    a, b = (fit_pdiff(rows, TINY, seed=3).sample(4, seed=1) for _ in range(2))
    assert torch.equal(a, b)

def test_batch_statistics_follow_the_average():
    "The averaged autoencoder has the running statistics of the trained one, or batch normalisation would undo it."
    codec = fit_codec(torch.randn(30, 64), Config(latent=4, norm='batch').sized(20, 1))
    means = [m.running_mean for m in codec.ae.modules() if isinstance(m, nn.BatchNorm1d)]
    assert means and all(m.abs().sum() > 0 for m in means)

def test_hundred_networks_at_once():
    zoo = one_run('mlp3', 'all', (None, None), 10, 1)
    p = fit_pdiff(zoo.rows, TINY, accuracy=lambda r: Judge(zoo)(r)['test'])
    df = table(zoo, dict(generated=p.sample(100, steps=5), soup=soup(zoo.rows), noise=noised(zoo.rows, 5)))
    assert list(df.index) == ['originals', 'generated', 'soup', 'noise'] and df.loc['generated', 'networks'] == 100
    assert df[['best', 'mean', 'median', 'worst']].notna().all().all()

# Every table, tiny

SMALL = dict(n_originals=12, n_networks=4, ae_steps=2, diffusion_steps=3, seeds=1, n_starts=1, epochs=1, batch=8, largest=2048)

def test_tables_look_alike():
    assert len(FIGURES) >= 15
    for f in FIGURES:
        cells = json.loads(f.read_text())['cells']
        text = [''.join(c['source']) for c in cells]
        assert re.match(r'# \S.*\n\n> \S', text[0]) and 'def ' not in '\n'.join(t for t, c in zip(text, cells) if c['cell_type'] == 'code')
        assert re.search(r'^verdict\(', text[-1], re.M) and '**Holds**' in text[-2]
        assert all(c.get('outputs', []) == [] for c in cells) and read_parameters(f)

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_table(file, run_here, tmp_path_factory, monkeypatch):
    "Runs to its verdict, in this process: a kernel for each would take longer than the tables."
    whole = splits
    monkeypatch.setattr(gpt_kit.zoo, 'splits', lambda flat=False: {s: (X[:100], y[:100]) for s, (X, y) in whole(flat).items()})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = run_here(file, dict(SMALL, cache=str(tmp_path_factory.getbasetemp()/'pdiff')))
    assert found['verdict'] in WORDS

def test_a_table_runs_as_a_batch_job(tmp_path):
    file = ROOT/'nbs'/'figures'/'pdiff_tab7_memory.ipynb'
    run_notebooks([file], {file.stem: dict(batch=4, largest=2048, cache=str(tmp_path))}, tmp_path/'out', progress=False, say=lambda s: None)
    assert [*write_gallery(tmp_path/'out').values()][0]['name'] == 'Tab. 7'

"p-diff: what it refuses and says, what stays as it was, and every table of it at a tiny size."
import json
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from safetensors.torch import save_file

import gpt_kit.pdiff.zoo
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.states import read_state
from gpt_kit.networks.store import write_tensors
from gpt_kit.pdiff.compare import (Judge, compare_sets, sample_gaussian, sample_noised, soup,
                                   summarize_accuracy)
from gpt_kit.pdiff.pdiff import (NORM_LAYERS, AutoEncoder, Codec, Denoiser, PDiffConfig, check_reconstruction,
                                 fit_codec, fit_pdiff, sample_kde, sample_vae)
from gpt_kit.pdiff.zoo import (NetworkPart, Zoo, build_forward, choose_parameters, digits_splits, get_network,
                               optimize_module, zoo_from_run)
from gpt_kit.run.gallery import write_gallery
from gpt_kit.run.jobs import Job, run_jobs
from gpt_kit.run.parameters import read_parameters

ROOT = Path(__file__).parent.parent
FIGURES = sorted((ROOT/'nbs'/'figures').glob('pdiff_*.ipynb'))
TINY = PDiffConfig(latent=4).with_steps(4, 6)
LAST_TWO = slice(-2, None)
WHOLE = dict(what='all', which=(None, None), n=10, epochs=1)

def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))

def refused(does, *words):
    "The one sentence with which something is refused."
    with pytest.raises(UserError) as e: does()
    said = str(e.value)
    assert not re.search(r'[.!?] +[A-Z]', said) and '\n' not in said, said
    assert [w for w in words if w not in said] == [], said

def read_rows(folder, part):
    "A folder of checkpoints as lesson zoo reads it."
    return torch.stack([part.row(read_state(f), f.name) for f in sorted(folder.iterdir())])

@pytest.fixture
def folder(tmp_path):
    "Six checkpoints as the released code lays them out."
    for i in range(6):
        state = {n: t + .01*i for n, t in small_net().state_dict().items() if t.is_floating_point()}
        torch.save(state, tmp_path/f'{i:04}_acc0.97.pth')
    return tmp_path

# Bad input

def test_no_parameter_matches():
    refused(lambda: choose_parameters(small_net(), '*attention*'), 'no parameter matches', '*attention*')
    refused(lambda: choose_parameters(small_net(), nn.LSTM), 'no parameter matches')

def test_other_shapes(folder):
    torch.save(nn.Sequential(nn.Conv2d(1, 5, 3)).state_dict(), folder/'0007.pth')
    part = NetworkPart(small_net(), ['0.weight'])
    refused(lambda: read_rows(folder, part), '0007.pth', '(5, 1, 3, 3)', '(4, 1, 3, 3)')
    refused(lambda: part.split(torch.zeros(2, 5)), '(2, 5)', '(K, 36)')

def test_missing_keys(folder):
    torch.save({'0.weight': small_net()[0].weight.data}, folder/'0007.pth')
    refused(lambda: read_rows(folder, NetworkPart(small_net())), '0007.pth', 'lacks 0.bias')

def test_not_finite(folder):
    broken = {n: t/0 for n, t in small_net().state_dict().items() if t.is_floating_point()}
    save_file(broken, folder/'0007.safetensors')
    refused(lambda: read_rows(folder, NetworkPart(small_net())), '0007.safetensors', 'not finite')
    refused(lambda: Codec(torch.full((3, 20), float('nan')), TINY), '3 of 3 originals', 'not finite')

def test_latent_larger_than_data():
    refused(lambda: Codec(torch.randn(5, 20), PDiffConfig(latent=21)), '21', '20', 'smaller than the data')

def test_one_original_runs_with_a_warning():
    rows = torch.randn(1, 40)
    with pytest.warns(UserWarning, match='one original only'): p = fit_pdiff(rows, TINY)
    new = p.sample(3, steps=5)
    assert new.isfinite().all() and (new - rows).norm(dim=1).max() < .05*rows.norm()

def test_names_that_do_not_exist():
    refused(lambda: get_network('alexnet'), 'resnet18')
    for bad in (PDiffConfig(latent=4, layers='rnn'), PDiffConfig(latent=4, norm='spectral')):
        refused(lambda: Codec(torch.randn(5, 20), bad), 'use one of')
    refused(lambda: fit_pdiff(torch.randn(5, 20), TINY).sample(2, solver='euler'), 'euler')
    refused(lambda: list(optimize_module(small_net(), digits_splits(), 1, optimizer='lion')), 'no optimizer')

def test_training_that_explodes():
    steps = optimize_module(small_net(), digits_splits(), 9, lr=1e6)
    refused(lambda: list(steps), 'smaller rate than 1000000')

def test_nothing_finite_to_choose_from():
    judged = dict(loss=torch.full((3,), float('nan')), test=torch.zeros(3))
    refused(lambda: summarize_accuracy(judged), 'finite loss')

def test_no_prior_without_a_variational_autoencoder():
    refused(lambda: sample_vae(Codec(torch.randn(5, 20), TINY), 2), 'not variational')

def test_without_transformers(monkeypatch):
    monkeypatch.setitem(sys.modules, 'transformers', None)
    refused(lambda: get_network('vit'), 'transformers', "pip install 'gpt_kit[hub]'")

def test_destroyed_reconstruction_is_said():
    rows = torch.randn(5, 20)
    codec = Codec(rows, TINY)
    with pytest.warns(UserWarning, match='loses what networks can do: 90.0 % before and 10.0 % after'):
        check_reconstruction(codec, rows, lambda r: 90. - 80*(r != rows).any(1).float())

# Zoos and parts

def test_folder_as_released(folder):
    net = small_net()
    part = NetworkPart(net, choose_parameters(net, 'norm'), buffers=True)
    rows = read_rows(folder, part)
    assert rows.shape == (6, 16)                                         # weight, bias, mean, variance
    torch.testing.assert_close(rows[3], part.row(net) + .03)

@pytest.mark.parametrize('arch, what, which', [
    ('resnet18', 'norm', LAST_TWO), ('resnet18', '*shortcut.convolution*', slice(None)),
    ('vit', 'norm', LAST_TWO), ('convnext', 'norm', LAST_TWO), ('convnet3', 'all', slice(None)),
    ('convnet3', 'linear', slice(None))])
def test_many_at_once_is_one_at_a_time(arch, what, which):
    "With the frozen part run once, and for all at once."
    net = get_network(arch)
    X = digits_splits(flat=arch == 'convnet3')['test'][0][:20]
    part = NetworkPart(net, choose_parameters(net, what, which=which))
    rows = part.row(net) + .1*torch.randn(3, part.D, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        many = build_forward(part, X, chunk=2)(rows)
        for row, logits in zip(rows, many):
            one = part.module(row)(X)
            torch.testing.assert_close(logits.T, getattr(one, 'logits', one), atol=1e-4, rtol=1e-4)

@pytest.mark.parametrize('what', ['all', 'linear', '0.*', 'norm'])
def test_any_choice_runs_as_the_network_does(what):
    net, (X, _) = small_net(), digits_splits()['test']
    part = NetworkPart(net, choose_parameters(net, what))
    logits = build_forward(part, X[:5])(part.row(net)[None])
    with torch.no_grad(): torch.testing.assert_close(logits[0].T, net.eval()(X[:5]), atol=1e-5, rtol=1e-5)

def test_behaviour_has_a_gradient():
    part, (X, _) = NetworkPart(small_net()), digits_splits()['train']
    rows = part.row(small_net()) + .01*torch.randn(8, part.D)
    predict, leaf = build_forward(part, X[:30]), rows.clone().requires_grad_()
    grad, = torch.autograd.grad(predict(leaf).square().sum(), leaf)
    assert (grad.abs().amax(1) > 0).all()
    config = PDiffConfig(latent=4, behaviour=1.).with_steps(3, 3)
    plain, behaving = fit_codec(rows, config), fit_codec(rows, config, behaviour=predict)
    assert behaving.history[0]['loss'] > plain.history[0]['loss']
    z = torch.ones(1, 4)
    assert not torch.equal(plain.decode(z), behaving.decode(z))          # another autoencoder comes out

def test_buffers_are_frozen_or_in_the_row():
    net = small_net().train()
    norm = choose_parameters(net, 'norm')
    state = NetworkPart(net, norm, buffers=True).state_dict(torch.arange(16.))
    assert state['1.running_mean'].tolist() == [8, 9, 10, 11] and '1.num_batches_tracked' in state
    assert NetworkPart(net, norm).state_dict(torch.arange(8.))['1.running_mean'].tolist() == [0]*4

def test_a_kept_zoo_is_read_again(tmp_path):
    "And not trained again: what is found in its file is what it is."
    first = zoo_from_run('mlp3', cache=tmp_path, **WHOLE)
    file, = tmp_path.glob('*.safetensors')
    write_tensors(file, dict(first.part.net.state_dict(), rows=first.rows + 1), dict(kind='zoo'))
    again = zoo_from_run('mlp3', cache=tmp_path, **WHOLE)
    assert torch.equal(again.rows, first.rows + 1)
    assert torch.equal(again.part.net[0].weight, first.part.net[0].weight)
    assert not torch.equal(zoo_from_run('mlp3', cache=tmp_path, seed=1, **WHOLE).rows, first.rows + 1)

# Generated networks

@pytest.mark.parametrize('layers', ['paper', 'released', 'fc'])
@pytest.mark.parametrize('norm', NORM_LAYERS)
@pytest.mark.parametrize('D', [100, 300])
def test_autoencoder_shapes(layers, norm, D):
    ae = AutoEncoder(D, PDiffConfig(latent=8, layers=layers, norm=norm))
    assert ae.encode(torch.randn(3, D)).shape == (3, 8) and ae.decode(torch.randn(3, 8)).shape == (3, D)

@pytest.mark.parametrize('layers', ['paper', 'fc'])
@pytest.mark.parametrize('labels', [0, 3])
@pytest.mark.parametrize('E', [1, 4, 8, 63, 64])
def test_denoiser_shapes(layers, labels, E):
    label = torch.tensor([0, 1, 2]) if labels else None
    net = Denoiser(E, layers=layers, labels=labels)
    assert net(torch.randn(3, E), torch.tensor([0, 5, 999]), label).shape == (3, E)

def test_all_generators_by_their_shape():
    rows = torch.randn(10, 30)
    plain, vae = fit_codec(rows, TINY), fit_codec(rows, PDiffConfig(latent=4, kl=1.).with_steps(4, 6))
    for new in (sample_kde(plain, rows, 5), sample_vae(vae, 5), sample_noised(rows, 5)):
        assert new.shape == (5, 30) and new.isfinite().all()
    assert torch.equal(sample_gaussian(rows[:1], 2), rows[:1].expand(2, -1))     # one has no spread

def test_same_seed_same_networks():
    rows = torch.randn(10, 30)
    a, b = (fit_pdiff(rows, TINY, seed=3) for _ in range(2))
    assert torch.equal(a.sample(4, seed=1), b.sample(4, seed=1))
    assert not torch.equal(a.sample(4, seed=1), a.sample(4, seed=2))

def test_batch_statistics_follow_the_average():
    "The averaged autoencoder has the running statistics of the trained one."
    codec = fit_codec(torch.randn(30, 64), PDiffConfig(latent=4, norm='batch').with_steps(20, 1))
    means = [m.running_mean for m in codec.ae.modules() if isinstance(m, nn.BatchNorm1d)]
    assert means and all(m.abs().sum() > 0 for m in means)

def test_hundred_networks_at_once():
    zoo = zoo_from_run('mlp3', **WHOLE)
    p = fit_pdiff(zoo.rows, TINY, accuracy=lambda rows: Judge(zoo)(rows)['test'])
    sets = dict(generated=p.sample(100, steps=5), soup=soup(zoo.rows), noise=sample_noised(zoo.rows, 5))
    df = compare_sets(zoo, sets)
    assert list(df.index) == ['originals', *sets] and df.loc['generated', 'networks'] == 100
    assert df[['best', 'mean', 'median', 'worst']].notna().all().all()

def test_judged_as_one_by_one():
    zoo = zoo_from_run('mlp3', **WHOLE)
    judged = Judge(zoo)(zoo.rows)
    for split, (X, y) in zoo.data.items():
        with torch.no_grad(): right = zoo.part.module(zoo.rows[3])(X).argmax(1) == y
        torch.testing.assert_close(judged[split][3], 100*right.float().mean(), atol=.2, rtol=0)

def test_copies_are_not_new():
    "An original is compared with the others, but a generated copy of one lies at a distance of 0."
    zoo = zoo_from_run('mlp3', **WHOLE)
    df = compare_sets(zoo, dict(copies=zoo.rows.clone(), moved=zoo.rows + .01))
    assert df.loc['copies', 'distance nearest'] == 0 and df.loc['copies', 'IoU nearest'] == 1
    assert df.loc['originals', 'distance nearest'] > 0 and df.loc['moved', 'distance nearest'] > 0
    two = Zoo(zoo.part, zoo.rows[:2], zoo.data)
    df = compare_sets(two, dict(copies=two.rows.clone()))
    assert df['distance nearest'].tolist() == [1, 0]                     # in distances of two originals

# Every table, tiny

SMALL = dict(n_originals=12, n_networks=4, ae_steps=2, diffusion_steps=3, seeds=1, n_starts=1, epochs=1,
             batch=8, largest=10000)

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_tables_look_alike(file):
    cells = json.loads(file.read_text())['cells']
    text = {c['id']: ''.join(c['source']) for c in cells}
    code = '\n'.join(text[c['id']] for c in cells if c['cell_type'] == 'code')
    assert re.match(r'# \S.*\n\n> \S', text['title']) and not re.search(r'^\s*(def|class|while) ', code, re.M)
    assert list(text)[-3:] == ['rule-md', 'rule', 'verdict'] and '**Holds**' in text['rule-md']
    assert 'rule = lambda' in text['rule'] and 'both_ways(rule' in text['rule']
    assert re.search(r'^verdict\(', text['verdict'], re.M) and 'rule(' in text['verdict']
    assert all(c.get('outputs', []) == [] for c in cells) and 'cache' in read_parameters(file)

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_table(file, figure_here, tmp_path_factory, monkeypatch):
    "Runs to its verdict, in this process: a kernel for each would take longer than the tables."
    def few(*, flat=False): return {s: (X[:100], y[:100]) for s, (X, y) in digits_splits(flat=flat).items()}
    monkeypatch.setattr(gpt_kit.pdiff.zoo, 'digits_splits', few)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = figure_here(file, dict(SMALL, cache=str(tmp_path_factory.getbasetemp()/'pdiff')))
    assert len(found['checks']) >= 2

def test_a_table_runs_as_a_batch_job(tmp_path):
    file = ROOT/'nbs'/'figures'/'pdiff_tab7_memory.ipynb'
    job, given = Job(file, file.stem, file.name), dict(batch=4, largest=10000, cache=str(tmp_path))
    run_jobs([job], {job.name: given}, tmp_path/'out', progress=False, say=lambda s: None)
    found = write_gallery(tmp_path/'out')[file.stem]
    assert found['name'] == 'Tab. 7' and list(found['ours']) == ['2048', '10000']

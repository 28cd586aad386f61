"Collecting where there are many inputs: what is measured on a sample, and what the store says of it."
import json

import pytest
import torch

from gpt_kit.networks import collect as collecting
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import TRAIN_SAMPLE, Recipe, collect, estimate, local_shards, sample_size
from gpt_kit.networks.families import measure_each
from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import Task, mlp
from gpt_kit.networks.weights import Layout, batch_sizes, measure, sampled_inputs, start_rows
from gpt_kit.run.commands import main

FEW = Recipe(epochs=1, n_saves=3, batch=4000)

def many(n=12_000, name='test_many_pictures:many'):
    "Sorted by class, as some data sets are."
    g = torch.Generator().manual_seed(0)
    y = torch.arange(n)*3//n
    X = torch.randn(n, 5, generator=g) + y[:, None]
    return Task(name, mlp((5, 4, 3)), (X, y), (X[::20], y[::20]))

@pytest.fixture(scope='module')
def pictures(): return many()

def values(store, name): return torch.from_numpy(store.values(name).copy())

def all_rows(store): # (R, S, D)
    runs = torch.arange(store.R).repeat_interleave(store.S)
    saves = torch.arange(store.S).repeat(store.R)
    return store.rows(runs, saves).view(store.R, store.S, -1)

def test_train_metrics_come_from_a_sample(pictures, tmp_path):
    "And the index says of how many; test metrics are those of all test inputs."
    store = collect(pictures, tmp_path, 2, recipe=FEW, progress=False)
    assert store.info['train_sample'] == TRAIN_SAMPLE == sample_size(pictures)
    rows, tasks = all_rows(store), [pictures]*2
    some, whole = (measure_each(tasks, rows, 'train', sample=n)['loss'] for n in (TRAIN_SAMPLE, None))
    torch.testing.assert_close(values(store, 'train_loss'), some)
    assert (some != whole).any() and (some - whole).abs().max() < .02
    torch.testing.assert_close(values(store, 'test_loss'), measure_each(tasks, rows)['loss'])

def test_few_inputs_are_all_measured_on(task, store):
    assert sample_size(task) is None and 'train_sample' not in store.info

def test_a_sample_is_the_same_each_time_and_of_all_classes(pictures):
    X, y = pictures.inputs['train']
    (a, labels), (b, again) = sampled_inputs(X, y, 300), sampled_inputs(X, y, 300)
    assert a.shape == (5, 300) and torch.equal(a, b) and torch.equal(labels, again)
    assert (labels.bincount() > 80).all()                       # sorted data is no danger
    assert sampled_inputs(X, y, len(y))[0] is X and sampled_inputs(X, y, None)[1] is y
    row = start_rows(pictures, [0])
    assert measure(pictures, row, 'train', sample=300)['loss'] != measure(pictures, row, 'train')['loss']

def test_a_store_goes_on_as_it_began(pictures, tmp_path, monkeypatch):
    "One made before there were samples, or with a larger one, is not measured in two ways."
    monkeypatch.setattr(collecting, 'SHARD', 1)
    whole = collect(pictures, tmp_path/'whole', 1, recipe=FEW, progress=False)
    for n in (None, 11_000):
        folder = tmp_path/str(n)
        index = dict(whole.info, shards={})
        index.pop('train_sample')
        folder.mkdir()
        (folder/'index.json').write_text(json.dumps(index if n is None else dict(index, train_sample=n)))
        store = collect(pictures, folder, 2, recipe=FEW, progress=False)
        assert store.R == 2 and store.info.get('train_sample') == n
        wanted = measure_each([pictures]*2, all_rows(store), 'train', sample=n)['loss']
        torch.testing.assert_close(values(Store(folder), 'train_loss'), wanted)

def test_a_damaged_entry_is_refused(pictures, tmp_path):
    store = collect(pictures, tmp_path, 1, recipe=FEW, progress=False)
    (tmp_path/'index.json').write_text(json.dumps(dict(store.info, train_sample='many')))
    with pytest.raises(UserError, match=r"\(it\['train_sample'\] is a text, where a whole"):
        Store(tmp_path)

def test_makers_of_shards_are_told(pictures, tmp_path):
    told = []
    def make(task, shards, recipe, **how):
        told.append(how)
        return local_shards(task, shards, recipe, **how)
    collect(pictures, tmp_path, 1, recipe=FEW, progress=False, make_shards=make)
    assert told == [dict(device='cpu', sample=TRAIN_SAMPLE)]

def test_inputs_are_not_copied(pictures):
    "A minibatch is some rows of what the task holds, and a second copy of many pictures takes much room."
    x, _ = pictures.inputs['train']
    assert x.data_ptr() == pictures.train[0].data_ptr() and x.T.is_contiguous()

def test_many_inputs_in_parts(pictures):
    layout = Layout(pictures.layers)
    assert batch_sizes(layout, 500)[1] == 500 and batch_sizes(layout, 12_000)[1] == 1024
    assert batch_sizes(layout, 12_000, 'cuda')[1] == 12_000

def test_what_it_will_cost_counts_the_sample(pictures):
    "Measuring a sixth as many inputs is expected to take less."
    recipe = Recipe(epochs=1, n_saves=3000)
    costs = [estimate(pictures, recipe, 64, sample=n)['seconds'] for n in (100, None)]
    assert 0 < costs[0] < .7*costs[1]

def test_the_command_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path/'plenty.py').write_text('from test_many_pictures import many\n'
                                      "def task(): return many(name='plenty:task')\n")
    monkeypatch.chdir(tmp_path)
    main(['collect', 's', '--task', 'plenty:task', '--runs', '1', '--epochs', '1', '--saves', '3'])
    said = capsys.readouterr().out
    assert '1 runs of plenty:task, 3 checkpoints each, train metrics on 10,000 inputs: about' in said

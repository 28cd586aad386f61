"The nearest of many networks: copies, what is left out, several hidden layers, what is not a number."
import numpy as np
import pytest
import torch

from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.distance import distance_bound, nearest_checkpoints, nearest_rows, split_neurons
from gpt_kit.networks.symmetry import (align, balance, hidden_groups, permute, random_permutations,
                                       rescale)
from gpt_kit.networks.tasks import digits
from gpt_kit.networks.weights import measure, start_rows

def renumbered(layout, rows):
    return permute(layout, rows, random_permutations(layout, len(rows), torch.Generator().manual_seed(0)))

@pytest.fixture(scope='module')
def ends(store): return store.rows(range(store.R), [store.S - 1]*store.R)

@pytest.fixture(scope='module')
def fresh(task): return start_rows(task, range(2**20, 2**20 + 4))

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    "A task with two hidden layers, and a store of its networks."
    task = digits((8, 6))
    recipe = Recipe(epochs=2, n_saves=6)
    return task, collect(task, tmp_path_factory.mktemp('two')/'store', 12, recipe=recipe, progress=False)

def test_copies_are_found_out(store, ends):
    copies, itself = renumbered(store.layout, ends), torch.arange(store.R)
    assert distance_bound(store.layout, copies, ends).diagonal().max() < .1
    assert nearest_rows(store.layout, copies, ends).index[:, 0].equal(itself)
    assert nearest_checkpoints(store, copies).distance.max() < 1e-4

def test_what_is_left_out(store, ends):
    copies, itself = renumbered(store.layout, ends), torch.arange(store.R)
    near = nearest_rows(store.layout, copies, ends, apart=itself)
    assert near.distance.min() > 1 and (near.index[:, 0] != itself).all()
    near = nearest_checkpoints(store, copies, apart=itself.numpy())
    assert near.distance.min() > 1 and (near.run[:, 0] != itself.numpy()).all()

def test_without_a_layout_nothing_is_aligned(store, ends, fresh):
    plain, distance = nearest_rows(None, fresh, ends), torch.cdist(fresh, ends)
    torch.testing.assert_close(plain.distance[:, 0], distance.amin(1), atol=1e-3, rtol=0)
    runs = np.arange(store.R)
    every = store.rows(np.repeat(runs, store.S), np.tile(np.arange(store.S), store.R))
    near = nearest_checkpoints(store, fresh, runs=runs, aligned=False)
    torch.testing.assert_close(near.distance[:, 0], torch.cdist(fresh, every).amin(1), atol=1e-3, rtol=0)

def test_distances_are_those_of_the_checkpoints_that_are_named(store, fresh):
    near = nearest_checkpoints(store, fresh, k=3)
    rows, others = (balance(store.layout, r) for r in (fresh, store.rows(near.run[:, 2], near.save[:, 2])))
    third = align(store.layout, others, rows)
    torch.testing.assert_close((third - rows).norm(dim=1), near.distance[:, 2], atol=1e-4, rtol=0)

def rescaled(layout, rows):
    "The same functions: every other neuron of each hidden layer × 10, ÷ 10."
    factors = []
    for n, _ in hidden_groups(layout):
        by = torch.ones(len(rows), n)
        by[:, ::2] = 10.
        factors.append(by)
    return rescale(layout, rows, factors)

def test_rescaled_copies_are_found_out(store, ends):
    copies = rescaled(store.layout, renumbered(store.layout, ends))
    assert (copies - ends).norm(dim=1).min() > 1
    near = nearest_rows(store.layout, copies, ends)
    assert near.distance.max() < 1e-3 and near.index[:, 0].equal(torch.arange(store.R))
    assert nearest_checkpoints(store, copies).distance.max() < 1e-3
    found = nearest_rows(store.layout, ends, copies)                     # or the others are rescaled
    assert found.distance.max() < 1e-3

def test_rescaled_copies_of_several_hidden_layers(two):
    task, store = two
    rows = store.rows([3, 5], [5, 2])
    like = 'test_loss', measure(task, rows)['loss']
    assert nearest_checkpoints(store, rescaled(store.layout, rows), like=like).distance.max() < 1e-3

def test_trained_networks_are_as_far_apart_as_ever(store, ends):
    near = nearest_rows(store.layout, ends[:8], ends[8:]).distance[:, 0]
    plain = torch.stack([(align(store.layout, ends[8:], row) - row).norm(dim=1).amin() for row in ends[:8]])
    assert ((near/plain - 1).abs() < .05).all()

def test_nothing_is_near_what_is_not_a_number(store, ends, fresh):
    assert nearest_rows(store.layout, fresh*torch.nan, ends).distance.isinf().all()

def test_fewer_others_than_asked_for(store, ends, fresh):
    near = nearest_rows(store.layout, fresh[:1], ends[:2], k=3)
    assert near.distance.isfinite().tolist() == [[True, True, False]]

def test_several_hidden_layers(two):
    task, store = two
    rows = store.rows([3, 5], [5, 2])
    like = 'test_loss', measure(task, rows)['loss']
    copies = renumbered(store.layout, rows)
    assert nearest_checkpoints(store, copies, like=like).distance.max() < 1e-4
    others = nearest_checkpoints(store, rows, like=like, apart=np.array([3, 5]))
    assert (others.run[:, 0] != [3, 5]).all()

def test_several_hidden_layers_refused(two):
    task, store = two
    rows = store.rows([3, 5], [5, 2])
    with pytest.raises(UserError, match='2 hidden layers'): split_neurons(store.layout, rows)
    with pytest.raises(UserError, match=r"like=\('test_loss', values\)"): nearest_checkpoints(store, rows)

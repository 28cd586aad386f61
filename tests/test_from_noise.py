"Sets of networks side by side: what happens at the edges, and that neurons' numbers do not count."
import pandas as pd
import pytest
import torch

from gpt_kit.networks.collect import Recipe
from gpt_kit.networks.symmetry import permute, random_permutations
from gpt_kit.networks.tasks import Task
from gpt_kit.networks.weights import Layout, measure, start_rows
from gpt_kit.pdiff.pdiff import PDiffConfig
from gpt_kit.study.audit import pca_gaussian, predict_logits
from gpt_kit.study.from_noise import (FRESH, FROM_NOISE, NEW, Made, align_to_average, aligned_spread,
                                      compare_made, draw_made, make_pdiff, make_rivals, summarize_made,
                                      train_fresh, vote_error)

@pytest.fixture(scope='module')
def rows(task): return start_rows(task, range(12))

def renumbered(task, rows, seed=0):
    layout, g = Layout(task.layers), torch.Generator().manual_seed(seed)
    return permute(layout, rows, random_permutations(layout, len(rows), g))

@pytest.mark.parametrize('seed', range(3))
def test_numbers_of_neurons_do_not_count(task, rows, seed):
    layout, others = Layout(task.layers), renumbered(task, rows[:4], seed)
    assert aligned_spread(layout, others) == pytest.approx(aligned_spread(layout, rows[:4]), rel=1e-4)
    assert vote_error(task, others) == pytest.approx(vote_error(task, rows[:4]), abs=.3)
    df = compare_made(task, {FRESH: Made(rows[4:8]), 'copies': Made(others)}, rows[:4])
    assert df.loc['copies', 'nearest'] == pytest.approx(0, abs=1e-3)

def test_aligned_rows_are_the_same_networks(task, rows):
    layout = Layout(task.layers)
    same = align_to_average(layout, renumbered(task, rows[:1].repeat(5, 1)))
    assert torch.equal(same, same[:1].expand(5, -1))                    # one network, in five orders
    aligned = align_to_average(layout, rows)
    assert torch.allclose(measure(task, aligned)['loss'], measure(task, rows)['loss'], atol=1e-4)
    around = [(r - r.mean(0)).square().sum() for r in (aligned, rows)]
    assert around[0] < around[1]

def test_a_single_network_and_a_single_test_set(task, rows):
    alone = Task('alone', task.net, task.train, task.test)              # no second test set
    df = compare_made(alone, {FRESH: Made(rows[:3]), 'soup': Made(rows[3:4])}, rows[4:])
    assert df.loc['soup', 'spread'] == 0 and 'vote, test2' not in df
    assert df.loc['soup', 'vote, test'] == pytest.approx(df.loc['soup', 'error'], abs=1e-4)
    assert draw_made(df).data

def test_seconds_count_what_came_before(task, rows):
    config = PDiffConfig(latent=4).with_steps(2, 2)
    made, error = make_pdiff(task, rows, 3, config, before=100.)
    assert made.seconds > 100 and len(made.rows) == 3 and 0 <= error <= 100
    again = make_pdiff(task, rows, 3, config)[0]
    assert torch.equal(made.rows, again.rows) and again.seconds < 100

def test_rivals_are_as_many_and_noise_as_long(task, rows):
    fresh = train_fresh(task, Recipe(epochs=1, n_saves=2), 3)
    rivals = make_rivals(task, rows, fresh.rows, shares=(.5, 2.))
    assert {name: len(made.rows) for name, made in rivals.items() if len(made.rows) != 3} == {
        'soup': 1, 'soup, aligned': 1}
    df = compare_made(task, {FRESH: fresh} | rivals, rows)
    assert df.loc['copies, noise 0.5', 'nearest'] == pytest.approx(.5, rel=.1)
    assert df['seconds'].min() >= 0

def table(**errors):
    lines = {name: dict(error=error, nearest=near, spread=1.) for name, (error, near) in errors.items()}
    return pd.DataFrame.from_dict(lines, orient='index')

def test_best_of_all_that_are_new():
    df = table(**{FRESH: (3., 1.), FROM_NOISE: (4., 1.), 'p-diff': (8., NEW), 'soup': (2., NEW - .01)})
    found = summarize_made(df)
    assert (found['best that is new'], found['error, best that is new']) == ('p-diff', 8.)
    old = summarize_made(table(**{FRESH: (3., 1.), FROM_NOISE: (4., 1.), 'p-diff': (8., .5)}))
    assert (old['best that is new'], old['error, best that is new']) == ('none', float('inf'))
    assert old['error, best p-diff'] == 8. and old['best helped p-diff'] == 'none'

def test_as_many_directions_as_asked_and_any_split(task, rows):
    made = pca_gaussian(rows, 9, directions=2)
    assert torch.linalg.matrix_rank(made - rows.mean(0), atol=1e-3) == 2
    assert predict_logits(task, rows[:2], split='test2').shape[2] == len(task.test2[1])

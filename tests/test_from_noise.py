"Sets of networks side by side: what happens at the edges, and that neurons' numbers do not count."
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.networks.collect import GROUP, Recipe
from gpt_kit.networks.symmetry import permute, random_permutations, rescale
from gpt_kit.networks.tasks import Task, error_percent
from gpt_kit.networks.weights import Layout, measure, start_rows
from gpt_kit.pdiff.pdiff import PDiffConfig
from gpt_kit.study import from_noise
from gpt_kit.study.audit import pca_gaussian, predict_logits, probabilities
from gpt_kit.study.diversity import train_ends
from gpt_kit.study.from_noise import (DIFFERENT, FRESH, FROM_NOISE, NEW, PDIFF_KINDS, PDIFF_RATES,
                                      PDIFF_SETTINGS, Made, align_to_average, aligned_spread,
                                      choose_pdiffs, compare_made, describe_networks, draw_made,
                                      ensemble_probabilities, fresh_orders, make_baselines, make_pdiff,
                                      make_pdiffs, make_timed, summarize_made, tell_made, train_fresh,
                                      training_seconds, try_pdiffs)
from gpt_kit.study.lab import Lab

@pytest.fixture(scope='module')
def rows(task): return start_rows(task, range(12))

def renumbered(task, rows, seed=0):
    layout, g = Layout(task.layers), torch.Generator().manual_seed(seed)
    return permute(layout, rows, random_permutations(layout, len(rows), g))

@pytest.mark.parametrize('seed', range(3))
def test_numbers_of_neurons_do_not_count(task, rows, seed):
    layout, others = Layout(task.layers), renumbered(task, rows[:4], seed)
    assert aligned_spread(layout, others) == pytest.approx(aligned_spread(layout, rows[:4]), rel=1e-4)
    together = [ensemble_probabilities(task, some) for some in (others, rows[:4])]
    torch.testing.assert_close(*together, atol=1e-4, rtol=0)
    df = compare_made(task, {FRESH: Made(rows[4:8]), 'copies': Made(others)}, rows[:4])
    assert df.loc['copies', 'nearest'] == pytest.approx(0, abs=1e-3)

def test_the_scale_of_neurons_does_not_count(task, rows):
    layout = Layout(task.layers)
    factors = 10**torch.linspace(-1, 1, 16).expand(4, -1)
    scaled = rescale(layout, renumbered(task, rows[:4]), [factors])
    assert aligned_spread(layout, scaled) == pytest.approx(aligned_spread(layout, rows[:4]), rel=1e-3)
    assert aligned_spread(layout, torch.cat([rows[:1], scaled[:1]])) < 1e-3
    assert describe_networks(task, scaled, rows)['nearest'] < 1e-3

def test_a_description_is_of_all_networks_and_of_groups(task, rows):
    found, measured = describe_networks(task, rows, rows[:4], group=5), measure(task, rows)    # 5, 5 and 2
    assert found['networks'] == 12 and found['loss'] == pytest.approx(measured['loss'].mean().item())
    p = [probabilities(predict_logits(task, some)).mean(0, keepdim=True) for some in rows.split(5)]
    errors = [error_percent(some, task.test[1]).item() for some in p]
    assert found['ensemble, test'] == pytest.approx(sum(errors)/3, abs=1e-4)
    assert found['spread'] == pytest.approx(aligned_spread(Layout(task.layers), rows[:5]), rel=1e-5)

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
    assert df.loc['soup', 'spread'] == 0 and 'ensemble, test2' not in df
    assert df.loc['soup', 'ensemble, test'] == pytest.approx(df.loc['soup', 'error'], abs=1e-4)
    assert draw_made(df).data

def test_seconds_count_what_came_before(task, rows):
    config = PDiffConfig(latent=4).with_steps(2, 2)
    made, error = make_pdiff(task, rows, 3, config, before=100.)
    assert made.seconds > 100 and len(made.rows) == 3 and 0 <= error <= 100
    again = make_pdiff(task, rows, 3, config)[0]
    assert torch.equal(made.rows, again.rows) and again.seconds < 100

def test_baselines_are_as_many_and_noise_as_long(task, rows):
    fresh = train_fresh(task, Recipe(epochs=1, n_saves=2), 3)
    baselines = make_baselines(task, rows, fresh.rows, shares=(.5, 2.))
    assert {name: len(made.rows) for name, made in baselines.items() if len(made.rows) != 3} == {
        'soup': 1, 'soup, aligned': 1}
    gaussians = [name for name in baselines if name.startswith('Gaussian of')]
    assert [int(name.split()[2].strip(',')) for name in gaussians] == [16, 32, 64, 96, 128]
    df = compare_made(task, {FRESH: fresh} | baselines, rows)
    assert df.loc['copies, noise 0.5', 'nearest'] == pytest.approx(.5, rel=.15)   # rows are unbalanced
    assert df['seconds'].min() >= 0

def test_fresh_networks_are_trained_in_groups_as_a_collection(task):
    "64 neighbours see the same minibatches, the next others, and no seed shares its orders."
    recipe, n = Recipe(epochs=1, n_saves=2), GROUP + 1
    fresh, starts = train_fresh(task, recipe, n).rows, unseen_starts(task, n, 13)
    orders = fresh_orders(n, 13)
    assert [(some.start, order) for some, order in orders] == [(0, orders[0][1]), (GROUP, orders[0][1] + 1)]
    for some, order in orders:
        alone = train_ends(task, starts[some][:1], recipe, 1, first=order)[:, 0]
        torch.testing.assert_close(fresh[some][:1], alone, atol=1e-4, rtol=0)
    others = train_ends(task, starts[GROUP:], recipe, 1, first=orders[0][1])[:, 0]
    assert (others - fresh[GROUP:]).norm() > .01
    used = [order for seed in (12, 13, 14) for _, order in fresh_orders(10*GROUP, seed)]
    assert len(set(used)) == 30
    assert max(order for _, order in fresh_orders(2**20, 2**10 - 1)) < 2**32

def test_every_kind_of_p_diff_is_tried_with_every_rate(task, rows):
    rates = (2e-3,), (5e-4, 8e-3)
    tried = try_pdiffs(task, rows, 3, 2, rates=rates)
    assert len(tried) == len(PDIFF_KINDS)*2*1*2
    assert set(tried['kind']) == set(PDIFF_KINDS) == set(PDIFF_SETTINGS)
    for line in tried.itertuples():
        assert (line.autoencoder, line.diffusion) == (line.config.ae.lr, line.config.diffusion.lr)
        assert line.config.behaviour == (10. if 'behavioural' in line.kind else 0)
    assert set(tried['diffusion']) == set(rates[1]) and (tried['step'] > 0).all()
    assert len(PDIFF_RATES[0]) > 1 and len(PDIFF_RATES[1]) > 1

def tried(*lines, kind='p-diff'):
    table = pd.DataFrame(lines, columns=['error', 'spread', 'step'])
    return table.assign(kind=kind, config=[PDiffConfig(latent=k + 1) for k in range(len(lines))])

def test_the_least_error_among_those_that_differ_is_chosen():
    df = tried((9., 1., .1), (7., DIFFERENT, .2), (4., DIFFERENT - .01, .1))
    config = choose_pdiffs(df, seconds=10.)['p-diff']
    assert config.latent == 2 and (config.ae.steps, config.diffusion.steps) == (50, 50)
    alike = tried((9., .1, .1), (4., .2, .1))                            # none differs: the least error
    assert choose_pdiffs(alike, seconds=1.)['p-diff'].latent == 2
    both = choose_pdiffs(pd.concat([df, tried((1., 1., .1), kind='p-diff, aligned')]), seconds=1.)
    assert list(both) == ['p-diff', 'p-diff, aligned']

def test_a_p_diff_is_trained_with_the_setting_that_was_chosen(task, rows, monkeypatch):
    seen = {}
    def make(task, some, n, config, **kw):
        seen[config.latent] = some
        return Made(some[:n]), 0.
    monkeypatch.setattr(from_noise, 'make_pdiff', make)
    settings = {kind: PDiffConfig(latent=k + 1) for k, kind in enumerate(PDIFF_KINDS)}
    make_pdiffs(task, rows, 2, settings=settings)
    assert torch.equal(seen[1], rows) and not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])

def test_seconds_are_those_of_the_processor():
    assert make_timed(lambda: time.sleep(.3)).seconds < .1

def test_the_seconds_of_a_training_are_measured_on_some_steps(tmp_path):
    small = dict(recipe=dict(epochs=3), model=dict(width=24, depth=1, heads=2))
    s = Lab(tmp_path/'cache', .01)('digits-loss', **small)
    longer = replace(s.world.training, steps=50*s.world.training.steps)
    both = s, replace(s, world=replace(s.world, training=longer))
    few, many = (training_seconds(some, trial=6) for some in both)
    assert 0 < few < 10 and 10 < many/few < 250

def table(**errors):
    lines = {name: dict(error=error, nearest=near) for name, (error, near) in errors.items()}
    return pd.DataFrame.from_dict(lines, orient='index').assign(spread=1., seconds=5.)

def test_best_of_all_that_are_new():
    df = table(**{FRESH: (3., 1.), FROM_NOISE: (4., 1.), 'p-diff': (8., NEW),
                  'soup, aligned': (2., NEW - .01), 'Gaussian of 16, aligned': (6., .8),
                  'Gaussian of 64, aligned': (9., .9)})
    found = summarize_made(df)
    assert (found['best that is new'], found['error, best that is new']) == ('p-diff', 8.)
    assert found['best Gaussian that is new'] == 'Gaussian of 64, aligned'
    old = summarize_made(table(**{FRESH: (3., 1.), FROM_NOISE: (4., 1.), 'p-diff': (8., .5)}))
    assert (old['best that is new'], old['error, best that is new']) == ('none', float('inf'))
    assert old['error, best p-diff'] == 8. and old['best Gaussian that is new'] == 'none'

def test_the_best_p_diff_is_of_all_three_kinds():
    errors = {'p-diff': (30., 1.), 'p-diff, aligned': (8., 1.), 'p-diff, aligned, behavioural loss': (5., 1.)}
    found = summarize_made(table(**{FRESH: (3., 1.), FROM_NOISE: (4., 1.)} | errors))
    assert found['best p-diff'] == 'p-diff, aligned, behavioural loss' and found['error, best p-diff'] == 5.

def test_words_follow_from_numbers():
    lines = {FRESH: (3., 1.), FROM_NOISE: (4.1, .97), 'p-diff': (8.2, .95), 'soup, aligned': (4.4, .7)}
    said = tell_made(table(**lines))
    wanted = ('Networks from noise: 4.1 % errors, 0.97 new', 'The best p-diff (p-diff): 8.2 %',
              'as new (p-diff): 8.2 %', 'The aligned soup: 4.4 % errors and 0.70 new')
    for words in wanted: assert words in said
    assert 'Not every kind' in said and 'Gaussian' not in said                   # there is none that is new
    other = tell_made(table(**lines | {FROM_NOISE: (9.9, .97), 'Gaussian of 64, aligned': (7.7, .92)}))
    assert '9.9 %' in other and '(Gaussian of 64, aligned): 7.7 %' in other

def test_as_many_directions_as_asked_and_any_split(task, rows):
    made = pca_gaussian(rows, 9, directions=2)
    assert torch.linalg.matrix_rank(made - rows.mean(0), atol=1e-3) == 2
    assert predict_logits(task, rows[:2], split='test2').shape[2] == len(task.test2[1])

"Ensembles and initialisations: calibration as elsewhere, groups that share nothing, costs that never pay."
import json
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.calibration import calibration_curve

from gpt_kit.networks.checks import UserError
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.networks.collect import GROUP, Recipe
from gpt_kit.networks.tasks import Task
from gpt_kit.networks.weights import measure, start_rows
from gpt_kit.study.diversity import train_ends
from gpt_kit.study.ensembles import (BEST, BINS, MEASURES, NOISED, STORED, Pool, break_even,
                                     calibration_error, choose_noise, compare_ensembles, draw_ensembles,
                                     in_groups, judge_ensemble, least_calibration_error, make_pool,
                                     measure_costs, noised_copies, summarize_ensembles)
from gpt_kit.study.from_noise import FRESH, FROM_NOISE, align_to_average, fresh_orders
from gpt_kit.study.initialisations import (AS_COLLECTED, CONSTANT, POT, SOUPS, best_rate,
                                           compare_initialisations, make_initialisations, steps_saved,
                                           steps_until, train_on)

ROOT = Path(__file__).parent.parent

@pytest.fixture(scope='module')
def rows(task): return start_rows(task, range(8))

@pytest.mark.parametrize('seed', range(4))
def test_calibration_as_scikit_learn_has_it(seed):
    g = torch.Generator().manual_seed(seed)
    p = (2*seed*torch.randn(10, 300, generator=g)).softmax(0)
    confidence, said = p.max(0)
    y = said.where(torch.rand(300, generator=g) < .6, (said + 1) % 10)  # too sure, and not sure enough
    right, sure = calibration_curve(said == y, confidence, n_bins=BINS)
    inputs = np.histogram(confidence, np.linspace(0, 1, BINS + 1))[0]
    expected = 100*np.abs(right - sure) @ inputs[inputs > 0]/300
    assert calibration_error(p, y) == pytest.approx(expected, abs=1e-3)

def test_calibration_at_its_ends():
    sure, y = torch.eye(3), torch.arange(3)
    assert (calibration_error(sure, y), calibration_error(sure, (y + 1) % 3)) == (0, 100)
    assert calibration_error(torch.full((2, 4), .5), torch.tensor([0, 0, 1, 1])) == 0
    edge = torch.tensor([[.5, .5, 0], [.4, .3, .3]]).T    # right, wrong; both in the lower bin
    assert calibration_error(edge, torch.tensor([0, 1]), bins=2) == pytest.approx(5, abs=1e-4)

def test_an_ensemble_of_copies_is_the_network(task, rows):
    alone, copies = judge_ensemble(task, rows[:1]), judge_ensemble(task, rows[:1].repeat(5, 1))
    assert [line['split'] for line in alone] == ['test', 'test2']
    for a, b in zip(alone, copies): assert [*a.values()][1:] == pytest.approx([*b.values()][1:], abs=1e-3)
    assert alone[0]['nll'] == pytest.approx(measure(task, rows[:1])['loss'].item(), abs=1e-4)

def test_an_ensemble_with_a_broken_network_is_a_number(task, rows):
    broken = torch.cat([rows[:2], torch.full_like(rows[:1], inf)])
    sure = 1e4*rows[:1]                                                 # that true classes have no chance
    for some in (broken, sure):
        assert all(np.isfinite(line[name]) for line in judge_ensemble(task, some) for name in MEASURES)

def test_groups_share_no_network(rows):
    groups = in_groups(rows, 3)
    assert torch.equal(groups.flatten(0, 1), rows[:6]) and len(in_groups(rows, 1, most=5)) == 5
    with pytest.raises(UserError, match='^8 networks are too few for a group of 9; make more of them$'):
        in_groups(rows, 9)

def test_noise_is_as_long_as_told(rows):
    copies = noised_copies(torch.cat([rows[:2], 10*rows[2:3]]), 4, .3, seed=1)
    assert torch.equal(copies[:2, 0], rows[:2]) and copies.shape == (3, 4, rows.shape[1])
    lengths = (copies[:, 1:] - copies[:, :1]).norm(dim=2)/copies[:, :1].norm(dim=2)
    assert lengths.flatten().tolist() == pytest.approx([.3]*9, rel=.1)
    noise = copies[:, 1:] - copies[:, :1]
    assert len(noise.flatten(0, 1).unique(dim=0)) == 9                            # each copy its own

def test_the_best_noise_comes_first(task, rows):
    found = choose_noise(task, rows[:2], 3, shares=(.1, 5.))
    assert list(found.values()) == sorted(found.values()) and set(found) == {.1, 5.}

def test_one_test_set_is_enough(task, rows):
    alone = Task('alone', task.net, task.train, task.test)
    pools = {name: make_pool(lambda n: rows[:n], 4, [1, 2]) for name in (FRESH, BEST)}
    df = compare_ensembles(alone, pools, [1, 2], share=.1)
    assert set(df['split']) == {'test'} and draw_ensembles(df).data
    groups = df.groupby(['set', 'n'])['group'].nunique()
    assert groups[FRESH, 1] == 4 and groups[FRESH, 2] == 2 and groups[BEST, 1] == 1

def test_seconds_count_trainings_that_went_in(task, rows):
    pools = {FRESH: Pool(rows, {4: 100.})} | {FROM_NOISE: Pool(rows, {4: 5.})}
    pools[FRESH].seconds[1] = 30.
    seconds = summarize_ensembles(compare_ensembles(task, pools, [4], share=.1), 4)['seconds']
    assert seconds[FRESH] == 100 and seconds[FROM_NOISE] == 5
    assert 30 <= seconds[NOISED] < 31 and 100 <= seconds['soup'] <= 101 <= 2 + seconds['soup, aligned']

def test_what_is_never_paid_back():
    assert break_even(10., 3., 1.) == 5 and break_even(10., 1., 1.) == break_even(10., 1., 2.) == inf
    assert break_even(0., 2., 1.) == 0

def test_training_on_is_training(task, rows):
    recipe = Recipe(epochs=2, n_saves=2)
    both = train_on(task, {'one': rows[2:4], 'two': rows[:2]}, recipe, rates=(.01, .1))
    curves, alone = both['two'], train_on(task, {'two': rows[:1]}, recipe, rates=(.01, .1))['two']
    for name in curves: assert torch.allclose(alone[name], curves[name][:, :1], atol=1e-4)
    assert list(curves) == [AS_COLLECTED, .01, .1]
    (_, order), = fresh_orders(2, 13)
    end = measure(task, train_ends(task, rows[:2], recipe, 1, first=order)[:, 0])['loss']
    assert torch.allclose(curves[AS_COLLECTED][-1], end, atol=1e-5)
    assert all(len(curve) == recipe.n_steps(task) + 1 for curve in curves.values())
    assert curves[.1][-1].mean() < curves[.01][-1].mean()

def test_training_on_goes_in_groups_as_a_collection(task, rows):
    "The k-th of each kind sees the same minibatches; networks of the next group see others."
    recipe, n = Recipe(epochs=1, n_saves=2), GROUP + 1
    same = rows[:1].repeat(n, 1)
    found = train_on(task, {'a': same, 'b': same}, recipe, rates=(.1,))
    for curves in (found['a'], found['b']):
        ends = curves[.1][-1]
        assert torch.allclose(ends[:GROUP], ends[:1], atol=1e-5) and (ends[GROUP] - ends[0]).abs() > 1e-5
        torch.testing.assert_close(ends, found['a'][.1][-1], atol=1e-5, rtol=0)
    other = train_on(task, {'a': same[:2]}, recipe, rates=(.1,), seed=14)['a'][.1][-1]
    assert (other - found['a'][.1][-1][:2]).abs().min() > 1e-5

def test_the_store_gives_initialisations_without_a_model(ask, store):
    data = prepare_data(store, 'test_loss')
    kinds = make_initialisations(ask, data, 3)
    assert all(rows.shape == (3, store.layout.D) for rows in kinds.values())
    ends = store.rows(data.runs, 0*data.runs + store.S - 1)
    nearest = torch.cdist(kinds[STORED], ends, compute_mode='donot_use_mm_for_euclid_dist').amin(1)
    assert nearest.max() == 0                                                # ends as they are
    g = torch.Generator().manual_seed(13)
    torch.randint(len(ends), (3,), generator=g)
    picks = torch.randint(len(ends), (3, POT), generator=g)
    soups = torch.stack([align_to_average(store.layout, ends[some]).mean(0) for some in picks])
    torch.testing.assert_close(kinds[SOUPS], soups, atol=1e-5, rtol=0)
    assert len(kinds[SOUPS].unique(dim=0)) == 3

def test_perfect_probabilities_are_not_perfectly_calibrated_on_few_inputs():
    g = torch.Generator().manual_seed(0)
    few, many = ((2*torch.randn(10, n, generator=g)).softmax(0) for n in (100, 5000))
    least = [least_calibration_error(p, draws=50) for p in (few, many)]
    assert least[0] > 3*least[1] > 0
    y = torch.multinomial(many.T, 1, generator=g)[:, 0]                 # classes that they are right about
    too_sure = many**3/(many**3).sum(0)
    assert calibration_error(many, y) < 3*least[1] < calibration_error(too_sure, y)

def test_costs_of_store_and_model_are_those_of_the_processor(ask):
    seconds = {FRESH: {1: 1., 4: 2.}, FROM_NOISE: {1: .5, 4: 1.}}
    pools = {name: Pool(None, some) for name, some in seconds.items()}
    costs = measure_costs(ask, Recipe(epochs=1, n_saves=2), pools, training=100., trial=4)
    assert costs['training the model'] == 100. and costs['collecting'] > 0
    once = costs['collecting'] + 100.
    assert costs['paid back of 4 at once, networks'] == pytest.approx(once/(2/4 - 1/4))

def rule_of(stem): # the rule of a figure, and numbers for which it holds and fails
    nb = json.loads((ROOT/'nbs'/'figures'/f'{stem}.ipynb').read_text())
    code = {c['id']: ''.join(c['source']) for c in nb['cells']}
    scope = {}
    exec(code['imports'] + '\n' + code['rule'], scope)
    return scope

def test_a_store_can_be_paid_back_and_need_not():
    "Before as many networks as it took to fill it, it never can: it cost that many trainings."
    scope = rule_of('ours_ensembles')
    sentence = next(name for name in scope['rule'](scope['others'] | scope['holds']) if 'paid back' in name)
    for drawing, wanted in ((.2, True), (.7, False)):          # in trainings; 2,048 were collected
        n = scope['others'] | scope['holds'] | {'paid back': break_even(2048., 1., drawing)}
        assert n['paid back'] > n['runs'] and scope['rule'](n)[sentence] == wanted

def test_half_the_error_is_asked_of_every_p_diff():
    scope = rule_of('ours_from_noise')
    first, *_, last = scope['rule'](scope['holds'])
    said = scope['rule'](scope['holds'] | {'error, best p-diff': 7.})
    assert not said[first] and said[last]
    for worse in ({'fewest seconds of a p-diff': 1.}, {'settings, p-diff': 3}):
        assert not scope['rule'](scope['holds'] | worse)[last]

def test_steps_until_a_loss_and_never():
    curve = torch.tensor([[3., .5], [1., .5], [2., .5]])
    assert steps_until(curve, 1.).tolist() == [1, 0] and steps_until(curve, .1).tolist() == [inf, inf]
    broken = torch.tensor([[inf], [float('nan')], [1.]])
    assert steps_until(broken, 1.).tolist() == [2]
    slow, fast = torch.tensor([[3.], [2.], [1.]]), torch.tensor([[3.], [1.], [2.]])
    none = torch.full((3, 1), 9.)
    assert best_rate({AS_COLLECTED: none, .1: slow, .2: fast, .3: none}, 1.) == .2
    assert best_rate({AS_COLLECTED: none, .1: none*torch.nan, .2: slow}, .5) == .2        # none gets there

def saved(**steps):
    lines = [dict(kind=kind, how=how, target=.1, steps=n)
             for kind, both in steps.items() for how, n in zip((AS_COLLECTED, CONSTANT), both)]
    return tuple(steps_saved(pd.DataFrame(lines), .1).values())

def test_steps_saved_are_those_of_the_worse_way():
    assert saved(**{'fresh starts': (40., 20.), FROM_NOISE: (10., 10.)}) == (10, 50)
    assert saved(**{'fresh starts': (40., 20.), FROM_NOISE: (80., 10.)}) == (-40, -100)
    assert saved(**{'fresh starts': (40., 20.), FROM_NOISE: (0., 0.)}) == (20, 100)
    assert saved(**{'fresh starts': (inf, 20.), FROM_NOISE: (9., inf)}) == (-inf, -inf)
    assert saved(**{'fresh starts': (inf, inf), FROM_NOISE: (inf, inf)}) == (-inf, -inf)

def test_rates_come_from_other_seeds():
    falls, stays = torch.tensor([[2.], [1.]]), torch.tensor([[2.], [2.]])
    ours = {AS_COLLECTED: falls, .1: falls, .2: stays}
    theirs = ours | {.1: stays, .2: falls}
    df = compare_initialisations({FROM_NOISE: ours}, {FROM_NOISE: theirs}, [1.])
    found = df.set_index('how')['steps']
    assert found[AS_COLLECTED] == 1 and found[CONSTANT] == inf and df['rate'].max() == .2

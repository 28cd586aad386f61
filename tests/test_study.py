"Studies of answers: corner cases of the audit, of diversity and of what start and noise do."
from dataclasses import replace

import pandas as pd
import pytest
import torch
import torch.nn as nn

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.noise import normal_noise
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.networks.collect import default_recipe, train_runs
from gpt_kit.networks.symmetry import permute, random_permutations
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.tasks import Metric, Task
from gpt_kit.networks.weights import Layout, start_rows
from gpt_kit.pdiff.zoo import zoo_from_run
from gpt_kit.study import audit, diversity, variation
from gpt_kit.study.neighbours import decision_regions, neighbour_scores

def close(a, b, eps): torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=eps, rtol=0)

@pytest.fixture(scope='module')
def data(store): return prepare_data(store, 'test_loss')

@pytest.fixture(scope='module')
def ends(store): return store.rows(range(store.R), [store.S - 1]*store.R)

# Audit

def test_disagreement_of_those_that_agree_and_of_those_that_never_do(task, ends):
    p = audit.probabilities(audit.predict_logits(task, ends[:9]))
    close(audit.disagreement(p, p).diagonal(), torch.zeros(9), 1e-4)
    sure = torch.eye(2)[:, :, None]
    close(audit.disagreement(sure, sure), 100 - 100*torch.eye(2), 1e-6)

def test_copies_are_training_networks(task, data):
    first, last = audit._first_and_last(data)
    starts = unseen_starts(task, 4, 0)
    bases = audit.baselines(data.store.layout, first, last, starts, torch.ones(4))
    assert audit.nearest_checkpoints(data.store, bases['copy'], runs=data.runs).distance.max() < 1e-4

def test_pca_gaussian_keeps_to_the_directions_there_are():
    g = torch.Generator().manual_seed(0)
    flat = torch.randn(30, 3, generator=g) @ torch.randn(3, 50, generator=g)
    made = audit.pca_gaussian(flat, 9) - flat.mean(0)
    assert torch.linalg.matrix_rank(made, tol=1e-3) == 3

def test_audit_of_one_run():
    zoo = zoo_from_run('mlp3', what='all', which=(None, None), n=9, epochs=1)
    found = audit.audit_of_zoo(zoo, aligned=False)({'soup': zoo.rows.mean(0, keepdim=True)})
    assert list(found.networks) == [9, 1]

def test_ends_as_a_zoo_have_all_test_data(data):
    task = get_task('digits')
    zoo = audit.zoo_of_store(task, replace(data, runs=data.runs[:6]), aligned=True)
    assert len(zoo.data['test'][1]) == 797
    found = audit.audit_of_zoo(zoo)({'ends': zoo.rows})
    assert abs(found.loc['ends', 'distance']) < .01

def test_no_baseline_is_as_new():
    lines = {audit.REFERENCE: [.1, 1., .6], 'generated': [.2, 1., .5], 'copy': [.1, 0., 1.],
             'SGD, same start': [.1, 1., .6]}
    found = audit.compare_baselines(pd.DataFrame(lines, ['loss', 'distance', 'iou']).T)
    assert found['metric, best baseline as new'] == float('inf') and found['that baseline'] == '–'

# Neighbours

def test_decisions_at_the_first_image(task, ends):
    xs, ys, said, at = decision_regions(task, dict(ends=ends[:2]), classes=(1, 7, 9), n=9)
    assert said['ends'].shape == (2, 9, 9) and len(xs) == len(ys) == 9
    close(at[0], torch.zeros(2), 1e-4)

def test_scores_counted_in_other_ways(ask, data):
    df = neighbour_scores(ask, data, n_starts=6, n_prompts=3, n_aligned=2)
    assert (df['start counted'] >= df['score']).all()
    assert (df['training, renumbered'] <= df['training'] + 5).all()

# Diversity

@pytest.fixture(scope='module')
def starts(task): return unseen_starts(task, 3, 0)

@pytest.fixture(scope='module')
def short(task): return replace(default_recipe(task), epochs=1, n_saves=2)

@pytest.fixture(scope='module')
def outcomes(ask, short, starts): return diversity.ask_and_train(ask, short, starts, n_samples=4, n_orders=2)

def test_the_starts_metric_is_an_input(ask, starts):
    noise = normal_noise((2, ask.layout.D))
    own = diversity.answer_grid(ask, starts, noise)
    assert not own.equal(diversity.answer_grid(ask, starts, noise, same_metric=True))

def test_training_ends_where_that_of_a_collection_does(task, short):
    collected = train_runs(task, [3], short)[0]                                      # (1, S, D)
    ends = diversity.train_ends(task, start_rows(task, [3]), short, 1, first=0)
    close(ends[0, 0], collected[0, -1], 1e-5)

def test_distance_of_near_and_of_single_networks(starts):
    near = starts[:1] + 1e-3*torch.eye(starts.shape[1])[:2]
    close(diversity.pairwise_distance(near), 1e-3*2**.5, 1e-6)
    assert diversity.pairwise_distance(torch.zeros(3, 2, 1, 5)).equal(torch.zeros(3, 2))

def test_farthest_of_fewer_and_of_equal_points():
    assert diversity.farthest_points(torch.zeros(2, 1), 3).tolist() == [0, 1]

def test_no_barrier_to_itself(task, outcomes):
    a = outcomes.ends[:, 0]
    assert diversity.loss_barriers(task, a, a, 'error').equal(torch.zeros(3))

def valleys(minimize):
    "A task whose network is one weight, with two valleys (or two hills) at -1 and 1."
    data, net = (torch.eye(1), torch.zeros(1)), nn.Sequential(nn.Linear(1, 1, bias=False))
    def height(logits, y): return (1 if minimize else -1)*(logits[:, 0, 0]**2 - 1)**2   # logits (K, 1, 1)
    return Task('valleys', net, data, data, metrics=dict(height=Metric('height', '', height, minimize)))

@pytest.mark.parametrize('minimize', [True, False])
def test_basins_whichever_way_is_better(minimize):
    rows = torch.tensor([[-1.2], [-1.], [1.1], [.9]])
    basin, barriers = diversity.find_basins(valleys(minimize), rows, 'height', tolerance=.1)
    assert basin.tolist() == [0, 0, 1, 1] and barriers.shape == (6,)
    close(barriers[:2], [0, 1 - (1.2**2 - 1)**2], .02)                        # the points just miss the top
    basin, _ = diversity.find_basins(valleys(minimize), rows, 'height', tolerance=1.)
    assert basin.tolist() == [0, 0, 0, 0]

def test_answers_as_diverse_as_training(task, outcomes):
    lines = diversity.measure_diversity(task, replace(outcomes, ends=outcomes.answers), 'error', tolerance=2.)
    close([line['ratio'] for line in lines], [1., 1., 1.], 1e-6)
    apart = diversity.pairwise_distance(outcomes.answers)
    close([line['apart, other noise'] for line in lines], apart, 1e-6)

# Start or noise

def test_variances_of_a_model_that_repeats_the_start(outcomes, starts):
    found = variation.compare_variances(replace(outcomes, answers=starts[:, None]))
    close(found['start'], found['the starts alone'], 1e-6)
    assert found['update from start'].max() == 0

def test_filters_of_other_networks():
    conv = get_task('digits-cnn')
    assert variation.filter_pictures(conv, start_rows(conv, [0])).shape == (1, 8, 3, 3)
    policy = Layout([['LogStd', 1], ['Linear', 4, 2, True], ['Linear', 2, 1, True]])
    assert variation.first_weights(policy) == '1.weight'

def test_updates_of_a_perfect_and_of_an_idle_model(ask, outcomes, starts):
    perfect = variation.update_similarity(ask.layout, replace(outcomes, answers=outcomes.ends))
    close(perfect['same start'], torch.ones(3), 1e-5)
    idle = variation.update_similarity(ask.layout, replace(outcomes, answers=starts[:, None]))
    close(idle['same start'], torch.zeros(3), 1e-6)

def test_updates_without_another_start(ask, outcomes):
    found = variation.update_similarity(ask.layout, outcomes.first(1))
    assert found['another start, best'].equal(torch.zeros(1))

def test_renumbering_is_seen(task, starts):
    layout = Layout(task.layers)
    moved = permute(layout, starts[:1], random_permutations(layout, 1, torch.Generator().manual_seed(0)))
    found = variation.visible_changes(task, torch.cat([starts[:1], starts[:1], moved]))
    close(found['renumbered'], 1/3, 1e-6)
    assert found['middle_shades'] > 10

"A model that is told its task by points: what it must not depend on, what it is asked, what it refuses."
import warnings

import pytest
import torch

from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.prepare import describe_stores, prepare_stores
from gpt_kit.gpt.presets import usual_world
from gpt_kit.gpt.reading import point_losses, point_table, training_gradient
from gpt_kit.gpt.reading_loss import PointSets, ReadingLoss, make_model
from gpt_kit.gpt.train import sample_pairs, sample_reach, train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.points import DRAWN, KINDS, UNSEEN_FROM, drawn_points, point_sets
from gpt_kit.networks.registry import get_family, told_by_points
from gpt_kit.networks.symmetry import permute_alike
from gpt_kit.networks.weights import measure, start_rows

SMALL = dict(width=24, heads=2, depth=1, n_latents=2)


@pytest.fixture(scope='module')
def ask(): return load('points-loss')


@pytest.fixture(scope='module')
def stores(tmp_path_factory):
    "Networks of two widths, each for a set of its own."
    recipe = Recipe(epochs=20, n_saves=5, optimizer='adam', lr=.02, batch=200, weight_decay=0.)
    folder = tmp_path_factory.mktemp('points')
    return [collect(get_family(name), folder/name, 24, recipe=recipe, progress=False)
            for name in ('point-sets', 'point-sets-8')]


def test_it_reads(ask):
    "Sets drawn by hand, which no training has seen: as good as it goes, from noise alone and from a start."
    for name in DRAWN:
        drawn = ask.at(data=drawn_points(name))
        error = measure(drawn.task, drawn(0., n=16).rows)['error'].mean()
        chance = 100*min(drawn.task.test[1].float().mean(), 1 - drawn.task.test[1].float().mean())
        assert error < (.75 if name == 'islands' else .4)*chance, (name, error, chance)


def test_it_obeys(ask):
    for kind in range(6):
        blobs = ask.at(condition=(kind, UNSEEN_FROM + 1500))
        starts = start_rows(blobs.task, range(4))
        for prompt in (.3, .5):
            for answer in (blobs(prompt, n=4), blobs(starts, prompt)):
                assert abs(answer.metric.mean() - prompt) < .12, (kind, prompt, answer)


def test_more_rounds_are_better(ask):
    "Each round sees a fresh gradient."
    error = {}
    for rounds in (1, 4, 16):
        mean = 0.
        for kind in range(6):
            one = ask.at(condition=(kind, UNSEEN_FROM + 1501), rounds=rounds)
            mean += measure(one.task, one(0., n=8).rows)['error'].mean().item()/6
        error[rounds] = mean
    assert error[1] > error[4] + 3 > error[16] + 4, error


def test_what_it_does_not_depend_on(ask):
    "The order of the points, how they are filled up, the order of a start's neurons."
    X, y = drawn_points('face')
    face = ask.at(data=(X, y))
    mixed = torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    rows = face(0., n=3).rows
    assert torch.allclose(ask.at(data=(X[mixed], y[mixed]))(0., n=3).rows, rows, atol=2e-2)
    filled, short = face.at(rounds=3), face.at(rounds=3)
    filled.given['which'] = point_table(X, y, 150)[None]
    assert torch.allclose(filled(0., n=3).rows, short(0., n=3).rows, atol=1e-3)
    starts = start_rows(face.task, range(3))
    noise = torch.randn(3, 65, generator=torch.Generator().manual_seed(1))
    other, other_noise = permute_alike(face.layout, starts, noise, generator=torch.Generator().manual_seed(2))
    a, b = short(starts, .3, noise=noise), short(other, .3, noise=other_noise)
    assert torch.allclose(a.metric, b.metric, atol=1e-3)


def test_widths(ask):
    X, y = drawn_points('heart')
    for hidden in (4, 10, 32):
        heart = ask.at(hidden, data=(X, y))
        assert heart(0., n=2).rows.shape == (2, 4*hidden + 1)
        assert heart.at(data=(X[:40], y[:40])).layout.D == 4*hidden + 1
    with pytest.warns(UserWarning, match='beyond'): ask.at(64, data=(X, y))


@pytest.mark.parametrize('data, why', [
    ((torch.zeros(5, 2), torch.zeros(5, dtype=torch.long)), 'all points are of one class'),
    ((torch.zeros(5, 3), torch.tensor([0, 1, 0, 1, 0])), 'give an x and a y'),
    ((torch.full((4, 2), torch.nan), torch.tensor([0, 1, 0, 1])), 'finite|number'),
    ((torch.zeros(201, 2), torch.arange(201) % 2), '201 points'),
    ((torch.zeros(1, 2), torch.zeros(1, dtype=torch.long)), '1 points')])
def test_bad_points(ask, data, why):
    with pytest.raises(UserError, match=why): ask.at(data=data)


def test_not_told(ask):
    with pytest.raises(UserError, match='give it some'): ask(.1)
    with pytest.raises(UserError, match='give one of them'):
        ask.at(data=drawn_points('heart'), condition=(0, 0))
    with pytest.raises(UserError, match='no source of points'): ask.at(condition=(.5, 0))
    with pytest.raises(UserError, match='was given none'):
        rows, numbers = torch.zeros(1, 65), torch.zeros(1)
        ask.model(rows, numbers.long(), rows, numbers, numbers)


def test_gradients(ask):
    "Those that the model sees are PyTorch's own."
    points = point_table(*drawn_points('plus'))[None]
    rows = start_rows(ask.at(data=drawn_points('plus')).task, [3]).requires_grad_()
    point_losses(ask.layout, rows, points)[0].sum().backward()
    assert torch.allclose(training_gradient(ask.layout, rows.detach(), points)[0], rows.grad, atol=1e-7)


def test_reach():
    values = torch.rand(2000, 6, generator=torch.Generator().manual_seed(0))
    i, k = sample_reach(values, torch.Generator().manual_seed(1))
    assert (i < k).all() and (i >= 0).all()
    share = (k == values[:, 1:].argmin(1) + 1).float().mean()
    assert .4 < share < .8
    always = sample_reach(values, torch.Generator().manual_seed(1), share=1.)[1]
    assert (always == values[:, 1:].argmin(1) + 1).all()


def test_training(stores, tmp_path):
    "Of two widths, with the same seed the same; asked from its file."
    assert all(told_by_points(s.info) for s in stores)
    data = prepare_stores(stores, 'test_loss')
    assert describe_stores(data)['tasks'] == dict(conditions=[], best=[])
    config = TrainConfig(steps=4, batch=8, optimizer='muon', lr=5e-3, hide=.4)
    losses = []
    for name in ('a', 'b'):
        torch.manual_seed(0)
        model, criteria = make_model(data, **SMALL)
        history = train_gpt(model, data, config, tmp_path/f'{name}.safetensors', sampling='reach',
                            criterion=criteria, behaviour=[None, None], progress=False,
                            sampler=dict(solver='ddim', steps=1, eta=0., recycles=3))
        losses.append([h['loss'] for h in history])
    assert losses[0] == losses[1]
    small = load(tmp_path/'a.safetensors')
    assert small.at(8, data=drawn_points('snake'))(.2, n=2).rows.shape == (2, 33)
    assert small.given['recycles'] == 3


def test_as_good_as_it_goes(stores):
    "Less than training reached is asked for only where the checkpoint is the best of its run."
    data = prepare_stores(stores[:1], 'test_loss')[0]
    loss, g = ReadingLoss(PointSets(point_sets(), data), data), torch.Generator().manual_seed(0)
    pairs = sample_pairs(data, data.runs, 64, g, sampling='reach')
    at, _, _, prompt, reach = loss._drawn(pairs, torch.linspace(.999, .001, 1000), g)
    assert (prompt[~reach] == pairs.prompt[~reach]).all() and (prompt[reach] <= pairs.prompt[reach]).all()
    assert 10 < reach.sum() < 60 and torch.allclose(loss.sets.best[at][reach], pairs.prompt[reach])


def test_dials(ask):
    "What a person sets are sets that were held out."
    family = ask.family
    for kind, number in ((0., 0.), (5.6, 998.7)):
        condition = family.condition(family.encode(kind, number))
        assert (family.held_out == torch.tensor(condition)).all(1).any()
    assert len(KINDS) == 7 and ask.at(condition=condition).info['known'] is False


def test_quiet(ask):
    "Nothing that is usual warns."
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ask.at(data=drawn_points('heart'))(0., n=2)


def test_usual(stores):
    "Whoever names no preset gets the one of points."
    world = usual_world(stores[1])
    assert (world.sampling, world.sampler['recycles'], world.training.hide) == ('reach', 15, .4)
    assert world.layers == stores[1].layout.layers

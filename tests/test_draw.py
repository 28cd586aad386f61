"Pictures as data: axes, marks, what changes from one drawing to the next, and the edges of all of them."
import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from gpt_kit.gpt.load import load
from gpt_kit.networks.tasks import classification, mlp
from gpt_kit.networks.weights import start_rows
from gpt_kit.play.draw import MARKS, Drawing, colour_limit, draw_legend, draw_map, draw_marks
from gpt_kit.play.draw import draw_predictions, draw_race, log_axis, log_ticks, points, predicted_classes
from gpt_kit.play.landscape import Landscape, map_metric, pca_plane
from gpt_kit.play.live import animate, changes
from gpt_kit.play.views import watch_denoising
from gpt_kit.play.walk import magnification
from gpt_kit.play.widgets import sweep_prompts, unseen_start

POSITIVE = st.floats(1e-9, 1e9)

@given(st.lists(POSITIVE, min_size=1))
def test_log_axis_holds_its_values(values):
    "All values have a place, ticks lie on the axis, and there are few enough to read."
    axis = log_axis(values, 'loss')
    low, high = axis['range']
    assert axis['title'] == 'loss' and low < math.log10(min(values)) and math.log10(max(values)) < high
    ticks = axis.get('tickvals', [])
    assert all(low <= math.log10(t) <= high for t in ticks) and len(ticks) <= 21
    assert [float(t) for t in axis.get('ticktext', [])] == pytest.approx(ticks)

def test_log_axis_by_hand():
    assert log_axis([.03, .5, 0., -1., math.inf, math.nan])['tickvals'] == [.05, .1, .2, .5]
    assert log_ticks(1e-6, 1.) == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, .1, 1.]
    assert 'tickvals' not in log_axis([1.2, 1.3]), 'plotly finds its own where nothing is round'
    assert log_axis([])['range'] == [-.5, .5]

def test_titles_and_panels():
    fig = Drawing([['a', 'b'], ['c', 'c']], dict(a='left', c='below'), solid=('c',))
    assert [note['text'] for note in fig.layout['annotations']] == ['left', '', 'below']
    fig.axes('a', dict(title='x'), dict(range=[0, 1]))
    assert fig.layout['xaxis']['title']['text'] == 'x' and 'title' not in fig.layout['yaxis']
    fig.add('c', dict(type='surface', z=[[0, 1], [1, 2]])); assert fig.figure.data[0].scene == 'scene3'

def test_colour_limit():
    assert colour_limit(np.arange(-100., 101)) == pytest.approx(99) and colour_limit(np.zeros(3)) == 1e-6

@pytest.mark.parametrize('plain', [False, True])
def test_wrong_predictions_are_marked(task, plain):
    "By colour and by sign, on images and without."
    if plain: task = classification('plain', *task.test, mlp((64, 16, 10)))
    row, picks, fig = start_rows(task, [0])[0], torch.arange(9), Drawing([['a']], {})
    draw_predictions(fig, 'a', task, row, picks)
    right = predicted_classes(task, row, picks) == task.test[1][picks].numpy()
    words = fig.data[1]
    if plain: signs, colours = [s == 'circle' for s in words['marker']['symbol']], words['marker']['color']
    else: signs, colours = [not t.startswith('✗') for t in words['text']], words['textfont']['color']
    assert signs == right.tolist() and not right.all()
    assert len({c for c, ok in zip(colours, right) if not ok}) == 1
    assert {c for c, ok in zip(colours, right) if ok}.isdisjoint(c for c, ok in zip(colours, right) if not ok)

@pytest.mark.parametrize('n, at, shown', [(0, 30, []), (10, 0, [1]), (10, 4, [5]), (10, 99, [10])])
def test_race_shows_the_step_that_is_looked_at(task, n, at, shown):
    fig = Drawing([['a']], {})
    draw_race(fig, 'a', task.metrics['loss'], np.arange(n)/10, at=at, generated=.2, who='SGD')
    assert list(fig.data[1]['x']) == shown and len(fig.data[0]['x']) == n and fig.data[2]['y'] == [.2, .2]

def test_marks_in_two_and_three_dimensions(task):
    rows = start_rows(task, range(5)); plane = pca_plane(rows)
    ground = map_metric(task, plane, rows, 'loss', n=3)
    fig = Drawing([['map', 'hill']], {}, solid=('hill',))
    for panel in ('map', 'hill'): draw_map(fig, panel, task.metrics['loss'], ground, solid=panel == 'hill')
    for what in MARKS:
        draw_marks(fig, 'map', plane, what, rows, near=0.)
        draw_marks(fig, 'hill', plane, what, rows, height=ground.height(torch.ones(5)))
        flat, solid = fig.data[-2:]
        assert all(s.endswith('-open') for s in flat['marker']['symbol']), 'none lies on the plane'
        assert solid['type'] == 'scatter3d' and solid['scene'] == 'scene2' and len(solid['z']) == 5
    draw_legend(fig, 'map', *MARKS)
    assert all(label in fig.layout['annotations'][-1]['text'] for _, _, label in MARKS.values())
    assert fig.figure.data

def test_light_is_good(task):
    "Whatever is better: colours turn round for a metric that is to be great."
    plane = pca_plane(start_rows(task, range(3)))
    ground, fig = Landscape(plane, torch.arange(2.), torch.arange(2.), torch.eye(2) + 1), Drawing([['a']], {})
    for metric in (task.metrics['loss'], replace(task.metrics['loss'], minimize=False)):
        draw_map(fig, 'a', metric, ground)
    first, second = (trace['colorscale'] for trace in fig.data)
    assert [c for _, c in first] == [c for _, c in reversed(second)]

def test_changes():
    assert changes(dict(x=1, z=3), dict(x=1., y=2)) == dict(x=1., y=2, z=None)
    for same in ([1], dict(y=[1]), np.ones(2)):
        assert changes(dict(x=same), dict(x=copy.deepcopy(same))) == {}
    for a, b in ((np.ones(2), np.ones(3)), ('1', 1), (np.ones(1), np.array(['1.0']))):
        assert changes(dict(x=a), dict(x=b)).keys() == {'x'}

def test_films_carry_only_what_changes():
    def moment(k):
        fig = Drawing([['a']], dict(a=f'moment {k}'))
        fig.add('a', points([0, 1], [k, k]), points([0, 1], [5, 5]))
        return fig
    frames = animate([moment(k) for k in range(3)]).frames
    assert [f.layout.annotations[0].text for f in frames] == ['moment 0', 'moment 1', 'moment 2']
    assert all(list(f.traces) == [0] and f.data[0].x is None for f in frames)

def test_magnification():
    "Round, and never so much that the difference outshines the picture."
    a = np.zeros((2, 3)); a[0, 0] = 1.
    assert magnification([a, a + .015]) == 100. and magnification([a, -a]) == 1.

@pytest.fixture(scope='module')
def shipped(): return load('digits-loss')

def test_denoising_ends_in_the_answer(shipped):
    start, seen = unseen_start(shipped.task, 0), []
    answer = shipped(start[None], .5, seed=3, steps=5, callback=seen.append)
    found = watch_denoising(shipped, start, .5, seed=3, steps=5)
    assert len(seen) == 5 and seen[-1].j == 0 and len(found.noised) == len(found.guess_metric) == 6
    torch.testing.assert_close(found.guesses[-1], answer.rows[0])
    torch.testing.assert_close(found.guess_metric[-1], answer.metric[0])
    assert torch.equal(found.noised[-1], found.guesses[-1]) and found.noised_metric[0] > found.guess_metric[0]

def test_a_sweep_begins_with_the_best(shipped):
    metric = shipped.measure(sweep_prompts(shipped, unseen_start(shipped.task, 0), n=4))
    assert (metric.diff() > 0).all() and metric[0] < .3

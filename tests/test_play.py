"""What a widget shows when the model does not listen to the start, names for every control, and exercises.

The landscape of networks out of noise, the explorer's path, and maps that move only with what is looked at.
"""
import json
import re
from pathlib import Path

import ipywidgets as W
import numpy as np
import pytest
import torch

from gpt_kit.gpt.load import load
from gpt_kit.gpt.noise import normal_noise
from gpt_kit.networks.symmetry import align
from gpt_kit.play.barriers import (NOISE_PLANES, barrier_heights, barrier_view, metric_along_line,
                                   networks_from_noise)
from gpt_kit.play.many import many_at_once, predict_together
from gpt_kit.play.views import PLANES, denoising_view, landscape_view
from gpt_kit.play.walk import walk_view
from gpt_kit.play.widgets import Explorer, first_look, map_answers, sweep_prompts, unseen_start
from test_listening import hidden_share
from test_widgets import controls

NBS = Path(__file__).parent.parent/'nbs'

def landscape(file): return landscape_view(file, n_steps=20, n_points=9)

def titles(widget): return [a['text'] for a in widget.fig.layout['annotations']]

# The landscape

def test_the_landscape_listens(model_file, ask):
    "Answers and the prompt path mix both guesses."
    view = landscape(model_file)
    view.listen.value, view.noise.value = .5, 3; view.finish()
    assert view.message.value == ''
    found, start = view.known[0, view.optimizer.value, 3, .5], unseen_start(ask.task, 0)
    assert torch.equal(found.answers, sweep_prompts(ask, start, guidance=.5, seed=3))
    assert torch.equal(found.path[1], ask(start[None], ask.best, guidance=.5, seed=3).rows[0])

def test_the_landscape_of_noise(model_file, ask):
    "At 0: networks out of noise, on planes of their own, and two lines between the first two."
    view = landscape(model_file)
    view.listen.value = 0.; view.finish()
    assert view.message.value == '' and view.start.disabled and view.optimizer.disabled
    assert view.plane.value == 'free'
    assert [kind for _, kind in view.plane.options] == list(NOISE_PLANES)
    found, m = view.known[0,], ask.task.metrics['loss']
    assert torch.equal(found.rows, ask(ask.best, n=24, seed=0).rows)
    assert torch.equal(found.aligned, align(ask.layout, found.rows, found.rows[0]))
    lines = [t for t in view.fig.data if len(t['x']) == 41 and t.get('mode') == 'lines']
    expected = metric_along_line(ask.task, found.rows[:1].expand(2, -1), found.pair[1:], 'loss')
    assert [t['y'].tolist() for t in lines] == expected.tolist()
    assert len({(t['line']['color'], t['line']['dash']) for t in lines}) == 2, 'told by more than colour'
    raw, aligned = barrier_heights(m, expected).tolist()
    assert f'barrier {raw:.2g} nats, aligned {aligned:.2g}' in titles(view)
    for kind in NOISE_PLANES:
        view.plane.value = kind; view.finish(); assert view.message.value == '', kind
    before = view.fig.data
    view.noise.value = 1; view.finish(); assert not np.array_equal(before[0]['z'], view.fig.data[0]['z'])
    view.listen.value = 1.; view.finish()
    assert [kind for _, kind in view.plane.options] == list(PLANES) and not view.start.disabled
    assert view.message.value == ''

@pytest.mark.parametrize('share, planes', [(1., NOISE_PLANES), (0., PLANES)])
def test_a_landscape_without_a_choice(model_file, tmp_path, share, planes):
    "Of a model that has never seen a start there is a landscape, too."
    view = landscape(hidden_share(model_file, tmp_path/'other.safetensors', share))
    assert view.listen.disabled and [kind for _, kind in view.plane.options] == list(planes)
    assert view.plane.value == list(planes)[0]
    view.metric.value = 'error'; view.finish()
    assert view.message.value == '' and 'error' in titles(view)[0]

def test_the_aligned_lie_closer_and_behave_alike():
    ask = load('digits-loss')
    found = networks_from_noise(ask, n=3)
    torch.testing.assert_close(ask.measure(found.aligned), ask.measure(found.rows), atol=1e-4, rtol=0)
    far, near = ((rows[1:] - rows[0]).norm(dim=1) for rows in (found.rows, found.aligned))
    assert (near < far).all()

# The explorer

@pytest.fixture
def explorer(model_file, tmp_path):
    return Explorer([model_file.parent], saved=tmp_path, race_steps=5)

def path(e): return len(e.fig.data[7]['x'])

def test_a_path_begins_anew_with_a_network_out_of_noise(explorer):
    e = explorer
    e.again.click(); e.finish(); assert path(e) == 3
    e.listen.value = 0.; e.finish()
    assert path(e) == 2, 'the answers that were asked again, not the one out of noise'
    e.again.click(); e.finish(); assert path(e) == 0, 'it came from nowhere, and leads nowhere yet'
    e.listen.value = 1.; e.finish(); assert path(e) == 2, 'from it to its own future'
    from_noise = e.view.ground.plane.place(e.view.chain[-1][None])[0]
    assert [e.fig.data[7]['x'][0], e.fig.data[7]['y'][0]] == pytest.approx(from_noise.tolist())
    e.over.click(); e.finish(); assert path(e) == 2 and len(e.view.chain) == 1

def test_the_map_of_another_noise_is_called_so(explorer, ask):
    "Until this noise's own is there; then it is this noise's own, also when one comes back to it."
    e, shown = explorer, []
    show = e.show
    e.show = lambda item: (show(item), isinstance(item, str) or shown.append((item, e.view.ground)))
    own = {seed: map_answers(ask, unseen_start(ask.task, 0), seed=seed).values for seed in (0, 4)}
    for seed, kinds in ((4, [True, False]), (0, [False])):
        shown.clear(); e.noise.value = seed; e.finish()
        words = [[a['text'] for a in fig.layout['annotations']] for fig, _ in shown]
        called = [any('of the last noise' in w for w in some) for some in words]
        assert called == kinds
        assert [torch.equal(ground.values, own[seed]) for _, ground in shown] == [not k for k in kinds]

@pytest.mark.parametrize('make', [first_look, lambda f: Explorer([f.parent], saved=f.parent, race_steps=5)],
                         ids=['first', 'explorer'])
def test_no_line_of_a_start_that_is_not_looked_at(model_file, make):
    widget = make(model_file)
    for guidance, n in ((0., 0), (.05, 2), (1., 2)):
        controls(widget)['listens to the start'].value = guidance; widget.finish()
        assert len(widget.fig.data[2]['x']) == n and widget.fig.data[2]['line']['dash'] == 'dot'

# Denoising

def test_the_map_of_denoising_moves_only_with_what_is_looked_at(model_file, ask):
    film = denoising_view(model_file)
    here = controls(film)
    start, listen, noise = (here[k] for k in ('starting network', 'listens to the start', 'noise seed'))
    assert start.disabled and torch.equal(film.known[0].values, map_answers(ask, None).values)
    start.value = 5; film.finish(); assert torch.equal(film.known[0].values, map_answers(ask, None).values)
    noise.value = 1; film.finish()
    assert torch.equal(film.known[0].values, map_answers(ask, None, seed=1).values)
    listen.value = 1.; film.finish()
    expected = map_answers(ask, unseen_start(ask.task, 5), seed=1).values
    assert not start.disabled and torch.equal(film.known[0].values, expected)

def test_a_sweep_from_noise_alone_is_over_all_prompts(ask):
    (low, high), rows = ask.seen, sweep_prompts(ask, None, n=4, seed=2)
    torch.testing.assert_close(rows[0], ask(low, seed=2).rows[0], atol=1e-5, rtol=1e-4)
    noise = normal_noise((1, ask.layout.D), seed=2).expand(4, -1)            # all begin with the same
    expected = ask(torch.linspace(low, high, 4), noise=noise, seed=2, eta=ask.sampler['eta']).rows
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-4)

# Names, axes, marks

VIEWS = dict(first=first_look, landscape=landscape, denoising=denoising_view, barrier=barrier_view,
             walk=lambda f: walk_view(f, n_frames=3), many=lambda f: many_at_once(f, n=3),
             explorer=lambda f: Explorer([f.parent], saved=f.parent, race_steps=5))

@pytest.mark.parametrize('make', VIEWS.values(), ids=VIEWS)
def test_every_control_has_a_name_and_every_axis_a_title(model_file, make):
    widget = make(model_file)
    for guidance in (1., 0.):
        if 'listens to the start' in controls(widget):
            controls(widget)['listens to the start'].value = guidance; widget.finish()
        named = {label: c for label, c in controls(widget).items() if not isinstance(c, W.Label)}
        assert named and all(label and c.tooltip for label, c in named.items()), named
        layout = widget.fig.layout
        axes = [a for k, a in layout.items() if re.match('[xy]axis', k) and a.get('visible', True)]
        axes += [a for k, scene in layout.items() if k.startswith('scene')
                 for side, a in scene.items() if side.endswith('axis')]
        assert axes and all(a['title']['text'] for a in axes)

# Exercises of this room that arrive unsolved

def lesson(name): return {c['id']: ''.join(c['source']) for c in json.loads((NBS/name).read_text())['cells']}

@pytest.mark.parametrize('name, wrong', [
    ('play/06_walk', 'def my_halfway(a, b, between): return (between - a).norm()/(a - b).norm()'),
    ('play/07_many', 'def my_error(rows, n): return 100*(together.said[:n] != y).float().mean().item()'),
    ('play/08_barriers', 'def my_line(a, b): return metric_along_line(task, a[None], b[None], "loss")[0]'),
    ('play/09_controls', 'def my_slider(): return W.FloatLogSlider(value=.01, min=1e-4, max=1)')])
def test_exercises_tell_right_from_not_yet(name, wrong, capsys, ask):
    "Neither stub nor answer fails, and the folded answer is right."
    cells, task = lesson(f'{name}.ipynb'), ask.task
    answer = ask(1., n=6)
    together, (a, b) = predict_together(task, answer.rows), answer.rows[:2]
    wrong_ones = together.prediction != task.test[1]
    names = dict(ask=ask, task=task, m=task.metrics['loss'], answer=answer, a=a, b=b, torch=torch, W=W,
                 together=together, y=task.test[1], wrong=wrong_ones, predict_together=predict_together,
                 metric_along_line=metric_along_line)
    def told(exercise):
        here = dict(names)
        for source in (exercise, cells['exercise-check']): exec(source, here)
        return capsys.readouterr().out
    right, = re.findall(r'```python\n(.*?)```', cells['exercise-answer'], re.S)
    assert told(cells['exercise']).startswith('not yet') and told(wrong).startswith('not yet')
    assert told(right).startswith('right')

"How much a model listens to the start: slider, explorer, walk; many networks, and the barrier between two."
import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from gpt_kit.gpt.load import load
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.store import read_tensors, write_tensors
from gpt_kit.networks.symmetry import permute, random_permutations
from gpt_kit.networks.tasks import Metric
from gpt_kit.networks.weights import measure, predict_logits
from gpt_kit.play import many
from gpt_kit.play.barriers import barrier_heights, barrier_view, find_barrier, metric_along_line
from gpt_kit.play.many import many_at_once, predict_together, sample_networks, stack_dots
from gpt_kit.play.views import denoising_view
from gpt_kit.play.walk import walk_noise, walk_view
from gpt_kit.play.widgets import Explorer, first_look, map_answers, sweep_prompts, unseen_start
from test_widgets import controls

def hidden_share(file, where, share): # the same model, which says that it learned with other starts in sight
    tensors, info = read_tensors(file, 'model')
    info['training']['hide'] = share
    write_tensors(where, tensors, info)
    return where

def words(widget):
    return [c.value for row in widget.children[:-2] for c in row.children if hasattr(c, 'value')]

def walk(file): return walk_view(file, n_frames=3)

FIXED = {0.: (1., 'fixed: this model always needs a start'),
         1.: (0., 'fixed: this model has never seen a start')}

# The slider

@pytest.mark.parametrize('share', FIXED)
def test_a_slider_without_a_choice_says_why(model_file, tmp_path, share):
    file = hidden_share(model_file, tmp_path/'other-loss.safetensors', share)
    value, why = FIXED[share]
    explorer = Explorer([tmp_path], saved=tmp_path, race_steps=5)
    for widget in (explorer, first_look(file), walk(file), denoising_view(file)):
        slider = controls(widget)['listens to the start']
        assert slider.disabled and slider.value == value and why in words(widget)
        controls(widget)['prompt: test loss (nats)'].value = 1.; widget.finish()
        assert widget.message.value == ''

def test_a_slider_with_a_choice(model_file):
    for make, begins in ((first_look, 1.), (walk, 0.), (denoising_view, 0.)):
        widget = make(model_file)
        slider = controls(widget)['listens to the start']
        assert (slider.min, slider.max, slider.step, slider.value) == (0., 1., .05, begins)
        assert not slider.disabled
        assert "0: noise alone, 1: the start's own future" in words(widget)

def test_from_model_to_model(model_file, tmp_path):
    "The slider comes back to life, where the next model has a choice, and so does the model's own sampler."
    (tmp_path/'b-loss.safetensors').write_bytes(model_file.read_bytes())
    hidden_share(model_file, tmp_path/'a.safetensors', 0.)
    e = Explorer([tmp_path], saved=tmp_path, race_steps=5)
    e.listen.value = .3; e.finish()
    e.model.value = 'a'; e.finish(); assert e.listen.disabled and e.listen.value == 1 and e.view.guidance == 1
    e.steps.value = 2; e.finish()
    e.model.value = 'b-loss'; e.finish()
    assert not e.listen.disabled and e.steps.value == e.ask.sampler['steps']
    e.listen.value = 0.; e.finish(); assert e.view.guidance == 0 and e.message.value == ''

def test_first_look_listens(model_file, ask):
    widget, start = first_look(model_file), unseen_start(ask.task, 0)[None]
    for guidance in (1., .5, 0.):
        controls(widget)['listens to the start'].value = guidance; widget.finish()
        asked, got = widget.fig.data[4]['x'][0], widget.fig.data[4]['y'][0]
        assert got == ask(start, asked, guidance=guidance).metric.item()
    assert got == ask(asked).metric.item(), 'at 0 it comes out of noise alone'

# The explorer

@pytest.fixture(scope='module')
def explorer(model_file, tmp_path_factory):
    place = tmp_path_factory.mktemp('explorer')
    return Explorer([model_file.parent], saved=place, race_steps=5)

def test_explorer_says_what_it_did_not_listen_to(explorer):
    e = explorer
    def shown(): return [a['text'] for a in e.fig.layout['annotations']]
    for guidance, title, path in ((.5, 'first layer: the start', 2),
                                  (0., 'first layer: the start, not listened to', 0)):
        e.listen.value = guidance; e.finish()
        start, prompt = e.view.chain[0][None], e.prompt.value
        assert torch.equal(e.view.answer.rows, e.ask(start, prompt, guidance=guidance).rows)
        assert title in shown() and len(e.fig.data[7]['x']) == path      # noise alone leads from nowhere
        assert len(e.fig.data[2]['x']) == (2 if guidance else 0)         # the dotted line of the start
        assert f'-guidance{guidance:g}-' in e.stem()
    e.save_net.click(); assert '-guidance0-' in e.message.value
    e.listen.value = 1.; e.finish(); assert 'first layer: the start' in shown()

def test_fresh_noise_on_the_way(explorer):
    "As much as the model's file says, unless the slider says otherwise."
    e = explorer
    assert e.eta.value == e.ask.sampler['eta'] > 0
    e.eta.value = 0.; e.finish()
    start = e.view.chain[0][None]
    assert e.message.value == ''
    assert torch.equal(e.view.answer.rows, e.ask(start, e.prompt.value, eta=0.).rows)
    e.eta.value = e.ask.sampler['eta']; e.finish()
    assert torch.equal(e.view.answer.rows, e.ask(start, e.prompt.value).rows)

def test_the_map_shows_both(ask):
    "Answers that listen to the start, and answers out of this noise: on one plane, which the noise moves."
    start = unseen_start(ask.task, 0)
    ground = map_answers(ask, start, seed=3)
    both = [sweep_prompts(ask, start, n=12, guidance=w, seed=3) for w in (1., 0.)]
    place = ground.plane.place(torch.cat(both))
    low, high = torch.tensor([[side[0], side[-1]] for side in (ground.xs, ground.ys)]).T
    assert ((place > low) & (place < high)).all(), 'all of them are on the map'
    apart = (place[:12].mean(0) - place[12:].mean(0)).norm()
    assert apart > .5*(both[0].mean(0) - both[1].mean(0)).norm(), 'and one sees how far apart they are'
    assert not torch.equal(ground.values, map_answers(ask, start, seed=4).values)
    best = sweep_prompts(ask, start, n=2, guidance=0., seed=3)[:1]
    torch.testing.assert_close(best, ask(ask.best, seed=3).rows)

# The walk

def test_a_walk_from_noise_alone(model_file, ask):
    "Is the default; the start is neither looked at nor on the map, and its slider rests."
    film = walk(model_file)
    answer, ground, asked, heard = film.known
    start = unseen_start(ask.task, 0)
    alone = walk_noise(ask, start + 1, asked, seed=0, n_frames=3).rows
    assert torch.equal(answer.rows, alone) and heard is None
    assert controls(film)['starting network'].disabled and len(film.fig.data[6]['x']) == 0
    controls(film)['listens to the start'].value = .5; film.finish()
    answer, ground, asked, heard = film.known
    mixed = walk_noise(ask, start, asked, guidance=.5, seed=0, n_frames=3).rows
    assert torch.equal(answer.rows, mixed) and torch.equal(heard, start) and len(film.fig.data[6]['x']) == 1
    assert not controls(film)['starting network'].disabled
    film.children[-3].children[-1].click(); assert '-guidance0.5.html' in film.message.value

# Many at once

def test_what_networks_predict_together(ask):
    "The class of the greatest mean probability; disagreement is the share that says another."
    rows, y = sample_networks(ask, 1., n=5).rows, ask.task.test[1]
    together = predict_together(ask.task, rows)
    p = predict_logits(ask.task, rows).softmax(1)                        # (5, 10, N)
    assert torch.equal(together.prediction, p.mean(0).argmax(0))
    for i in range(0, len(y), 50):
        others = sum(int(p[k, :, i].argmax()) != together.prediction[i] for k in range(5))
        assert together.disagreement[i].item() == pytest.approx(int(others)/5)
    errors = 100*(together.said != y).float().mean(1)
    torch.testing.assert_close(errors, measure(ask.task, rows, metrics=['error'])['error'])

def test_a_sure_minority_outweighs_an_unsure_majority(ask, monkeypatch):
    "Not the class that most networks name: probabilities count."
    logits = torch.tensor([[.6, .4], [.6, .4], [.1, .9]]).log()[..., None]
    monkeypatch.setattr(many, 'predict_logits', lambda task, rows: logits)
    together = predict_together(ask.task, None)
    assert together.prediction.tolist() == [1] and together.disagreement.item() == pytest.approx(2/3)

@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 9))
def test_no_dot_covers_another(values, n):
    values = np.array(values)
    heights = stack_dots(values, [-.1, 1.1], n=n)
    places = set(zip(((values + .1)/1.2*n).astype(int).tolist(), heights.tolist()))
    assert len(places) == len(values) and heights.min() == 1

def test_many_at_once(model_file, ask):
    "The most disputed first, with the prediction, a cross where it is wrong, and disagreement in numbers."
    widget = many_at_once(model_file, n=6)
    controls(widget)['noise seed'].value = 2; widget.finish(); assert widget.message.value == ''
    asked = controls(widget)['prompt: test loss (nats)'].value
    answer = ask(asked, n=6, seed=2)
    metrics, errors, doubts = widget.fig.data[1], widget.fig.data[2], widget.fig.data[3]
    assert list(metrics['x']) == answer.metric.tolist() and 'from noise alone' in words(widget)
    together, y = predict_together(ask.task, answer.rows), ask.task.test[1]
    wrong = together.prediction != y
    each = 100*(together.said != y).float().mean(1)
    assert errors['x'] == pytest.approx([each.mean(), each.min(), 100*wrong.float().mean()])
    assert sum(int(t.split()[2]) for t in doubts['text'] if t != 'nowhere') == len(y)
    said, shares = (t['text'] for t in widget.fig.data if t.get('mode') == 'text')
    order = together.disagreement.argsort(descending=True, stable=True)[:24]
    assert [t.startswith('✗') for t in said] == wrong[order].tolist()
    assert list(shares) == [f'{100*s:.0f} %' for s in together.disagreement[order]]
    for n in (1, 256):
        controls(widget)['networks'].value = n; widget.finish()
        assert widget.message.value == ''
    assert len(widget.fig.data[1]['x']) == 256

def test_many_from_a_model_that_needs_starts(model_file, tmp_path):
    file = hidden_share(model_file, tmp_path/'old.safetensors', 0.)
    widget = many_at_once(file, n=3)
    assert 'from as many starts: this model always needs one' in words(widget)
    assert len(widget.fig.data[1]['x']) == 3

# The barrier between two

def test_metric_along_a_line(ask):
    rows = sample_networks(ask, 1., n=4).rows
    values = metric_along_line(ask.task, rows[:2], rows[2:], 'loss', n=5)
    torch.testing.assert_close(values[:, [0, -1]].T.flatten(), ask.measure(rows))
    torch.testing.assert_close(values[:, 2], ask.measure((rows[:2] + rows[2:])/2))
    with pytest.raises(UserError, match='no split'):
        metric_along_line(ask.task, rows, rows, 'loss', split='all')

def test_a_barrier_vanishes_when_only_the_numbering_differs():
    ask = load('digits-loss')
    a = sample_networks(ask, ask.best, n=1).rows
    b = permute(ask.layout, a, random_permutations(ask.layout, 1, torch.Generator().manual_seed(0)))
    barrier = find_barrier(ask.task, a[0], b[0], 'loss')
    raw, aligned = barrier_heights(ask.task.metrics['loss'], barrier.values).tolist()
    assert raw > .2 and aligned == pytest.approx(0, abs=1e-5) and torch.equal(barrier.networks[2], a[0])
    assert barrier.ground.plane.off(barrier.networks).max() < 1e-2, 'both lines lie on the map'

@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9), st.booleans())
def test_a_barrier_is_the_rise_beyond_the_worse_end(values, minimize):
    metric, sign = Metric('m', '', None, minimize=minimize), 1 if minimize else -1
    height, = barrier_heights(metric, torch.tensor([values], dtype=torch.float64)).tolist()
    worse = [sign*v for v in values]
    assert height == pytest.approx(max(worse) - max(worse[0], worse[-1])) and height >= 0

def test_barrier_view(model_file):
    widget = barrier_view(model_file)
    before = widget.fig.data[2]['y']
    controls(widget)['noise seed'].value = 5; widget.finish()
    assert widget.message.value == '' and not np.array_equal(before, widget.fig.data[2]['y'])
    labels = [t['text'][0] for t in widget.fig.data if t.get('mode') == 'text']
    assert labels == ['neurons as they are', 'neurons aligned']

"Dials: other widths and other tasks of a family, with everything that a widget shows."
import asyncio
import json
import re
import threading
import warnings
from pathlib import Path

import ipywidgets as W
import numpy as np
import pytest
import torch

from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.families import Family
from gpt_kit.networks.layers import hidden_widths
from gpt_kit.networks.registry import get_family
from gpt_kit.networks.states import read_network
from gpt_kit.networks.tasks import classification, mlp
from gpt_kit.play.barriers import barrier_view
from gpt_kit.play.controls import fit_prompt, slider
from gpt_kit.play.dials import Dial, Dials, condition_controls, setting_text
from gpt_kit.play.draw import Drawing, filters, points
from gpt_kit.play.live import Live, json_ready
from gpt_kit.play.many import many_at_once
from gpt_kit.play.views import denoising_view, landscape_view
from gpt_kit.play.walk import walk_view
from gpt_kit.play.widgets import Explorer, draw_explorer, first_look
from test_widgets import controls

ROOT = Path(__file__).parent.parent
BEYOND = 'beyond the widths in training (16): a guess'

def train_small(store, file, **parts):
    torch.manual_seed(0)
    model = GPT(store.info['layers'], width=24, depth=1, heads=2, **parts)
    config = TrainConfig(steps=20, batch=16, warmup=5)
    train_gpt(model, prepare_data(store, 'test_loss'), config, file, progress=False)
    return file

@pytest.fixture(scope='module')
def family_file(tmp_path_factory, request):
    "A model of subsets of the digits or of turned ones, trained for a moment."
    place = tmp_path_factory.mktemp('family')
    family = get_family(getattr(request, 'param', 'digit-subsets'))
    store = collect(family, place/'store', 32, recipe=Recipe(epochs=2, n_saves=3), progress=False)
    return train_small(store, place/'models'/'family-loss.safetensors', n_conditions=len(family.labels))

@pytest.fixture
def explorer(model_file, tmp_path):
    e = Explorer([model_file.parent], saved=tmp_path, race_steps=20)
    e.model.value = 'tiny'
    e.finish()
    return e

def consistent(e):
    "Is all that an explorer shows about the networks that its dials mean, and no other?"
    v, layout = e.view, e.ask.layout
    fresh = v.ask(v.chain[-1][None], e.prompt.value, seed=e.noise.value, guidance=e.listen.value)
    pictures = [t['z'] for t in e.fig.data if t['type'] == 'heatmap']
    return (v.ask is e.ask and {r.shape for r in (*v.chain, *v.answer.rows, *v.run.rows)} == {(layout.D,)}
            and v.ground.plane.axes.shape == (2, layout.D) and e.message.value == ''
            and torch.allclose(v.answer.rows, fresh.rows, atol=1e-5)
            and np.allclose(pictures[1], filters(e.ask.task, fresh.rows[0]), atol=1e-5)
            and (e.prompt.min, e.prompt.max) == tuple(e.ask.seen)
            and json.dumps(json_ready(draw_explorer(v).data)) == json.dumps(e.live.spec['data']))

# Widths

@pytest.mark.parametrize('width', [4, 40, 64])
def test_everything_follows_the_width(explorer, width):
    dial, = explorer.dials.controls
    assert (dial.description, dial.value, dial.min, dial.max) == ('hidden neurons', 16, 4, 64)
    own = explorer.ask
    explorer.again.click(); explorer.finish()
    dial.value = width; explorer.finish()
    assert hidden_widths(explorer.ask.layout.layers) == (width,) and consistent(explorer)
    assert len(explorer.view.chain) == 1
    assert explorer.dials.words.value == BEYOND
    explorer.start.value = 3; explorer.finish(); assert consistent(explorer)
    dial.value = 16; explorer.finish()
    assert explorer.ask is own and consistent(explorer)
    assert explorer.dials.words.value == 'this width was in training'

def test_no_map_or_race_of_another_width(explorer):
    "What is kept is found again, by width; until it is there, nothing of another network is shown."
    e, maps = explorer, {}
    dial, = e.dials.controls
    for width in (16, 8, 16, 8):
        dial.value = width
        if width in maps: e.finish(); assert (e.view.ground, e.view.run) == maps[width]
        e.finish(); maps[width] = e.view.ground, e.view.run
    assert maps[8][0].plane.axes.shape != maps[16][0].plane.axes.shape
    e.running = e.job(); dial.unobserve_all(); dial.value = 12; next(e.running)
    assert e.view.ground is None and e.view.run is None and len(e.view.tried) == 1

def test_a_saved_network_has_the_width_and_says_so(explorer, tmp_path):
    explorer.dials.controls[0].value = 12; explorer.finish()
    explorer.save_net.click()
    file, = tmp_path.glob('*.safetensors')
    assert file.name.startswith('tiny-hidden-neurons12-start0-prompt')
    assert torch.equal(read_network(file, explorer.ask.layout), explorer.view.answer.rows[0])
    explorer.save_view.click(); assert [*tmp_path.glob('tiny-hidden-neurons12*.html')]

def test_the_last_of_many_moves_arrives(explorer):
    "While a hand drags, only quick pieces are computed; then what is slow, once."
    dial, maps, mapped = explorer.dials.controls[0], [], explorer.keep
    explorer.keep = lambda key, value: maps.append(key) or mapped(key, value)
    async def drag():
        for width in (30, 64, 5, 33, 4, 20):
            dial.value = width
            await asyncio.sleep(.01)
        while explorer.running: await asyncio.sleep(.02)
        await asyncio.sleep(.6)
    thread = threading.Thread(target=lambda: asyncio.run(drag())); thread.start(); thread.join()
    assert hidden_widths(explorer.ask.layout.layers) == (20,) and consistent(explorer)
    assert [key[0] for key in maps] == ['landscape', 'race'], 'of the last width alone'

def test_the_prompt_stays_as_good():
    prompt = slider('prompt', .5, 0., 2., .01)
    class Other: seen, metric, info = [1., 5.], 'loss', dict(metric=dict(unit='nats', minimize=True))
    fit_prompt(Other, prompt); assert (prompt.value, prompt.min, prompt.max) == (2., 1., 5.)
    Other.seen = [0., 2.]
    fit_prompt(Other, prompt); assert (prompt.value, prompt.min, prompt.max) == (.5, 0., 2.)

def test_models_bound_to_their_width_have_no_dial(store, tmp_path):
    ask = load(train_small(store, tmp_path/'chunks.safetensors', tokens='chunk-64'))
    dials = Dials(ask)
    assert not dials.controls and not dials.row and dials.turn() is ask and dials.setting == ()

def test_a_dial_for_each_hidden_layer(tmp_path, model_file):
    "And the explorer shows those of the model that is chosen."
    for file in (model_file, ROOT/'data'/'models'/'digits-cnn-loss.safetensors'):
        (tmp_path/file.name).write_bytes(file.read_bytes())
    e = Explorer([tmp_path], race_steps=1)
    for name, labels in (('digits-cnn-loss', ['channels 1', 'channels 2']), ('tiny', ['hidden neurons'])):
        e.model.value = name; e.finish()
        assert [c.description for c in e.dials.controls] == labels
        assert [c for c in e.turned.children if not isinstance(c, W.Label)] == e.dials.controls

def test_widths_between_those_in_training(ask):
    "With what two stores would have told it: the prompts' range is that between them, too."
    widths = [dict(hidden=[8], best=.2, seen=[.2, 2.]), dict(hidden=[32], best=.1, seen=[.1, 4.])]
    dials = Dials(Prompter(ask.model, dict(ask.info, widths=widths), task=ask.task))
    width, = dials.controls
    said = {8: 'this width was in training', 20: 'a width between those in training (8, 32)',
            40: 'beyond the widths in training (8, 32): a guess'}
    for hidden, words in said.items():
        width.value = hidden
        turned = dials.turn()
        assert dials.words.value == words
    assert width.max == 64 and turned.seen == [.1, 4.]

def test_no_warning_for_what_is_said(explorer):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        explorer.dials.controls[0].value = 40; explorer.finish()
    assert explorer.message.value == ''

def test_many_at_once_follows(model_file):
    m = many_at_once(model_file, n=3)
    before = json.dumps(json_ready(m.fig.data))
    controls(m)['hidden neurons'].value = 8; m.finish()
    assert m.message.value == '' and json.dumps(json_ready(m.fig.data)) != before

# What a job moves itself

def test_controls_that_a_job_moves_do_not_start_it_anew():
    first, second, runs = slider('a', 5, 0, 9), slider('b', 5, 0, 9), []
    def job():
        runs.append((first.value, second.value))
        second.max = first.value
        fig = Drawing([['p']], {}); fig.add('p', points([first.value], [second.value]))
        yield fig
    widget = Live(job, [first, second])
    runs.clear(); first.value = 3; widget.finish(); assert runs == [(3, 5)] and second.value == 3
    second.value = 2; widget.finish(); assert runs[-1] == (3, 2)

# Tasks of a family

def boxes(dials): return {c.description: c for c in dials.controls}

def test_boxes_for_subsets(family_file, tmp_path):
    e = Explorer([family_file.parent], saved=tmp_path, race_steps=20)
    family, digits = e.ask.family, boxes(e.dials)
    assert [*digits] == [*'0123456789', 'hidden neurons'] and all(c.tooltip for c in digits.values())
    held_out = tuple(family.held_out[0].tolist())
    assert e.ask.task is family.task(held_out) and 'held out of training' in e.dials.words.value
    def tick(condition):
        for c, on in zip(digits.values(), condition): c.value = bool(on)
        e.finish()
        assert e.ask.task is family.task(condition) and consistent(e)
        return e.view
    known = e.dials.ask.info['tasks']['conditions'][0]
    first = tick(known); assert 'this task was in training' in e.dials.words.value
    trained = {*map(tuple, e.dials.ask.info['tasks']['conditions']), *map(tuple, family.held_out.tolist())}
    other = next(c for c in map(tuple, family.conditions.tolist()) if c not in trained)
    second = tick(other); assert 'neither in training nor held out' in e.dials.words.value
    assert not torch.equal(first.ground.values, second.ground.values), 'another task, another landscape'
    assert not torch.equal(first.run.rows[-1], second.run.rows[-1])
    digits['hidden neurons'].value = 24; e.finish()
    assert hidden_widths(e.ask.layout.layers) == (24,) and consistent(e)
    e.save_net.click()
    ticked = '-'.join(str(i) for i, on in enumerate(other) if on)
    assert [*tmp_path.glob(f'family-loss-{ticked}-hidden-neurons24-start0*.safetensors')]

@pytest.mark.parametrize('on', [False, True])
def test_no_task_is_said_in_a_sentence(family_file, tmp_path, on):
    "None ticked, or all: the last task stays in the picture, also when something else is moved."
    e = Explorer([family_file.parent], saved=tmp_path, race_steps=20)
    digits = [c for c in e.dials.controls if isinstance(c.value, bool)]
    last, shown, before = [c for c in digits if c.value != on], e.view.answer.rows, e.stem()
    for c in last[1:]: c.value = on
    e.finish(); e.over.click(); assert e.message.value == ''
    shown, stem = e.view.answer.rows, e.stem()
    last[0].value = on; e.finish()
    for act in (lambda: None, lambda: setattr(e.start, 'value', 2), e.over.click):
        act()
        assert 'at least one of the ten digits, and not all of them' in e.message.value
        assert e.dials.words.value in e.message.value and e.view.answer.rows is shown
    e.start.value = 0; e.save_net.click()
    assert (tmp_path/f'{stem}.safetensors').exists()
    last[0].value = not on; e.finish(); assert consistent(e)

@pytest.mark.parametrize('family_file', ['turned-digits'], indirect=True)
def test_a_slider_for_an_angle(family_file, tmp_path):
    e = Explorer([family_file.parent], saved=tmp_path, race_steps=20)
    angle = boxes(e.dials)['angle (degrees)']
    for degrees, said in ((6., 'in training'), (30., 'held out of training'), (31., 'neither')):
        angle.value = degrees; e.finish()
        assert said in e.dials.words.value and consistent(e)
    assert 'angle-degrees-31' in e.stem()

def test_every_widget_of_a_family(family_file, tmp_path):
    "Two have dials of their own, the others take a model that is turned already."
    walk = walk_view(family_file, saved=tmp_path, n_frames=3)
    held_out, box = walk.known[0].ask.task, controls(walk)['3']
    box.value = not box.value; walk.finish()
    assert walk.message.value == '' and walk.known[0].ask.task is not held_out
    box.value = not box.value; walk.finish(); assert walk.known[0].ask.task is held_out
    walk.children[-3].children[-1].click()
    ticked = '-'.join(c.description for c in walk.children[1].children if c.value is True)
    assert [*tmp_path.glob(f'walk-family-loss-{ticked}-hidden-neurons16-start0-*.html')]
    ask = load(family_file)
    ask = ask.at(condition=ask.family.held_out[0])
    for make in (first_look, denoising_view, barrier_view): assert make(ask).fig.data
    assert landscape_view(ask, n_steps=20, n_points=5).fig.data
    with pytest.raises(UserError, match='family of tasks'): first_look(family_file)

def test_a_walk_follows_the_width(model_file):
    walk = walk_view(model_file, n_frames=3)
    controls(walk)['hidden neurons'].value = 8; walk.finish(); made = walk.known
    assert made[0].ask.layout.D == 610 and walk.message.value == ''
    walk.frame.value = 2; walk.finish(); assert walk.known is made, 'nothing is computed anew'

def test_numbers_without_dials_of_their_own():
    def shifted(condition):
        X = torch.randn(60, 2, generator=torch.Generator().manual_seed(1))
        return classification('shifted', X, (X[:, 0] > condition[0]).long(), mlp((2, 3, 2)))
    family = Family('test', shifted, [[-.5, 0.], [.5, 10.]], torch.zeros(0, 2), ['shift', 'nothing'])
    first, second = condition_controls(family)
    assert (first.value, first.min, first.max, first.step) == (-.5, -.5, .5, .01)
    assert (second.value, second.min, second.max, second.step) == (0., 0., 10., .1)
    assert setting_text((('shift', -.5), ('nothing', 10.))) == 'shift-0.5-nothing10'

# The exercise of the notebook arrives unsolved

WRONG = """def my_steps_dial(ask):
    steps = slider('sampler steps', ask.sampler['steps'], 1, 50)
    def turn(ask):
        ask.sampler['steps'] = steps.value
        return ask
    return Dial([steps], turn, lambda ask: '')"""

def test_exercise_tells_right_from_not_yet(capsys):
    notebook = json.loads((ROOT/'nbs'/'play'/'10_dials.ipynb').read_text())
    cells = {c['id']: ''.join(c['source']) for c in notebook['cells']}
    right, = re.findall(r'```python\n(.*?)```', cells['exercise-answer'], re.S)
    file = ROOT/'data'/'models'/'digits-loss.safetensors'
    for source, said in ((cells['exercise'], 'not yet'), (WRONG, 'not yet: leave the'), (right, 'right')):
        here = dict(Dial=Dial, slider=slider, load=load, model_file=file)
        for part in (source, cells['exercise-check']): exec(part, here)
        assert capsys.readouterr().out.startswith(said)

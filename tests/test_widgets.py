"""The widgets without a browser: any task, any metric, the last value shown, exceptions in a sentence.

And a figure where nothing is live.
"""
import asyncio
import json
import os
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine

import gpt_kit.play.widgets as w
from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.figures import FIGURE_MIME
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.tasks import CLASSIFICATION, Metric, classification, mlp
from gpt_kit.play.barriers import barrier_view
from gpt_kit.play.controls import slider
from gpt_kit.play.draw import Drawing, draw_prompts, points
from gpt_kit.play.live import Live, json_ready, write_film
from gpt_kit.play.many import many_at_once
from gpt_kit.play.views import denoising_view, landscape_view
from gpt_kit.play.walk import walk_view
from gpt_kit.run.jobs import job_of, run_jobs
from gpt_kit.run.pages import outputs_of
from gpt_kit.run.report import write_report

ROOT = Path(__file__).parent.parent

def wine():
    "A task whose inputs are no pictures, with a metric that is to be great: the percentage of right answers."
    task = classification('test_widgets:wine', *load_wine(return_X_y=True), mlp((13, 6, 3)))
    def right(logits, y): return 100 - CLASSIFICATION['error'].fn(logits, y)
    task.metrics['right'] = Metric('right', '%', right, minimize=False)
    return task

@pytest.fixture(scope='module')
def wines(tmp_path_factory, request):
    "Models for the wine task: one for loss, one for the percentage of right answers."
    place = tmp_path_factory.mktemp('wine')
    get_task('test_widgets:wine')               # named here, so that files that name it are believed
    store = collect(wine(), place/'store', 64, recipe=Recipe(epochs=4, n_saves=4), progress=False)
    for metric in ('loss', 'right'):
        torch.manual_seed(0)
        model = GPT(store.info['layers'], tokens='neuron', width=24, depth=1, heads=2)
        config, out = TrainConfig(steps=30, batch=16, warmup=5), place/'models'/f'wine-{metric}.safetensors'
        train_gpt(model, prepare_data(store, f'test_{metric}'), config, out, progress=False)
    return place/'models'

@pytest.fixture(autouse=True)
def known_module(monkeypatch): monkeypatch.syspath_prepend(str(Path(__file__).parent))

def controls(widget):
    every = [c for row in widget.children[:-2] for c in row.children]
    return {c.description: c for c in every if hasattr(c, 'description')}

def test_explorer_goes_from_task_to_task(tmp_path):
    "Of the shipped models; that of CartPole has a file of its own."
    e = w.Explorer([ROOT/'data'/'models'], saved=tmp_path, race_steps=20)
    for name in ('digits-cnn-loss', 'digits-error'):
        e.model.value = name; e.finish()
        assert e.message.value == '' and e.ask.metric in e.prompt.description and e.view.ground is not None

@pytest.mark.parametrize('metric, unit', [('loss', 'nats'), ('right', '%')])
def test_explorer_with_any_task(wines, tmp_path, metric, unit):
    e = w.Explorer([wines], saved=tmp_path, race_steps=60)
    e.model.value = f'wine-{metric}'; e.finish()
    assert e.message.value == '' and e.prompt.description == f'prompt: test {metric} ({unit})'
    assert (e.prompt.min, e.prompt.max) == tuple(e.ask.seen)
    for value in np.linspace(e.prompt.min, e.prompt.max, 5): e.prompt.value = value; e.finish()
    e.start.value, e.optimizer.value, e.at.value = 3, 'adam', 20; e.finish()
    assert e.message.value == '' and len(e.view.run.rows) == 61 and e.view.ground is not None
    first = e.view.answer.rows[0]
    e.again.click(); e.finish(); assert len(e.view.chain) == 2 and torch.equal(e.view.chain[1], first)
    row = e.ask(e.view.chain[-1][None], e.prompt.value).rows[0]
    torch.testing.assert_close(e.view.answer.rows[0], row)
    fresh = w.draw_explorer(e.view)
    shown = json.dumps(json_ready(fresh.data)) == json.dumps(e.live.spec['data'])
    assert shown and fresh.figure.data, 'what is shown is what a fresh computation draws'

VIEWS = dict(first=w.first_look, landscape=lambda f: landscape_view(f, n_steps=40, n_points=11),
             denoising=denoising_view, walk=lambda f: walk_view(f, n_frames=4),
             many=lambda f: many_at_once(f, n=1), barrier=barrier_view)

@pytest.mark.parametrize('make', VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize('metric', ['loss', 'right'])
def test_every_widget_with_any_task(wines, make, metric):
    "Each control does something, and no control breaks anything."
    widget = make(wines/f'wine-{metric}.safetensors')
    quiet = 'play', 'frames a second'                      # they work in the browser
    for label, c in controls(widget).items():
        before = json.dumps(json_ready([widget.fig.data, widget.fig.layout]))
        if hasattr(c, 'options'): c.index = 0 if c.index else len(c.options) - 1
        elif hasattr(c, 'max'): c.value = c.min if c.value != c.min else c.max
        else: continue
        widget.finish(); assert widget.message.value == '', label
        changed = json.dumps(json_ready([widget.fig.data, widget.fig.layout])) != before
        assert changed or label in quiet or c.disabled, label
    assert widget.fig.figure.data

def test_starts_differ_and_are_kept(wines, tmp_path):
    e = w.Explorer([wines], saved=tmp_path, race_steps=20)
    first = e.view.ground
    e.start.value = 1; e.finish(); other = e.view.ground
    e.start.value = 0; e.finish()
    assert e.view.ground is first and not torch.equal(first.values, other.values)
    for k in range(2, 10): e.start.value = k; e.finish()
    assert len(e.kept) == 12, 'only the last dozen, maps and races'

def test_from_pictures_to_none(wines, tmp_path):
    "Models of other tasks in one menu: other panels, all right."
    e = w.Explorer([wines, ROOT/'data'/'models'], saved=tmp_path, race_steps=20)
    for name in ('digits-loss', 'wine-right', 'digits-error'):
        e.model.value = name; e.finish()
        assert e.message.value == ''
        assert [t['type'] for t in e.live.spec['data']] == [t['type'] for t in e.fig.data]

def test_explorer_of_real_pictures(fashion_folder, tmp_path):
    "28 × 28 pixels, ten neurons, and a landscape on 10,000 pictures."
    e = w.Explorer([ROOT/'data'/'models'], saved=tmp_path, race_steps=20)
    e.model.value = 'fashion-loss'; e.finish()
    assert e.message.value == '' and e.ask.task.name == 'fashion' and e.view.ground.values.shape == (41, 41)
    asked, got = e.view.tried[-1]
    assert abs(got - asked) < .3

def test_a_model_trained_again_is_read_again(wines, tmp_path):
    file = tmp_path/'wine-loss.safetensors'
    file.write_bytes((wines/'wine-loss.safetensors').read_bytes()); first = w.open_model(file)
    assert w.open_model(file) is first and first.metric == 'loss'
    file.write_bytes((wines/'wine-right.safetensors').read_bytes()); os.utime(file, (1, 1))
    assert w.open_model(file).metric == 'right'

def test_a_model_by_its_name():
    shown = w.first_look('digits-loss').fig.data[4]
    ask, start = load('digits-loss'), w.unseen_start(load('digits-loss').task, 0)[None]
    assert shown['y'] == (ask(start, shown['x'][0]).metric.item(),)
    with pytest.raises(UserError, match='did you mean digits-loss'): w.first_look('digit-loss')

def test_returns_below_zero_are_in_the_picture():
    "A return is to be great, and may be negative."
    fig, metric = Drawing([['a']], {}), Metric('return', 'points', None, minimize=False)
    draw_prompts(fig, 'a', metric, [(-50., -160.)], seen=(-100., -10.), best=-10., start=-150.)
    low, high = fig.layout['yaxis']['range']
    assert low < -160 and high > -10

def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match='there is no trained model in .* train one with gpt-kit train'):
        w.Explorer([tmp_path])

def test_damaged_model_says_so_in_the_widget(wines, tmp_path):
    (tmp_path/'wine-loss.safetensors').write_bytes((wines/'wine-loss.safetensors').read_bytes())
    (tmp_path/'wine-zzz.safetensors').write_bytes(b'no model')
    e = w.Explorer([tmp_path], saved=tmp_path, race_steps=20)
    e.model.value = 'wine-zzz'; e.finish()
    assert 'cut short or not a safetensors file' in e.message.value and 'Traceback' not in e.message.value
    e.prompt.value = e.prompt.max; e.finish()
    assert 'cut short or not a safetensors file' in e.message.value, 'not the old model under the new name'
    e.model.value = 'wine-loss'; e.finish()
    assert e.message.value == ''

def test_a_full_disk_is_said(wines, tmp_path):
    e = w.Explorer([wines], saved=tmp_path/'file'/'below', race_steps=20)
    (tmp_path/'file').write_text('no folder')
    e.save_net.click()
    assert 'role="alert"' in e.message.value

def busy():
    "A widget whose job has a quick piece and slow ones, and what it computed."
    done, s = [], slider('x', 0, 0, 100)
    def job():
        value = s.value
        for piece in range(4):
            done.append((value, piece))
            fig = Drawing([['a']], {}); fig.add('a', points([value], [piece]))
            yield fig
            yield 'working'
    return Live(job, [s]), s, done

def in_a_loop(f):
    async def go():
        f()
        for _ in range(60): await asyncio.sleep(.02)
    t = threading.Thread(target=lambda: asyncio.run(go())); t.start(); t.join()

def test_the_latest_value_wins():
    widget, s, done = busy(); done.clear()
    def hand():
        for v in range(1, 100): s.value = v
    in_a_loop(hand)
    assert [d for d in done if d[1] > 0] == [(99, 1), (99, 2), (99, 3)]
    assert list(widget.fig.data[0]['x']) == [99] and widget.live.spec['data'][0]['x'] == [99]

def test_cancel_stops_between_pieces():
    widget, s, done = busy(); done.clear()
    def hand(): s.value = 5; widget.cancel()
    in_a_loop(hand)
    assert done == [(5, 0)] and 'cancelled' in widget.message.value
    in_a_loop(lambda: setattr(s, 'value', 6)); assert done[-1] == (6, 3) and widget.message.value == ''

@pytest.mark.parametrize('kind', [UserError, RuntimeError])
def test_exceptions_show_and_pass(wines, capsys, kind):
    "One sentence for the person; the trace of a bug goes to the log."
    widget = w.first_look(wines/'wine-loss.safetensors')
    def broken(): raise kind('the disk <is> full; free some')
    job, widget.job = widget.job, lambda: iter([broken()])
    widget.refresh(); assert 'the disk &lt;is&gt; full; free some' in widget.message.value
    assert ('in broken' in capsys.readouterr().err) == (kind is RuntimeError)
    widget.job = job; widget.refresh(); assert widget.message.value == ''

def test_buttons_say_what_happens():
    widget, s, done = busy()
    def refuse(): raise UserError('not now')
    widget.button('ok', lambda: 'a & b').click(); assert widget.message.value == 'a &amp; b'
    widget.button('no', refuse).click()
    assert 'role="alert"' in widget.message.value and 'not now' in widget.message.value
    widget.button('quiet', lambda: None).click(); assert 'not now' in widget.message.value

def test_an_unfinished_job_is_never_an_error():
    "Closing a generator halfway, as a newer value does, raises nothing."
    widget, s, done = busy()
    widget.running = widget.job(); next(widget.running); s.value = 9; widget.finish()
    assert widget.message.value == '' and done[-1] == (9, 3)

# Where nothing is live

def test_figure_beside_the_widget(wines):
    file = wines/'wine-loss.safetensors'
    for widget in (w.first_look(file), walk_view(file, n_frames=3)):
        bundle = widget._repr_mimebundle_()
        assert 'application/vnd.jupyter.widget-view+json' in bundle
        assert len(bundle[FIGURE_MIME]['data']) == len(widget.fig.data)
    assert len(bundle[FIGURE_MIME]['frames']) == 3

def test_batch_and_page_have_the_figure(wines, tmp_path):
    "A notebook with a widget, run in batch, made a page: a figure with data, and nothing from another host."
    v4, kernel = nbformat.v4, dict(name='python3', display_name='python3', language='python')
    parameters = f'file: str = {str(wines/"wine-loss.safetensors")!r}  # a model'
    code = [f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})',
            'from gpt_kit import get_task', "get_task('test_widgets:wine')",
            'from gpt_kit.play.walk import walk_view', 'import plotly.express as px',
            'display(px.line(y=[1, 2]))', 'walk_view(file, n_frames=3)']
    cells = [v4.new_markdown_cell('# Play\n\n> A widget.'),
             v4.new_code_cell(parameters, metadata=dict(tags=['parameters'])),
             v4.new_code_cell('\n'.join(code))]
    nb = v4.new_notebook(metadata=dict(kernelspec=kernel), cells=cells)
    nbformat.write(nb, tmp_path/'01_play.ipynb')
    run_jobs([job_of(tmp_path/'01_play.ipynb')], {}, tmp_path/'out', progress=False, say=lambda line: None)
    write_report(tmp_path/'out', tmp_path/'report')
    page = (tmp_path/'report'/'01_play.html').read_text()
    assert 'class="figure-data"' in page and '"frames":[{' in page and 'widget-view' not in page
    assert page.count('"showSendToCloud":false') == 2
    figures = outputs_of(nbformat.read(tmp_path/'out'/'01_play.ipynb', 4), FIGURE_MIME)
    assert [f['config']['showSendToCloud'] for f in figures] == [False, False], 'in Jupyter, too'
    assert not [l for l in page.split('src="')[1:] if l.startswith('http')]

def test_saved_view_is_offline(wines, tmp_path):
    page = write_film(tmp_path/'view.html', w.first_look(wines/'wine-loss.safetensors').still()).read_text()
    assert 'src="plotly.min.js"' in page and 'src="http' not in page and (tmp_path/'plotly.min.js').exists()

"The widgets without a browser: any task, any metric, the last value shown, exceptions in a sentence, a figure where nothing is live."
import asyncio, json, os, threading
from pathlib import Path

import nbformat, numpy as np, papermill, pytest, torch
from sklearn.datasets import load_wine

import gpt_kit.widgets as w
from gpt_kit.batch import run_notebooks
from gpt_kit.collect import Recipe, collect
from gpt_kit.views import denoising_view, landscape_view, walk_view
from gpt_kit.live import PLOTLY, Live, plain, slider, write_film
from gpt_kit.model import GPT
from gpt_kit.report import write_report
from gpt_kit.tasks import CLASSIFICATION, Metric, classification, mlp
from gpt_kit.train import Plan, prepare, train_gpt
from gpt_kit.weights import measure

ROOT = Path(__file__).parent.parent

def wine():
    "A task whose inputs are no pictures, with a metric that is to be great: the percentage of right answers."
    task = classification('test_widgets:wine', *load_wine(return_X_y=True), mlp((13, 6, 3)))
    task.metrics['right'] = Metric('right', '%', lambda logits, y: 100 - CLASSIFICATION['error'].fn(logits, y), minimize=False)
    return task

@pytest.fixture(scope='module')
def wines(tmp_path_factory, request):
    "Models for the wine task: one for loss, one for the percentage of right answers."
    place = tmp_path_factory.mktemp('wine')
    store = collect(wine(), place/'store', 64, Recipe(epochs=4, n_saves=4), progress=False)
    for metric in ('loss', 'right'):
        torch.manual_seed(0)
        train_gpt(GPT(store.info['layers'], 'neuron', width=24, depth=1, heads=2), prepare(store, f'test_{metric}'), Plan(steps=30, batch=16, warmup=5), place/'models'/f'wine-{metric}.safetensors', progress=False)
    return place/'models'

@pytest.fixture(autouse=True)
def known_module(monkeypatch): monkeypatch.syspath_prepend(str(Path(__file__).parent))

def controls(widget): return {c.description: c for row in widget.children[:-2] for c in row.children if hasattr(c, 'description')}

@pytest.mark.parametrize('metric, unit', [('loss', 'nats'), ('right', '%')])
def test_explorer_with_any_task(wines, tmp_path, metric, unit):
    e = w.Explorer([wines], tmp_path, race_steps=60)
    e.model.value = f'wine-{metric}'; e.finish()
    assert e.message.value == '' and e.prompt.description == f'prompt: test {metric} ({unit})' and (e.prompt.min, e.prompt.max) == tuple(e.ask.seen)
    for value in np.linspace(e.prompt.min, e.prompt.max, 5): e.prompt.value = value; e.finish()
    e.start.value, e.optimizer.value, e.at.value = 3, 'adam', 20; e.finish()
    assert e.message.value == '' and len(e.view.path.rows) == 61 and e.view.there is not None
    e.again.click(); e.finish(); assert len(e.view.chain) == 2
    start = e.view.chain[-1][None]
    row = e.ask(start, measure(e.task, start)[metric], e.prompt.value)[0]
    torch.testing.assert_close(e.view.row, row)
    fresh = w.draw_view(e.view)
    assert json.dumps(plain(fresh.data)) == json.dumps(e.live.spec['data']) and fresh.figure.data, 'what is shown is what a fresh computation draws'

@pytest.mark.parametrize('make', [w.first_look, lambda f: landscape_view(f, 40, 11), denoising_view, lambda f: walk_view(f, n_frames=4)], ids=['first', 'landscape', 'denoising', 'walk'])
@pytest.mark.parametrize('metric', ['loss', 'right'])
def test_every_widget_with_any_task(wines, make, metric):
    widget = make(wines/f'wine-{metric}.safetensors')
    before = json.dumps(plain(widget.fig.data))
    for c in controls(widget).values():
        if hasattr(c, 'max') and c.value != c.max and 'second' not in c.description: c.value = c.max
        elif hasattr(c, 'options'): c.value = c.options[-1][1] if isinstance(c.options[-1], tuple) else c.options[-1]
        widget.finish(); assert widget.message.value == '', c.description
    assert json.dumps(plain(widget.fig.data)) != before and widget.fig.figure.data

def test_starts_differ_and_are_kept(wines, tmp_path):
    e = w.Explorer([wines], tmp_path, race_steps=20)
    first = e.view.there
    e.start.value = 1; e.finish(); other = e.view.there
    e.start.value = 0; e.finish()
    assert e.view.there is first and not torch.equal(first.z, other.z)

def test_from_pictures_to_none(wines, tmp_path):
    "Models of other tasks in one menu: other panels, all right."
    e = w.Explorer([wines, ROOT/'data'/'models'], tmp_path, race_steps=20)
    for name in ('digits-loss', 'wine-right', 'digits-error'):
        e.model.value = name; e.finish()
        assert e.message.value == '' and [t['type'] for t in e.live.spec['data']] == [t['type'] for t in e.fig.data]

def test_a_model_trained_again_is_read_again(wines, tmp_path):
    file = tmp_path/'wine-loss.safetensors'
    file.write_bytes((wines/'wine-loss.safetensors').read_bytes()); first = w.open_model(file)[0]
    assert w.open_model(file)[0] is first
    file.write_bytes((wines/'wine-right.safetensors').read_bytes()); os.utime(file, (1, 1))
    assert w.open_model(file)[0].metric == 'right'

def test_returns_below_zero_are_in_the_picture():
    "A return is to be great, and may be negative."
    from gpt_kit.draw import Drawing, draw_prompts
    fig = Drawing([['a']], {}); draw_prompts(fig, 'a', Metric('return', 'points', None, minimize=False), (-100., -10.), -10., -150., [(-50., -160.)])
    low, high = fig.layout['yaxis']['range']
    assert low < -160 and high > -10

def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match='there is no trained model in .* train one with gpt-kit train'): w.Explorer([tmp_path])

def test_damaged_model_says_so_in_the_widget(wines, tmp_path):
    (tmp_path/'wine-loss.safetensors').write_bytes((wines/'wine-loss.safetensors').read_bytes()); (tmp_path/'wine-zzz.safetensors').write_bytes(b'no model')
    e = w.Explorer([tmp_path], tmp_path, race_steps=20)
    e.model.value = 'wine-zzz'; e.finish()
    assert 'cut short or not a safetensors file' in e.message.value and 'Traceback' not in e.message.value
    e.prompt.value = e.prompt.max; e.finish()
    assert 'cut short or not a safetensors file' in e.message.value, 'not the old model under the new name'
    e.model.value = 'wine-loss'; e.finish()
    assert e.message.value == ''

def test_a_full_disk_is_said(wines, tmp_path):
    e = w.Explorer([wines], tmp_path/'file'/'below', race_steps=20)
    (tmp_path/'file').write_text('no folder')
    e.save_net.click()
    assert 'role="alert"' in e.message.value

def busy():
    "A widget whose job has a quick piece and slow ones, and what it computed."
    done, s = [], slider('x', 0, 0, 100)
    def job():
        from gpt_kit.draw import Drawing, points
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
    assert [d for d in done if d[1] > 0] == [(99, 1), (99, 2), (99, 3)] and list(widget.fig.data[0]['x']) == [99] and widget.live.spec['data'][0]['x'] == [99]

def test_cancel_stops_between_pieces():
    widget, s, done = busy(); done.clear()
    def hand(): s.value = 5; widget.cancel()
    in_a_loop(hand)
    assert done == [(5, 0)] and 'cancelled' in widget.message.value
    in_a_loop(lambda: setattr(s, 'value', 6)); assert done[-1] == (6, 3) and widget.message.value == ''

def test_exceptions_show_and_pass(wines):
    widget = w.first_look(wines/'wine-loss.safetensors')
    def broken(): raise RuntimeError('the disk <is> full; free some')
    job, widget.job = widget.job, lambda: iter([broken()])
    widget.refresh(); assert 'the disk &lt;is&gt; full; free some' in widget.message.value
    widget.job = job; widget.refresh(); assert widget.message.value == ''

def test_an_unfinished_job_is_never_an_error():
    "Closing a generator halfway, as a newer value does, raises nothing."
    widget, s, done = busy()
    widget.running = widget.job(); next(widget.running); s.value = 9; widget.finish()
    assert widget.message.value == ''

# Where nothing is live

def test_figure_beside_the_widget(wines):
    for widget in (w.first_look(wines/'wine-loss.safetensors'), walk_view(wines/'wine-loss.safetensors', n_frames=3)):
        bundle = widget._repr_mimebundle_()
        assert 'application/vnd.jupyter.widget-view+json' in bundle and len(bundle[PLOTLY]['data']) == len(widget.fig.data)
    assert len(bundle[PLOTLY]['frames']) == 3

def test_batch_and_page_have_the_figure(wines, tmp_path):
    "A notebook with a widget, run in batch, made a page: a figure with data, and nothing from another host."
    nb = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), cells=[
        nbformat.v4.new_markdown_cell('# Play\n\n> A widget.'), nbformat.v4.new_code_cell(f'file: str = {str(wines/"wine-loss.safetensors")!r}  # a model', metadata=dict(tags=['parameters'])),
        nbformat.v4.new_code_cell(f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom gpt_kit.views import walk_view\nwalk_view(file, n_frames=3)')])
    nbformat.write(nb, tmp_path/'01_play.ipynb')
    run_notebooks([tmp_path/'01_play.ipynb'], {}, tmp_path/'out')
    write_report(tmp_path/'out', tmp_path/'report')
    page = (tmp_path/'report'/'01_play.html').read_text()
    assert 'Plotly.newPlot(' in page and '"frames": [{' in page and 'widget-view' not in page
    assert not [l for l in page.split('src="')[1:] if l.startswith('http')]

def test_saved_view_is_offline(wines, tmp_path):
    page = write_film(tmp_path/'view.html', w.first_look(wines/'wine-loss.safetensors').still()).read_text()
    assert 'src="plotly.min.js"' in page and 'src="http' not in page and (tmp_path/'plotly.min.js').exists()

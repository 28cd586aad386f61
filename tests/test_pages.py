"""What stands in pages, films and widgets: no way to plotly's service, no code that is made from text.

And names as they are written, whatever is in them. `test_browser` looks at the same pages in a browser.
"""
import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
import pandas as pd
import plotly.express as px
import plotly.io as pio
import pytest
import torch
from hypothesis import given, strategies as st

from gpt_kit.gpt.evaluate import plot_alignment, prompt_alignment
from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.figures import FIGURE_MIME, OUR_SCRIPT, PLOTLY_CONFIG, configure_renderers
from gpt_kit.networks.figures import figure_element, figure_text, script_tags
from gpt_kit.networks.tasks import digits
from gpt_kit.pdiff.compare import plot_columns, plot_novelty
from gpt_kit.play.barriers import draw_barrier, find_barrier
from gpt_kit.play.controls import prompt_slider, slider
from gpt_kit.play.draw import Drawing, curve, points
from gpt_kit.play.live import CANVAS_SCRIPT, Canvas, Live, animate, plotly_script, write_film
from gpt_kit.play.many import draw_many
from gpt_kit.play.views import draw_denoising, watch_denoising
from gpt_kit.play.walk import draw_walk, map_walk, walk_noise
from gpt_kit.play.widgets import Explorer, ExplorerView, draw_explorer, map_answers, optimizer_run
from gpt_kit.play.widgets import unseen_start
from gpt_kit.run.gallery import verdict, write_gallery
from gpt_kit.run.report import write_report
from gpt_kit.study.neighbours import draw_novelty

ROOT = Path(__file__).parent.parent
BAD = '<img src=x onerror=alert(1)>"\'&<b>%{it}</b>$1$'      # a name that would like to be more
FILE = BAD.replace('/', '')                                  # as far as a file can be called so

# Pages with such names, for a browser too

def wild_prompter():
    "A shipped model whose metric, unit and classes have such a name."
    model, info = load_model('digits-loss')
    task = digits()
    task = replace(task, classes=[f'{BAD}{i}' for i in range(10)],
                   metrics={BAD: replace(task.metrics['loss'], name=BAD, unit=BAD)})
    metric = dict(info['metric'], name=f'test_{BAD}', unit=BAD)
    return Prompter(model, info | dict(metric=metric, fingerprint=task.fingerprint), task=task)

def wild_drawing():
    "All kinds of panels that the kit draws, with such names."
    fig = Drawing([['a', 'b', 'c', 'd'], ['e']*4], {'a': f'{BAD}\nbelow', 'e': BAD}, solid=('c',), height=700)
    fig.add('a', points([0, 1], [1, 2], 'lines+markers+text', BAD + ': %{y:.3g}', name=BAD, text=[BAD, BAD]))
    fig.axes('a', dict(title=BAD, tickvals=[0, 1], ticktext=[BAD, 'b']), dict(title=BAD))
    heights = np.arange(16.).reshape(4, 4)**2
    fig.add('b', dict(type='contour', z=heights, hovertemplate=BAD + '%{z}<extra></extra>'))
    fig.add('c', dict(type='surface', z=heights), dict(type='scatter3d', x=[0, 1], y=[0, 1], z=[0, 1]))
    fig.add('d', dict(type='heatmap', z=heights))
    fig.add('e', points([0, 1], [BAD, 'c']))
    fig.layout |= dict(showlegend=True)
    return fig

def wild_notebook(title=BAD):
    "A made-up executed notebook that shows a figure, a table and a text."
    v4, table = nbformat.v4, pd.DataFrame({BAD: [BAD]}, index=[BAD])
    figure = {FIGURE_MIME: json.loads(px.line(y=[3, 1, 2], title=figure_text(BAD)).to_json())}
    many = px.scatter(x=np.linspace(0, 1, 2000), y=np.linspace(0, 1, 2000))
    assert many.data[0].type == 'scattergl'
    shown = [figure, {FIGURE_MIME: json.loads(many.to_json())}, {'text/html': table._repr_html_()},
             {'text/plain': BAD}]
    outputs = [*(v4.new_output('display_data', data) for data in shown), v4.new_output('stream', text=BAD),
               v4.new_output('error', ename='UserError', evalue=BAD, traceback=[BAD])]
    cell = v4.new_code_cell(f'name = {BAD!r}', id='alignment-figure', outputs=outputs)
    return v4.new_notebook(cells=[v4.new_markdown_cell(f'# {title}\n\n> About it.'), cell])

def wild_report(folder):
    "A report of such notebooks; one is also called so."
    jobs = {'gpt/evaluate': 'gpt/06_evaluate.ipynb', FILE: f'02_{FILE}.ipynb'}
    notebooks, log = folder/'executed', {}
    for name, file in jobs.items():
        (notebooks/file).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(wild_notebook(), notebooks/file)
        log[name] = dict(file=file, key='1', seconds=1.)
    (notebooks/'jobs.json').write_text(json.dumps(log))
    results = dict(prompt_alignment={BAD: .9}, best_prompt={BAD: .1}, best_in_data={BAD: .1},
                   baselines={BAD: dict(sgd_1=.5)})
    (notebooks/'results.json').write_text(json.dumps(results))
    write_report(notebooks, folder/'report')
    return folder/'report'

def wild_gallery(folder):
    "A gallery with one verdict about such things."
    folder.mkdir()
    found, v4 = verdict(BAD, BAD, {BAD: BAD, 'of each': {BAD: BAD}}, {BAD: True}), nbformat.v4
    nb = wild_notebook()
    nb.cells.append(v4.new_code_cell('v', outputs=[v4.new_output('display_data', found._repr_mimebundle_())]))
    nbformat.write(nb, folder/f'fig03_{FILE}.ipynb')
    write_gallery(folder)
    return folder

@pytest.fixture(scope='module')
def wild(): return wild_prompter()

@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "Every kind of page: report, gallery and film."
    place = tmp_path_factory.mktemp('pages')
    report, gallery = wild_report(place), wild_gallery(place/'gallery')
    film = write_film(place/'film'/f'{FILE}.html', animate([wild_drawing(), wild_drawing()]))
    return [*report.rglob('*.html'), *gallery.glob('*.html'), film]

class Page(HTMLParser):
    "Tags, words and figures of a page, read as a browser does."
    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.data, self.inside = [], {}, [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs))); self.inside = tag

    def handle_data(self, words):
        self.words[self.inside] = self.words.get(self.inside, '') + words
        tag, attrs = self.tags[-1] if self.tags else ('', {})
        if tag == 'script' and attrs.get('class') == 'figure-data' and words.startswith('{'):
            self.data.append(json.loads(words))

# No way to plotly's service

def test_no_page_has_the_button(pages):
    assert len(pages) == 4 + 2 + 1     # index, glossary, two lessons; gallery; film
    found = [fig for file in pages for fig in Page(file.read_text()).data]
    assert len(found) == 2*2 + 2 + 2*2 + 1     # lessons, the report's first page, gallery, film
    for fig in found: assert fig['config']['showSendToCloud'] is fig['config']['displaylogo'] is False
    for file in pages:
        assert not re.search('chart-studio|plotlyServerURL|cloud.plotly|plot.ly', file.read_text())

def test_no_widget_has_the_button():
    s = slider('x', 0, 0, 9)
    live = Live(lambda: iter([wild_drawing()]), [s])
    assert live.live.spec['config'] == PLOTLY_CONFIG and 'fig.config' in CANVAS_SCRIPT
    assert live._repr_mimebundle_()[FIGURE_MIME]['config'] == PLOTLY_CONFIG

def test_no_renderer_has_the_button():
    "Plotly's own ways to show a figure; what somebody has set there stays."
    with_config = [r for r in map(pio.renderers.__getitem__, pio.renderers) if hasattr(r, 'config')]
    assert len(with_config) > 5
    for renderer in with_config: assert renderer.config['showSendToCloud'] is False
    shown = pio.renderers['plotly_mimetype'].to_mimebundle(px.line(y=[1, 2]).to_dict())
    assert shown[FIGURE_MIME]['config']['showSendToCloud'] is False
    renderer, before = pio.renderers['notebook'], pio.renderers['notebook'].config
    renderer.config = dict(displaylogo=True)
    configure_renderers()
    assert renderer.config == PLOTLY_CONFIG | dict(displaylogo=True)
    renderer.config = before

def test_a_notebooks_own_figures_have_no_button():
    "In a kernel the kit's first import is enough; elsewhere it loads no plotly."
    shown = ("import sys, ipykernel, gpt_kit, plotly.io as pio; "
             "print(pio.renderers['jupyterlab'].config.get('showSendToCloud'))")
    done = subprocess.run([sys.executable, '-c', shown], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'False'

# No code that is made from text, and none in the page

def test_pages_run_only_files_beside_them(pages):
    for file in pages:
        page = Page(file.read_text())
        scripts = [attrs for tag, attrs in page.tags if tag == 'script']
        assert {a.get('src', a.get('type')) for a in scripts} >= {'application/json'} or not page.data
        for a in scripts:
            if a.get('type') == 'application/json': continue
            assert a['src'].removeprefix('../') in ('plotly.min.js', 'figures.js') and 'defer' in a
            assert (file.parent/a['src']).is_file()
    assert 'new Function' not in CANVAS_SCRIPT and 'eval(' not in CANVAS_SCRIPT

def test_figures_need_no_webgl_for_flat_points(pages):
    "Plotly's WebGL for scatter plots makes code from text."
    kinds = {t['type'] for file in pages for fig in Page(file.read_text()).data for t in fig['data']}
    assert 'scatter' in kinds and not [k for k in kinds if k.endswith('gl')]

def test_a_figure_is_data_that_json_reads():
    "No number and no text of it ends the element or breaks the reader."
    odd = dict(data=[dict(y=[1., float('nan'), float('inf')], name='</script><!--<script>')],
               layout=dict(height='"><script>alert(1)</script>'))
    element = figure_element(odd)
    page = Page(element)
    assert element.count('<') == 4, 'a browser reads <!-- in a script, too'
    assert [tag for tag, _ in page.tags] == ['div', 'script']
    fig, = page.data
    assert fig['data'][0] == dict(y=[1., None, None], name='</script><!--<script>', type='scatter')

def test_films_and_reports_share_the_scripts(tmp_path):
    "What was there and is another one, of an older release say, is replaced."
    (tmp_path/'figures.js').write_text(OUR_SCRIPT + 'old')
    write_film(tmp_path/'a.html', wild_drawing().figure)
    assert 'Plotly.react' in (tmp_path/'figures.js').read_text()
    assert script_tags() in (tmp_path/'a.html').read_text()

# Names as they are written

FORMAT = re.compile(r'<br>|<extra></extra>|</?span[^<>]*>')

def texts(v):
    "All texts of a figure."
    if isinstance(v, str): return [v]
    if isinstance(v, dict): v = [w for key, w in v.items() if key != 'legendgroup']     # which nobody sees
    return [t for w in v for t in texts(w)] if isinstance(v, (list, tuple, np.ndarray)) else []

def as_written(fig):
    "Do the texts of a figure show names letter by letter? Raises if there is none."
    shown = texts(fig.data) + texts(fig.layout) if isinstance(fig, Drawing) else texts(fig.to_plotly_json())
    named = [t for t in shown if 'onerror' in t]
    assert named
    for t in named: assert '<' not in FORMAT.sub('', t) and 'b&gt;%{' not in t and '$' not in t, t
    return all(BAD in html.unescape(t.replace('<br>', '\n')) for t in named)

@given(st.text())
def test_text_is_read_back(text):
    shown = figure_text(text)
    assert html.unescape(shown.replace('<br>', '\n')) == text
    assert not re.search(r'<(?!br>)|[{$]', shown)

def test_drawings_show_names_as_written():
    fig = wild_drawing()
    assert as_written(fig) and '<br>below' in fig.layout['annotations'][0]['text']
    assert fig.data[0]['hovertemplate'].endswith(': %{y:.3g}<extra></extra>'), 'values are values'
    for words in ([BAD], (BAD,), np.array([BAD]), np.array([BAD], dtype=object)):
        fig.add('a', points([0], [1], text=words))
        assert fig.data[-1]['text'] == [figure_text(BAD)]
    fig.add('a', curve([0, 1], [0, 1], 'red', 'step %{customdata}, %{text}: %{x} %{z:.1f}'))
    assert fig.data[-1]['hovertemplate'] == 'step %{customdata}, %{text}: %{x} %{z:.1f}<extra></extra>'

def test_explorer_and_views_show_names_as_written(wild):
    start, prompt = unseen_start(wild.task, 0), wild.best
    answer = wild(start[None], prompt, steps=2)
    *_, run = optimizer_run(wild, start, 'sgd', 50)
    ground = map_answers(wild, start)
    view = ExplorerView(wild, [start], [(prompt, 1.)], answer, 1., ground, run)
    found = watch_denoising(wild, start, prompt, steps=2)
    walk = walk_noise(wild, start, prompt, guidance=1., seed=0, n_frames=3)
    assert as_written(draw_explorer(view)) and as_written(draw_explorer(replace(view, ground=None)))
    assert as_written(draw_denoising(wild, ground, found, frame=1, prompt=prompt))
    place = map_walk(wild.task, wild.metric, walk.rows, start)
    assert as_written(draw_walk(wild.task, wild.metric, walk.rows, walk.metric, place, frame=0, prompt=prompt,
                                start=start))
    assert as_written(draw_many(wild, walk, prompt, 1.))
    barrier = find_barrier(wild.task, *walk.rows[:2], wild.metric)
    assert as_written(draw_barrier(wild.task, wild.metric, barrier))
    assert as_written(plot_alignment(wild, prompt_alignment(wild, n_starts=2, n_prompts=3, steps=2)))

def test_tables_and_sets_show_names_as_written():
    "Figures whose names come from whoever draws them."
    columns = dict(best=[90., 80.], mean=[80., 70.], median=[85., 75.])
    assert as_written(plot_columns(pd.DataFrame(columns, index=[BAD, 'b']), BAD))
    wrong, test = torch.eye(4, dtype=torch.bool), torch.full((4,), 90.)
    df = pd.DataFrame()
    df.attrs['judged'] = {name: dict(wrong=wrong, test=test) for name in ('originals', BAD)}
    assert as_written(plot_novelty(df))
    df.attrs['points'] = {BAD: dict(distance=[1., 2.], disagreement=[1., 2.], loss=[.1, .2])}
    fig = draw_novelty({BAD: (df, 'loss')})
    assert as_written(fig) and '<br>' in fig.layout['xaxis']['title']['text']
    assert '<br>' in json.dumps(fig.layout['updatemenus'])

def test_controls_show_names_as_written(wild, tmp_path):
    "A label is text; so are a menu of models, messages and the name of a page."
    models = tmp_path/'models'; models.mkdir()
    shutil.copy(ROOT/'data'/'models'/'digits-loss.safetensors', models/f'{FILE}.safetensors')
    explorer = Explorer([models], saved=tmp_path/'saved', race_steps=20)
    assert explorer.model.options == (FILE,)
    explorer.save_view.click()
    page, = (tmp_path/'saved').glob('*.html')
    stem = FILE.replace(' ', '-')
    assert stem in Page(page.read_text()).words['title'] and stem in html.unescape(explorer.message.value)
    assert '<' not in explorer.message.value
    explorer.say(BAD); assert explorer.message.value == html.escape(BAD)
    explorer.fail(UserError(BAD)); assert html.escape(BAD) in explorer.message.value
    assert BAD in prompt_slider(wild).description
    for control in explorer.children[0].children:
        assert not getattr(control, 'description_allow_html', False)

def test_pages_show_names_as_written(pages):
    "No element that a name would have made, in reports, galleries and films."
    for file in pages:
        page = Page(file.read_text())
        assert not [(tag, a) for tag, a in page.tags if tag == 'img' or any(k.startswith('on') for k in a)]
        for tag, attrs in page.tags:
            if link := attrs.get('href'):
                assert not re.search('[<>" ]', link)
    texts_of = {file.name: html.unescape(file.read_text()) for file in pages}
    assert all(BAD in text or FILE in text for text in texts_of.values())
    lesson = next(f for f in pages if f.name == f'02_{FILE}.html')
    words = Page(lesson.read_text()).words
    assert BAD in words['title'] and BAD in words['h1'], 'a title is text, in the page as in the index'

def test_links_between_pages_lead_there(pages):
    "Whatever a notebook is called."
    from urllib.parse import unquote, urldefrag
    for file in pages:
        page = Page(file.read_text())
        ids = {a.get('id') for _, a in page.tags}
        for _, attrs in page.tags:
            to, at = urldefrag(attrs.get('href', ''))
            if to.startswith('data:'): continue                          # pixels of a picture
            if to: assert (file.parent/unquote(to)).is_file(), to
            elif at and not attrs.get('class') == 'anchor-link': assert unquote(at) in ids

# Widgets after all others were closed

def test_a_widget_after_close_all():
    "`Widget.close_all()` closes plotly's script too, which all canvases share."
    first = Canvas(wild_drawing())
    assert Canvas(wild_drawing()).source == first.source
    ipywidgets.Widget.close_all()
    live = Live(lambda: iter([wild_drawing()]), [slider('x', 0, 0, 9)])
    assert live.live.source == 'IPY_MODEL_' + plotly_script().model_id != first.source
    assert plotly_script().comm is not None and len(plotly_script().code) > 1e6
    live.children[0].children[0].value = 3
    live.finish()
    assert live.live.spec['version'] == 1 and live.message.value == ''

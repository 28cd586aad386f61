"""The widgets in JupyterLab, and our pages, in a real browser.

JupyterLab is started as `make lab` does, a notebook opened and run, sliders moved by mouse and keyboard.
What is asserted is what the page shows. Latencies, measured in the page, go to build/browser.json;
screenshots to build/screens; look at them.
"""
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import psutil
import pytest
import torch

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.networks.figures import NO_SCRIPT, write_scripts
from gpt_kit.play.draw import filters, predicted_classes
from gpt_kit.play.live import CANVAS_SCRIPT, Canvas, animate, write_film
from gpt_kit.play.pad import PAD_SCRIPT, PointPad, grid_places
from gpt_kit.play.widgets import map_answers
from test_pages import BAD, FILE, wild_drawing, wild_gallery, wild_report

ROOT = Path(__file__).parent.parent
SCREENS = ROOT/'build'/'screens'
FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-angle=swiftshader',
         '--enable-unsafe-swiftshader']
NO_BROWSER = 'BROWSER=no: the widgets were not tried in a browser'
pytestmark = pytest.mark.skipif(os.environ.get('BROWSER') == 'no', reason=NO_BROWSER)
alone = pytest.mark.alone                               # widgets, whose time is measured
beside_others = pytest.mark.xdist_group('browser')      # pages
MODEL = ROOT/'data'/'models'/'digits-loss.safetensors'
SETTINGS = {'notebook-extension/tracker': dict(windowingMode='none', autosave=False),
            'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False)}

@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "JupyterLab on copies of the notebooks, so that nothing is saved into ours: address, token and process."
    place = tmp_path_factory.mktemp('lab')
    shutil.copytree(ROOT/'nbs', place/'nbs', ignore=shutil.ignore_patterns('.*'))
    (place/'data').symlink_to(ROOT/'data')
    for name, value in SETTINGS.items():
        file = place/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        file.parent.mkdir(parents=True, exist_ok=True); file.write_text(json.dumps(value))
    env = os.environ | dict(JUPYTERLAB_SETTINGS_DIR=str(place/'settings'), PYTHONPATH=str(ROOT),
                            JUPYTERLAB_WORKSPACES_DIR=str(place/'workspaces'))
    options = ['--ip=127.0.0.1', '--no-browser', '--allow-root', '--port=0']
    p = subprocess.Popen([sys.executable, '-m', 'jupyter', 'lab', *options], cwd=place/'nbs', env=env,
                         stderr=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Timer(60, p.kill); late.start()
    found = (re.search(r'(http://127\.0\.0\.1:\d+)/lab\?token=(\w+)', line) for line in p.stderr)
    address = next(filter(None, found), None)
    late.cancel()
    assert address, 'JupyterLab did not start; try: make lab'
    threading.Thread(target=lambda: list(p.stderr), daemon=True).start()
    yield *address.groups(), psutil.Process(p.pid)
    for child in psutil.Process(p.pid).children(recursive=True): child.kill()
    os.killpg(p.pid, signal.SIGKILL)

@pytest.fixture(scope='module')
def chromium():
    from playwright.sync_api import sync_playwright
    program = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if not program:
        pytest.fail("no Chromium was found; install it with: sudo apt-get install -y chromium "
                    "(or skip these tests: BROWSER=no make test)")
    SCREENS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()

def run_all(chromium, lab, notebook):
    "A page with the notebook open and run, its errors so far, and the seconds that took."
    base, token, _ = lab
    page, errors = chromium.new_page(viewport=dict(width=1440, height=1000)), []
    page.on('console', lambda m: errors.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: errors.append(str(e)))
    begun = time.time()
    page.goto(f'{base}/lab/tree/{notebook}?token={token}&reset')
    page.wait_for_selector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Cell')
    page.wait_for_selector('text=/Python 3 .*\\| Idle/', timeout=60_000); page.wait_for_timeout(1000)
    page.click('.lm-MenuBar-itemLabel:text-is("Run")')
    page.click('.lm-Menu-itemLabel:text-is("Run All Cells")')
    last = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1)"
    try: page.wait_for_function(f"/\\[\\d+\\]/.test({last}.textContent)", timeout=120_000)
    finally: page.screenshot(path=SCREENS/f'{Path(notebook).stem}.png')
    page.wait_for_timeout(1000)
    failed = page.locator('.jp-OutputArea-output[data-mime-type*="error"]')
    assert failed.count() == 0, failed.all_inner_texts()
    return page, errors, time.time() - begun

@pytest.fixture(scope='module')
def play(chromium, lab):
    page, errors, seconds = run_all(chromium, lab, 'play/02_widgets.ipynb')
    record(open_and_run_widgets_seconds=round(seconds, 1))
    yield page
    assert not errors, errors
    page.close()

def record(**figures):
    "Add figures to build/browser.json, and print them."
    file = ROOT/'build'/'browser.json'
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(known | figures, indent=1))
    print(figures)

def output(page, text):
    "The output of the cell whose code contains a text, scrolled to and drawn."
    cell = page.locator('.jp-CodeCell', has=page.locator('.jp-InputArea-editor', has_text=text))
    widget = cell.locator('.jp-OutputArea').first
    widget.scroll_into_view_if_needed()
    widget.locator('.js-plotly-plot .main-svg').first.wait_for(timeout=60_000); page.wait_for_timeout(500)
    return widget

def labelled(widget, label):
    "The slider with that label."
    return widget.locator('.widget-slider', has=widget.page.locator('.widget-label', has_text=label))

def handle(widget, label):
    "Its handle."
    return labelled(widget, label).locator('.noUi-handle').first

def grab(page, widget, label):
    "Put the mouse on a slider's handle and press; gives where that is."
    knob = handle(widget, label); knob.scroll_into_view_if_needed(); page.wait_for_timeout(500)
    def press():                        # the page may still be moving under the mouse
        box = knob.bounding_box()
        x, y = box['x'] + box['width']/2, box['y'] + box['height']/2
        page.mouse.move(x, y); page.mouse.down()
        held = 'noUi-active' in knob.get_attribute('class')
        if not held: page.mouse.up()
        return held and (x, y)
    found = []
    assert until(page, lambda: found.append(press()) or found[-1]), f'{label} cannot be grabbed'
    page.wait_for_timeout(1500)
    return found[-1]

def until(page, true, seconds=20):
    "Wait until something is true of a page; is it?"
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end: return False
        page.wait_for_timeout(100)
    return True

def data(widget):
    return widget.locator('.js-plotly-plot').first.evaluate('g => JSON.parse(JSON.stringify(g.data))')

def title(widget, i=0): return widget.locator('.annotation-text').nth(i).text_content()

def screenshot(widget, name):
    widget.scroll_into_view_if_needed(); widget.page.wait_for_timeout(400)
    widget.screenshot(path=SCREENS/f'{name}.png')

WATCH = """g => {
  const point = panel => g.querySelector(`.subplot.${panel} .scatterlayer .trace:last-child path.point`);
  const look = () => ({achieved: point('xy')?.getAttribute('transform'),
                       landscape: point('x2y2')?.getAttribute('transform'),
                       weights: g.querySelectorAll('.heatmaplayer image')[1]?.getAttribute('href')});
  let moved, awaited, before = look();
  const begin = e => { if (!moved && e.type === awaited) { moved = e.timeStamp; before = look(); } };
  for (const event of ['pointermove', 'click']) addEventListener(event, begin, true);
  window.again = event => { moved = null; awaited = event; window.times = {}; };
  new MutationObserver(() => {
    if (!moved) return;
    const now = look();
    for (const k in now)
      if (now[k] !== before[k] && !(k in window.times)) window.times[k] = performance.now() - moved;
  }).observe(g, {subtree: true, childList: true, attributes: true});
}"""

def watch(widget):
    "From now on the page keeps when something changes in a figure after the event that `again` names."
    if not widget.page.evaluate("'again' in window"):
        widget.locator('.js-plotly-plot').first.evaluate(WATCH)

def measured(round_of_moves, bars):
    "Medians of a round that is within the bars, the last of five at most: other jobs slow a shared machine."
    for _ in range(5):
        times = round_of_moves()
        found = {k: dict(median=round(statistics.median(t)), worst=round(max(t)), moves=len(t))
                 for k, t in times.items()}
        if all(found[k]['median'] <= bars[k] for k in bars): break
    return found

@pytest.fixture
def listening(play):
    "The explorer, with a function that sets how much it listens to the start; all of it again afterwards."
    widget, label = output(play, 'explorer = Explorer('), 'listens to the start'
    assert until(play, lambda: is_still(widget)), 'the landscape is mapped'
    def press(key, times=1):
        handle(widget, label).focus()
        for _ in range(times): play.keyboard.press(key)
        play.wait_for_timeout(1000)
    def listen(guidance):
        if guidance < 1: press('ArrowLeft', round((1 - guidance)/.05))
        assert reading(widget, label) == guidance and until(play, lambda: is_still(widget))
    yield widget, listen
    play.mouse.up(); press('End')

@alone
@pytest.mark.parametrize('guidance, n', [(1, 30), (.5, 12)])
def test_latency(play, listening, guidance, n):
    "From the mouse's move to the changed plot, in the page: median 300 ms, 1 s for the landscape's point."
    widget, listen = listening
    watch(widget)
    listen(guidance)
    def moves():
        _, y = grab(play, widget, 'prompt')
        track = labelled(widget, 'prompt').locator('.noUi-target').bounding_box()
        times = dict(achieved=[], weights=[], landscape=[])
        for i in range(1, n + 1):               # 0 is where the prompt stands at first
            play.evaluate("window.again('pointermove')")
            play.mouse.move(track['x'] + track['width']*(.1 + .8*(i*7 % 23)/23), y)    # far from where it is
            play.wait_for_function("'achieved' in window.times", timeout=20_000)
            play.wait_for_timeout(500)
            for k, t in play.evaluate('window.times').items(): times[k].append(t)
        play.mouse.up()
        assert all(len(t) > n/2 for t in times.values())    # a small move may stay within a pixel of the map
        return times
    bars = dict(achieved=300, weights=300, landscape=1000)
    found = measured(moves, bars)
    how = f'_at_{guidance}' if guidance < 1 else ''
    record(**{f'{k}{how}_ms': v for k, v in found.items()})
    assert all(found[k]['median'] <= bars[k] for k in bars), found

def choose_model(widget, name):
    before = data(widget)[5].get('z')
    widget.locator('select').first.select_option(name)
    def mapped(): return is_still(widget) and data(widget)[5].get('z') not in (None, before)
    assert until(widget.page, mapped, 60)

def is_still(widget):
    "Has the explorer's work come to its end, with a landscape?"
    busy = widget.locator('button:text-is("cancel")').is_visible()
    return not busy and 'z' in data(widget)[5]

@pytest.fixture
def subsets(play):
    "The explorer with the model of all subsets of the digits; afterwards with its usual one."
    widget = output(play, 'explorer = Explorer(')
    choose_model(widget, 'digit-subsets')
    yield widget
    choose_model(widget, MODEL.stem)

@alone
def test_ticks(play, subsets):
    "From a tick in one of the ten boxes to the new network on the page: median 300 ms."
    watch(subsets)
    boxes = subsets.get_by_role('checkbox')
    assert boxes.count() == 10
    def ticks():
        times = []
        for i in range(12):
            play.evaluate("window.again('click')")
            boxes.nth(i*3 % 10).click()
            play.wait_for_function("['achieved', 'weights'].every(k => k in window.times)", timeout=20_000)
            times.append(play.evaluate('Math.max(window.times.achieved, window.times.weights)'))
            assert until(play, lambda: is_still(subsets))
            play.wait_for_timeout(700)
        return dict(tick=times)
    found = measured(ticks, dict(tick=300))['tick']
    screenshot(subsets, 'explorer-subsets')
    record(tick_ms=found)
    assert found['median'] <= 300, found

def reading(widget, label):
    "The number beside a slider."
    return json.loads(labelled(widget, label).locator('.widget-readout').text_content())

def agrees(widget):
    "Does the page show what a fresh computation gives: point, title, weights, predictions, place on the map?"
    traces, ask = data(widget), load(MODEL)
    task, x, y = ask.task, traces[4]['x'][0], traces[4]['y'][0]
    start = unseen_starts(task, reading(widget, 'starting network') + 1)[-1:]
    seed = reading(widget, 'noise seed')
    answer = ask(start, x, seed=seed, steps=reading(widget, 'sampler steps'))
    row, pictures = answer.rows[0], [torch.tensor(t['z']) for t in traces if t['type'] == 'heatmap']
    place = map_answers(ask, start[0], seed=seed).plane.place(answer.rows)[0]
    shown = torch.tensor([traces[9]['x'][0], traces[9]['y'][0]])
    words = next(t['text'] for t in traces if t.get('mode') == 'text')
    classes = predicted_classes(task, row, torch.arange(12))
    def same(picture, row): return torch.allclose(picture, torch.from_numpy(filters(task, row)), atol=1e-3)
    return dict(point=abs(answer.metric.item() - y) < 1e-3, title=f'asked for {x:.3g}' in title(widget),
                weights=same(pictures[1], row), start=same(pictures[0], start[0]),
                place=torch.allclose(shown, place, atol=.02),
                words=[t.lstrip('✗ ') for t in words] == [str(c) for c in classes])

@alone
def test_two_hundred_moves(play, lab):
    "A restless hand on five sliders, mouse and keyboard: no error, no growth, and the last values are shown."
    widget = output(play, 'explorer = Explorer(')
    kernels = [c for c in lab[2].children(recursive=True) if 'ipykernel' in ' '.join(c.cmdline())]
    kernel = max(kernels, key=lambda c: c.create_time())
    labels = ['noise seed', 'sampler steps', 'steps of the race', 'starting network']
    g = torch.Generator().manual_seed(0)
    def drag(n):
        x, y = grab(play, widget, 'prompt')
        for d in torch.randint(-40, 60, (n,), generator=g).tolist():
            play.mouse.move(x + d, y); play.wait_for_timeout(20)
        play.mouse.up()
    def keys(n):
        for k in torch.randint(0, 20, (n,), generator=g).tolist():
            handle(widget, labels[min(k//6, 3)]).focus()
            play.keyboard.press('ArrowRight' if k % 3 else 'ArrowLeft'); play.wait_for_timeout(60)
    drag(20); keys(10); play.wait_for_timeout(4000)
    before, begun = kernel.memory_info().rss, time.time()
    keys(50); drag(150); play.wait_for_timeout(6000)
    grown, points = (kernel.memory_info().rss - before)/1e6, len(data(widget)[3]['x'])
    seconds = round(time.time() - begun, 1)
    record(two_hundred_moves=dict(kernel_grew_MB=round(grown, 1), seconds=seconds, answers_shown=points))
    assert grown < 50 and widget.locator('[role=alert]:visible').count() == 0, grown
    assert all(agrees(widget).values()), agrees(widget)
    screenshot(widget, 'explorer')

@alone
def test_keyboard_and_buttons(play):
    widget = output(play, 'explorer = Explorer(')
    def shown(): return all(agrees(widget).values())
    before = title(widget)
    handle(widget, 'prompt').focus(); play.keyboard.press('ArrowRight')
    assert until(play, lambda: title(widget) != before) and until(play, shown), agrees(widget)
    points = len(data(widget)[3]['x'])
    widget.locator('button:text-is("again")').click()
    assert until(play, lambda: len(data(widget)[3]['x']) == points + 1)
    assert until(play, lambda: len(data(widget)[7]['x']) == 3), 'the path on the landscape has one more point'
    widget.locator('button:text-is("start over")').click()
    assert until(play, lambda: len(data(widget)[3]['x']) == 0) and until(play, shown), agrees(widget)
    first = data(widget)[5]['z']
    handle(widget, 'starting network').focus(); play.keyboard.press('ArrowRight')
    assert until(play, lambda: data(widget)[5].get('z') not in (None, first)), 'another landscape'
    handle(widget, 'prompt').focus(); play.keyboard.press('Home')
    for _ in range(8): play.keyboard.press('ArrowRight'); play.wait_for_timeout(250)
    assert until(play, shown), agrees(widget)
    screenshot(widget, 'explorer-other-start')

@alone
def test_landscape(play):
    widget = output(play, 'landscape_view(file')
    before = data(widget)[0]['z']
    handle(widget, 'starting network').focus(); play.keyboard.press('ArrowRight')
    assert until(play, lambda: data(widget)[0]['z'] != before)
    assert widget.locator('.gl-container canvas').count() > 0
    screenshot(widget, 'landscape')

@alone
@pytest.mark.parametrize('name, code', [('denoising', 'denoising_view(file)'), ('walk', 'walk_view(file')])
def test_films_play(play, name, code):
    "Press play: frames go by; press again: they stop."
    widget = output(play, code)
    widget.scroll_into_view_if_needed()
    begun = data(widget)[0]['z']
    button = widget.locator('.widget-play button').first
    button.click()
    assert until(play, lambda: data(widget)[0]['z'] != begun)
    button.click(); play.wait_for_timeout(800)
    still = data(widget)[0]['z']; play.wait_for_timeout(800)
    assert data(widget)[0]['z'] == still
    screenshot(widget, name)

@alone
def test_a_screen_reader_finds_names(play):
    "Each slider and its number are called after the label beside them; figure and player have names, too."
    for code in ('explorer = Explorer(', 'denoising_view(file)'):
        widget = output(play, code)
        labels = widget.locator('.widget-slider .widget-label').all_text_contents()
        assert len(labels) >= 5
        for kind in ('slider', 'textbox'):
            for label in labels: assert widget.get_by_role(kind, name=label, exact=True).count() == 1, label
        assert widget.get_by_role('figure', name=title(widget)).count() == 1
    for label in ('play or pause', 'stop', 'repeat'):
        assert widget.get_by_role('button', name=label, exact=True).count() == 1

CONTEXTS = "all => all.map(g => g._context.showSendToCloud)"

@alone
def test_no_figure_sends_itself_to_plotly(play):
    "There is no button for it in any widget's tool bar."
    widget = output(play, 'explorer = Explorer(')
    widget.locator('.js-plotly-plot').first.hover()
    sends = play.locator('.js-plotly-plot').evaluate_all(CONTEXTS)
    assert sends and not any(sends)
    buttons = play.locator('.modebar-btn').evaluate_all('all => all.map(b => b.dataset.title)')
    assert buttons and not [b for b in buttons if 'hare' in b or 'loud' in b]

@alone
def test_reload_shows_the_last_figure(play):
    "A page that is loaded again, kernel alive, begins with what was shown last."
    play.wait_for_timeout(1500)
    shown = title(output(play, 'explorer = Explorer('))
    play.keyboard.press('Control+s'); play.wait_for_timeout(2000)
    play.reload(); play.wait_for_selector('text=/Python 3 .*\\| Idle/', timeout=60_000)
    assert until(play, lambda: title(output(play, 'explorer = Explorer(')) == shown)

PALE = """root => {        // words that hardly stand out from what is behind them, those on pictures left out
  const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = colour => {
    pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const sheet = document.createElement('i');
  sheet.style.backgroundColor = 'Canvas'; document.body.append(sheet);
  const light = ([r, g, b]) => {
    const part = v => v/255 <= .04045 ? v/255/12.92 : ((v/255 + .055)/1.055)**2.4;
    return .2126*part(r) + .7152*part(g) + .0722*part(b);
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const found = rgba(getComputedStyle(e).backgroundColor);
      if (found[3] > 128) return found;
    }
    return rgba(getComputedStyle(sheet).backgroundColor);
  };
  const words = [...root.querySelectorAll('*')].filter(e => e.getClientRects().length
    && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())
    && !e.closest('style, script, option')
    && !e.closest('.subplot')?.querySelector('.heatmaplayer image, .contourlayer path'));
  const all = words.map(e => {
    const ground = behind(e), how = getComputedStyle(e);
    const [r, g, b, a] = rgba(e.closest('svg') ? how.fill : how.color);
    const ink = [r, g, b].map((v, i) => (a*v + (255 - a)*ground[i])/255);
    const [low, high] = [light(ink), light(ground)].sort((a, b) => a - b);
    return [(high + .05)/(low + .05), e.textContent.trim().slice(0, 40)];
  });
  sheet.remove();
  return {n: all.length, pale: all.filter(([contrast]) => contrast < 4.5)};
}"""
WIDE = """e => {            // what is wider than its place, from an element up to the page
  const found = [];
  for (; e; e = e.parentElement)
    if (e.clientWidth && e.scrollWidth > e.clientWidth + 1) found.push(e.className);
  return found;
}"""
PANELS = "g => [...g.querySelectorAll('.nsewdrag')].map(e => e.getBoundingClientRect().toJSON())"

def rows_of_panels(widget):
    "How many panels stand beside each other, from top to bottom."
    boxes = sorted(widget.locator('.js-plotly-plot').first.evaluate(PANELS), key=lambda b: b['top'])
    rows = []
    for box in boxes:
        if rows and box['top'] < rows[-1][0]['bottom']: rows[-1].append(box)
        else: rows.append([box])
    return [len(row) for row in rows]

def choose_theme(page, name):
    page.click('.lm-MenuBar-itemLabel:text-is("Settings")')
    page.hover('.lm-Menu-itemLabel:text-is("Theme")')
    page.click(f'.lm-Menu-itemLabel:text-is("JupyterLab {name}")')
    page.wait_for_selector(f'body[data-jp-theme-name="JupyterLab {name}"]', state='attached')
    page.wait_for_timeout(500)

def toggle_files(page):
    page.keyboard.press('Escape'); page.keyboard.press('Control+b'); page.wait_for_timeout(500)

@alone
def test_dark_theme_and_narrow_pane(play):
    "The explorer follows JupyterLab's theme, stands in one column in a pane of 450 pixels, and goes on."
    widget = output(play, 'explorer = Explorer(')
    figure = widget.locator('.js-plotly-plot').first
    def light(): return figure.evaluate('g => getComputedStyle(g.querySelector(".main-svg")).backgroundColor')
    assert until(play, lambda: is_still(widget))
    beside = rows_of_panels(widget)
    assert max(beside) > 2 and light() == 'rgb(255, 255, 255)'
    try:
        choose_theme(play, 'Dark')
        assert until(play, lambda: light() == 'rgb(17, 17, 17)') and rows_of_panels(widget) == beside
        screenshot(widget, 'explorer-dark')
        toggle_files(play)
        play.set_viewport_size(dict(width=560, height=1000))
        assert until(play, lambda: rows_of_panels(widget) == [1]*sum(beside)), rows_of_panels(widget)
        assert widget.bounding_box()['width'] < 460 and not figure.evaluate(WIDE), figure.evaluate(WIDE)
        before = title(widget)
        handle(widget, 'prompt').focus(); play.keyboard.press('ArrowRight')
        figure.evaluate('g => g.scrollIntoView()')                  # what nobody looks at is not drawn
        assert until(play, lambda: title(widget) != before and is_still(widget))
        assert rows_of_panels(widget) == [1]*sum(beside)
        found = widget.locator('.widget-vbox').first.evaluate(PALE)
        assert found['n'] > 60 and not found['pale'], found
        play.set_viewport_size(dict(width=560, height=2900))
        screenshot(widget, 'explorer-dark-narrow')
    finally:
        play.set_viewport_size(dict(width=1440, height=1000))
        toggle_files(play)
        choose_theme(play, 'Light')
    assert until(play, lambda: light() == 'rgb(255, 255, 255)' and rows_of_panels(widget) == beside)

@alone
def test_first_minute(chromium, lab):
    "A visitor opens the first notebook, runs it, and moves its slider, in less than a minute."
    page, errors, seconds = run_all(chromium, lab, '00_start.ipynb')
    widget = output(page, 'first_look(')
    before = title(widget)
    handle(widget, 'prompt').focus(); page.keyboard.press('ArrowRight')
    assert until(page, lambda: title(widget) != before)
    record(first_minute_seconds=round(seconds, 1))
    screenshot(widget, 'start')
    assert seconds < 60 and not errors, (seconds, errors)
    page.close()

# Pages and a canvas where scripts are refused that stand in a page or make code from text

KINDS = {'.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json'}

@pytest.fixture(scope='module')
def playground(chromium, lab):
    page, errors, _ = run_all(chromium, lab, 'play/12_playground.ipynb')
    yield page, output(page, 'playground = Playground(')
    assert not errors, errors
    page.close()

PRESSED = """() => {
  const draw = CanvasRenderingContext2D.prototype.putImageData;
  CanvasRenderingContext2D.prototype.putImageData = function(...what) {    // of a new surface alone
    draw.apply(this, what);
    if (window.pressed) requestAnimationFrame(t => { window.took = performance.now() - window.pressed; });
  };
  addEventListener('pointerdown', e => { window.pressed = e.timeStamp; window.took = null; }, true);
}"""

def press(page, pad, place):
    box = pad.bounding_box()                # figures above may still be drawn, and move it
    page.mouse.move(box['x'] + place[0], box['y'] + place[1]); page.mouse.down(); page.mouse.up()

def places(n, seed):
    return (20 + 380*torch.rand(n, 2, generator=torch.Generator().manual_seed(seed))).tolist()

def drawn_pad(page, widget):
    pad = widget.locator('canvas[role=application]')
    pad.scroll_into_view_if_needed(); page.wait_for_timeout(2000)
    return pad

@alone
def test_playground_answers_in_time(playground):
    "From a press on the pad to the page with another border: the median of 12."
    page, widget = playground
    pad = drawn_pad(page, widget)
    page.evaluate(PRESSED)
    def presses():
        times = []
        for place in places(12, 1):
            press(page, pad, place)
            assert until(page, lambda: page.evaluate('window.took'))
            times.append(page.evaluate('window.took')); page.wait_for_timeout(1500)
        return dict(border=times)
    bars = dict(border=150)
    found = measured(presses, bars)
    record(playground_ms=found)
    assert found['border']['median'] <= bars['border'], found

@alone
def test_playground_edits(playground):
    "200 random edits of the points, and no error."
    page, widget = playground
    pad, modes = drawn_pad(page, widget), torch.randint(3, (10,), generator=torch.Generator().manual_seed(0))
    for i, place in enumerate(places(200, 0)):
        if i % 20 == 0: widget.locator('select').first.select_option(index=int(modes[i//20]))
        press(page, pad, place)
    page.wait_for_timeout(3000)
    said = widget.locator('.widget-html-content').last.text_content()
    assert 'Error' not in said and widget.locator('[role=alert]:visible').count() == 0, said

@alone
def test_playground_reads_a_table(playground, tmp_path):
    "A table from the disk is points on the pad, which are still there when the page is loaded again."
    page, widget = playground
    rows = [f'{i % 7},{i % 5},{"low" if i % 7 + i % 5 < 5 else "high"}' for i in range(90)]
    (tmp_path/'mine.csv').write_text('length,width,size\n' + '\n'.join(rows))
    with page.expect_file_chooser() as chooser: widget.locator('button', has_text='your table').click()
    chooser.value.set_files(tmp_path/'mine.csv')
    def counts(): return output(page, 'playground = Playground(').locator('p[role=status]').text_content()
    assert until(page, lambda: '90' == str(sum(int(n) for n in re.findall(r'\d+', counts()))))
    assert 'circles high, diamonds low' in widget.text_content()
    before = counts()
    screenshot(widget, 'playground')
    page.keyboard.press('Control+s'); page.wait_for_timeout(2000)
    page.reload(); page.wait_for_selector('text=/Python 3 .*\\| Idle/', timeout=60_000)
    assert until(page, lambda: counts() == before)
    assert 'circles high' in output(page, 'playground = Playground(').text_content()

def open_page(chromium, file, policy, width=1300, **how):
    "A page of files beside it under a content policy; its errors and dialogs, and what it asks of others."
    page, wrong = chromium.new_page(viewport=dict(width=width, height=900), **how), []
    page.on('console', lambda m: wrong.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: wrong.append(str(e)))
    page.on('dialog', lambda d: (wrong.append(d.message), d.dismiss()))
    def serve(route):
        there = file.parent/unquote(urlsplit(route.request.url).path).lstrip('/')
        headers = {'Content-Security-Policy': policy, 'Content-Type': KINDS.get(there.suffix, '')}
        if route.request.url.startswith('http://kit.test/') and there.is_file():
            return route.fulfill(path=there, headers=headers)
        wrong.append(route.request.url)
        route.abort()
    page.route('**/*', serve)
    page.goto('http://kit.test/' + quote(file.name))
    return page, wrong

@beside_others
def test_pages_under_a_strict_policy(chromium, tmp_path):
    "Report, gallery and film draw their figures and show names as they are written; nothing else happens."
    report, gallery = wild_report(tmp_path), wild_gallery(tmp_path/'gallery')
    film = write_film(tmp_path/'film'/'film.html', animate([wild_drawing(), wild_drawing()]))
    for file in (report/f'02_{FILE}.html', gallery/'index.html', film):
        page, wrong = open_page(chromium, file, "script-src 'self'")
        page.wait_for_selector('.figure:not(:has(.main-svg))', state='detached')
        page.wait_for_timeout(300)
        sends = page.locator('.js-plotly-plot').evaluate_all(CONTEXTS)
        assert sends and not any(sends) and not wrong, wrong
        assert page.locator('.modebar-btn[data-title*="hare"], a[href*="plot"]').count() == 0
        assert BAD in page.locator('body').text_content() and page.locator('img').count() == 0
        page.screenshot(path=SCREENS/f'strict-{file.parent.name}-{file.stem[:2]}.png')
        if file != film: page.close()
    assert page.locator('.annotation-text').first.text_content() == BAD + 'below'
    page.locator('.scatterlayer .point').first.hover(force=True)
    page.wait_for_selector('.hovertext')
    assert BAD in page.locator('.hovertext').first.text_content()
    page.close()
    page, wrong = open_page(chromium, film, "script-src 'none'")
    assert page.locator('.figure').inner_text() == NO_SCRIPT
    page.close()

@beside_others
def test_pages_dark_on_a_telephone(chromium, tmp_path):
    "All words stand out, nothing is too wide, panels stand in one column; then light again, and wide."
    report = wild_report(tmp_path)
    film = write_film(tmp_path/'film'/'film.html', animate([wild_drawing(), wild_drawing()]))
    for file in (report/f'02_{FILE}.html', film):
        page, wrong = open_page(chromium, file, "script-src 'self'", width=360, color_scheme='dark')
        page.wait_for_selector('.figure:not(:has(.main-svg))', state='detached')
        page.wait_for_timeout(300)
        assert page.evaluate('document.documentElement.scrollWidth') == 360
        found = page.locator('body').evaluate(PALE)
        assert found['n'] > 10 and not found['pale'], found
        page.screenshot(path=SCREENS/f'dark-{file.parent.name}-{file.stem[:2]}.png', full_page=True)
        if file != film: page.close()
    body = page.locator('body')
    assert rows_of_panels(body) == [1, 1, 1, 1]
    page.emulate_media(color_scheme='light'); page.set_viewport_size(dict(width=1300, height=900))
    assert until(page, lambda: rows_of_panels(body) == [3, 1])
    assert until(page, lambda: not body.evaluate(PALE)['pale']) and not wrong, (body.evaluate(PALE), wrong)
    page.close()

HARNESS = """import make from './canvas.js';
const [spec, code] = await Promise.all([fetch('spec.json').then(r => r.json()),
                                        fetch('plotly.min.js').then(r => r.text())]);
const source = {get: () => code}, values = {spec, source: 'IPY_MODEL_1'};
const model = {get: name => values[name], on() {}, widget_manager: {get_model: async () => source}};
const widget = make();
widget.initialize({model});
widget.render({model, el: document.body});
"""

@beside_others
def test_canvas_under_a_strict_policy(chromium, tmp_path):
    "Drawn without `unsafe-eval`; where no script may be loaded as anywidget loads its own, it says so."
    write_scripts(tmp_path)
    page_html = '<!DOCTYPE html><meta charset="utf-8"><script type="module" src="page.js"></script><body>'
    files = {'canvas.js': CANVAS_SCRIPT, 'page.js': HARNESS, 'canvas.html': page_html,
             'spec.json': json.dumps(Canvas(wild_drawing()).spec)}
    for name, text in files.items(): (tmp_path/name).write_text(text)
    page, wrong = open_page(chromium, tmp_path/'canvas.html', "script-src 'self' blob:")
    page.wait_for_selector('.gl-container canvas')
    assert page.locator('.annotation-text').first.text_content() == BAD + 'below'
    assert page.locator('.heatmaplayer image').count() == 1 and page.locator('.contourlayer path').count()
    assert page.locator('.js-plotly-plot').evaluate_all(CONTEXTS) == [False] and not wrong, wrong
    page.screenshot(path=SCREENS/'strict-canvas.png')
    page.close()
    page, wrong = open_page(chromium, tmp_path/'canvas.html', "script-src 'self'")
    words = page.locator('[role=alert]')
    words.wait_for()
    assert "cannot be drawn: this page does not let plotly's script run" in words.inner_text()
    page.close()

PAD_PAGE = """import pad from './pad.js';
const values = await fetch('spec.json').then(r => r.json()), calls = {};
values.surface = new DataView(new Float32Array(values.surface).buffer);
const model = {get: name => values[name], on(event, f) { calls[event] = f; }, off() {}, save_changes() {},
               set(name, value) { values[name] = value; calls[`change:${name}`]?.(); }};
globalThis.values = values;
pad.render({model, el: document.body});
"""

@beside_others
def test_pad(chromium, tmp_path):
    "Points come with strokes of the mouse and with keys, and go; the page says how many there are."
    pad = PointPad()
    spec = {name: getattr(pad, name) for name in ('points', 'mode', 'side', 'limit', 'most')}
    spec['surface'] = (grid_places(32).norm(dim=0) - .7).tolist()
    page_html = '<!DOCTYPE html><meta charset="utf-8"><script type="module" src="page.js"></script><body>'
    files = {'pad.js': PAD_SCRIPT, 'page.js': PAD_PAGE, 'pad.html': page_html, 'spec.json': json.dumps(spec)}
    for name, text in files.items(): (tmp_path/name).write_text(text)
    page, wrong = open_page(chromium, tmp_path/'pad.html', "script-src 'self'")
    box, words = page.locator('canvas').bounding_box(), page.locator('[role=status]')
    def stroke(mode, far):
        page.evaluate(f'values.mode = {mode}')
        page.mouse.move(box['x'] + 60, box['y'] + 60); page.mouse.down()
        page.mouse.move(box['x'] + 60 + far, box['y'] + 60, steps=40); page.mouse.up()
        return page.evaluate('values.points')
    drawn = stroke(1, 200)
    x, y = drawn[0][:2]
    assert abs(x - (2*60/420 - 1)*1.4) < .02 and abs(y - (1 - 2*60/420)*1.4) < .02
    assert 10 < len(drawn) < 25 and {c for *_, c in drawn} == {1}
    assert words.text_content() == f'0 circles, {len(drawn)} diamonds'
    left = stroke(2, 100)
    assert 0 < len(left) < len(drawn) and left == drawn[-len(left):]
    page.evaluate('values.mode = 0')
    page.locator('canvas').focus()
    for key in ('ArrowLeft', 'Shift+ArrowUp', 'Enter'): page.keyboard.press(key)
    assert page.evaluate('values.points')[-1] == [-.14, .028, 0]
    assert words.text_content() == f'1 circle, {len(left)} diamonds; at -0.14, 0.03'
    page.screenshot(path=SCREENS/'pad.png')
    page.keyboard.press('Delete')
    assert page.evaluate('values.points') == left and not wrong, wrong
    page.set_viewport_size(dict(width=320, height=800))
    narrow = page.locator('canvas').bounding_box()
    assert narrow['width'] == narrow['height'] < 320
    page.evaluate('values.mode = 0')
    page.mouse.click(narrow['x'] + narrow['width']/2, narrow['y'] + narrow['height']/2)
    x, y, _ = page.evaluate('values.points')[-1]
    assert abs(x) < .02 and abs(y) < .02
    page.close()

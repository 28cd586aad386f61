"""Pages that sample in the browser: the same networks as in Python, no request, any width of screen.

Chromium opens the files from the disk, as a person does.
"""
import shutil
import subprocess
import sys
import warnings
from urllib.parse import parse_qs

import pytest
import torch

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.load import load, model_file
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.points import drawn_points
from gpt_kit.networks.weights import measure, start_rows
from gpt_kit.play.many import predict_together
from gpt_kit.run.page import SHOWN, WORKER, write_page
from test_browser import ROOT, chromium, pytestmark as browser_or_not    # noqa: F401, a fixture

pytestmark = [browser_or_not, pytest.mark.alone]
READY = 'window.gptPage && gptPage.firstAnswer && gptPage.ground'

@pytest.fixture(scope='module')
def pages(tmp_path_factory):
    "name of a model -> its page, as the command writes them."
    names = ['digits-loss', 'digit-subsets', 'points-loss']
    return dict(zip(names, write_page(names, tmp_path_factory.mktemp('pages'))))

@pytest.fixture
def open_page(chromium, pages):
    "As `open_page('digits-loss', '#prompt=1', width=360)`: a page that has answered."
    contexts = []
    def opened(name, address='', *, width=1280, height=740, ready=READY, **kw):
        context = chromium.new_context(viewport=dict(width=width, height=height), **kw)
        contexts.append(context)
        page = context.new_page()
        page.requests, page.said = [], []
        page.on('request', lambda r: page.requests.append(r.url))
        page.on('console', lambda m: page.said.append(m.text))
        page.on('pageerror', lambda e: page.said.append(str(e)))
        page.goto(f'{pages[name].as_uri()}{address}')
        if ready: page.wait_for_function(ready, timeout=20_000)
        return page
    yield opened
    for context in contexts: context.close()

ASK = '''async changes => {
  const {row, metric, start} = await gptPage.ask(changes);
  return {row: [...row], metric, start};
}'''

# Parity

def digits_state(i): # changes to the state of the page, of all kinds
    g = torch.Generator().manual_seed(i)
    def draw(n): return int(torch.randint(n, (1,), generator=g))
    guidance = [1, 0, .5, .25][i % 4]
    return dict(prompt=round(.07 + .02*draw(115), 2), guidance=guidance, start=draw(64), noise=draw(100),
                width=[16, 24, 8, 10, 40, 64][i//2 % 6])

def same_in_python(ask, state): # (1, D), as the page should have it
    how = dict(guidance=state['guidance'], seed=state['noise'])
    if not state['guidance']: return ask(state['prompt'], n=1, **how).rows
    return ask(unseen_starts(ask.task, 64)[state['start']][None], state['prompt'], **how).rows

def test_same_as_python(open_page):
    "34 states of a model of any width: metrics, and the networks themselves."
    page, base = open_page('digits-loss'), load('digits-loss')
    for i in range(34):
        state = digits_state(i)
        found = page.evaluate(ASK, state)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # of widths that it has never seen
            ask = base.at(state['width'])
            row = same_in_python(ask, state)
        got = {name: v.item() for name, v in measure(ask.task, row).items()}
        assert abs(found['metric']['loss'] - got['loss']) < 1e-3, state
        assert abs(found['metric']['error'] - got['error']) < .3, state         # one picture of 500 at most
        assert (torch.tensor(found['row']) - row[0]).abs().max() < 2e-3, state
    assert page.said == []

def test_same_as_python_for_subsets(open_page):
    "Ten states of a model of many tasks."
    page, base = open_page('digit-subsets'), load('digit-subsets')
    for i in range(10):
        code = 37 + 91*i
        state = dict(prompt=round(.05 + .03*i, 3), guidance=[1, 0, .5][i % 3], start=i, noise=3*i)
        found = page.evaluate(ASK, state | dict(subset=code))
        ask = base.at(condition=[code >> digit & 1 for digit in range(10)])
        assert abs(found['metric']['loss'] - ask.measure(same_in_python(ask, state)).item()) < 1e-3, state

DRAWN = "name => exampleOf(name)"

def test_same_as_python_for_points(open_page):
    "Six states of a model that reads its data, its rounds of gradients included."
    page, base = open_page('points-loss'), load('points-loss')
    for i, name in enumerate(['heart', 'face', 'snake', 'plus', 'heart', 'face']):
        guidance, prompt, width = [0, 1, .5][i % 3], round(.1*i, 2), [16, 24, 8][i//2]
        points = page.evaluate(DRAWN, name)
        state = dict(prompt=prompt, guidance=guidance, start=i, noise=i + 1, width=width, points=points)
        found = page.evaluate(ASK, state)
        X, y = drawn_points(name)
        assert (torch.tensor([p[:2] for p in points]) - X).abs().max() < 1e-3
        assert [p[2] for p in points] == y.tolist()
        ask = base.at(width, data=([p[:2] for p in points], y))
        if guidance: answer = ask(start_rows(ask.task, [i]), prompt, guidance=guidance, seed=i + 1)
        else: answer = ask(prompt, n=1, seed=i + 1)
        assert abs(found['metric']['loss'] - answer.metric.item()) < 1e-3, state
    assert page.said == []

def test_votes_as_python(open_page):
    "64 networks in the page vote as 64 in Python do."
    page = open_page('digits-loss')
    page.evaluate(ASK, dict(prompt=.1, noise=3))
    page.click('#many')
    page.wait_for_function('gptPage.many', timeout=60_000)
    votes = page.evaluate('''gptPage.many.votes.map(({each, said, doubt, error}) => (
      {each: each.map(v => v.loss), said: [...said], doubt: [...doubt], error}))''')
    ask = load('digits-loss')
    answer = ask(.1, n=64, seed=3)
    assert (torch.tensor(votes[0]['each']) - answer.metric).abs().max() < 1e-3
    together = predict_together(ask.task, answer.rows)
    assert sum(a != b for a, b in zip(votes[0]['said'], together.prediction.tolist())) <= 1
    assert (torch.tensor(votes[0]['doubt']) - together.disagreement).abs().max() < 1/16 + 1e-6
    assert f"together {votes[0]['error']:.1f} %" in page.inner_text('#panels')

def test_plain_javascript_gives_the_same(open_page):
    "Where WebAssembly is forbidden, the page is slower and says the same."
    quick, slow = open_page('digit-subsets'), open_page('digit-subsets', '?plain')
    assert 'Engine: WebAssembly' in quick.inner_text('footer')
    assert 'Engine: JavaScript' in slow.inner_text('footer')
    a, b = (p.evaluate(ASK, dict(prompt=.3, guidance=.5)) for p in (quick, slow))
    assert (torch.tensor(a['row']) - torch.tensor(b['row'])).abs().max() < 1e-3

# Opening it anywhere

def test_asks_nobody(open_page, pages):
    "The browser's own log: the file, and the worker out of it."
    page = open_page('digits-loss')
    page.evaluate(ASK, dict(prompt=1))
    own, *others = page.requests
    assert own == pages['digits-loss'].as_uri() and all(url.startswith('blob:') for url in others)
    assert page.said == [] and page.evaluate('gptPage.firstAnswer') < 3000
    assert pages['digits-loss'].stat().st_size < 20e6

def test_says_what_it_needs_without_scripts(open_page):
    page = open_page('digits-loss', ready=None, java_script_enabled=False)
    assert page.locator('noscript strong').is_visible()
    picture = page.locator('noscript img')
    assert picture.bounding_box()['width'] > 300 and 'Five networks' in picture.get_attribute('alt')
    assert not page.locator('#app').is_visible()

@pytest.mark.parametrize('name', ['digits-loss', 'digit-subsets', 'points-loss'])
def test_fits_a_phone(open_page, name):
    "360 px: nothing sticks out, and fingers find what they press."
    page = open_page(name, width=360, has_touch=True, is_mobile=True)
    assert page.evaluate('document.documentElement.scrollWidth') == 360
    for kind in ('button', 'select', 'input[type=range]'):
        for box in (el.bounding_box() for el in page.locator(kind).all()):
            assert box['height'] >= 30 and box['x'] >= 0 and box['x'] + box['width'] <= 360

NAME = "el => el.ariaLabel || el.textContent || [...el.labels || []].map(l => l.textContent).join()"

def test_every_control_has_a_name(open_page):
    for name in ('digit-subsets', 'points-loss'):
        page = open_page(name)
        told = page.locator('body').aria_snapshot()
        assert 'slider "prompt: a ' in told and 'slider "noise seed' in told
        for control in page.locator('input, select, button, canvas').all():
            assert control.evaluate(NAME).strip()

def test_follows_the_theme(open_page):
    ground = 'getComputedStyle(document.body).backgroundColor'
    grounds = [open_page('digits-loss', color_scheme=s).evaluate(ground) for s in ('light', 'dark')]
    light, dark = (sum(map(int, ground[4:-1].split(','))) for ground in grounds)
    assert light > 600 and dark < 150

# Moving it

def test_keyboard(open_page):
    page = open_page('digits-loss')
    page.focus('#dial-prompt')
    before = page.evaluate('gptPage.state.prompt')
    for _ in range(5): page.keyboard.press('ArrowRight')
    page.wait_for_function(f'gptPage.answer.state.prompt > {before + .045} && !gptPage.answer.draft')
    assert 'asked for' in page.inner_text('#said')
    page.focus('canvas.pad')
    page.keyboard.press('7')
    page.wait_for_function('gptPage.own')
    assert abs(sum(page.evaluate('[...gptPage.own]')) - 1) < 1e-3

def test_mouse_and_last_move(open_page):
    "Hundreds of moves: drafts on the way, and the last one arrives in full."
    page = open_page('digits-loss')
    box = page.locator('#dial-prompt').bounding_box()
    y = box['y'] + box['height']/2
    page.mouse.move(box['x'] + 10, y)
    page.mouse.down()
    for i in range(200): page.mouse.move(box['x'] + 10 + (i*37 % 400)/400*(box['width'] - 20), y)
    page.mouse.move(box['x'] + box['width']*.4, y)
    page.mouse.up()
    page.wait_for_function('gptPage.answer.state.prompt === gptPage.state.prompt && !gptPage.answer.draft')
    prompt = page.evaluate('gptPage.state.prompt')
    assert .8 < prompt < 1.3 and page.said == []
    found = page.evaluate('[...gptPage.answer.row]')
    ask = load('digits-loss')
    row = same_in_python(ask, dict(prompt=prompt, guidance=1, start=0, noise=0))
    assert (torch.tensor(found) - row[0]).abs().max() < 2e-3

def test_address_brings_it_back(open_page):
    "A link restores model, prompt, start, noise, width, subset and points; nonsense in it is ignored."
    page = open_page('digit-subsets')
    page.evaluate(ASK, dict(prompt=.2, start=5, noise=7, guidance=.5, subset=0b1010))
    address, row = page.evaluate('location.hash'), page.evaluate('[...gptPage.answer.row]')
    assert parse_qs(address[1:])['digits'] == ['13']
    again = open_page('digit-subsets', address)
    assert again.evaluate('[...gptPage.answer.row]') == row
    page = open_page('points-loss')
    page.evaluate(ASK, dict(points=page.evaluate(DRAWN, 'face') + [[.5, .25, 1]]))
    again = open_page('points-loss', page.evaluate('location.hash'))
    assert sorted(again.evaluate('gptPage.state.points')) == sorted(page.evaluate('gptPage.state.points'))
    odd = open_page('digits-loss', '#prompt=NaN&start=-4&noise=x&width=1e9&points=%%%&what=ever')
    state = odd.evaluate('gptPage.state')
    assert state['start'] == 0 and state['noise'] == 0 and state['width'] == 64 and odd.said == []

def test_landscape_comes_back(open_page):
    "Of a start that the page has mapped before, too."
    page = open_page('digit-subsets')
    first = page.evaluate('gptPage.ground.key')
    for start in (1, 0):
        page.evaluate(ASK, dict(start=start))
        page.wait_for_function('gptPage.ground', timeout=20_000)
    assert page.evaluate('gptPage.ground.key') == first

def test_stop_is_heeded(open_page):
    "What arrives of many networks that were stopped changes nothing."
    page = open_page('digit-subsets')
    for _ in range(3): page.click('#many')          # go, stop, go
    assert page.inner_text('#many') == 'stop'
    page.wait_for_function('gptPage.many', timeout=60_000)
    assert page.inner_text('#many') == 'ask for 64 networks' and page.said == []

def test_draw_points(open_page):
    "Circles and diamonds by mouse and by keyboard; too few of them are asked for, not an error."
    page = open_page('points-loss')
    page.get_by_role('button', name='clear').click()
    assert 'two points' in page.inner_text('#notes')
    plane = page.locator('canvas.plane').first
    side = plane.bounding_box()['width']
    def press(u, v): plane.click(position=dict(x=u*side, y=v*side))
    press(.3, .3)
    press(.35, .7)
    page.get_by_role('button', name='diamonds').click()
    press(.7, .5)
    plane.focus()
    for key in ('ArrowRight', 'ArrowUp', 'Enter'): page.keyboard.press(key)
    page.wait_for_function('gptPage.answer.state.points.length === 4 && !gptPage.answer.draft')
    assert [p[2] for p in page.evaluate('gptPage.state.points')] == [0, 0, 1, 1]
    assert page.evaluate('gptPage.answer.metric.error') == 0 and page.said == []

# Files

def test_other_files_stay(tmp_path):
    "A file that the kit did not make is not replaced, nor the first page by a model called index."
    (tmp_path/'index.html').write_text('mine')
    with pytest.raises(UserError, match='not made by this gpt_kit'): write_page(['digit-subsets'], tmp_path)
    assert (tmp_path/'index.html').read_text() == 'mine'
    model = shutil.copy(model_file('digit-subsets'), tmp_path/'index.safetensors')
    with pytest.raises(UserError, match='called index'): write_page(['digits-loss', model], tmp_path/'new')

def test_any_name(open_page, pages, tmp_path):
    "Names are text in the page, not HTML, and links find them."
    name = """a d"q'<b>&#%"""
    model = shutil.copy(model_file('digit-subsets'), tmp_path/f'{name}.safetensors')
    _, pages[name] = write_page(['digit-subsets', model], tmp_path)
    page = open_page(name)
    assert page.title().startswith(f'{name}: ') and page.inner_text('nav [aria-current]') == name
    page.goto((tmp_path/'index.html').as_uri())
    page.locator('nav a').nth(1).click()
    page.wait_for_function(READY)
    assert page.title().startswith(name) and page.said == []

def test_scripts_are_there_and_fit_a_page(tmp_path):
    "Lines of 110 characters at most; the package that pip builds holds every file."
    files = [ROOT/'gpt_kit'/'run'/f'page_{name}.js' for name in {*WORKER, *SHOWN}]
    files += [ROOT/'gpt_kit'/'run'/f'page.{ending}' for ending in ('html', 'css')]
    for file in files: assert [l for l in file.read_text().splitlines() if len(l) > 110] == [], file
    assert {*(ROOT/'gpt_kit'/'run').glob('page*.js')} == {f for f in files if f.suffix == '.js'}
    build = [sys.executable, 'setup.py', '-q', 'build', '-b', tmp_path]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    for file in files: assert (tmp_path/'lib'/file.relative_to(ROOT)).read_bytes() == file.read_bytes()

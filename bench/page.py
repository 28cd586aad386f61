"""What a page that samples in the browser costs: bytes, milliseconds, memory, requests.

python bench/page.py [MODEL ...] writes a page of each model into build/bench/page, opens it from the disk in
Chromium, drags the prompt, asks for 64 networks, makes 10,000 moves, and prints a table with the bars.
"""
import argparse
import json
import shutil
import statistics
import sys
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT/'tests'))
from test_browser import FLAGS                                                  # noqa: E402
from gpt_kit.run.page import write_page                                         # noqa: E402

MODELS = ['digits-loss', 'digit-subsets', 'fashion-loss', 'points-loss']
# name -> most; ten steps, or twelve rounds of guesses about points, while the prompt is dragged
# and the longest task of the main thread, on the wall and in CPU time: on a busy machine it waits
BARS = {'folder (MB)': 20, 'first (s)': 3, 'dragging (ms)': 300, '64 nets (s)': 15, 'task (ms)': 100,
        'task (CPU ms)': 100, 'growth (MB)': 50, 'requests': 0, 'errors': 0}

DRAG = """async n => {      // moves of the prompt, one a frame; milliseconds of each draft that came back
  const slider = document.getElementById('dial-prompt'), ms = [], seen = new Set();
  const {min, max, step} = slider, span = max - min;
  for (let i = 0; i < n; i++) {
    slider.value = +min + span*(.5 + .5*Math.sin(i/9));
    slider.dispatchEvent(new Event('input', {bubbles: true}));
    await new Promise(requestAnimationFrame);
    const {id, draft, ms: took} = gptPage.answer;
    if (draft && !seen.has(id)) { seen.add(id); ms.push(took); }
  }
  const {prompt} = gptPage.state, last = await gptPage.ask({});
  return {ms, arrived: last.state.prompt === prompt};
}"""

MOVES = """async n => {             // moves of all dials, as fast as they come
  const dials = [...document.querySelectorAll('input[type=range]')];
  for (let i = 0; i < n; i++) {
    const dial = dials[i%dials.length], share = .5 + .5*Math.sin(i*.7);
    dial.value = +dial.min + share*(dial.max - dial.min);
    dial.dispatchEvent(new Event('input', {bubbles: true}));
    if (i%10 === 9) await new Promise(requestAnimationFrame);
  }
  await gptPage.ask({});
}"""

def memory(client): # MB that the page's process holds, worker included, after collecting garbage
    client.send('HeapProfiler.collectGarbage')
    ours = psutil.Process().children(recursive=True)
    return max(p.memory_info().rss for p in ours if '--type=renderer' in p.cmdline())/1e6

def longest_task(events): # ms on the wall, ms of CPU time, of the page's main thread
    mains = {(e['pid'], e['tid']) for e in events
             if e['name'] == 'thread_name' and e['args']['name'] == 'CrRendererMain'}
    tasks = [e for e in events if e.get('ph') == 'X' and (e['pid'], e['tid']) in mains]
    return max(e['dur'] for e in tasks)/1e3, max(e.get('tdur', 0) for e in tasks)/1e3

def measure_page(browser, file, moves):
    "name of a bar -> what was measured."
    context = browser.new_context(viewport=dict(width=1280, height=800))
    page, requests, said = context.new_page(), [], []
    page.on('request', lambda r: requests.append(r.url))
    page.on('console', lambda m: said.append(m.text) if m.type == 'error' else None)
    page.on('pageerror', lambda e: said.append(str(e)))
    browser.start_tracing(page=page, categories=['toplevel'])
    page.goto(file.as_uri())
    page.wait_for_function('window.gptPage && gptPage.firstAnswer && gptPage.ground', timeout=60_000)
    found = {'folder (MB)': file.stat().st_size/1e6, 'first (s)': page.evaluate('gptPage.firstAnswer')/1e3}
    dragged = page.evaluate(DRAG, 300)
    assert dragged['arrived'], 'the last move did not arrive'
    found['dragging (ms)'] = statistics.median(dragged['ms'])
    page.click('#many')
    page.wait_for_function('gptPage.many', timeout=120_000)
    found['64 nets (s)'] = page.evaluate('gptPage.many.seconds')
    page.evaluate(MOVES, 200)
    events = json.loads(browser.stop_tracing())['traceEvents']
    found['task (ms)'], found['task (CPU ms)'] = longest_task(events)
    client = context.new_cdp_session(page)
    before = memory(client)
    page.evaluate(MOVES, moves)
    found['growth (MB)'] = memory(client) - before
    own = file.as_uri()
    found['requests'] = sum(not url.startswith((own, 'blob:', 'data:')) for url in requests)
    found['errors'] = len(said) + page.locator('#said.error').count()
    for text in said: print('  ', text[:200], file=sys.stderr)
    context.close()
    return found

def chromium_program():
    return next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))))

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('models', nargs='*', default=MODELS)
    parser.add_argument('--moves', type=int, default=10_000)
    args = parser.parse_args()
    print(f"{'':14}" + ''.join(f'{name:>15}' for name in BARS))
    print(f"{'bar':14}" + ''.join(f'{v:15}' for v in BARS.values()))
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium_program(), args=FLAGS)
        for model in args.models:
            file, = write_page([model], ROOT/'build'/'bench'/'page'/Path(model).stem)
            found = measure_page(browser, file, args.moves)
            print(f'{Path(model).stem:14}' + ''.join(f'{found[name]:15.3g}' for name in BARS), flush=True)
            bad = [name for name, bar in BARS.items() if found[name] > bar]
            if bad: print('   missed:', ', '.join(bad))
        print('Chromium', browser.version, 'from the disk, one worker')
        browser.close()

if __name__ == '__main__': main()

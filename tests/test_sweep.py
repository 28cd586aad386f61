"Many runs of one notebook: the grid, what is run again, the table, the page, and what is refused."
import csv
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from forked import ForkedKernels
from gpt_kit import record
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.files import WriteLock
from gpt_kit.run.commands import main
from gpt_kit.run.comparison import Numbers, csv_text, recorded_numbers, run_figures, sweep_rows
from gpt_kit.run.jobs import Job, job_of
from gpt_kit.run.sweep import forecast, grid_points, point_name, split_values

CELL = '''width: int = 1  # of what
seed: int = 0  # of the generator
sizes: list = []  # several at once
seconds: float = 0.  # to wait
told: str = ""  # anything'''

SVG = """from IPython.display import SVG, display
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"><text>%d</text></svg>' % {}))"""
TWO_FIGURES = [SVG.format('(1000 + width)'), 'from gpt_kit import record\n'
               'record(area=width*10, part=dict(a=seed/2, width=3))', '1/(width + seed - 3)',
               SVG.format('(2000 + width)')]

def notebook(path, *cells, parameters=CELL, tags=('parameters',)):
    v4 = nbformat.v4
    first = v4.new_code_cell(parameters, id='first', metadata=dict(tags=list(tags)))
    cells = [first, *(v4.new_code_cell(source, id=f'cell-{i}') for i, source in enumerate(cells))]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path

def run(*words): return main(['run', *map(str, words)])

def table(out):
    with open(out/'table.csv') as f: return list(csv.DictReader(f))

def contents(folder): return {p.name: p.read_bytes() for p in Path(folder).iterdir()}

@pytest.fixture(autouse=True)
def fast(monkeypatch):
    "Kernels that begin where the slow imports are done."
    monkeypatch.setattr('gpt_kit.run.jobs.own_kernel', lambda: ForkedKernels)

# Values

@pytest.mark.parametrize('text, values', [
    ('64,128,256', ['64', '128', '256']), ('64', ['64']), ('', ['']), (' a b ', [' a b ']),
    ('[8, 16]', ['[8, 16]']), ('[8, 16], [8]', ['[8, 16]', '[8]']), ('(1, 2),(3, 4)', ['(1, 2)', '(3, 4)']),
    ('{a: 1, b: [2, 3]}', ['{a: 1, b: [2, 3]}']), ("['a,b', ']']", ["['a,b', ']']"]),
    ('"a, b"', ['a, b']), ("'a, b',c", ['a, b', 'c']), ("it's,that's", ["it's", "that's"]),
    ("'',a", ['', 'a']), ('-1e-3,.5', ['-1e-3', '.5'])])
def test_commas_separate_values(text, values): assert split_values(text) == values

@given(st.text(alphabet='ab,[](){}\'" 1', max_size=12))
def test_any_text_is_split_or_refused(text):
    try: found = split_values(text)
    except UserError: return
    assert found and (',' in text or found == [text])

@pytest.mark.parametrize('text', [',', 'a,', ',a', 'a,,b', 'a, ,b'])
def test_an_empty_value(text):
    with pytest.raises(UserError, match='empty value'): split_values(text)

@given(st.lists(st.text(max_size=30), min_size=2, max_size=4, unique=True))
def test_names_of_runs_are_names_of_files(texts):
    "And those of different runs differ."
    names = [point_name(dict(told=text)) for text in texts]
    assert len(set(names)) == len(names)
    for name in names: assert not re.search(r'[/\\:*?"<>|\x00-\x1f]', name) and len(name) < 120

def test_a_forecast_invents_nothing():
    assert not re.search('about|minute', forecast(9, []))
    assert 'about 8 min by the clock' in forecast(8, [50., 70.]) and '60.0 s' in forecast(8, [50., 70.])
    assert 'about 5 min' in forecast(9, [60.], jobs=2) and 'about 40 s' in forecast(4, [10.])
    assert 'about 2.5 h' in forecast(9, [1000.])

# A sweep

@pytest.fixture(scope='module')
def swept(tmp_path_factory):
    "Four runs, the last of which fails in the middle: notebook, folder, exit code, what was said."
    folder = tmp_path_factory.mktemp('sweep')
    nb, out = notebook(folder/'one.ipynb', *TWO_FIGURES), folder/'out'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('gpt_kit.run.jobs.own_kernel', lambda: ForkedKernels)
        with redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
            code = run(nb, '-p', 'width', '1,2', '-p', 'seed', '0,1', '-p', 'told', 'x', '--out', out)
    return nb, out, code, said.getvalue()

def test_a_grid_is_run(swept):
    nb, out, code, said = swept
    assert said.startswith('4 runs of one; 4 to go; how long that takes is known when the first is done')
    assert re.search(r'width=1,seed=0 took [\d.]+ s; 3 to go: about [\d.]+ \w+ by the clock', said)
    assert 'width=2,seed=1 failed: ZeroDivisionError: division by zero' in said
    runs = [f'width={w},seed={s}' for w in (1, 2) for s in (0, 1)]
    made = {f'{name}.{kind}' for name in runs for kind in ('ipynb', 'html')}
    made |= {'sweep.json', 'table.csv', 'index.html', 'plotly.min.js', 'figures.js'}
    assert set(contents(out)) == made

def test_a_failed_run_stops_no_other(swept):
    "One sentence at the end, and exit code 1."
    nb, out, code, said = swept
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith('gpt-kit: 1 of 4 runs failed (width=2,seed=1); ') and 'same command' in last
    assert [row['state'] for row in table(out)] == ['done', 'done', 'done', 'failed']

def test_the_table(swept):
    "Parameters, seconds, and what was recorded; a number with the name of a parameter is told from it."
    nb, out, code, said = swept
    rows = table(out)
    names = ['width', 'seed', 'told', 'state', 'seconds', 'area', 'part_a', 'part_width']
    assert list(rows[0]) == names
    assert [rows[2][name] for name in names if name != 'seconds'] == ['2', '0', 'x', 'done', '20', '0.0', '3']
    assert all(float(row['seconds']) > 0 for row in rows) and rows[3]['area'] == '20'

def test_the_page(swept):
    "The table, then each figure of all runs in one row, also where a run failed; nothing from elsewhere."
    nb, out, code, said = swept
    page = (out/'index.html').read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', page)
    assert '1 failed' in page and 'width 1, 2 × seed 0, 1' in page and 'repeat(2,' in page
    assert 'href="width%3D2%2Cseed%3D1.html"' in page
    first, second = page.split('<h2>')[1:]
    names = [f'<b>width={w},seed={s}</b>' for w in (1, 2) for s in (0, 1)]
    for part in (first, second): assert re.findall('<b>.*?</b>', part) == names
    assert first.count('<img') == 4 and second.count('<img') == 3 and second.count('no such figure') == 1
    books = [nbformat.read(out/f'width={w},seed=1.ipynb', 4) for w in (1, 2)]
    shown = [list(run_figures(book).values()) for book in books]
    assert [len(figures) for figures in shown] == [2, 1]
    failed = (out/'width=2,seed=1.html').read_text()
    assert 'ZeroDivisionError' in failed and 'All runs' in failed

def test_what_is_done_is_not_run_again(swept, capsys):
    "Only what failed; a change of the package is told."
    nb, out, _, _ = swept
    before = contents(out)
    words = [nb, '-p', 'width', '1,2', '-p', 'seed', '0,1', '-p', 'told', 'x', '--out', out]
    assert run(*words) == 1
    said = capsys.readouterr().out
    assert re.match(r'4 runs of one, 3 of them done already.*; 1 to go: about', said)
    after = contents(out)
    changed = {name for name in before if before[name] != after[name]}
    books = {name for name in changed if name.endswith('ipynb')}
    assert set(after) == set(before) and books == {'width=2,seed=1.ipynb'}
    log = json.loads((out/'sweep.json').read_text())
    log['runs']['width=1,seed=0']['package'] = 'another'
    (out/'sweep.json').write_text(json.dumps(log))
    book = json.loads(nb.read_text())
    book['cells'].append(dict(cell_type='markdown', id='prose', metadata={}, source='More words'))
    nb.write_text(json.dumps(book))
    words[3] = '1,4'
    assert run(*words) == 0
    said = capsys.readouterr().out
    assert re.match(r'4 runs of one, 2 of them done already \(\d by another version of gpt_kit; ', said)

def test_changed_code_or_parameters_run_anew(tmp_path, capsys):
    nb, out = notebook(tmp_path/'one.ipynb', 'from gpt_kit import record\nrecord(n=width)'), tmp_path/'out'
    words = [nb, '-p', 'width', '1,2', '--out', out]
    assert run(*words) == 0 and run(*words) == 0
    assert '2 runs of one, 2 of them done already; none to go' in capsys.readouterr().out
    assert [row['n'] for row in table(out)] == ['1', '2']
    notebook(nb, 'from gpt_kit import record\nrecord(n=width*100)')
    assert run(*words) == 0
    assert [row['n'] for row in table(out)] == ['100', '200']
    assert 'done already' not in capsys.readouterr().out
    assert run(*words, '-p', 'told', 'x') == 0
    assert 'done already' not in capsys.readouterr().out and table(out)[0]['told'] == 'x'

def test_lists_are_values_too(tmp_path, monkeypatch):
    "One list is one run, two are a sweep; several at once share the cores."
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.setattr('os.cpu_count', lambda: 6)
    monkeypatch.chdir(tmp_path)
    code = 'import os\nfrom gpt_kit import record\n' \
           'record(total=sum(sizes), threads=os.environ.get("OMP_NUM_THREADS", "any"), seconds=7)'
    nb = notebook(tmp_path/'one.ipynb', code)
    assert run(nb, '-p', 'sizes', '[8, 16]') == 0
    assert (tmp_path/'build'/'notebooks'/'jobs.json').exists() and not (tmp_path/'build'/'sweeps').exists()
    assert run(nb, '-p', 'sizes', '[8, 16],[8]', '-p', 'seconds', '.5', '--jobs', 2) == 0
    rows = table(tmp_path/'build'/'sweeps'/'one')
    assert [row['total'] for row in rows] == ['24', '8'] and rows[0]['threads'] == '3'
    names = ['sizes', 'seconds', 'state', 'run seconds', 'total', 'threads', 'recorded seconds']
    assert list(rows[0]) == names and rows[0]['sizes'] == '[8, 16]' and rows[0]['recorded seconds'] == '7'

# Interrupted

def test_an_interruption(tmp_path):
    "Two at once: kernels end with the command, what was done stays, and the same command goes on."
    code = ("import time\nfrom pathlib import Path\nfrom gpt_kit import record\nrecord(n=seed)\n"
            "while seed and not Path('go').exists(): time.sleep(.05)")
    nb, out = notebook(tmp_path/'one.ipynb', code), tmp_path/'out'
    words = ['run', str(nb), '-p', 'seed', '0,1,2,3', '--out', str(out)]
    call = [sys.executable, '-m', 'gpt_kit.run.commands', *words, '--jobs', '2']
    p = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
                         env=os.environ | dict(PYTHONUNBUFFERED='1'))
    try:
        assert p.stdout.readline().startswith('4 runs of one; 4 to go')
        assert p.stdout.readline().startswith('seed=0 took')
        end = time.monotonic() + 120
        while not (out/'.seed=2.json').exists():                                  # 1 and 2 run
            assert p.poll() is None and time.monotonic() < end
            time.sleep(.05)
        kernels = psutil.Process(p.pid).children(recursive=True)
        with pytest.raises(UserError, match=f'by process {p.pid}'): WriteLock(out/'.gpt-kit.lock', out)
        p.send_signal(signal.SIGINT)
        said, errors = p.communicate(timeout=60)
    finally: p.kill()
    assert p.returncode == 130 and 'same command goes on' in errors and 'Traceback' not in errors
    psutil.wait_procs(kernels, timeout=5)
    assert kernels and not [k for k in kernels if k.is_running()]
    assert [(row['state'], row['n']) for row in table(out)] == [('done', '0')] + [('not run', '')]*3
    assert '3 not run' in (out/'index.html').read_text()
    done = (out/'seed=0.ipynb').read_bytes()
    (tmp_path/'go').touch()
    assert main(words) == 0
    assert [row['state'] for row in table(out)] == ['done']*4 and (out/'seed=0.ipynb').read_bytes() == done
    assert not [p for p in out.iterdir() if p.name.startswith('.')]

def test_a_run_that_was_begun_is_not_whole(tmp_path, monkeypatch, capsys):
    "Its notebook is replaced as soon as it ends, however that is; so what was there before does not count."
    nb, out = notebook(tmp_path/'one.ipynb', '1'), tmp_path/'out'
    words, ran = [nb, '-p', 'seed', '0,1', '--out', out], []
    def executed(path, output, parameters, **how):
        book = json.loads(nb.read_text())
        output.write_text(json.dumps(dict(book, metadata=dict(papermill={}))))
        ran.append(output.name)
        if '2' in book['cells'][1]['source']: raise KeyboardInterrupt
    monkeypatch.setattr('gpt_kit.run.sweep.execute', executed)
    assert run(*words) == 0 and run(*words) == 0 and len(ran) == 2
    notebook(nb, '2')
    assert run(*words) == 130 and [row['state'] for row in table(out)] == ['not run']*2
    notebook(nb, '1')
    assert run(*words) == 0 and ran[2:] == ['seed=0.ipynb', 'seed=0.ipynb', 'seed=1.ipynb']

# Refused

def refused(capsys, words, *parts):
    "In one sentence, before anything is made."
    assert run(*words) == 1
    said = capsys.readouterr().err
    assert said.startswith('gpt-kit: ') and said.count('\n') == 1, said
    assert [part for part in parts if part not in said] == [], said

def test_what_makes_no_sense_is_refused(tmp_path, capsys):
    nb, other, out = notebook(tmp_path/'one.ipynb'), notebook(tmp_path/'two.ipynb'), tmp_path/'out'
    bare = notebook(tmp_path/'bare.ipynb', tags=['other'])
    two, to = ['-p', 'seed', '0,1'], ['--out', out]
    refused(capsys, [nb, '-p', 'sead', '0,1', *to], "no parameter 'sead'", 'did you mean seed')
    refused(capsys, [nb, *two, '-p', 'widht', '3', *to], "no parameter 'widht'", 'did you mean width')
    refused(capsys, [nb, '-p', 'seed', '0,,1', *to], "empty value in '0,,1'")
    refused(capsys, [nb, '-p', 'seed', '0,a', *to], 'a whole number', "'a'")
    refused(capsys, [nb, *two, '-p', 'seed', '2', *to], 'seed is given twice')
    refused(capsys, [nb, '-p', 'seed', '1', '-p', 'seed', '2', *to], 'seed is given twice', 'commas')
    refused(capsys, [nb, '-p', 'seed', '1,2,01', *to], 'seed has the value 1 twice')
    refused(capsys, [bare, *two, *to], 'no parameters cell', 'bare.ipynb')
    refused(capsys, [nb, other, *two, *to], 'a sweep is of one notebook', '2')
    refused(capsys, [nb, *two, '--jobs', 0, *to], 'number of notebooks at once')
    refused(capsys, [nb, '--jobs', 2, *to], '--jobs is for a sweep')
    refused(capsys, [tmp_path/'no.ipynb', *two, *to], 'there is no notebook')
    assert not out.exists()

@pytest.mark.parametrize('name, text', [
    ('photo.jpg', 'mine'), ('sweep.json', '{"runs": {}}'), ('sweep.json', '{'),
    ('sweep.json', '{"by": "gpt_kit", "notebook": "other", "runs": {}}'),
    ('sweep.json', '{"by": "gpt_kit", "notebook": "one", "runs": {"seed=0": 1}}'),
    ('sweep.json', '{"by": "gpt_kit", "notebook": "one", "runs": []}'),
    ('sweep.json', '{"by": "gpt_kit", "runs": {}}')])
def test_a_folder_of_others_is_left_alone(name, text, tmp_path, capsys):
    nb, out = notebook(tmp_path/'one.ipynb'), tmp_path/'out'
    out.mkdir()
    (out/name).write_text(text)
    before = contents(out)
    what = 'a sweep of other' if 'other' in text else 'no folder of a sweep'
    refused(capsys, [nb, '-p', 'seed', '0,1', '--out', out], str(out), what, 'a new or an empty folder')
    assert contents(out) == before

def test_pages_of_others_are_left_alone(tmp_path, capsys):
    nb, out = notebook(tmp_path/'one.ipynb'), tmp_path/'out'
    out.mkdir()
    (out/'sweep.json').write_text('{"by": "gpt_kit", "notebook": "one", "runs": {}}')
    for name, said in (('index.html', 'was not made by this'), ('seed=1.ipynb', 'no notebook that was run')):
        (out/name).write_text('mine')
        refused(capsys, [nb, '-p', 'seed', '0,1', '--out', out], name, said)
        assert (out/name).read_text() == 'mine'
        (out/name).unlink()

def test_two_do_not_sweep_into_one_folder(tmp_path, capsys):
    nb, out = notebook(tmp_path/'one.ipynb'), tmp_path/'out'
    with WriteLock(out/'.gpt-kit.lock', out):
        refused(capsys, [nb, '-p', 'seed', '0,1', '--out', out], 'is being written by')
    assert not out.exists()

# Numbers

def recorded(monkeypatch, **numbers):
    shown = []
    monkeypatch.setattr('IPython.display.display', shown.append)
    record(**numbers)
    return dict(shown[0])

def test_what_can_be_recorded(monkeypatch):
    found = recorded(monkeypatch, a=torch.tensor(2.5), b=np.float32(.5), c=True, d='text', e=None,
                     f=dict(x=1, y=torch.ones(1)), g=math.nan)
    assert math.isnan(found.pop('g'))
    assert found == dict(a=2.5, b=.5, c=True, d='text', e=None, f_x=1, f_y=1.)
    for value in ([1], torch.ones(2), np.ones(3), dict(x=[1]), object()):
        with pytest.raises(UserError, match='takes numbers and texts, and loss'): record(loss=value)

def test_the_last_of_a_name_counts(monkeypatch):
    shown = [Numbers(a=1, b=math.inf)._repr_mimebundle_(), Numbers(a=2)._repr_mimebundle_()]
    outputs = [nbformat.v4.new_output('display_data', data) for data in shown]
    cells = [nbformat.v4.new_code_cell('', outputs=outputs)]
    book = nbformat.reads(nbformat.writes(nbformat.v4.new_notebook(cells=cells)), 4)
    assert recorded_numbers(book) == dict(a=2, b=math.inf) and 'inf' in shown[0]['text/html']
    rows = sweep_rows({Job(Path('x'), 'a=1', 'a=1.ipynb'): dict(a=1)},
                      {'a=1': dict(key='k', seconds=1., failed='')}, {'a=1': book})
    assert csv_text(rows) == 'a,state,seconds,recorded a,b\n1,done,1.0,2,inf\n'

def test_points_of_a_grid(tmp_path):
    "In the order given, the last parameter fastest; with the types of the notebook."
    job = job_of(notebook(tmp_path/'one.ipynb'))
    points = grid_points(job, dict(seed=['3', 1], sizes=['[1]', [2]]), dict(width='7', seed='9'))
    names = [f'seed={seed},sizes=[{size}]' for seed in (3, 1) for size in (1, 2)]
    assert [point.name for point in points] == names
    assert list(points.values())[1] == dict(seed=3, sizes=[2], width=7)

def test_a_value_may_name_its_run(tmp_path):
    job = job_of(notebook(tmp_path/'one.ipynb'))
    points = grid_points(job, dict(seed=['0', '1']), dict(told='models/{point}'))
    assert [point['told'] for point in points.values()] == ['models/seed=0', 'models/seed=1']

def test_files_of_two_runs_differ(tmp_path):
    "Also on disks that don't tell capitals."
    job = job_of(notebook(tmp_path/'one.ipynb'))
    with pytest.raises(UserError, match='the same name'): grid_points(job, dict(told=['a', 'A']), {})

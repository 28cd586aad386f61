"The rules of the house: notebooks and their modules, who imports whom, how things are named."
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gpt_kit
from gpt_kit.run.jobs import COURSE, FOLDERS, all_jobs

ROOT = Path(__file__).parent.parent
# room -> rooms that it may import
ROOMS = dict(networks='', gpt='networks', play='networks gpt', outside='networks gpt',
             pdiff='networks gpt play', run='networks gpt play outside', study='networks gpt play pdiff')
NOTEBOOKS = [job.path for job in all_jobs(ROOT/'nbs') if not job.name.startswith('figures/')]
FIGURES = sorted((ROOT/'nbs'/'figures').glob('*.ipynb'))
FILES = [f for f in sorted((ROOT/'gpt_kit').glob('*/*.py')) if f.stem != '__init__']
MODULES = {f'{f.parent.name}.{f.stem}': f for f in FILES}
CORE = ['networks.tasks', 'networks.weights', 'gpt.diffusion', 'gpt.tokens', 'gpt.model']
HEAVY = ['torch', 'gymnasium', 'plotly', 'ipywidgets', 'pandas', 'sklearn', 'papermill', 'nbconvert']
NUMBERED = [f for f in NOTEBOOKS if f.parent.name in ROOMS]

def cells(file): return json.loads(file.read_text())['cells']
def text(cell): return ''.join(cell['source'])
def markdown(file): return [text(c) for c in cells(file) if c['cell_type'] == 'markdown']
def code(file): return [text(c) for c in cells(file) if c['cell_type'] == 'code']
def tree_of(name): return ast.parse(MODULES[name].read_text())
def short(file): return str(file.relative_to(ROOT))

each_notebook = pytest.mark.parametrize('file', NOTEBOOKS, ids=short)
each_module = pytest.mark.parametrize('name', MODULES)

# Lists

def files_below(folder, ending):
    for where, _, names in os.walk(ROOT/folder):
        if '.ipynb_checkpoints' in where: continue
        yield from (Path(where)/name for name in names if name.endswith(ending))

def test_nothing_is_left_out():
    "Folders make flat lists silently empty, so the lists are held against the tree."
    assert set(files_below('nbs', '.ipynb')) == {*NOTEBOOKS, *FIGURES}
    assert len(NUMBERED) == len(MODULES) >= 40 and len(FIGURES) >= 35
    others = {ROOT/'gpt_kit'/room/'__init__.py' for room in ROOMS}
    others |= {ROOT/'gpt_kit'/f for f in ('__init__.py', '_modidx.py')}
    assert set(files_below('gpt_kit', '.py')) == {*MODULES.values(), *others}

def test_the_course_is_there():
    names = [job.name for job in all_jobs(ROOT/'nbs')]
    assert set(COURSE) <= set(names) and len(set(names)) == len(names)
    assert FOLDERS == (*ROOMS, 'figures')

# Notebooks

@each_notebook
def test_parameters_are_explained_literals(file):
    tagged = [c for c in cells(file) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1
    for line in text(tagged[0]).splitlines():
        assert re.fullmatch(r'\w+: \w+ = .+?  +# \S.*', line), f"{line!r}: `name: type = value  # what it is`"
        statement, = ast.parse(line).body
        assert type(ast.literal_eval(statement.value)).__name__ == statement.annotation.id

@pytest.mark.parametrize('file', NOTEBOOKS + FIGURES, ids=short)
def test_saved_clean(file):
    for c in cells(file):
        assert set(c['metadata']) <= {'tags', 'jupyter'}
        assert set(c['metadata'].get('jupyter', {})) <= {'source_hidden'}
        if c['cell_type'] == 'code': assert c['outputs'] == [] and c['execution_count'] is None
    assert set(json.loads(file.read_text())['metadata']) <= {'kernelspec'}

@each_notebook
def test_ids_are_readable(file):
    ids = [c['id'] for c in cells(file)]
    assert len(set(ids)) == len(ids)
    for i in ids: assert re.fullmatch('[a-z][a-z0-9-]+', i) and not re.fullmatch('[0-9a-f]{8}', i), i

@each_notebook
def test_first_and_last_cell(file):
    first, last = markdown(file)[0], text(cells(file)[-1])
    assert re.match(r'# \S.*\n\n> \S.*\Z', first)
    assert last.startswith('Next: ')
    at = NOTEBOOKS.index(file)
    if at + 1 < len(NOTEBOOKS): assert f'({os.path.relpath(NOTEBOOKS[at + 1], file.parent)})' in last

@each_notebook
def test_reference_says_so(file):
    "The course is short; whoever opens anything else reads at once that it is reference."
    name = next(job.name for job in all_jobs(ROOT/'nbs') if job.path == file)
    why = next((text(c) for c in cells(file) if c['id'] == 'why'), '')
    assert ('*Reference, for those who change the kit.*' in why) == (name not in COURSE)

@pytest.mark.parametrize('file', NUMBERED, ids=short)
def test_lies_where_its_module_does(file):
    name, = re.findall(r'^#\| default_exp (\S+)$', '\n'.join(code(file)), re.M)
    assert (file.parent.name, file.stem[3:]) == tuple(name.split('.'))

@pytest.mark.parametrize('room', ROOMS)
def test_numbers_are_reading_order(room):
    numbers = [int(f.name[:2]) for f in NUMBERED if f.parent.name == room]
    assert numbers == list(range(1, len(numbers) + 1))

PAGES = [ROOT/'README.md', ROOT/'CONTRIBUTING.md', ROOT/'nbs'/'figures'/'README.md']

@pytest.mark.parametrize('file', NOTEBOOKS + FIGURES + PAGES, ids=short)
def test_links_lead_somewhere(file):
    told = '\n'.join(markdown(file)) if file.suffix == '.ipynb' else file.read_text()
    for link in re.findall(r'\]\(([^)#\s]+)\)', told):
        assert link.startswith('https://') or (file.parent/link).exists(), link

@each_notebook
def test_ends_with_exercises(file):
    told = markdown(file)
    exercises = [i for i, t in enumerate(told) if t.startswith('## Exercise')]
    answers = [i for i, t in enumerate(told) if '<details>' in t and '</details>' in t]
    assert 1 <= len(exercises) <= 3 and len(answers) >= len(exercises) and answers[-1] > exercises[-1]
    assert '# put your own here' in '\n'.join(code(file))

# Lines that a person can read

WRITTEN = [*NOTEBOOKS, *FIGURES, *MODULES.values(), ROOT/'gpt_kit'/'__init__.py',
           *sorted(ROOT.glob('tests/**/*.py')), *sorted(ROOT.glob('bench/*.py'))]

@pytest.mark.parametrize('file', WRITTEN, ids=short)
def test_lines_fit_a_page(file):
    "110 characters are what a page of the report shows without scrolling."
    source = '\n'.join(code(file)) if file.suffix == '.ipynb' else file.read_text()
    source = re.sub(r'^__all__ = \[.*?\]$', '', source, flags=re.M | re.S)     # nbdev wraps it as it likes
    assert [l for l in source.splitlines() if len(l) > 110] == []

@each_module
def test_modules_stay_small(name): assert len(MODULES[name].read_text().splitlines()) <= 350

def body_lines(function):
    "Lines of a function without signature and docstring."
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0

@each_module
def test_functions_stay_small(name):
    functions = [n for n in ast.walk(tree_of(name)) if isinstance(n, ast.FunctionDef)]
    assert [(f.name, body_lines(f)) for f in functions if body_lines(f) > 30] == []

def public_names(name):
    "What a module defines at its top for others."
    for n in tree_of(name).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)): names = [n.name]
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            targets = n.targets if isinstance(n, ast.Assign) else [n.target]
            elements = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            names = [e.id for e in elements if isinstance(e, ast.Name)]
        else: continue
        yield from (x for x in names if not x.startswith('_'))

def test_one_name_means_one_thing():
    where = {}
    for name in MODULES:
        for public in public_names(name): where.setdefault(public, set()).add(name)
    assert {public: modules for public, modules in where.items() if len(modules) > 1} == {}
    assert {'Task', 'OPTIMIZERS', 'Store', 'main'} <= set(where)

# Modules

def test_module_is_notebook(tmp_path):
    "Exporting all notebooks into an empty folder gives the package, file for file."
    shutil.copy(ROOT/'settings.ini', tmp_path)
    shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.*'))
    (tmp_path/'gpt_kit').mkdir()
    export = 'from nbdev.doclinks import nbdev_export; nbdev_export()'
    subprocess.run([sys.executable, '-c', export], cwd=tmp_path, check=True, capture_output=True)
    exported, ours = {}, {}
    for root, found in ((tmp_path, exported), (ROOT, ours)):
        for f in sorted((root/'gpt_kit').rglob('*.py')): found[str(f.relative_to(root))] = f.read_text()
        del found['gpt_kit/__init__.py']                                              # written by hand
    assert list(exported) == list(ours)
    for name in ours:
        assert exported[name] == ours[name], f"{name} is not what its notebook exports; run nbdev_export"

def imports(name):
    "Modules of the package that a module imports, at its top or anywhere inside."
    room = name.split('.')[0]
    for n in ast.walk(tree_of(name)):
        found = []
        if isinstance(n, ast.ImportFrom) and n.level == 1: found = [f'gpt_kit.{room}.{n.module}']
        elif isinstance(n, ast.ImportFrom): found = [f'gpt_kit.{n.module}' if n.level else n.module]
        elif isinstance(n, ast.Import): found = [a.name for a in n.names]
        yield from (m.removeprefix('gpt_kit.') for m in found if m.startswith('gpt_kit.'))

def test_imports_are_found():
    found = set(imports('networks.collect'))
    assert found == {f'networks.{m}' for m in ('checks', 'families', 'store', 'tasks', 'weights')}
    assert 'outside.cluster' in set(imports('run.model_commands'))                    # inside of a function

@each_module
def test_imports_its_own_room_and_those_below(name):
    room = name.split('.')[0]
    found = set(imports(name))
    assert found <= set(MODULES) and {m.split('.')[0] for m in found} <= {room, *ROOMS[room].split()}

def test_no_cycles(): list(TopologicalSorter({m: set(imports(m)) for m in MODULES}).static_order())

@pytest.mark.parametrize('name', CORE)
def test_core_does_not_print_or_touch_paths(name):
    nodes = list(ast.walk(tree_of(name)))
    called = {ast.unparse(n.func) for n in nodes if isinstance(n, ast.Call)}
    assert not called & {'print', 'open', 'Path', 'io.open', 'os.open'}
    imported = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert not imported & {'pathlib', 'os', 'io', 'plotly', 'tqdm.auto'}

LIGHT = [('gpt_kit', ''), ('gpt_kit.run.commands', ''), ('gpt_kit.gpt.diffusion', 'torch')]

@pytest.mark.parametrize('module, may', LIGHT)
def test_light(module, may):
    heavy = [m for m in HEAVY if m != may]
    loaded = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    words = [sys.executable, '-c', loaded]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == '[]'

def test_the_names_a_person_needs():
    assert 18 <= len(gpt_kit.__all__) <= 25
    for name in gpt_kit.__all__: assert getattr(gpt_kit, name).__doc__
    assert set(gpt_kit.__all__) <= set(dir(gpt_kit))
    with pytest.raises(AttributeError, match='no_such_name'): gpt_kit.no_such_name

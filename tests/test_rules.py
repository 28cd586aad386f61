"The rules of the house: what a notebook looks like, module = notebook, who may import whom."
import ast, json, re, shutil, subprocess, sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
MODULES = {f.stem: f for f in sorted((ROOT/'gpt_kit').glob('*.py')) if not f.stem.startswith('_')}

ALLOWED = dict(
    tasks='', weights='tasks', store='weights', collect='tasks weights store', symmetry='weights', tokens='weights symmetry', diffusion='', model='tokens weights',
    landscape='tasks weights', draw='landscape tasks weights', live='diffusion draw store symmetry tasks weights',
    widgets='collect draw evaluate landscape live model prompt store tasks train weights', views='draw landscape live prompt tasks weights widgets',
    train='diffusion store symmetry weights', prompt='weights diffusion', evaluate='tasks weights collect symmetry prompt', batch='store', report='store',
    pdiff='diffusion train', zoo='tasks weights collect store', compare='tasks symmetry zoo draw',
    datasets='tasks collect', cartpole='tasks weights collect', presets='tasks weights collect symmetry diffusion train datasets cartpole',
    imports='tasks weights store', released='tasks weights store model datasets', exports='tasks weights store', cluster='tasks collect train',
    behaviour='tasks weights', lab='behaviour tasks store collect diffusion model train prompt evaluate presets', gallery='store report',
    updates='tasks weights collect diffusion model evaluate prompt draw presets', diversity='collect draw landscape prompt symmetry tasks weights', scaling='evaluate draw lab',
    audit='tasks weights collect store symmetry prompt evaluate zoo compare', neighbours='tasks weights collect store symmetry prompt evaluate draw landscape audit',
    cli='behaviour gallery presets tasks weights store collect symmetry tokens diffusion model train prompt evaluate batch report imports released exports cluster')
CORE = ['tasks', 'weights', 'diffusion', 'tokens', 'model']    # never draw, print, or touch a path
HEAVY = ['gymnasium', 'plotly', 'ipywidgets', 'pandas', 'sklearn', 'matplotlib', 'papermill', 'nbconvert']

def cells(file): return json.loads(file.read_text())['cells']
def text(cell): return ''.join(cell['source'])
def markdown(file): return [text(c) for c in cells(file) if c['cell_type'] == 'markdown']
def calls(tree): return {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}

each_notebook = pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda f: f.stem)
each_module = pytest.mark.parametrize('name', MODULES)

# Notebooks

@each_notebook
def test_parameters_are_explained_literals(file):
    tagged = [c for c in cells(file) if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1
    for line in text(tagged[0]).splitlines():
        assert re.fullmatch(r'\w+: \w+ = .+?  +# \S.*', line), f"{line!r} is not `name: type = value  # what it is`"
        statement, = ast.parse(line).body
        assert type(ast.literal_eval(statement.value)).__name__ == statement.annotation.id

@each_notebook
def test_saved_clean(file):
    for c in cells(file):
        assert set(c['metadata']) <= {'tags'}
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
    for after in NOTEBOOKS:
        if int(after.name[:2]) == int(file.name[:2]) + 1: assert f'({after.name})' in last

@each_notebook
def test_links_lead_somewhere(file):
    for link in re.findall(r'\]\(([^)#]+)\)', '\n'.join(markdown(file))):
        assert link.startswith('https://') or (file.parent/link).exists(), link

@each_notebook
def test_ends_with_exercises(file):
    told = markdown(file)
    exercises = [i for i, t in enumerate(told) if t.startswith('## Exercise')]
    answers = [i for i, t in enumerate(told) if '<details>' in t and '</details>' in t]
    assert 1 <= len(exercises) <= 3 and len(answers) >= len(exercises) and answers[-1] > exercises[-1]
    assert '# put your own here' in '\n'.join(map(text, cells(file)))

# Modules

def test_module_is_notebook(tmp_path):
    "Exporting all notebooks into an empty folder gives the package, file for file."
    shutil.copy(ROOT/'settings.ini', tmp_path); shutil.copytree(ROOT/'nbs', tmp_path/'nbs', ignore=shutil.ignore_patterns('.*')); (tmp_path/'gpt_kit').mkdir()
    subprocess.run([sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()'], cwd=tmp_path, check=True, capture_output=True)
    exported, ours = ({f.name: f.read_text() for f in sorted((r/'gpt_kit').glob('*.py'))} for r in (tmp_path, ROOT))
    assert list(exported) == list(ours)
    for name in ours: assert exported[name] == ours[name], f"gpt_kit/{name} is not what its notebook exports; run nbdev_export, and edit notebooks only"

def imports(name):
    "Modules of the package that a module imports, at its top or anywhere inside."
    found = set()
    for n in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(n, ast.ImportFrom) and (n.level == 1 or (n.module or '').split('.')[0] == 'gpt_kit'):
            of = (n.module or '').removeprefix('gpt_kit').removeprefix('.')
            found |= {of.split('.')[0]} if of else {a.name for a in n.names}
        if isinstance(n, ast.Import): found |= {a.name.split('.')[1] for a in n.names if a.name.startswith('gpt_kit.')}
    return found

def test_every_module_is_in_the_table(): assert set(MODULES) == set(ALLOWED)

@each_module
def test_imports_as_the_table_says(name): assert imports(name) <= set(ALLOWED[name].split())

def test_no_cycles(): list(TopologicalSorter({m: imports(m) for m in MODULES}).static_order())

def test_imports_are_found(): assert imports('collect') == {'store', 'tasks', 'weights'}

@pytest.mark.parametrize('name', CORE)
def test_core_does_not_print_or_touch_paths(name):
    tree = ast.parse(MODULES[name].read_text())
    assert not calls(tree) & {'print', 'open', 'Path', 'io.open', 'os.open'}
    imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not imported & {'pathlib', 'os', 'io', 'plotly', 'tqdm.auto'}

def test_diffusion_is_light():
    code = f"import sys, gpt_kit.diffusion; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == '[]'

@each_module
def test_modules_stay_small(name): assert sum(bool(l.strip()) for l in MODULES[name].read_text().splitlines()) < 330

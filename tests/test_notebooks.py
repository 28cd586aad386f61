"Every lesson once, from top to bottom, with the small parameters of `small.yaml`."
import shutil
from pathlib import Path

import papermill, pytest, yaml

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
SMALL = yaml.safe_load((ROOT/'tests'/'small.yaml').read_text())
OUT = ROOT/'build'/'tests'

@pytest.fixture(scope='module', autouse=True)
def fresh():
    "What an earlier run left may have been made with other settings."
    shutil.rmtree(OUT, ignore_errors=True); OUT.mkdir(parents=True)

def test_there_are_lessons(): assert len(NOTEBOOKS) >= 11

@pytest.mark.parametrize('file', [ROOT/'tests'/'small.yaml', ROOT/'nbs'/'run.yaml'], ids=lambda f: f.name)
def test_parameters_exist(file):
    "papermill runs the defaults, silently, when a name is mistyped."
    for name, given in yaml.safe_load(file.read_text()).items():
        assert set(given or {}) <= set(papermill.inspect_notebook(ROOT/'nbs'/f'{name}.ipynb')), name

@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda f: f.stem)
def test_notebook(file):
    "Runs without an error; its own assertions are the tests of the module it exports."
    papermill.execute_notebook(file, OUT/file.name, SMALL.get(file.stem, {}), cwd=ROOT/'nbs', kernel_name='python3', progress_bar=False, store_widget_state=False)

"Every lesson once, from top to bottom, with the small parameters of `small.yaml`."
import os
from pathlib import Path

import papermill
import pytest
import yaml

from forked import ForkedKernels
from gpt_kit.run.jobs import all_jobs

ROOT = Path(__file__).parent.parent
JOBS = [job for job in all_jobs(ROOT/'nbs') if not job.name.startswith('figures/')]
SMALL = yaml.safe_load((ROOT/'tests'/'small.yaml').read_text())
OUT = ROOT/'build'/'tests'/'notebooks'

def shared_folder(job):
    "What a lesson shares with others: those that write to one folder run one after another, in one process."
    paths = [v for v in (SMALL.get(job.name) or {}).values() if isinstance(v, str) and 'build/tests/' in v]
    return paths[0] if paths else job.name

EACH = [pytest.param(job, id=job.name, marks=pytest.mark.xdist_group(shared_folder(job))) for job in JOBS]

def test_there_are_lessons(): assert len(JOBS) >= 40 and set(SMALL) <= {job.name for job in JOBS}

@pytest.mark.parametrize('file', [ROOT/'tests'/'small.yaml', ROOT/'nbs'/'run.yaml'], ids=lambda f: f.name)
def test_parameters_exist(file):
    "papermill runs the defaults, silently, when a name is mistyped."
    paths = {job.name: job.path for job in JOBS}
    for name, given in yaml.safe_load(file.read_text()).items():
        assert set(given or {}) <= set(papermill.inspect_notebook(paths[name])), name

@pytest.mark.parametrize('job', EACH)
def test_notebook(job):
    "Runs without an error; its own assertions are the tests of the module it exports."
    output = OUT/job.file
    output.parent.mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(job.path, output, SMALL.get(job.name) or {}, cwd=job.path.parent,
                               kernel_name='python3', kernel_manager_class=ForkedKernels,
                               progress_bar=False, store_widget_state=False)

@pytest.mark.xdist_group('together')
def test_groups_stay_together(request):
    "pytest-xdist 3.8 loses groups with pytest 9.2; lessons that share a store would write it at once."
    if 'PYTEST_XDIST_WORKER' in os.environ: assert request.node.nodeid.endswith('@together')

"What several files share: a small store, a model trained for a moment, and the commands."
import ast, json, os, subprocess, sys
from pathlib import Path

import pytest, torch
from hypothesis import settings

from gpt_kit.collect import Recipe, collect
from gpt_kit.model import GPT, restore
from gpt_kit.prompt import Prompter
from gpt_kit.tasks import digits
from gpt_kit.train import Plan, load_model, prepare, train_gpt

ROOT = Path(__file__).parent.parent
torch.set_num_threads(min(2, torch.get_num_threads()))
settings.register_profile('kit', deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile('kit')

@pytest.fixture(scope='session')
def task(): return digits()

@pytest.fixture(scope='session')
def store(task, tmp_path_factory):
    "64 runs of 2 epochs with 6 checkpoints each. Read it, don't touch it."
    return collect(task, tmp_path_factory.mktemp('shared')/'store', 64, Recipe(epochs=2, n_saves=6), progress=False)

@pytest.fixture(scope='session')
def model_file(store, tmp_path_factory):
    "A small G.pt after 20 steps. Read it, don't touch it."
    file = tmp_path_factory.mktemp('shared')/'tiny.safetensors'
    torch.manual_seed(0)
    train_gpt(GPT(store.info['layers'], 'neuron', width=24, depth=1, heads=2), prepare(store, 'test_loss'), Plan(steps=20, batch=16, warmup=5), file, progress=False)
    return file

@pytest.fixture(scope='session')
def ask(model_file): return Prompter(*load_model(model_file, restore))

@pytest.fixture(scope='session')
def gpt_kit():
    "Run a command: `gpt_kit('evaluate', file, '--starts', 2)` gives exit code, stdout and stderr."
    def run(*args, **kw):
        return subprocess.run([sys.executable, '-m', 'gpt_kit.cli', *map(str, args)], capture_output=True, text=True, timeout=300, env=os.environ | dict(PYTHONPATH=str(ROOT)), **kw)
    return run

@pytest.fixture
def run_here(monkeypatch):
    "Run a notebook in this process, which is quicker than a kernel: `run_here(file, parameters)` gives the value of its last cell."
    def run(file, given):
        monkeypatch.chdir(file.parent)
        names, value = {}, None
        for c in json.loads(file.read_text())['cells']:
            if c['cell_type'] != 'code': continue
            tree, where = ast.parse(''.join(c['source'])), f"{file.name}:{c['id']}"
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, where, 'exec'), names)
            value = eval(compile(ast.Expression(last.value), where, 'eval'), names) if last else None
            if 'parameters' in c['metadata'].get('tags', []): names |= {k: v for k, v in given.items() if k in names}
        return value
    return run

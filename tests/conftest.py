"What several files share: a small store, a model trained for a moment, and the commands."
import ast
import html
import json
import math
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from forked import run_command
from gpt_kit.gpt.load import load
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.fetch import PICTURE_SETS
from gpt_kit.networks.tasks import digits
from gpt_kit.run import gallery

ROOT = Path(__file__).parent.parent
BESIDE_OTHERS = 'PYTEST_XDIST_WORKER' in os.environ
if BESIDE_OTHERS: os.environ['OMP_NUM_THREADS'] = '1'       # for what a test starts
# a shell's background jobs ignore Ctrl-C, and so would the commands that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1 if BESIDE_OTHERS else min(2, torch.get_num_threads()))
settings.register_profile('kit', deadline=None, max_examples=60, derandomize=True, database=None)
settings.load_profile('kit')

def pytest_configure(config):
    "What an earlier run of the tests left may have been made with other settings."
    if not BESIDE_OTHERS: shutil.rmtree(ROOT/'build'/'tests', ignore_errors=True)

LONG = 'test_notebooks', 'test_figures', 'test_cluster', 'test_cartpole', 'test_kills', 'test_presets'
TOGETHER = 'test_figures', 'test_cluster', 'test_cartpole', 'test_behaviour'      # what they share takes long

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Long ones first, so that both processes end together; files that share much stay in one process."
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))
    for item in items:
        if item.path.stem in TOGETHER: item.add_marker(pytest.mark.xdist_group(item.path.stem))

@pytest.fixture(scope='session')
def task(): return digits()

@pytest.fixture(scope='session')
def store(task, tmp_path_factory):
    "64 runs of 2 epochs with 6 checkpoints each. Read it, don't touch it."
    folder = tmp_path_factory.mktemp('shared')/'store'
    return collect(task, folder, 64, recipe=Recipe(epochs=2, n_saves=6), progress=False)

@pytest.fixture(scope='session')
def model_file(store, tmp_path_factory):
    "A small G.pt after 20 steps. Read it, don't touch it."
    file = tmp_path_factory.mktemp('shared')/'tiny.safetensors'
    torch.manual_seed(0)
    model = GPT(store.info['layers'], width=24, depth=1, heads=2)
    config = TrainConfig(steps=20, batch=16, warmup=5)
    train_gpt(model, prepare_data(store, 'test_loss'), config, file, progress=False)
    return file

@pytest.fixture(scope='session')
def fashion_folder():
    "Where Debian puts the files of Fashion-MNIST."
    folder = PICTURE_SETS['fashion'].installed
    if not folder.exists():
        pytest.skip("Fashion-MNIST is not installed here: on Debian, apt-get install dataset-fashion-mnist")
    return folder

@pytest.fixture(scope='session')
def ask(model_file): return load(model_file)

@pytest.fixture(scope='session')
def gpt_kit():
    "As `gpt_kit('evaluate', file, '--starts', 2)`, in a process of its own: exit code, stdout and stderr."
    return run_command

@pytest.fixture
def run_here(monkeypatch):
    "`run_here(file, parameters)` runs a notebook without a kernel, and gives its last cell's value."
    def run(file, given):
        monkeypatch.chdir(file.parent)
        names, value = {}, None
        for c in json.loads(file.read_text())['cells']:
            if c['cell_type'] != 'code': continue
            tree, where, last = ast.parse(''.join(c['source'])), f"{file.name}:{c['id']}", None
            if tree.body and isinstance(tree.body[-1], ast.Expr): last = ast.Expression(tree.body.pop().value)
            exec(compile(tree, where, 'exec'), names)
            value = eval(compile(last, where, 'eval'), names) if last else None
            if 'parameters' in c['metadata'].get('tags', []):
                names |= {k: v for k, v in given.items() if k in names}
        return value
    return run

def leaves(v):
    "The values in nested dicts and lists."
    if isinstance(v, dict): v = list(v.values())
    return [leaf for w in v for leaf in leaves(w)] if isinstance(v, list) else [v]

def follows(found, rule, holds, checks):
    "Does a verdict follow from its checks, and these from the rule; and can all of it be written down?"
    def sentences(of): return {s.rpartition(': ')[2] for s in of}           # without the world they are about
    assert found['checks'] == {s: bool(v) for s, v in checks.items()}
    assert sentences(checks) == sentences(rule(holds)) and all(sentences(checks))
    yes, word = sum(found['checks'].values()), found['verdict']
    assert word == ('holds' if yes == len(checks) else 'holds in part' if yes else 'does not hold here')
    numbers = leaves(found['ours'])
    assert any(isinstance(v, float) for v in numbers)
    assert all(v is None or isinstance(v, (str, bool)) or math.isfinite(v) for v in numbers)
    assert json.loads(found._repr_mimebundle_()[gallery.VERDICT_MIME]) == found
    shown = html.unescape(found.html)
    assert all(s in shown for s in checks)
    assert found['name'] and len(found['paper']) > 15

@pytest.fixture
def figure_here(run_here, monkeypatch):
    "As `run_here`, for the notebook of a figure: its verdict, which has to follow from its rule."
    def run(file, given):
        rules, checks, both_ways, verdict = [], [], gallery.both_ways, gallery.verdict
        def keep_rule(rule, holds, fails):
            rules.append((rule, holds))
            both_ways(rule, holds, fails)
        def keep_checks(*args):
            checks.append(args[3])
            return verdict(*args)
        monkeypatch.setattr(gallery, 'both_ways', keep_rule)
        monkeypatch.setattr(gallery, 'verdict', keep_checks)
        found = run_here(file, given)
        assert len(rules) == 1
        follows(found, *rules[0], checks[-1])       # the others are those of `both_ways`
        return found
    return run

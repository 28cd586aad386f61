"Killed at any moment: files load, nothing finished is lost, the same command ends with the same bits."
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.train import prepare_data, train_gpt
from gpt_kit.networks.collect import SHARD, Recipe, collect
from gpt_kit.networks.store import Store, read_tensors, shard_fault, shard_file
from gpt_kit.networks.tasks import digits

RUNS, RECIPE = 4*SHARD, Recipe(epochs=2, n_saves=16)          # four shards
CONFIG = TrainConfig(steps=25, batch=16, warmup=5)            # a state is saved after every step

def collecting(folder): return collect(digits(), folder/'store', RUNS, recipe=RECIPE, progress=False)

def training(folder):
    data = prepare_data(Store(folder/'to learn from'), 'test_loss')
    torch.manual_seed(0)
    model = GPT(data.store.info['layers'], tokens='neuron', width=48, depth=2, heads=2)
    train_gpt(model, data, CONFIG, folder/'model.safetensors', every=1, progress=False)

JOBS = dict(collect=collecting, train=training)

def digest(tensor): return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()

def bits(folder):
    "Digests of the tensors of every file; a model's description also holds seconds, which differ."
    files = {str(f.relative_to(folder)): load_file(f) for f in folder.rglob('*.safetensors')}
    return {file: {name: digest(t) for name, t in tensors.items()} for file, tensors in files.items()}

def finished(folder):
    index = folder/'store'/'index.json'
    return json.loads(index.read_text())['shards'] if index.exists() else {}

def written(folder, shards):
    "When these shards were written."
    return {k: (folder/'store'/shard_file(int(k))).stat().st_mtime_ns for k in shards}

CODE = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_kills
torch.set_num_threads({threads})
print('go', flush=True)
test_kills.JOBS[{job!r}](Path({folder!r}))
"""

def kill_once(job, folder, delay):
    """Run a job in a process of its own, SIGKILL it some seconds after its work began, look at what is left.

    True when it was still at work."""
    code = CODE.format(tests=str(Path(__file__).parent), threads=torch.get_num_threads(), job=job,
                       folder=str(folder))
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    assert p.stdout.readline() == b'go\n', f'{job} did not start'
    time.sleep(delay)
    before, at_work = finished(folder), p.poll() is None
    p.kill()
    p.communicate()
    for f in folder.rglob('*.safetensors'): load_file(f)                       # raises when it is not whole
    after = finished(folder)
    assert set(before) <= set(after), 'a finished shard is gone from the index'
    for k in after:
        assert shard_fault(folder/'store', dict(shards=after), int(k)) is None, f'shard {k} is not whole'
    return at_work

def kill_and_finish(job, folder, delay, expected):
    "Kill a job, let it finish, and compare with what it makes undisturbed. True when it was hit at work."
    hit, done = kill_once(job, folder, delay), finished(folder)
    before = written(folder, done)
    JOBS[job](folder)
    assert bits(folder) == expected, f'{folder.name}: other bits than without the kill'
    assert not list(folder.rglob('*.tmp')), f'{folder.name}: a temporary file is left'
    assert written(folder, done) == before, f'{folder.name}: a finished shard was made again'
    return hit

def kill_rounds(
    n:int,               # kills of each job
    seed:int=0,          # of their moments
    jobs:tuple=('collect', 'train'),
)->dict:                 # job -> how many of the kills hit it at work
    """Kill each job n times at random moments of its work, each time in a fresh folder, and let it finish.

    Raises AssertionError when anything is lost or differs."""
    rng, hits = random.Random(seed), {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        lessons = collect(digits(), tmp/'lessons', 32, recipe=Recipe(epochs=1, n_saves=4), progress=False)
        def fresh(name):
            (tmp/name).mkdir()
            (tmp/name/'to learn from').symlink_to(lessons.path)
            return tmp/name
        for job in jobs:
            whole, timed = fresh(job), fresh(f'{job}-timed')
            JOBS[job](whole)
            expected, t = bits(whole), time.perf_counter()
            JOBS[job](timed)
            took = time.perf_counter() - t
            assert expected and bits(timed) == expected
            delays = [rng.random()*took for _ in range(n)]
            hits[job] = sum(kill_and_finish(job, fresh(f'{job}-{i}'), delay, expected)
                            for i, delay in enumerate(delays))
    return hits

@pytest.mark.slow
@pytest.mark.parametrize('job', JOBS)
def test_killed_at_random_moments(job):
    "Slow because each of the three kills needs a process of its own, which first has to import torch."
    assert kill_rounds(3, seed=1, jobs=(job,))[job] >= 1

def test_the_check_sees_damage(tmp_path):
    "A shard cut short, as a plain write would leave it, is what the rounds above look for."
    store = collect(digits(), tmp_path/'store', 8, recipe=Recipe(epochs=1, n_saves=2), progress=False)
    assert shard_fault(store.path, store.info, 0) is None
    file = store.path/shard_file(0)
    file.write_bytes(file.read_bytes()[:1000])
    assert 'cut short' in shard_fault(store.path, store.info, 0)
    with pytest.raises(SafetensorError): load_file(file)

@pytest.mark.parametrize('job', JOBS)
def test_what_the_dead_left_is_swept(job, store, tmp_path):
    "A process that dies in the middle of a write leaves a file of a temporary name; the next one deletes it."
    (tmp_path/'store').mkdir()
    (tmp_path/'to learn from').symlink_to(store.path)
    names = dict(collect=['store/.shard-00000.safetensors.4242.tmp'],
                 train=['.model.training.safetensors.4242.tmp', '.model.safetensors.4242.tmp'])[job]
    for name in names: (tmp_path/name).write_bytes(b'half')
    JOBS[job](tmp_path)
    assert not list(tmp_path.rglob('.*.tmp'))

LARGE = dict(
    collect='collect {out}/store --task digits --runs {runs} --saves 4 --epochs 2',
    train='train {store} {out}/m.safetensors --width 24 --depth 1 --heads 2 --steps 100000 --batch 8')
SIGN = dict(collect='store/index.json', train='m.training.safetensors')       # that something has been saved

@pytest.mark.slow
@pytest.mark.parametrize('command', LARGE)
def test_interrupted_by_a_person(command, store, tmp_path):
    """Ctrl-C: exit code 130 and one sentence; the same command goes on.

    Slow because it waits for a shard, or for a training's first save."""
    args = LARGE[command].format(out=tmp_path, store=store.path, runs=100*SHARD).split()
    p = subprocess.Popen([sys.executable, '-m', 'gpt_kit.run.commands', *args], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    until = time.time() + 120
    while not (tmp_path/SIGN[command]).exists():
        assert p.poll() is None and time.time() < until, p.communicate()
        time.sleep(.05)
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=60)
    told = [l for l in err.splitlines() if l.startswith('gpt-kit: ')]
    assert p.returncode == 130 and len(told) == 1 and 'goes on' in told[0] and 'Traceback' not in err
    if command == 'collect':
        left = Store(tmp_path/'store').verify()
        assert SHARD <= left.R < 100*SHARD
    else: assert read_tensors(tmp_path/'m.training.safetensors', 'training')[1]['step'] >= 100
    assert not list(tmp_path.rglob('*.tmp'))

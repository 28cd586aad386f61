"Killed at any moment: nothing finished is lost, no lock is left, the same command ends with the same bits."
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from forked import forked
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import SHARD, Recipe, collect
from gpt_kit.networks.files import WriteLock
from gpt_kit.networks.store import Store, read_tensors, shard_fault, shard_file
from gpt_kit.networks.tasks import digits, mlp
from gpt_kit.outside.folders import import_folder
from gpt_kit.outside.imports import Recorder, StoreWriter

RUNS, RECIPE = 4*SHARD, Recipe(epochs=1, n_saves=4)           # four shards
CONFIG = TrainConfig(steps=12, batch=16, warmup=5)            # a state is saved after every step
N_OWN, N_SAVES = 60, 3                                        # runs that are imported or recorded

def collecting(folder): return collect(digits(), folder/'store', RUNS, recipe=RECIPE, progress=False)

def training(folder):
    data = prepare_data(Store(folder/'to learn from'), 'test_loss')
    torch.manual_seed(0)
    model = GPT(data.store.info['layers'], tokens='neuron', width=24, depth=1, heads=2)
    train_gpt(model, data, CONFIG, folder/'model.safetensors', every=1, progress=False)

def small_shards(): # of ten runs
    StoreWriter.__init__.__kwdefaults__['shard_bytes'] = 10*N_SAVES*1210*4

def importing(folder):
    small_shards()
    import_folder(folder/'to import', folder/'store', digits(), progress=False)

def recording(folder):
    "A program that goes on where it was: it notes each run that has ended in a file of its own."
    small_shards()
    with Recorder(folder/'store', digits()) as record, open(folder/'ended', 'a') as ended:
        for k in range(N_OWN):
            if f'{k}' in record.writer.names: continue
            for step in range(N_SAVES):
                torch.manual_seed(N_SAVES*k + step)
                record(mlp((64, 16, 10)), step)
            record.end(f'{k}')
            print(k, file=ended, flush=True)

JOBS = dict(collect=collecting, train=training, imports=importing, record=recording)

# Looking at what is there

def bits(folder):
    "Digests of every file, or of its tensors: a model's description also holds seconds, which differ."
    found = {}
    for f in folder.rglob('*'):
        if 'to ' in str(f.relative_to(folder)) or not f.is_file() or f.name == 'ended': continue
        data = f.read_bytes()
        if f.name.startswith('model'): data = b''.join(t.numpy().tobytes() for t in load_file(f).values())
        found[str(f.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found

def finished(folder):
    "When each finished shard was written, the runs that ended, and the step of the last state."
    index, ended, state = folder/'store'/'index.json', folder/'ended', folder/'model.training.safetensors'
    shards, step = json.loads(index.read_text())['shards'] if index.exists() else {}, 0
    times = {k: (folder/'store'/shard_file(int(k))).stat().st_mtime_ns for k in shards}
    with suppress(UserError): step = read_tensors(state)[1]['step']
    if (folder/'model.safetensors').exists(): step = CONFIG.steps
    return dict(shards=times, runs=ended.read_text().split() if ended.exists() else [], step=step)

def check_left(folder, before):
    "Raises AssertionError when anything that was finished is lost, SafetensorError when a file is not whole."
    for f in folder.rglob('*.safetensors'): load_file(f)
    after, names = finished(folder), []
    assert before['shards'].items() <= after['shards'].items(), 'a finished shard is gone, or was made again'
    assert before['step'] <= after['step'], 'a training went back'
    if (folder/'store'/'index.json').exists():
        try: names = Store(folder/'store').verify().names
        except UserError as e: assert 'holds no run yet' in str(e), e
    assert set(after['runs']) <= set(names), 'a run that had ended is gone'
    for lock in folder.rglob('*.lock'): WriteLock(lock, 'what a dead process held').close()

# Killing

REFUSED = 75             # exit code of who finds another one at work

def work(job, folder, ready):
    "A job in a process of its own."
    torch.set_num_threads(1)
    os.chdir(folder)
    ready.set()
    try: JOBS[job](Path())
    except UserError as e:
        if 'is being written' not in str(e): raise
        os._exit(REFUSED)

def start(job, folder):
    "Returns when everything is imported and the job begins."
    ready = get_context('forkserver').Event()
    p = forked(work, job, str(folder), ready)
    assert ready.wait(60)
    return p

def kill_in(job, folder, rng, took, *, two=False):
    """Start a job, or two of them at once, kill it at a random moment and look at what is left.

    How many processes were hit at work, and whether one of them came to its end."""
    processes = [start(job, folder)]
    if two:
        time.sleep(rng.random()*took/2)
        processes.append(start(job, folder))
    time.sleep(rng.random()*took)
    victims = rng.sample(processes, rng.randint(1, len(processes)))
    before = finished(folder)
    for p in victims: p.kill()
    for p in processes: p.join()
    codes = [p.exitcode for p in processes]
    assert set(codes) <= {0, REFUSED, -signal.SIGKILL}, codes
    check_left(folder, before)
    return codes.count(-signal.SIGKILL), 0 in codes

def kill_until_done(job, folder, rng, took, *, most, two=False):
    "Kill and go on until a process comes to its end, or was killed often enough. The number of kills."
    kills, done = 0, False
    while kills < most and not done:
        hits, done = kill_in(job, folder, rng, took, two=two)
        kills += hits
    p = start(job, folder)
    p.join()
    assert p.exitcode == 0
    return kills

def prepare(tmp):
    "What there is to learn from, and to import."
    collect(digits(), tmp/'to learn from', 32, recipe=Recipe(epochs=1, n_saves=4), progress=False)
    for k in range(N_OWN):
        for step in range(N_SAVES):
            file = tmp/'to import'/f'{k:03d}'/f'{step}.pt'
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(mlp((64, 16, 10)).state_dict(), file)

def kill_rounds(
    n:int,               # kills of each job
    seed:int=0,          # of their moments
    jobs:tuple=tuple(JOBS),
    two:tuple=(False,),  # one process, two at once, or by turns
    say=lambda line: None,
)->dict:                 # job -> how often it came to its end with the right bits
    """Kill each job n times at random moments of its work; each time that it ends, its bits have to be right.

    Raises AssertionError when anything is lost or differs."""
    rng, ends = random.Random(seed), {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        prepare(tmp)
        def fresh(name):
            (tmp/name).mkdir()
            for f in tmp.glob('to *'): (tmp/name/f.name).symlink_to(f)
            return tmp/name
        for job in jobs:
            kill_until_done(job, whole := fresh(job), rng, 0, most=0)
            timed = start(job, fresh(f'{job}-timed'))
            t = time.perf_counter()
            timed.join()
            took, expected, kills, ends[job] = time.perf_counter() - t, bits(whole), 0, 0
            assert expected and bits(tmp/f'{job}-timed') == expected
            while kills < n:
                folder = fresh(f'{job}-{ends[job]}')
                pair = two[ends[job] % len(two)]
                hits = kill_until_done(job, folder, rng, took, most=n - kills, two=pair)
                kills, took = kills + hits, took*(1.1 if hits else .7)     # the machine's pace changes
                assert bits(folder) == expected, f'{folder.name}: other bits than without the kills'
                ends[job] += 1
                say(f'{job}: {kills} kills, {ends[job]} times to the end')
    return ends

@pytest.mark.slow
@pytest.mark.parametrize('job', JOBS)
def test_killed_at_random_moments(job):
    "Slow because what is killed needs processes of its own, here two at once, and has to be made again."
    assert kill_rounds(3, seed=1, jobs=(job,), two=(True,))[job] >= 1

def test_the_check_sees_damage(tmp_path):
    "A shard cut short, as a plain write would leave it, is what the rounds above look for."
    store = collect(digits(), tmp_path/'store', 8, recipe=Recipe(epochs=1, n_saves=2), progress=False)
    assert shard_fault(store.path, store.info, 0) is None
    file = store.path/shard_file(0)
    file.write_bytes(file.read_bytes()[:1000])
    assert 'cut short' in shard_fault(store.path, store.info, 0)
    with pytest.raises(SafetensorError): load_file(file)

@pytest.mark.parametrize('job', ['collect', 'train'])
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

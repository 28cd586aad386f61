"Killed at any moment: everything on disk loads, no finished shard is lost, and the same command ends with the same bits as if nothing had happened."
import hashlib, json, random, signal, subprocess, sys, tempfile, time
from pathlib import Path

import pytest, torch
from safetensors.torch import load_file

from gpt_kit.collect import SHARD, Recipe, collect
from gpt_kit.model import GPT
from gpt_kit.store import Store, read_tensors, shard_fault, shard_file
from gpt_kit.tasks import digits
from gpt_kit.train import Plan, prepare, train_gpt

RUNS, RECIPE, PLAN = 4*SHARD, Recipe(epochs=2, n_saves=16), Plan(steps=25, batch=16, warmup=5)   # four shards; a state saved after every step

def collecting(folder): return collect(digits(), folder/'store', RUNS, RECIPE, progress=False)

def training(folder):
    data = prepare(Store(folder/'to learn from'), 'test_loss')
    torch.manual_seed(0)
    train_gpt(GPT(data.store.info['layers'], 'neuron', width=48, depth=2, heads=2), data, PLAN, folder/'model.safetensors', every=1, progress=False)

JOBS = dict(collect=collecting, train=training)

def bits(folder):
    "Digests of the tensors of every file; a model's description also holds seconds, which differ."
    return {str(f.relative_to(folder)): {n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in sorted(load_file(f).items())} for f in sorted(folder.rglob('*.safetensors'))}

def finished(folder): return json.loads((folder/'store/index.json').read_text())['shards'] if (folder/'store/index.json').exists() else {}

def kill_once(job, folder, delay):
    "Run a job in a process of its own, SIGKILL it some seconds after its work began, and look at what is left. True when it was still at work."
    code = f"import sys, torch; sys.path.insert(0, {str(Path(__file__).parent)!r}); from pathlib import Path; import test_kills; torch.set_num_threads({torch.get_num_threads()}); " \
           f"print('go', flush=True); test_kills.JOBS[{job!r}](Path({str(folder)!r}))"
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    assert p.stdout.readline() == b'go\n', f'{job} did not start'
    time.sleep(delay)
    before, at_work = finished(folder), p.poll() is None
    p.kill(); p.communicate()
    for f in folder.rglob('*.safetensors'): load_file(f)                                   # raises when it is not whole
    after = finished(folder)
    assert set(before) <= set(after), 'a finished shard is gone from the index'
    for k in after: assert shard_fault(folder/'store', dict(shards=after), int(k)) is None, f'shard {k} is not whole'
    return at_work

def kill_rounds(
    n:int,               # kills of each job
    seed:int=0,          # of their moments
    jobs:tuple=('collect', 'train'),
)->dict:                 # job -> how many of the kills hit it at work
    "Kill each job n times at random moments of its work, each time in a fresh folder, and each time let it finish afterwards. Raises AssertionError when anything is lost or differs."
    rng, hits = random.Random(seed), {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        lessons = collect(digits(), tmp/'lessons', 32, Recipe(epochs=1, n_saves=4), progress=False)
        def fresh(name): (tmp/name).mkdir(); (tmp/name/'to learn from').symlink_to(lessons.path); return tmp/name
        for job in jobs:
            whole = fresh(job)
            JOBS[job](whole); t = time.perf_counter(); JOBS[job](fresh(f'{job}-timed')); took = time.perf_counter() - t
            hits[job] = 0
            for i in range(n):
                folder = fresh(f'{job}-{i}')
                hits[job] += kill_once(job, folder, rng.random()*took)
                done = {k: (folder/'store'/shard_file(int(k))).stat().st_mtime_ns for k in finished(folder)}
                JOBS[job](folder)
                assert bits(folder) == bits(whole), f'{job}, kill {i}: other bits than without the kill'
                assert not list(folder.rglob('*.tmp')), f'{job}, kill {i}: a temporary file is left'
                assert all((folder/'store'/shard_file(int(k))).stat().st_mtime_ns == m for k, m in done.items()), f'{job}, kill {i}: a finished shard was made again'
    return hits

@pytest.mark.slow
@pytest.mark.parametrize('job', JOBS)
def test_killed_at_random_moments(job):
    "Slow because each of the three kills needs a process of its own, which first has to import torch."
    assert kill_rounds(3, seed=1, jobs=(job,))[job] >= 1

def test_the_check_sees_damage(tmp_path):
    "A shard cut short, as a plain write would leave it, is what the rounds above look for."
    store = collect(digits(), tmp_path/'store', 8, Recipe(epochs=1, n_saves=2), progress=False)
    file = store.path/shard_file(0)
    file.write_bytes(file.read_bytes()[:1000])
    assert shard_fault(store.path, store.info, 0)
    with pytest.raises(Exception): load_file(file)

@pytest.mark.parametrize('job', JOBS)
def test_what_the_dead_left_is_swept(job, store, tmp_path):
    "A process that dies in the middle of a write leaves a file under its temporary name; the next one deletes it."
    (tmp_path/'store').mkdir(); (tmp_path/'to learn from').symlink_to(store.path)
    for name in ('store/.shard-00000.safetensors.4242.tmp', '.model.training.safetensors.4242.tmp', '.model.safetensors.4242.tmp'): (tmp_path/name).write_bytes(b'half')
    JOBS[job](tmp_path)
    assert not list((tmp_path/'store').glob('.*.tmp') if job == 'collect' else tmp_path.glob('.*.tmp'))

@pytest.mark.slow
@pytest.mark.parametrize('command', ['collect', 'train'])
def test_interrupted_by_a_person(command, store, tmp_path):
    "Ctrl-C: exit code 130 and one sentence; the same command goes on. Slow because it waits for a shard, or for a training's first save."
    args, sign = {'collect': (['collect', tmp_path/'store', '--task', 'digits', '--runs', 100*SHARD, '--saves', 4, '--epochs', 2], 'store/index.json'),
                  'train': (['train', store.path, tmp_path/'m.safetensors', '--width', 24, '--depth', 1, '--heads', 2, '--steps', 100000, '--batch', 8], 'm.training.safetensors')}[command]
    p = subprocess.Popen([sys.executable, '-m', 'gpt_kit.cli', *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.time() + 120
    while not (tmp_path/sign).exists(): assert p.poll() is None and time.time() < until, p.communicate(); time.sleep(.05)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    said = [l for l in err.splitlines() if l.startswith('gpt-kit: ')]
    assert p.returncode == 130 and len(said) == 1 and 'goes on' in said[0] and 'Traceback' not in err
    if command == 'collect':
        left = Store(tmp_path/'store').verify()
        assert SHARD <= left.R < 100*SHARD
    else: assert read_tensors(tmp_path/'m.training.safetensors', 'training')[1]['step'] >= 100
    assert not list(tmp_path.rglob('*.tmp'))

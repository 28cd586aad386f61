"Many machines, tried on one: Ray with two workers gives the bits of one process, also when a worker is killed; two processes train as one does."
import hashlib, json, os, signal, subprocess, sys, threading, time
from pathlib import Path

import psutil, pytest, torch
from safetensors.torch import load_file

from gpt_kit.cluster import on_ray
from gpt_kit.collect import SHARD, Recipe, collect
from gpt_kit.model import GPT
from gpt_kit.tasks import digits
from gpt_kit.train import Plan, prepare, train_gpt

ROOT = Path(__file__).parent.parent
RECIPE, RUNS = Recipe(epochs=2, n_saves=16), 4*SHARD - 5

def contents(folder): return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).iterdir())}

@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
    "The collection by one process with one thread."
    n = torch.get_num_threads(); torch.set_num_threads(1)
    try: return contents(collect(digits(), tmp_path_factory.mktemp('one')/'store', RUNS, RECIPE, progress=False).path)
    finally: torch.set_num_threads(n)

@pytest.fixture(scope='module')
def ray():
    "Ray with two workers, for both tests."
    from gpt_kit.cluster import start_ray
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    try: ray, stop = start_ray(2)
    except ValueError as e:                        # its processes have 15 seconds to start, which four at work on each core take away
        if os.getloadavg()[0] < 1.5*os.cpu_count(): raise
        pytest.skip(f"this machine is too busy to start Ray ({e})")
    yield ray
    stop()

def at_work():
    "Our own Ray's processes that are making a shard."
    found = []
    for p in psutil.Process().children(recursive=True):
        try: name = ' '.join(p.cmdline())
        except psutil.Error: continue
        if name.startswith('ray::') and 'shard' in name: found.append(p)
    return found

class BackToFront:
    "Stands in for Ray where only the order matters: of what is under way, the last is ready first."
    class exceptions: RayTaskError, RayError = type('RayTaskError', (Exception,), {}), type('RayError', (Exception,), {})
    put = get = staticmethod(lambda x: x() if callable(x) else x)
    wait = staticmethod(lambda under_way: (under_way[-1:], under_way[:-1]))
    def remote(self, **options):
        assert options['max_retries'] > 0
        return lambda f: type('Task', (), dict(remote=staticmethod(lambda *a: lambda: f(*a))))

def test_the_order_of_shards_changes_nothing(one_process, tmp_path, monkeypatch):
    "Whatever comes first, files and index are the same, byte for byte."
    from gpt_kit import cluster
    n = torch.get_num_threads()
    monkeypatch.setattr(cluster, 'start_ray', lambda cpus: (BackToFront(), lambda: None))
    try: assert contents(collect(digits(), tmp_path/'store', RUNS, RECIPE, progress=False, each=on_ray(3)).path) == one_process
    finally: torch.set_num_threads(n)

@pytest.mark.slow
def test_two_workers_give_the_same_store(ray, one_process, tmp_path):
    "Slow because starting Ray takes ten seconds or more."
    assert contents(collect(digits(), tmp_path/'store', RUNS, RECIPE, progress=False, each=on_ray(2)).path) == one_process

@pytest.mark.slow
def test_a_killed_worker_changes_nothing(ray, one_process, tmp_path):
    "Slow for the same reason. One worker is killed with a shard half made; another makes it again."
    killed = []
    def kill():
        for _ in range(6000):
            if working := at_work():
                time.sleep(.3); os.kill(working[0].pid, signal.SIGKILL); killed.append(working[0].pid); return
            time.sleep(.02)
    t = threading.Thread(target=kill); t.start()
    store = collect(digits(), tmp_path/'store', RUNS, RECIPE, progress=False, each=on_ray(2))
    t.join()
    assert killed and contents(store.path) == one_process

@pytest.mark.slow
def test_mistakes_in_a_worker_are_told(ray, tmp_path):
    with pytest.raises(ValueError, match='there is no optimizer'): collect(digits(), tmp_path/'store', 8, Recipe(epochs=1, n_saves=2, optimizer='sgdd'), progress=False, each=on_ray(2))

STEPS, STOP = 24, 13
PLAN = dict(steps=STEPS, batch=16, warmup=5)
TRAIN = """
import json, sys, torch
from gpt_kit import train
from gpt_kit.cluster import Accelerated
from gpt_kit.model import GPT
from gpt_kit.store import Store
torch.set_num_threads(1)
store, out, stop = sys.argv[1], sys.argv[2], int(sys.argv[3])
engine = Accelerated(cpu=True)
class Stops:                                    # as somebody who pulls the plug
    main, device, parts, n = engine.main, engine.device, engine.parts, 0
    def __call__(self, state, loss):
        if state.step == stop: raise SystemExit(0)
        value = engine(state, loss)
        if engine.main: print(json.dumps([state.step, value.item()]), flush=True)
        return value
data = train.prepare(Store(store), 'test_loss')
torch.manual_seed(0)
tokens = sys.argv[4]
train.train_gpt(GPT(data.store.layout.layers, tokens, 24, 1, 2), data, train.Plan(**json.loads(sys.argv[5])), out, progress=False, every=6, engine=Stops())
"""

@pytest.mark.slow
def test_two_processes_train_as_one(store, tmp_path):
    "Slow because processes import torch anew, twice two of them. Interrupted in the middle and gone on with."
    file = tmp_path/'train.py'; file.write_text(TRAIN)
    data = prepare(store, 'test_loss')
    torch.manual_seed(0)
    one = [h['loss'] for h in train_gpt(GPT(store.layout.layers, 'chunk-256', 24, 1, 2), data, Plan(**PLAN), tmp_path/'one.safetensors', progress=False, every=6)]
    def two(stop):
        r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', str(file), str(store.path), str(tmp_path/'two.safetensors'), str(stop), 'chunk-256', json.dumps(PLAN)],
                           capture_output=True, text=True, timeout=300, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
        assert r.returncode == 0, r.stderr[-3000:]
        return dict(json.loads(l) for l in r.stdout.splitlines() if l.startswith('['))
    first, rest = two(STOP), two(-1)
    assert sorted(first) == list(range(STOP)) and sorted(rest) == list(range(STOP - STOP % 6, STEPS))
    for curve in (first, rest):
        for step, value in curve.items(): assert abs(value/one[step] - 1) < .01, (step, value, one[step])
    assert max(abs(v/one[s] - 1) for s, v in first.items()) < 1e-4                     # the same pairs, noise and permutations: no other draw comes that near
    a, b = load_file(tmp_path/'one.safetensors'), load_file(tmp_path/'two.safetensors')
    assert all((a[n].float() - b[n].float()).abs().max() < 1e-3 for n in a) and not list(tmp_path.glob('*.training.*'))

@pytest.mark.slow
def test_the_commands(store, tmp_path):
    "Slow for the same reason. `accelerate launch` with one process and half precision, and two processes on CPUs, from the command line: one of them speaks and writes."
    def launch(how, *more): return subprocess.run([sys.executable, '-m', *how, '-m', 'gpt_kit.cli', 'train', str(store.path), str(tmp_path/'m.safetensors'), '--width', '24', '--depth', '1', '--heads', '2', '--steps', '3', *more],
                                  capture_output=True, text=True, timeout=300, env=os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'))
    r = launch(['accelerate.commands.launch', '--cpu', '--num_processes', '1', '--num_machines', '1', '--mixed_precision', 'bf16', '--dynamo_backend', 'no', '--gradient_accumulation_steps', '2'], '--batch', '8')
    assert r.returncode == 0 and r.stdout.count('loss on') == 1, r.stderr[-2000:]
    held_out = float(r.stdout.split()[-1])
    r = launch(['torch.distributed.run', '--standalone', '--nproc-per-node', '2'], '--batch', '8')
    assert r.returncode == 0 and r.stdout.count('loss on') == 1, r.stderr[-2000:]
    assert abs(float(r.stdout.split()[-1])/held_out - 1) < .05

def test_a_batch_that_cannot_be_divided(store, tmp_path):
    class Three: main, device, parts = True, None, 3
    with pytest.raises(ValueError, match='a batch of 16 pairs cannot be divided into 3 equal parts'):
        train_gpt(GPT(store.layout.layers, 'neuron', 24, 1, 2), prepare(store, 'test_loss'), Plan(**PLAN), tmp_path/'m.safetensors', progress=False, engine=Three())

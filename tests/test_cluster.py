"""Many machines, tried on one: Ray with two workers gives the bits of one process, also when one is killed;
two processes train as one does."""
import hashlib, json, os, re, signal, socket, subprocess, sys, threading, time
from pathlib import Path

import psutil, pytest, torch
from safetensors.torch import load_file

from forked import forked
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import SHARD, Recipe, collect
from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import digits
from gpt_kit.outside import cluster
from gpt_kit.outside.cluster import ray_shards, start_ray

ROOT = Path(__file__).parent.parent
RECIPE, RUNS = Recipe(epochs=2, n_saves=16), 4*SHARD - 5

def contents(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).iterdir())}

def collected(path, **options): return collect(digits(), path, RUNS, recipe=RECIPE, progress=False, **options)

@pytest.fixture
def one_thread():
    n = torch.get_num_threads()
    yield
    torch.set_num_threads(n)

@pytest.fixture(scope='module')
def one_process(tmp_path_factory):
    "The collection by one process with one thread."
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try: return contents(collected(tmp_path_factory.mktemp('one')/'store').path)
    finally: torch.set_num_threads(n)

@pytest.fixture(scope='module')
def ray():
    "Ray with two workers, for all tests that need it."
    os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    try: ray, stop = start_ray(2)
    except UserError as e:              # its processes have 15 seconds to start, which others may take away
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
    class exceptions:
        class RayError(Exception): pass
        class RayTaskError(RayError): pass

    def __init__(self): self.most, self.options, self.stopped = 0, {}, False
    def put(self, task): return task
    def get(self, work): return work()

    def wait(self, under_way):
        self.most = max(self.most, len(under_way))
        return under_way[-1:], under_way[:-1]

    def remote(self, **options):
        self.options = options
        def task(f):
            class Task:
                @staticmethod
                def remote(*args): return lambda: f(*args)
            return Task
        return task

    def stop(self): self.stopped = True

@pytest.fixture
def back_to_front(monkeypatch, one_thread):
    fake = BackToFront()
    monkeypatch.setattr(cluster, 'start_ray', lambda cpus: (fake, fake.stop))
    return fake

def test_the_order_of_shards_changes_nothing(one_process, back_to_front, tmp_path):
    "Whatever comes first, files and index are the same, byte for byte; each worker has one shard at a time."
    assert contents(collected(tmp_path/'store', make_shards=ray_shards(3)).path) == one_process
    assert back_to_front.most == 3 and back_to_front.stopped and torch.get_num_threads() == 1
    assert back_to_front.options['max_retries'] > 0 and back_to_front.options['num_gpus'] == 0

def test_a_shard_on_a_gpu_asks_ray_for_one(back_to_front, monkeypatch):
    monkeypatch.setattr(cluster, 'shard_tensors', lambda task, seeds, recipe, *, device: (seeds, device))
    assert list(ray_shards(2)(digits(), {3: [0]}, RECIPE, device='cuda')) == [(3, ([0], 'cuda'))]
    assert back_to_front.options['num_gpus'] == 1

@pytest.mark.parametrize('kind', ['RayTaskError', 'RayError'])
def test_what_a_worker_died_of(kind, back_to_front):
    "A mistake in a shard is told as it is, a worker that dies again and again in a sentence. Ray is stopped."
    def get(work):
        error = getattr(back_to_front.exceptions, kind)()
        error.cause = KeyError('a mistake of ours')
        raise error
    back_to_front.get = get
    expected = dict(RayTaskError=KeyError, RayError=UserError)[kind]
    with pytest.raises(expected, match='a mistake of ours|shard 7 could not be made'):
        list(ray_shards(2)(digits(), {7: [0]}, RECIPE))
    assert back_to_front.stopped

@pytest.mark.slow
def test_two_workers_give_the_same_store(ray, one_process, tmp_path):
    "Slow because starting Ray takes ten seconds or more."
    assert contents(collected(tmp_path/'store', make_shards=ray_shards(2)).path) == one_process

@pytest.mark.slow
def test_a_killed_worker_changes_nothing(ray, one_process, tmp_path):
    "Slow for the same reason. One worker is killed with a shard half made; another makes it again."
    killed = []
    def kill():
        for _ in range(6000):
            working = at_work()
            if working:
                time.sleep(.3)
                os.kill(working[0].pid, signal.SIGKILL)
                killed.append(working[0].pid)
                return
            time.sleep(.02)
    t = threading.Thread(target=kill)
    t.start()
    store = collected(tmp_path/'store', make_shards=ray_shards(2))
    t.join()
    assert killed and contents(store.path) == one_process

@pytest.mark.slow
def test_mistakes_in_a_worker_are_told(ray, tmp_path):
    "Slow for the same reason."
    wrong = Recipe(epochs=1, n_saves=2, optimizer='sgdd')
    with pytest.raises(UserError, match='there is no optimizer'):
        collect(digits(), tmp_path/'store', 8, recipe=wrong, progress=False, make_shards=ray_shards(2))

STEPS, STOP, EVERY = 24, 13, 6
CONFIG = dict(steps=STEPS, batch=16, warmup=5)
SMALL = dict(tokens='chunk-256', width=24, depth=1, heads=2)
class Stops:
    "As somebody who pulls the plug before a step."
    def __init__(self, engine, stop, curve):
        self.engine, self.stop, self.curve = engine, stop, curve
        self.main, self.device, self.parts = engine.main, engine.device, engine.parts

    def __call__(self, state, loss):
        if state.step == self.stop: sys.exit(0)
        value = self.engine(state, loss)
        self.curve.append((state.step, value.item()))
        return value

def train_part(rank, port, store, out, stop, said):
    "One of two processes that train together."
    together = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    os.environ.update({name: str(v) for name, v in together.items()})
    torch.set_num_threads(1)
    engine = Stops(cluster.Accelerated(cpu=True), stop, [])
    data = prepare_data(Store(store), 'test_loss')
    torch.manual_seed(0)
    model = GPT(data.store.layout.layers, **SMALL)
    try: train_gpt(model, data, TrainConfig(**CONFIG), out, progress=False, every=EVERY, engine=engine)
    finally:
        if engine.main: said.write_text(json.dumps(engine.curve))

def python(*args):
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    command = [sys.executable, *map(str, args)]
    r = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env)
    assert r.returncode == 0, r.stderr[-3000:]
    return r.stdout

def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]

TWO_PROCESSES = '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'

@pytest.mark.slow
def test_two_processes_train_as_one(store, tmp_path):
    "Interrupted in the middle and gone on with."
    torch.manual_seed(0)
    model, data = GPT(store.layout.layers, **SMALL), prepare_data(store, 'test_loss')
    config, out = TrainConfig(**CONFIG), tmp_path/'one.safetensors'
    one = [h['loss'] for h in train_gpt(model, data, config, out, progress=False, every=EVERY)]
    def two(stop):
        said, port = tmp_path/f'curve{stop}.json', free_port()
        parts = [forked(train_part, rank, port, store.path, tmp_path/'two.safetensors', stop, said)
                 for rank in range(2)]
        for p in parts: p.join()
        assert [p.exitcode for p in parts] == [0, 0]
        return dict(json.loads(said.read_text()))
    first, rest = two(STOP), two(-1)
    assert sorted(first) == list(range(STOP)) and sorted(rest) == list(range(STOP - STOP % EVERY, STEPS))
    for curve in (first, rest):
        for step, value in curve.items(): assert abs(value/one[step] - 1) < .01, (step, value, one[step])
    # the same pairs, noise and permutations: no other draw comes that near
    assert max(abs(v/one[s] - 1) for s, v in first.items()) < 1e-4
    a, b = load_file(tmp_path/'one.safetensors'), load_file(tmp_path/'two.safetensors')
    assert a.keys() == b.keys()
    for n in a: assert (a[n].float() - b[n].float()).abs().max() < 1e-3, n
    assert not list(tmp_path.glob('*.training.*'))

@pytest.mark.slow
def test_the_commands(store, tmp_path):
    """Slow for the same reason. `accelerate launch` with one process and half precision, and two processes on
    CPUs, from the command line: one of them speaks and writes."""
    file = tmp_path/'m.safetensors'
    def trained(*how):
        small = '--width', 24, '--depth', 1, '--heads', 2, '--steps', 3, '--batch', 8
        out = python(*how, '-m', 'gpt_kit.run.commands', 'train', store.path, file, *small)
        assert out.count('loss on') == 1
        return float(re.search(r"held-out runs (\S+)", out)[1])
    one = '--cpu', '--num_processes', '1', '--num_machines', '1', '--dynamo_backend', 'no'
    half = '--mixed_precision', 'bf16', '--gradient_accumulation_steps', '2'
    held_out = trained('-m', 'accelerate.commands.launch', *one, *half)
    file.unlink()
    assert abs(trained(*TWO_PROCESSES)/held_out - 1) < .05 and file.exists()

@pytest.mark.parametrize('given, expected', [
    ({}, False), (dict(WORLD_SIZE='1'), False), (dict(WORLD_SIZE='2'), True),
    (dict(ACCELERATE_MIXED_PRECISION='no'), True)])
def test_launched_or_not(given, expected, monkeypatch):
    for name in ('WORLD_SIZE', 'ACCELERATE_MIXED_PRECISION'): monkeypatch.delenv(name, raising=False)
    for name, value in given.items(): monkeypatch.setenv(name, value)
    assert cluster.is_launched() == expected

def test_a_batch_that_cannot_be_divided(store, tmp_path):
    class Three: main, device, parts = True, None, 3
    model, data = GPT(store.layout.layers, **SMALL), prepare_data(store, 'test_loss')
    with pytest.raises(UserError, match='a batch of 16 pairs cannot be divided into 3 equal parts'):
        train_gpt(model, data, TrainConfig(**CONFIG), tmp_path/'m.safetensors', engine=Three())

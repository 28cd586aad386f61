"""How many of G.pt's released checkpoints come in a minute: python bench/imports.py [runs].

Writes runs of 200 checkpoints of 7,960 weights (the MNIST networks) in the released layout, and imports them
in a process of its own, once a few and once many: memory that does not grow with the number of runs is flat.
Then records runs of small networks one by one: what `end` costs after 10 runs and after 5,000.
"""
import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import lmdb
import numpy as np
import psutil
import torch
from common import record

from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import Task, classification, mlp
from gpt_kit.outside.imports import Recorder
from gpt_kit.outside.released import RELEASED_METRICS, import_lmdb

SIZES, SAVES = [7840, 10, 100, 10], 200
FEW = torch.zeros(1000, 784), torch.zeros(1000)
TASK = Task('mnist stand-in', mlp((784, 10, 10)), FEW, FEW)


def write(folder, name):
    "One run of random numbers in the released layout."
    g, about, arch = np.random.default_rng(int(name)), {}, np.float32(SIZES).tobytes()
    (folder/name).mkdir(parents=True)
    with lmdb.open(str(folder/name), map_size=2**26) as env, env.begin(write=True) as t:
        for s in range(SAVES):
            k = f'{name}/ep{s//10:03d}_it{s % 10:05d}.pt'
            t.put(k.encode(), g.normal(0, .1, sum(SIZES)).astype(np.float32).tobytes())
            t.put(f'{k}_arch'.encode(), arch)
            about[k] = dict.fromkeys(list(RELEASED_METRICS)[:4], 1.)
    (folder/name/'runs.json').write_text(json.dumps(dict(checkpoints=about, metadata={})))


def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024


def import_here(source, out):
    "Import, and say what it took."
    begin, t, cpu = peak_mb(), time.perf_counter(), time.process_time()
    store = import_lmdb(source, out, TASK, progress=False)
    seconds, cpu = time.perf_counter() - t, time.process_time() - cpu
    return dict(n=store.R*store.S, seconds=seconds, cpu=cpu, begin_mb=begin, peak_mb=peak_mb())


def measure(source, n):
    "Import the first n runs in a process of its own; its checkpoints, seconds and memory."
    some = source.parent/f'some-{n}'
    some.mkdir()
    for f in sorted(source.iterdir())[:n]: (some/f.name).symlink_to(f)
    with ProcessPoolExecutor(1, get_context('spawn')) as alone:
        m = alone.submit(import_here, some, source.parent/f'store-{n}').result()
    record('bench', f"import of {m['n']} checkpoints", a_minute=round(m['n']/m['seconds']*60),
           a_minute_of_cpu=round(m['n']/m['cpu']*60), mb=round(m['n']*sum(SIZES)*4e-6),
           peak_mb=round(m['peak_mb']), begin_mb=round(m['begin_mb']))
    return m


def measure_ends(folder, n=5000):
    "Record n runs of three checkpoints of 77 weights: what `end` costs at first and at last, and opening."
    g = torch.Generator().manual_seed(0)
    task = classification('small', torch.randn(50, 12, generator=g), torch.arange(50) % 5, mlp((12, 4, 5)))
    state, times = task.net.state_dict(), []
    def written(): return psutil.Process().io_counters().write_chars
    with Recorder(folder, task) as record_run:
        for _ in range(n):
            for step in range(3): record_run(state, step)
            t, cpu, size = time.perf_counter(), time.process_time(), written()
            record_run.end()
            times.append((1e3*(time.perf_counter() - t), 1e3*(time.process_time() - cpu), written() - size))
    t = time.perf_counter()
    assert Store(folder).verify().R == n
    opened = time.perf_counter() - t
    (ms, cpu, size), (ms_n, cpu_n, size_n) = (np.median(some, axis=0) for some in (times[:20], times[-20:]))
    record('bench', 'end of the 10th run', ms=ms, ms_of_cpu=cpu, bytes=round(size))
    record('bench', f'end of run {n}', ms=ms_n, ms_of_cpu=cpu_n, bytes=round(size_n), cpu_ratio=cpu_n/cpu)
    record('bench', f'opening {n} recorded runs', seconds=opened)


if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 96
    with tempfile.TemporaryDirectory() as d:
        source = Path(d)/'source'
        for k in range(n): write(source, f'{k:06d}')
        few, many = measure(source, n//4), measure(source, n)
        measure_ends(Path(d)/'recorded')
    more, hours = many['peak_mb'] - few['peak_mb'], 2.1456e6/many['n']*many['seconds']/3600
    print(f"four times the checkpoints, {more:+.0f} MB of memory; "
          f"all 2.1 million of the MNIST set would take {hours:.1f} hours")

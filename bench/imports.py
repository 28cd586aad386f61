"""How many of G.pt's released checkpoints come in a minute, and in how much memory: python bench/imports.py [runs].

Writes runs of 200 checkpoints of 7,960 weights (the MNIST networks) in the released layout, and imports them in a
process of its own, once a few and once many: memory that does not grow with the number of runs is flat.
"""
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import record

from gpt_kit.imports import import_lmdb
from gpt_kit.tasks import Task, mlp

SIZES, SAVES = [7840, 10, 100, 10], 200
TASK = Task('mnist stand-in', mlp((784, 10, 10)), (torch.zeros(60000//60, 784), torch.zeros(1000)), (torch.zeros(2, 784), torch.zeros(2)))


def write(folder, name):
    "One run of random numbers in the released layout."
    import lmdb
    g, about = np.random.default_rng(int(name)), {}
    (folder/name).mkdir(parents=True)
    with lmdb.open(str(folder/name), map_size=2**26) as env, env.begin(write=True) as t:
        for s in range(SAVES):
            k = f'{name}/ep{s//10:03d}_it{s % 10:05d}.pt'
            t.put(k.encode(), g.normal(0, .1, sum(SIZES)).astype(np.float32).tobytes()); t.put(f'{k}_arch'.encode(), np.float32(SIZES).tobytes())
            about[k] = dict(avg_train_loss=1., avg_train_err=50., avg_test_loss=1., avg_test_err=50.)
    (folder/name/'runs.json').write_text(json.dumps(dict(checkpoints=about, metadata={})))


def measure(source, n, out):
    "Import the first n runs in a process of its own: seconds, and the most memory it held beyond what it began with."
    some = Path(out)/f'some-{n}'; some.mkdir()
    for f in sorted(source.iterdir())[:n]: (some/f.name).symlink_to(f)
    r = subprocess.run([sys.executable, __file__, 'import', str(some), f'{out}/store-{n}'], check=True, capture_output=True, text=True)
    return json.loads(r.stdout.splitlines()[-1])


if __name__ == '__main__':
    if sys.argv[1:2] == ['import']:
        before, t, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), time.process_time()
        store = import_lmdb(sys.argv[2], sys.argv[3], TASK, progress=False)
        seconds, cpu, after = time.perf_counter() - t, time.process_time() - cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps(dict(checkpoints=store.R*store.S, seconds=seconds, cpu=cpu, begin_mb=before/1024, peak_mb=after/1024)))
    else:
        n = int(sys.argv[1]) if len(sys.argv) > 1 else 96
        with tempfile.TemporaryDirectory() as d:
            source = Path(d)/'source'
            for k in range(n): write(source, f'{k:06d}')
            few, many = measure(source, n//4, d), measure(source, n, d)
            for m in (few, many):
                record(f"import of {m['checkpoints']} checkpoints", a_minute=round(m['checkpoints']/m['seconds']*60), a_minute_of_cpu=round(m['checkpoints']/m['cpu']*60), mb=round(m['checkpoints']*sum(SIZES)*4e-6), peak_mb=round(m['peak_mb']), begin_mb=round(m['begin_mb']))
            print(f"four times the checkpoints, {many['peak_mb'] - few['peak_mb']:+.0f} MB of memory; all 2.1 million of the MNIST set would take {2.1456e6/many['checkpoints']*many['seconds']/3600:.1f} hours")

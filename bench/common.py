"What the measurements share: medians, prompt alignment in figures, and files of figures in build/."
import json
import statistics
import time
from pathlib import Path

import torch

from gpt_kit.gpt.evaluate import prompt_alignment
from gpt_kit.networks.files import write_whole
from gpt_kit.networks.tasks import Task, mlp

ROOT = Path(__file__).parents[1]
BUILD = ROOT/'build'


def median_seconds(f, at_least=7, for_seconds=1.):
    "Median wall-clock seconds of a call, over at least 7 calls and one second, after two to warm up."
    for _ in range(2): f()
    times = []
    while len(times) < at_least or sum(times) < for_seconds:
        t = time.perf_counter(); f(); times.append(time.perf_counter() - t)
    return statistics.median(times)


def processor_medians(functions, repeats=7):
    "Median processor seconds of calls of each, which take turns; one more of each warms up."
    times = [[] for _ in functions]
    for _ in range(repeats + 1):
        for f, found in zip(functions, times):
            t = time.process_time(); f(); found.append(time.process_time() - t)
    return [statistics.median(found[1:]) for found in times]


def random_mnist():
    "A task of MNIST's size with random pictures, which cost the same."
    g = torch.Generator().manual_seed(0)
    def split(n): return torch.randn(n, 784, generator=g), torch.randint(10, (n,), generator=g)
    return Task('random mnist', mlp((784, 10, 10)), split(60_000), split(10_000))


def figures(file):
    "What was recorded so far."
    path = BUILD/f'{file}.json'
    return json.loads(path.read_text()) if path.exists() else {}


def record(file, name, **values):
    "Add figures to build/FILE.json, and print them."
    known = figures(file)
    known[name] = known.get(name, {}) | values
    BUILD.mkdir(exist_ok=True)
    write_whole(BUILD/f'{file}.json', json.dumps(known, indent=1).encode())
    texts = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()]
    print(f"{name:34}", '   '.join(texts), flush=True)


def alignment(ask, seed, **how):
    "Prompt alignment of 64 unseen starts in figures, and the networks (64, D) that were to be the best."
    r = prompt_alignment(ask, n_starts=64, seed=seed, **how)
    best, each = r['achieved'][:, 0], r['each']
    able = each[each.isfinite()]                 # a start may be as good as the best already
    at_best = len(each) - len(able)
    found = dict(alignment=r['alignment'], worst_start=able.min().item(), starts_at_best=at_best,
                 asked_for=ask.best, best_prompt=best.mean().item(), best_prompt_std=best.std().item())
    return found, r['rows'][:, 0]

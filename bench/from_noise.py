"""Networks from noise alone: do they obey, how good, how new, how different; other guidances beside them.

python bench/from_noise.py MODEL STORE [--guidance 0 .5 1] [--solver dpm --steps 20]
"""
import argparse
import time

import torch
from common import record

from gpt_kit.gpt.evaluate import r_squared, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.train import prepare_data
from gpt_kit.networks.collect import Recipe
from gpt_kit.networks.distance import nearest_rows
from gpt_kit.networks.store import Store
from gpt_kit.networks.weights import measure
from gpt_kit.study.from_noise import aligned_spread, train_fresh, vote_error

UNSEEN = 12   # seed of starts and noise; used here alone, and never to choose a setting
EASIEST = 2.  # nats, the easiest prompt; other metrics: what an untrained network has, less a tenth


def obeys(ask, guidance, seed, **sampler):
    "Alignment of 64 noises (and starts, where they are listened to) × 20 prompts."
    starts = unseen_starts(ask.task, 64, seed)
    worst = ask.measure(starts).mean().item()
    easiest = EASIEST if ask.metric == 'loss' else ask.best + .9*(worst - ask.best)
    prompts = torch.linspace(ask.best, easiest, 20)
    got = ask(starts.repeat_interleave(20, 0), prompts.repeat(64), guidance=guidance, seed=seed, **sampler)
    return r_squared(prompts.expand(64, -1), got.metric.view(64, 20)).mean().item()


def describe(ask, rows, ends):
    "Mean metrics, votes of 64, distances in units of weights."
    found = {name: values.mean().item() for name, values in measure(ask.task, rows).items()}
    for split in [s for s in ('test', 'test2') if s in ask.task.inputs and not ask.task.game]:
        votes = [vote_error(ask.task, some, split=split) for some in rows.split(64)]
        found[f'vote_{split}'] = sum(votes)/len(votes)
    near = nearest_rows(ask.layout, rows[:64], ends).distance.mean().item()
    return dict(found, nearest=near, spread=aligned_spread(ask.layout, rows[:64]))


def best_networks(ask, guidance, n, seed, **sampler):
    starts = unseen_starts(ask.task, n, seed) if guidance else None
    if guidance: return ask(starts, ask.best, guidance=guidance, seed=seed, **sampler).rows
    return ask(ask.best, n=n, seed=seed, **sampler).rows


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model')
    p.add_argument('store', help='what it learned from')
    p.add_argument('--guidance', type=float, nargs='+', default=[0., .5, 1.])
    p.add_argument('--n', type=int, default=1024, help='networks asked for the best, and trainings')
    p.add_argument('--solver')
    p.add_argument('--steps', type=int)
    a = p.parse_args()
    sampler = {k: v for k, v in dict(solver=a.solver, steps=a.steps).items() if v is not None}
    ask, store = load(a.model), Store(a.store)
    runs = prepare_data(ask.same_task(store), f'test_{ask.metric}').runs
    ends = store.rows(runs, 0*runs + store.S - 1)
    fresh, seconds = train_fresh(ask.task, Recipe(**store.info['recipe']), a.n, seed=UNSEEN)
    trained = describe(ask, fresh, ends)
    record('from_noise', 'trainings', **trained, seconds_for_64=seconds*64/a.n)
    for guidance in a.guidance:
        name = f"{a.model.rpartition('/')[2]}, guidance {guidance:g}"
        for k in (64, a.n):
            begun = time.perf_counter()
            rows = best_networks(ask, guidance, k, UNSEEN, **sampler)
            if k == 64: seconds = time.perf_counter() - begun
        found = describe(ask, rows, ends)
        for what in ('nearest', 'spread'): found[what] /= trained[what]
        record('from_noise', name, alignment=obeys(ask, guidance, UNSEEN, **sampler), **found,
               seconds_for_64=seconds)

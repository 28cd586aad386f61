"""Networks from noise alone: do they obey, how good, how new, how different; other guidances beside them.

python bench/from_noise.py MODEL [MODEL ...] STORE [--guidance 0 .5 1] [--solver dpm --steps 20 --eta 0 .5 1]

Several models of the same store, such as three trainings, get a line each, and then one with their medians.
Seconds are those of the clock, medians of several calls.
"""
import argparse
import itertools
import statistics
from functools import partial

import torch
from common import median_seconds, record

from gpt_kit.gpt.evaluate import r_squared, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.networks.collect import Recipe
from gpt_kit.networks.store import Store
from gpt_kit.study.from_noise import describe_networks, train_fresh

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


def best_networks(ask, guidance, n, seed, **sampler):
    starts = unseen_starts(ask.task, n, seed) if guidance else None
    if guidance: return ask(starts, ask.best, guidance=guidance, seed=seed, **sampler).rows
    return ask(ask.best, n=n, seed=seed, **sampler).rows


def measure_trainings(task, store, n, ends):
    "What distances and seconds are held against: fresh trainings with the recipe of the store."
    recipe = Recipe(**store.info['recipe'])
    found = describe_networks(task, train_fresh(task, recipe, n, seed=UNSEEN).rows, ends)
    some = median_seconds(lambda: train_fresh(task, recipe, 64, seed=UNSEEN), at_least=3)
    return found | dict(seconds_for_64=some)


def measure_model(ask, guidance, n, ends, trained, **sampler):
    "One model at one guidance; distances in those of trainings."
    draw = partial(best_networks, ask, guidance, seed=UNSEEN, **sampler)
    found = describe_networks(ask.task, draw(n), ends)
    for what in ('nearest', 'spread'): found[what] /= trained[what]
    found['seconds_for_64'] = median_seconds(lambda: draw(64), at_least=5)
    return dict(alignment=obeys(ask, guidance, UNSEEN, **sampler)) | found


def record_medians(title, each):
    "Of several models' numbers, each number by itself."
    if len(each) == 1: return
    medians = {name: statistics.median(found[name] for found in each) for name in each[0]}
    record('from_noise', f'median of {len(each)}, {title}', **medians)


def parse(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('models', nargs='+', metavar='MODEL')
    p.add_argument('store', metavar='STORE', help='what they learned from')
    p.add_argument('--guidance', type=float, nargs='+', default=[0., .5, 1.])
    p.add_argument('--n', type=int, default=1024, help='networks asked for the best, and trainings')
    p.add_argument('--solver')
    p.add_argument('--steps', type=int)
    p.add_argument('--eta', type=float, nargs='+', help="shares of fresh noise, each beside the others")
    return p.parse_args(words)


def main(words=None):
    a = parse(words)
    sampler = {k: v for k, v in dict(solver=a.solver, steps=a.steps).items() if v is not None}
    asks, store = {path: load(path) for path in a.models}, Store(a.store)
    ask = asks[a.models[0]]
    runs = prepare_data(ask.same_task(store), f'test_{ask.metric}').runs
    ends = store.rows(runs, 0*runs + store.S - 1)
    trained = measure_trainings(ask.task, store, a.n, ends)
    record('from_noise', 'trainings', **trained)
    for guidance, eta in itertools.product(a.guidance, a.eta or [None]):
        how = sampler if eta is None else sampler | dict(eta=eta)
        title = f'guidance {guidance:g}' + ('' if eta is None else f', eta {eta:g}')
        each = []
        for path, ask in asks.items():
            ask.same_task(store)
            each.append(measure_model(ask, guidance, a.n, ends, trained, **how))
            record('from_noise', f"{path.rpartition('/')[2]}, {title}", **each[-1])
        record_medians(title, each)


if __name__ == '__main__': main()

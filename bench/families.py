"""Tasks that a model of a family has never seen: its answers beside all that needs no model.

python bench/families.py MODEL STORE [--n 4] [--trained]

For each held-out condition, n networks from a start and n from noise alone, asked for the best; a table of
their test errors over all conditions, none left out; and alignment over 20 prompts.
"""
import argparse
import time
import warnings

import torch
from common import record

from gpt_kit.gpt.evaluate import r_squared, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.networks.collect import Recipe
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.store import Store
from gpt_kit.study.families import answer_values, family_table, subset_baselines, turned_baselines

UNSEEN = 12   # seed of starts and noise; used here alone, and never to choose a setting
WAYS = {'G.pt, from a start': 1., 'G.pt, from noise alone': 0.}


def best_answers(ask, conditions, n):
    "Networks that are asked for the best, name -> (H, n, D)."
    starts, found = unseen_starts(ask.family.example, n, UNSEEN), {}
    for name, guidance in WAYS.items():
        rows = []
        for i, condition in enumerate(conditions.tolist()):
            one = ask.at(condition=condition)
            given = (starts, one.best) if guidance else (one.best,)
            rows.append(one(*given, guidance=guidance, n=None if guidance else n, seed=UNSEEN + i).rows)
        found[name] = torch.stack(rows)
    return found


def obeys(ask, condition, guidance, n, seed):
    "Alignment of n starts or noises × 20 prompts, from the best that is expected to nearly the start's."
    one = ask.at(condition=condition)
    starts = unseen_starts(one.task, n, UNSEEN)
    worst = one.measure(starts).mean().item()
    prompts = torch.linspace(one.best, one.best + .9*(worst - one.best), 20)
    got = one(starts.repeat_interleave(20, 0), prompts.repeat(n), guidance=guidance, seed=seed)
    return r_squared(prompts.expand(n, -1), got.metric.view(n, 20)).mean().item()


def seconds_of_one(ask, condition):
    "Clock seconds from a condition to one network of it, median of seven."
    times = []
    for i in range(7):
        t = time.perf_counter()
        one = ask.at(condition=condition)
        one(one.best, seed=i)
        times.append(time.perf_counter() - t)
    return sorted(times)[3]


def parse(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model')
    p.add_argument('store')
    p.add_argument('--n', type=int, default=4, help='networks for each condition')
    p.add_argument('--trained', action='store_true', help='also conditions that it has learned from, as many')
    return p.parse_args(words)


def main(words=None):
    a = parse(words)
    warnings.simplefilter('ignore')
    ask, store = load(a.model), Store(a.store)
    family, recipe = ask.family, Recipe(**store.info['recipe'])
    sets = {'held out': family.held_out}
    if a.trained: sets['trained on'] = family.conditions[:len(family.held_out)]
    for kind, conditions in sets.items():
        if family.bits:
            values = subset_baselines(family, store, conditions, get_task('digits'), recipe, n=a.n)
        else: values = turned_baselines(family, store, conditions, recipe, n=a.n)
        values |= answer_values(family, conditions, best_answers(ask, conditions, a.n))
        table = family_table(values)
        print(table.round(2).to_string())
        for name, guidance in WAYS.items():
            each = [obeys(ask, c, guidance, a.n, UNSEEN + i) for i, c in enumerate(conditions.tolist())]
            record('families', f'{family.name}, {kind}, {name}', alignment=sum(each)/len(each),
                   least=min(each), **table.loc[name].to_dict())
    record('families', f'{family.name}, one network', seconds=seconds_of_one(ask, conditions[0].tolist()))


if __name__ == '__main__': main()

"""One model, networks of many widths: do they obey, how good are they, and what is there without a model?

python bench/widths.py [MODEL] [--hidden 8 10 16 20 28 32 48 64]

For each width: alignment of 64 unseen starts × 20 prompts, and of noise alone; test errors (%) of networks
that are asked for the best; of full trainings with the recipe of the model's store; and of answers of the
model's own width, with dead neurons added, or with those left out that matter least.
"""
import argparse
import warnings

import torch
from common import record

from gpt_kit.gpt.evaluate import prompt_alignment, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.prepare import beyond_known
from gpt_kit.networks.collect import Recipe
from gpt_kit.networks.layers import hidden_widths
from gpt_kit.networks.weights import Layout, measure
from gpt_kit.study.from_noise import train_fresh

UNSEEN = 12   # seed of starts and noise; used here alone, and never to choose a setting


def resized(layout, rows, n):
    "Networks with one hidden layer as such of n neurons: with dead ones, or those with the largest weights."
    W, b, V, c = layout.split(rows).values()               # (K, n, n_in), (K, n), (K, C, n), (K, C)
    neurons = torch.cat([W, b[..., None], V.transpose(1, 2)], 2)
    weight = (W.norm(dim=2)*V.norm(dim=1)).argsort(1, descending=True)
    neurons = neurons.gather(1, weight[..., None].expand(neurons.shape))[:, :n]
    dead = neurons.new_zeros(len(rows), n - neurons.shape[1], neurons.shape[2])
    W, b, V = torch.cat([neurons, dead], 1).split([W.shape[2], 1, V.shape[1]], 2)
    return torch.cat([W.flatten(1), b.flatten(1), V.transpose(1, 2).flatten(1), c], 1)


def error(task, rows): return measure(task, rows)['error'].mean().item()


def at_width(ask, n, n_starts):
    "All of one width."
    some = ask.at(n)
    found = {}
    for name, guidance in (('start', 1), ('noise', 0)):
        r = prompt_alignment(some, n_starts=n_starts, seed=UNSEEN, guidance=guidance)
        found |= {f'alignment, {name}': r['alignment'], f'error, {name}': error(some.task, r['rows'][:, 0])}
    recipe = Recipe(**ask.info['recipe'])
    found['error, trained'] = error(some.task, train_fresh(some.task, recipe, n_starts, seed=UNSEEN).rows)
    own = ask(unseen_starts(ask.task, n_starts, UNSEEN), ask.best, seed=UNSEEN).rows
    found['error, own width resized'] = error(some.task, resized(Layout(ask.task.layers), own, n))
    known = {w['hidden'][0] for w in ask.info.get('widths', [])} | {*hidden_widths(ask.task.layers)}
    found['seen'] = 'trained on' if n in known else 'beyond' if beyond_known(ask.info, (n,)) else 'between'
    return found


def parse(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', nargs='?', default='digits-loss')
    p.add_argument('--hidden', type=int, nargs='+', default=[8, 10, 16, 20, 28, 32, 48, 64])
    p.add_argument('--starts', type=int, default=64)
    return p.parse_args(words)


def main(words=None):
    a = parse(words)
    ask = load(a.model)
    warnings.filterwarnings('ignore', message='networks with')
    for n in a.hidden: record('widths', f'{n} hidden', **at_width(ask, n, a.starts))


if __name__ == '__main__': main()

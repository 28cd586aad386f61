"""Every world of the kit, from nothing to prompt alignment: collect, train, ask unseen starts.
Prints its figures and writes build/worlds.json.

python bench/worlds.py               all of them, an hour and a half on two cores; what is there is kept
python bench/worlds.py digits-cnn    those whose name begins so
"""
import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import BUILD, ROOT, alignment, record

from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.presets import get_world
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.networks.collect import GROUP, Recipe, default_recipe
from gpt_kit.networks.store import Store
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.weights import Layout, forward, measure

UNSEEN = 12      # seed of the 64 starts; used here alone, and never to choose a setting
BARS = {'digits-16-16-loss': .9, 'digits-cnn-loss': .9, 'digits-cnn-error': .85, 'wine-loss': .9,
        'cartpole-return': .8, 'fashion-loss': .97}             # of prompt alignment


def command(*words):
    "Wall-clock seconds of a gpt-kit command, run where wine.py lies."
    t, words = time.perf_counter(), [sys.executable, '-m', 'gpt_kit.run.commands', *map(str, words)]
    subprocess.run(words, cwd=Path(__file__).parent, check=True)
    return time.perf_counter() - t


def run(name):
    "A world: collected, trained, asked."
    wine = name == 'wine-loss'             # a task of one's own, so there is no preset
    task = 'wine:wine' if wine else get_world(name).task
    preset = ['--task', task] if wine else ['--preset', name]
    folder, model = ROOT/'data'/'stores'/task.split(':')[-1], BUILD/'worlds'/f'{name}.safetensors'
    if not (folder/'index.json').exists():
        record('worlds', name, collect_s=command('collect', folder, *preset))
    if not model.exists(): record('worlds', name, train_s=command('train', folder, model, *preset))
    ask, store = load(model, task=task if wine else None), Store(folder)
    found, rows = alignment(ask, UNSEEN)
    if ask.task.test2 is not None:
        found['best_prompt_second_test'] = measure(ask.task, rows, 'test2')[ask.metric].mean().item()
    record('worlds', name, bar=BARS[name], **found, **other_metrics(ask, rows), train_s=ask.info['seconds'])
    from_noise, rows = alignment(ask, UNSEEN, guidance=0)
    record('worlds', f'{name}, from noise', **from_noise, **other_metrics(ask, rows))
    if ask.task.game: policies_differ(name, ask, store)
    limits(name, ask, store)
    baselines(name, ask, store)


def other_metrics(ask, rows):
    "Of answers to the best prompt: what else the task measures."
    values = measure(ask.task, rows)
    return {f'best_prompt_{name}': v.mean().item() for name, v in values.items() if name != ask.metric}


def disagreement(task, rows):
    "Share of the states that any of these policies visits in which two of them decide otherwise."
    states = task.game.visited_states(task, rows)
    right = (forward(Layout(task.layers), rows, states)[:, 0] > 0).float()     # (K, states)
    agree = right @ right.T + (1 - right) @ (1 - right).T
    i, j = torch.triu_indices(len(rows), len(rows), 1)
    return 1 - (agree/right.shape[1])[i, j].mean().item()


def policies_differ(name, ask, store):
    "64 policies from noise, each asked for the best, beside 64 that were trained."
    runs = prepare_data(store, f'test_{ask.metric}').runs[:64]
    ends = store.rows(runs, 0*runs + store.S - 1)
    sets = {'from noise': ask(ask.best, n=64, seed=UNSEEN).rows, 'trained': ends}
    shares = {f'disagreement {what}': disagreement(ask.task, rows) for what, rows in sets.items()}
    record('worlds', name, **shares)


def limits(name, ask, store):
    """How far a model's best answers are from what training makes of the same starts, and what random errors
    of such sizes would cost; both as shares of the way from start to end."""
    starts, g = unseen_starts(ask.task, 32, UNSEEN), torch.Generator().manual_seed(0)
    for _, ends in Recipe(**store.info['recipe']).optimize(ask.task, starts): pass
    way = (ends - starts).norm(dim=1, keepdim=True)
    off = (ask(starts, ask.best).rows - ends).norm(dim=1, keepdim=True)/way
    noise = torch.randn(ends.shape, generator=g)
    noise = way*noise/noise.norm(dim=1, keepdim=True)
    cost = {share: ask.measure(ends + share*noise).mean() for share in (0., .1, .2, .3, .4, .6)}
    texts = [f'{share:g}: {metric:.3g}' for share, metric in cost.items()]
    record('worlds', name, off_by=off.mean().item(), if_off_by=' '.join(texts))


def baselines(name, ask, store):
    """What needs no model, from the same starts: the mean update of all training runs, another run's update,
    and a copy of another run's end."""
    starts = unseen_starts(ask.task, 64, UNSEEN)
    runs = prepare_data(store, f'test_{ask.metric}').runs
    first, last = (store.rows(runs, np.full(len(runs), save)) for save in (0, store.S - 1))
    updates = last - first
    rows = dict(start=starts, mean_update=starts + updates.mean(0), others_update=starts + updates[:64],
                others_end=last[:64])
    record('worlds', name, **{what: ask.measure(r).mean().item() for what, r in rows.items()})


def learn(task, starts, group):
    "Policies learn, so many side by side: wall-clock seconds, and the learned rows."
    t, ends = time.perf_counter(), []
    for g, some in enumerate(starts.split(group)):
        for _, rows in default_recipe(task).optimize(task, some, 1000 + g): pass
        ends.append(rows)
    return time.perf_counter() - t, torch.cat(ends)


def policies():
    "How fast policies learn and are judged, from starts that no collection has."
    task = get_task('cartpole')
    seconds, rows = learn(task, unseen_starts(task, 256, UNSEEN), GROUP)
    alone = learn(task, unseen_starts(task, 2, UNSEEN), 1)[0]/2*256
    returns = measure(task, rows)['return']
    record('worlds', '256 policies learn', seconds=seconds, bar=240, mean_return=returns.mean().item(),
           worst=returns.min().item(), one_at_a_time_s=alone, times_faster=alone/seconds)
    long = rows[returns == 500].repeat(320, 1)[:320]         # no episode ends before its time
    t = time.perf_counter()
    returns = measure(task, long)['return']
    record('worlds', '320 policies are judged', seconds=time.perf_counter() - t, bar=5,
           mean_return=returns.mean().item())


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', default=[''], help='how the names of the worlds begin (default: all)')
    names = tuple(p.parse_args().names)
    record('worlds', 'machine', threads=torch.get_num_threads())
    for name in BARS:
        if name.startswith(names): run(name)
    if 'cartpole-return'.startswith(names): policies()

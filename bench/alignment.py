"""Prompt alignment and best prompt after training from random weights; no setting was chosen on these starts.

python bench/alignment.py             three seeds, loss and error; then chunk tokens for the same time
python bench/alignment.py --shipped   the models in data/models, and a full run of SGD beside them
"""
import argparse
import time
from dataclasses import replace

import pandas as pd
import torch
from common import BUILD, ROOT, alignment, record

from gpt_kit.gpt.calibrate import calibrate_model
from gpt_kit.gpt.evaluate import optimizer_grid, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.behaviour import behaviour_for
from gpt_kit.gpt.presets import default_model, default_training, seconds_per_step
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.tasks import digits
from gpt_kit.networks.weights import measure

UNSEEN = 11  # seed of the 64 starts; used here alone, and never to choose a setting
TASK = digits()


def asked(model, name, **more):
    "Alignment and best prompt of a model, recorded."
    ask, t = load(model), time.perf_counter()
    found, _ = alignment(ask, UNSEEN)
    record('bench', name, **found, sampling_s=time.perf_counter() - t, **more)
    return found


def untrained(metric, tokens, condition, seed):
    "What to learn from, and a model with random weights."
    store = collect(TASK, ROOT/'data'/'stores'/'digits', 4096, recipe=Recipe())
    data = prepare_data(store, f'test_{metric}')
    torch.manual_seed(seed)
    sizes = default_model(TASK.layers, tokens) | dict(condition=condition)
    return data, GPT(TASK.layers, **sizes, metric_scale=data.metric_scale)


def trained(metric, tokens, condition, seed, config):
    "Train from random weights and ask."
    data, model = untrained(metric, tokens, condition, seed)
    file = BUILD/'bench'/f'{metric}-{tokens}-{seed}.safetensors'
    t = time.perf_counter()
    behaves = behaviour_for(data, config.behaviour)
    train_gpt(model, data, config, file, seed=seed, progress=False, every=10**9, behaviour=behaves)
    calibrate_model(file, data.store)
    seconds = time.perf_counter() - t
    found = asked(file, f'{metric}, {tokens} tokens, seed {seed}', train_s=seconds, steps=config.steps)
    return dict(found, train_s=seconds)


def step_seconds(tokens, condition, config):
    data, model = untrained('loss', tokens, condition, 0)
    return seconds_per_step(model, data, config)


def shipped():
    "The bars on the files in data/models, and what optimizers do from the same starts."
    for metric in TASK.metrics: asked(f'digits-{metric}', f'shipped {metric}')
    starts = unseen_starts(TASK, 64, UNSEEN)
    for _, rows in Recipe().optimize(TASK, starts): pass
    full_run = {name: values.mean().item() for name, values in measure(TASK, rows).items()}
    record('bench', 'full run of SGD, same starts', **full_run)
    best = pd.DataFrame(optimizer_grid(TASK, starts, 1)).groupby('metric')['mean'].min()
    record('bench', 'one tuned optimizer step', **best)


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--shipped', action='store_true', help='measure the files in data/models')
    p.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    p.add_argument('--metrics', nargs='+', default=['loss', 'error'])
    p.add_argument('--steps', type=int, default=default_training(TASK.layers).steps, help='training steps')
    a = p.parse_args()
    if a.shipped: shipped()
    else:
        config, seconds = replace(default_training(TASK.layers), steps=a.steps), []
        each = config.steps*step_seconds('neuron', 'adaptive', config)
        print(f"{len(a.seeds)*len(a.metrics)} trainings of about {each:.0f} s each, "
              "then one with chunk tokens for the same time")
        for metric in a.metrics:
            got = pd.DataFrame([trained(metric, 'neuron', 'adaptive', seed, config) for seed in a.seeds])
            medians = got[['alignment', 'best_prompt', 'train_s']].median()
            record('bench', f'{metric}, median of {len(got)} seeds', **medians)
            seconds += [*got.train_s]
        chunks = default_training(TASK.layers, 'chunk-256')
        steps = int(pd.Series(seconds).median()/step_seconds('chunk-256', 'tokens', chunks))
        trained('loss', 'chunk-256', 'tokens', 0, replace(chunks, steps=steps))

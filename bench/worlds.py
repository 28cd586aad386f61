"""Every world of the kit, from nothing to prompt alignment: collect, train, ask unseen starts. Prints a table and writes build/worlds.json.

python bench/worlds.py               all of them, one after another (about an hour on two cores); what is there already is kept
python bench/worlds.py digits-cnn    those whose name begins so
"""
import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

HERE, ROOT = Path(__file__).parent, Path(__file__).parent.parent
sys.path.insert(0, str(HERE))       # where wine:wine is found

from gpt_kit.collect import GROUP, Recipe, descend, follow, usual_recipe  # noqa: E402
from gpt_kit.evaluate import prompt_alignment, unseen_starts  # noqa: E402
from gpt_kit.model import restore  # noqa: E402
from gpt_kit.prompt import Prompter  # noqa: E402
from gpt_kit.store import Store, write_whole  # noqa: E402
from gpt_kit.tasks import task_named  # noqa: E402
from gpt_kit.train import load_model, prepare  # noqa: E402
from gpt_kit.weights import measure  # noqa: E402

UNSEEN = 12      # seed of the 64 starts; used here alone, and never to choose a setting
OUT = ROOT/'build'/'worlds'


@dataclass
class World:
    "What to collect, what to train, and what we hope for."
    task:str
    metric:str
    bar:float           # of prompt alignment
    collect:tuple = ()  # words for gpt-kit collect
    train:tuple = ()    # words for gpt-kit train
    calibrate:bool = False  # afterwards, on starts that the model learned from

    @property
    def name(self): return f"{self.task.split(':')[-1]}-{self.metric}"
    @property
    def store(self): return ROOT/'data'/'stores'/self.task.split(':')[-1]
    @property
    def model(self): return OUT/f'{self.name}.safetensors'


CNN = '--runs', 5120, '--epochs', 10, '--saves', 24

WORLDS = [
    World('digits-16-16', 'loss', .9),
    World('digits-cnn', 'loss', .9, CNN),
    World('digits-cnn', 'error', .85, CNN),
    World('wine:wine', 'loss', .9),
    World('cartpole', 'return', .8, ('--runs', 512), ('--power', 1), calibrate=True),
]


def note(name, **values):
    "Add figures to build/worlds.json."
    file = ROOT/'build'/'worlds.json'
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = known.get(name, {}) | values
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps(known, indent=1).encode())
    return known


def command(*words):
    "Wall-clock seconds of a gpt-kit command, run where wine.py lies."
    t = time.perf_counter()
    subprocess.run([sys.executable, '-m', 'gpt_kit.cli', *map(str, words)], cwd=HERE, check=True)
    return time.perf_counter() - t


def run(w):
    "A world: collected, trained, asked."
    if not (w.store/'index.json').exists(): note(w.name, collect_s=command('collect', w.store, '--task', w.task, *w.collect))
    if not w.model.exists(): note(w.name, train_s=command('train', w.store, w.model, '--metric', w.metric, *w.train))
    task, ask = task_named(w.task), Prompter(*load_model(w.model, restore))
    if w.calibrate and 'calibration' not in ask.info:
        note(w.name, alignment_before_calibration=prompt_alignment(ask, task, 64, seed=UNSEEN)['alignment'], calibrate_s=command('calibrate', w.model, w.store))
        ask = Prompter(*load_model(w.model, restore))
    r = prompt_alignment(ask, task, 64, seed=UNSEEN)
    best = r['achieved'][:, 0]
    note(w.name, alignment=r['alignment'], bar=w.bar, worst_start=r['each'][r['each'].isfinite()].min().item(), starts_at_best=int((~r['each'].isfinite()).sum()), asked_for=ask.best, best_prompt=best.mean().item(), best_prompt_std=best.std().item(), train_s=ask.info['seconds'])
    if task.test2 is not None: note(w.name, best_prompt_second_test=measure(task, r['rows'][:, 0], 'test2')[w.metric].mean().item())
    limits(w)
    baselines(w)


def limits(w):
    "How far a model's best answers are from what training makes of the same starts, and what random errors of such sizes would cost; both as shares of the way from start to end."
    task, ask, recipe = task_named(w.task), Prompter(*load_model(w.model, restore)), Recipe(**Store(w.store).info['recipe'])
    starts, g = unseen_starts(task, 32, UNSEEN), torch.Generator().manual_seed(0)
    for _, rows in follow(task, starts, recipe): pass
    ends, way = rows.clone(), (rows - starts).norm(dim=1, keepdim=True)
    off = ((ask(starts, measure(task, starts)[w.metric], ask.best) - ends).norm(dim=1, keepdim=True)/way).mean().item()
    noise = torch.randn(ends.shape, generator=g)
    cost = {share: measure(task, ends + share*way*noise/noise.norm(dim=1, keepdim=True))[w.metric].mean().item() for share in (0., .1, .2, .3, .4, .6)}
    note(w.name, off_by=off, if_off_by=' '.join(f'{k:g}: {v:.3g}' for k, v in cost.items()))


def baselines(w):
    "What needs no model, from the same starts: the mean update of all training runs, another run's update, and a copy of another run's end."
    task, store, starts = task_named(w.task), Store(w.store), unseen_starts(task_named(w.task), 64, UNSEEN)
    runs = prepare(store, f'test_{w.metric}').runs
    first, last = (store.rows(runs, np.full(len(runs), k)) for k in (0, store.S - 1))
    get = lambda rows: measure(task, rows)[w.metric].mean().item()
    note(w.name, start=get(starts), mean_update=get(starts + (last - first).mean(0)), others_update=get(starts + (last - first)[:64]), others_end=get(last[:64]))


def learn(task, starts, group):
    "Policies learn, so many side by side: wall-clock seconds, and the learned rows."
    recipe, t, ends = usual_recipe(task), time.perf_counter(), []
    for g, some in enumerate(starts.split(group)):
        for _, rows in descend(task, some, recipe.n_steps(task), recipe.optimizer, recipe.lr, order_seed=1000 + g): pass
        ends.append(rows.clone())
    return time.perf_counter() - t, torch.cat(ends)


def policies():
    "How fast policies learn and are judged, from starts that no collection has."
    task = task_named('cartpole')
    seconds, rows = learn(task, unseen_starts(task, 256, UNSEEN), GROUP)
    alone = learn(task, unseen_starts(task, 2, UNSEEN), 1)[0]/2*256
    returns = measure(task, rows)['return']
    note('256 policies learn', seconds=seconds, bar=240, mean_return=returns.mean().item(), worst=returns.min().item(), one_at_a_time_s=alone, times_faster=alone/seconds)
    long = rows[returns == 500].repeat(320, 1)[:320]         # no episode ends before its time
    t = time.perf_counter(); returns = measure(task, long)['return']; seconds = time.perf_counter() - t
    note('320 policies are judged', seconds=seconds, bar=5, mean_return=returns.mean().item())


def table():
    "The figures so far."
    for name, v in note('machine', threads=torch.get_num_threads()).items():
        print(f"{name:24}", '   '.join(f"{k} {x:.3f}" if k in ('alignment', 'worst_start', 'bar') else f"{k} {x:.4g}" if isinstance(x, float) else f"{k} {x}" for k, x in v.items()))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='*', default=[''], help='how the names of the worlds to run begin (default: all)')
    a = p.parse_args()
    chosen = [w for w in WORLDS if w.name.startswith(tuple(a.names))]
    for w in chosen: run(w)
    if any(w.task == 'cartpole' for w in chosen): policies()
    table()

"""Networks for points that a model has never seen, beside optimizers that are given the same points.

python bench/points.py [MODEL] [--sets 1000] [--aligned 100] [--rounds 1 2 4 8 12 16 24 32]

Of each of the seven kinds of sets as many as --sets; 64 points each, networks 2-16-1, one sample, none
picked. The rates of Adam and SGD are chosen on other sets; neighbours, a line and a support vector machine,
which are no networks, are set as in lesson *ask about your points*. Prints its figures and writes
build/points.json.
"""
import argparse

import torch
from common import record
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from gpt_kit.gpt.evaluate import r_squared
from gpt_kit.gpt.load import load
from gpt_kit.gpt.noise import normal_noise
from gpt_kit.gpt.reading import point_losses, point_table
from gpt_kit.networks.points import KINDS, UNSEEN_FROM, UNSEEN_KINDS, PointSource
from gpt_kit.networks.weights import start_rows

OTHERS = UNSEEN_FROM + 2000   # numbers of sets from here on: to choose rates on
RATES = dict(adam=(.003, .01, .02, .05, .1, .2, .4), sgd=(.03, .1, .3, 1., 3., 10.))
UNSEEN = 12                   # seed of starts and noise; used here alone


class Sets:
    "Points of n sources of each kind, and 256 fresh ones of each."
    def __init__(self, first, n):
        sources = [PointSource(kind, first + i) for i in range(n) for kind in KINDS]
        self.points = torch.stack([point_table(*s.points(), 64) for s in sources])     # (7n, 64, 4)
        self.fresh = torch.stack([point_table(*s.fresh(), 256) for s in sources])      # (7n, 256, 4)

    def __getitem__(self, some): # a slice of them
        new = object.__new__(Sets)
        new.points, new.fresh = self.points[some], self.fresh[some]
        return new


def by_kind(values):
    "A mean for each kind, and one over the kinds that were trained on."
    means = dict(zip(KINDS, values.view(-1, len(KINDS)).mean(0).tolist()))
    return dict(six=sum(v for k, v in means.items() if k not in UNSEEN_KINDS)/6) | means


@torch.no_grad()
def measured(layout, rows, sets):
    "Loss (nats) and error (%) on fresh points, (7n,) each."
    found = []
    for some, fresh in zip(rows.split(700), sets.fresh.split(700)):
        loss, z = point_losses(layout, some, fresh)
        wrong = ((z > 0).float() != fresh[..., 2]).float()
        found.append((loss, 100*(wrong*fresh[..., 3]).sum(1)))
    return [torch.cat(part) for part in zip(*found)]


def optimized(layout, rows, sets, kind, lr, steps, keep=()):
    "Networks after so many steps on all of their points, and after those to keep."
    rows, kept = rows.clone().requires_grad_(), []
    optimizer = torch.optim.Adam([rows], lr) if kind == 'adam' else \
        torch.optim.SGD([rows], lr, momentum=.9, nesterov=True)
    for step in range(steps):
        optimizer.zero_grad()
        for some, points in zip(rows.split(700), sets.points.split(700)):
            point_losses(layout, some, points)[0].sum().backward()
        optimizer.step()
        if step + 1 in keep: kept.append(rows.detach().clone())
    return rows.detach(), kept


def asked(ask, sets, prompt, rounds, starts=None):
    "Answers (7n, D), from noise alone or from starts."
    parts, scale = [], ask.info['scale']
    noise = normal_noise((len(sets.points), ask.layout.D), seed=UNSEEN)
    metric = torch.zeros(len(noise)) if starts is None else measured(ask.layout, starts, sets)[0]
    given = torch.zeros_like(noise) if starts is None else starts*scale
    for i in range(0, len(noise), 350):
        mine = slice(i, i + 350)
        hidden = torch.full((len(noise[mine]),), starts is None)
        j = torch.full((len(noise[mine]),), len(ask.ab) - 1)
        with torch.inference_mode():
            parts.append(ask.model(noise[mine], j, given[mine], prompt[mine], metric[mine], hidden,
                                   which=sets.points[mine], recycles=rounds - 1)/scale)
    return torch.cat(parts)


def best_rate(layout, rows, sets, kind, steps):
    "Which of the rates has the least error on these sets, a mean over the six kinds."
    errors = {lr: by_kind(measured(layout, optimized(layout, rows, sets, kind, lr, steps)[0], sets)[1])['six']
              for lr in RATES[kind]}
    return min(errors, key=errors.get)


def aligned(ask, sets, starts, best, rounds, given):
    "R² over 20 prompts for each set, from the best that Adam had to the start's loss."
    worst = measured(ask.layout, starts, sets)[0]
    prompts = best[:, None] + torch.linspace(0, 1, 20)*(worst - best)[:, None]
    got = [measured(ask.layout, asked(ask, sets, p, rounds, given), sets)[0] for p in prompts.T]
    return r_squared(prompts, torch.stack(got, 1))


def classified(sets, make):
    "Errors (%) on fresh points of what is no network, (7n,)."
    errors = []
    for points, fresh in zip(sets.points.numpy(), sets.fresh.numpy()):
        fitted = make().fit(points[:, :2], points[:, 2])
        errors.append(100*(1 - fitted.score(fresh[:, :2], fresh[:, 2])))
    return torch.tensor(errors)


PLAIN = {'5 neighbours': lambda: KNeighborsClassifier(5), 'a line': LogisticRegression,
         'support vector machine': lambda: SVC(gamma='scale', C=10.)}


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('model', nargs='?', default='points-loss')
    p.add_argument('--sets', type=int, default=1000)
    p.add_argument('--aligned', type=int, default=100, help='sets of each kind that are asked 20 prompts')
    p.add_argument('--rounds', type=int, nargs='+', default=[1, 2, 4, 8, 12, 16, 24, 32])
    a = p.parse_args(words)
    ask = load(a.model)
    layout, usual = ask.layout, ask.sampler['recycles'] + 1
    task = ask.at(condition=(0, 0)).task
    others, sets = Sets(OTHERS, 100), Sets(UNSEEN_FROM, a.sets)
    starts = start_rows(task, range(len(others.points)))
    rates = {(kind, steps): best_rate(layout, starts, others, kind, steps)
             for kind, steps in (('adam', 400), ('adam', usual + 1), ('sgd', usual + 1))}
    starts = start_rows(task, range(2**20, 2**20 + len(sets.points)))
    zeros, best = torch.zeros(len(starts)), None
    for (kind, steps), lr in rates.items():
        keep = range(1, steps + 1, 20) if steps == 400 else ()
        rows, kept = optimized(layout, starts, sets, kind, lr, steps, keep)
        if kept: best = torch.stack([measured(layout, r, sets)[0] for r in [*kept, rows]]).amin(0)
        record('points', f'{kind}, {steps} gradients', rate=lr, **by_kind(measured(layout, rows, sets)[1]))
    for name, make in PLAIN.items(): record('points', name, **by_kind(classified(sets, make)))
    for name, given in (('from noise', None), ('with a start', starts)):
        for rounds in a.rounds:
            errors = measured(layout, asked(ask, sets, zeros, rounds, given), sets)[1]
            record('points', f'{name}, {rounds} rounds', **by_kind(errors))
    few = slice(len(KINDS)*a.aligned)
    for name, given in (('from noise', None), ('with a start', starts[few])):
        r2 = aligned(ask, sets[few], starts[few], best[few], usual, given).view(-1, len(KINDS))
        six = r2[:, [k for k, kind in enumerate(KINDS) if kind not in UNSEEN_KINDS]]
        record('points', f'{name}: alignment', median_of_six=six.median().item(),
               **dict(zip(KINDS, r2.median(0).values.tolist())))


if __name__ == '__main__': main()

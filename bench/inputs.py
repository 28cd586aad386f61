"""What each input brings to a model that reads data: one is taken away, and the model trained again.

python bench/inputs.py STORE [--steps 1500] [--sets 200] [--only NAME...]

STORE holds networks of point-sets (`gpt-kit collect STORE --preset points-loss`). The models are
small (width 96, three blocks), all trained alike. Their error is that of bench/points.py, on sets of its
kinds that were not trained on. Prints its figures and writes build/inputs.json.
"""
import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from common import record
from points import Sets, asked, by_kind, measured

from gpt_kit.gpt.diffusion import linear_schedule
from gpt_kit.gpt.prepare import prepare_stores
from gpt_kit.gpt.presets import get_world
from gpt_kit.gpt.reading import ReadingGPT
from gpt_kit.gpt.reading_loss import make_model
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.points import UNSEEN_FROM, point_sets
from gpt_kit.networks.store import Store
from gpt_kit.networks.weights import start_rows

ALL = frozenset(('noised', 'start', 'guess', 'points', 'rounds'))
VARIANTS = {'all inputs': ALL,
            'no gradient at the noised point': ALL - {'noised'},
            'no gradient at the start': ALL - {'start'},
            'no gradient at the guess': ALL - {'guess'},
            'no gradients': frozenset(('points', 'rounds')),
            'no points, gradients alone': ALL - {'points'},
            'one round': ALL - {'rounds', 'guess'},
            'one round, no gradients': frozenset(('points',))}


class Blinded(ReadingGPT):
    "A `ReadingGPT` with some of its inputs only; `sees` says which."
    sees = ALL

    def look(self, rows, points, layout):
        seen = super().look(rows, points, layout)
        return seen if self.looking else tuple(map(torch.zeros_like, seen))

    def guess(self, asked, before, at_noised, at_start, points, layout):
        def shown(name, seen): return seen if name in self.sees else tuple(map(torch.zeros_like, seen))
        self.looking = 'guess' in self.sees
        seen = shown('noised', at_noised), shown('start', at_start)
        guess = super().guess(asked, before, *seen, points, layout)
        self.looking = True
        return guess

    looking = True


class BlindReader(torch.nn.Module):
    "Says the same of all points."
    def __init__(self, reader):
        super().__init__()
        self.latents, self.out = reader.latents, reader.out

    def forward(self, points, extra): return self.out(self.latents).expand(len(points), -1, -1)


def trained(data, sees, steps, rounds):
    "A model that sees these inputs only, as `asked` needs it."
    world = get_world('points-loss')
    torch.manual_seed(0)
    model, criteria = make_model(data, width=96, heads=3, depth=3)
    model.__class__, model.sees = Blinded, sees
    if 'points' not in sees: model.reader = BlindReader(model.reader)
    for criterion in criteria: criterion.rounds = rounds
    config, last = replace(world.training, steps=steps), {}
    with tempfile.TemporaryDirectory() as folder:
        train_gpt(model, data, config, Path(folder)/'model.safetensors', sampling=world.sampling,
                  power=world.power, criterion=criteria, sampler=world.sampler, every=steps,
                  watch=lambda state, info: last.update(model=state.ema))
    return SimpleNamespace(**last, layout=data[0].store.layout, info=dict(scale=data[0].scale),
                           ab=linear_schedule())


def main(words=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('store')
    p.add_argument('--steps', type=int, default=1500)
    p.add_argument('--sets', type=int, default=200)
    p.add_argument('--only', nargs='+', choices=list(VARIANTS), default=list(VARIANTS))
    a = p.parse_args(words)
    data = prepare_stores([Store(a.store)], 'test_loss')
    sets = Sets(UNSEEN_FROM, a.sets)
    starts = start_rows(point_sets().task((0, 0)), range(2**20, 2**20 + len(sets.points)))
    zeros = torch.zeros(len(starts))
    for name in a.only:
        many = 'rounds' in VARIANTS[name]
        ask = trained(data, VARIANTS[name], a.steps, 10 if many else 1)
        for how, given in (('from noise', None), ('with a start', starts)):
            rows = asked(ask, sets, zeros, 16 if many else 1, given)
            record('inputs', f'{name}, {how}', **by_kind(measured(ask.layout, rows, sets)[1]))


if __name__ == '__main__': main()

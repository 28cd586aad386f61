"Numbers without sense: one table says what numbers may be, and whatever takes one looks there first."
import inspect
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpt_kit.gpt.behaviour import behaviour_for
from gpt_kit.gpt.evaluate import prompt_alignment, unseen_starts
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.presets import PRESETS, WORLDS, get_world
from gpt_kit.gpt.calibrate import calibration
from gpt_kit.gpt.prompt import recursive
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import RANGES, UserError, check_ranges
from gpt_kit.networks.collect import Recipe, collect, optimize, run_seeds
from gpt_kit.networks.weights import start_rows
from gpt_kit.outside.cluster import ray_shards
from gpt_kit.outside.released import import_model
from gpt_kit.pdiff.pdiff import PDiffConfig
from gpt_kit.pdiff.zoo import optimize_module
from gpt_kit.run.commands import COMMANDS, main
from gpt_kit.study.lab import Lab, change_world

NAN, INF = math.nan, math.inf

# The table

def shown(number): return re.escape(f'{number:,}')

@pytest.mark.parametrize('name', RANGES)
def test_ends_are_in_and_what_lies_beyond_is_not(name):
    low, high, what, whole = RANGES[name]
    check_ranges(**{name: low})
    check_ranges(**{name: high})
    check_ranges(**{name: [low, high]})
    check_ranges(**{name: None})
    beyond = [NAN, -INF, math.nextafter(low, -INF), low - max(1, abs(low)), True, 'many', 1j]
    beyond += [[low, NAN], [low, None]]
    if math.isfinite(high): beyond += [INF, math.nextafter(high, INF), high + max(1, abs(high))]
    if whole: beyond += [low - 1, low + .5, float(low), 10**30]
    for value in beyond:
        with pytest.raises(UserError, match=f'is no {re.escape(what)}; give .* from {shown(low)} to') as e:
            check_ranges(**{name: value})
        assert '\n' not in str(e.value) and shown(high) in re.escape(str(e.value))

@given(st.integers(-2**40, 2**40))
def test_whole_numbers_of_any_kind(n):
    "Python's, NumPy's and PyTorch's are one number."
    kinds = n, np.int64(n), torch.tensor(n), [n], torch.tensor([n])
    fine = RANGES['width'].low <= n <= RANGES['width'].high
    for value in kinds:
        if fine: check_ranges(width=value)
        else:
            with pytest.raises(UserError, match=str(n)): check_ranges(width=value)

def test_a_name_that_is_not_there_is_a_bug():
    with pytest.raises(KeyError): check_ranges(widht=3)

def test_every_world_is_in_range():
    "The paper's settings and ours."
    for name in [*WORLDS, *PRESETS]:
        w = get_world(name)
        assert Recipe(**vars(w.recipe)) == w.recipe and TrainConfig(**vars(w.training)) == w.training
        sizes = {k: v for k, v in w.model.items() if k in RANGES}
        assert {'width', 'depth', 'heads'} <= set(sizes)
        check_ranges(**sizes, power=w.power, runs=w.runs)

# What takes numbers in the library

def refuses(f, *words):
    with pytest.raises(UserError, match='is no .*; give') as e: f()
    assert all(word in str(e.value) for word in words), str(e.value)

@pytest.mark.parametrize('wrong', [dict(lr=NAN), dict(lr=0), dict(lr=-1), dict(lr=INF), dict(epochs=0),
    dict(epochs=10**12), dict(n_saves=1), dict(batch=0), dict(batch=-1), dict(weight_decay=-.1)], ids=str)
def test_a_recipe(wrong): refuses(lambda: Recipe(**wrong))

@pytest.mark.parametrize('wrong', [dict(lr=NAN), dict(lr=0), dict(lr=-1), dict(steps=0), dict(steps=-5),
    dict(batch=0), dict(batch=-1), dict(batch=10**9), dict(clip=NAN), dict(clip=0), dict(ema=1.5),
    dict(beta2=1.), dict(warmup=-1), dict(weight_decay=NAN), dict(behaviour=NAN),
    dict(behaviour=-1)], ids=str)
def test_a_training(wrong): refuses(lambda: TrainConfig(**wrong))

@pytest.mark.parametrize('wrong', [dict(width=0), dict(width=-24), dict(depth=0), dict(depth=-1),
    dict(heads=0), dict(heads=-1), dict(heads=2.), dict(edge_width=0), dict(n_frequencies=0),
    dict(octaves=-1),
    dict(step_scale=0.), dict(metric_scale=NAN), dict(start_gain=INF)], ids=str)
def test_a_model(wrong, task): refuses(lambda: GPT(task.layers, **dict(width=24, depth=1, heads=2) | wrong))

def test_a_width_and_heads_that_do_not_agree(task):
    with pytest.raises(UserError, match='width 25 is not a multiple of 2 heads'):
        GPT(task.layers, width=25, heads=2)

@pytest.mark.parametrize('wrong', [dict(latent=0), dict(input_noise=NAN), dict(latent_noise=-1), dict(kl=NAN),
                                   dict(behaviour=-1), dict(J=1)], ids=str)
def test_a_pdiff(wrong): refuses(lambda: PDiffConfig(**wrong))

@pytest.mark.parametrize('seed, n', [(-1, 4), (2**10, 4), (0, 0), (0, 2**20 + 1), (.5, 4)])
def test_seeds_and_numbers_of_runs(task, tmp_path, seed, n):
    refuses(lambda: run_seeds(seed, n))
    refuses(lambda: unseen_starts(task, n, seed))
    refuses(lambda: collect(task, tmp_path/'s', n, seed=seed))
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('wrong', [dict(lr=NAN), dict(lr=torch.tensor([.1, NAN])), dict(batch=0),
    dict(n_steps=-1), dict(weight_decay=-1), dict(order_seed=-1)], ids=lambda w: next(iter(w)))
def test_gradient_steps(task, wrong):
    wrong = dict(n_steps=2) | wrong
    refuses(lambda: next(optimize(task, start_rows(task, [0, 1]), wrong.pop('n_steps'), **wrong)))

@pytest.mark.parametrize('wrong', [dict(steps=0), dict(steps=1001), dict(steps=NAN), dict(seed=-1),
                                   dict(seed=2**32), dict(eta=NAN), dict(eta=2)], ids=str)
def test_a_question(ask, wrong):
    rows = unseen_starts(ask.task, 2)
    refuses(lambda: ask(rows, 1., **wrong))
    refuses(lambda: next(recursive(ask, rows, 1., n=0)))

def test_measurements(ask, store, tmp_path):
    rows, data = store.rows([0, 1], [0, 0]), prepare_data(store, 'test_loss')
    for wrong in (dict(n_starts=0), dict(n_prompts=1), dict(shrink=NAN)):
        refuses(lambda: prompt_alignment(ask, **wrong))
    refuses(lambda: calibration(ask, rows, n_prompts=1))
    refuses(lambda: behaviour_for(data, NAN))
    for wrong in (dict(limit=NAN), dict(share=1.)): refuses(lambda: prepare_data(store, 'test_loss', **wrong))
    model = GPT(store.info['layers'], width=24, depth=1, heads=2)
    for wrong in (dict(power=NAN), dict(power=0), dict(every=0), dict(seed=-1)):
        refuses(lambda: train_gpt(model, data, TrainConfig(steps=1), tmp_path/'m.safetensors', **wrong))
    assert not list(tmp_path.iterdir())

def test_a_lab(tmp_path):
    for wrong in (dict(size=NAN), dict(size=0), dict(limit=NAN), dict(limit=-1)):
        refuses(lambda: Lab(tmp_path/'lab', **wrong))
    refuses(lambda: change_world(get_world('digits-loss'), size=-1))
    refuses(lambda: change_world(get_world('digits-loss'), runs=0))
    refuses(lambda: Lab(tmp_path/'mine')('digits-loss', first=-3))

def test_others_that_take_numbers(task, tmp_path):
    refuses(lambda: ray_shards(-1))
    refuses(lambda: ray_shards(2, threads=0))
    net, data = torch.nn.Linear(64, 10), dict(train=task.train)
    for wrong in (dict(lr=NAN), dict(lr=0), dict(batch=0), dict(seed=-1)):
        refuses(lambda: next(optimize_module(net, data, 3, **wrong)))
    for wrong in (dict(scale=NAN), dict(scale=0), dict(heads=0), dict(heads=-1), dict(best=NAN)):
        refuses(lambda: import_model(tmp_path/'mnist_loss.pt', **wrong))

# Commands

WORDS = dict(run=['gpt/train'], collect=['store'], train=['nowhere', 'm.safetensors'],
             prompt=['digits-loss', '1'], calibrate=['digits-loss', 'nowhere'], evaluate=['digits-loss'],
             **{'import': ['gpt-model', 'mnist_loss.pt']})
# what counts as nothing given, or may be anything
FINE = {('collect', 'ray', 0), ('train', 'behaviour', 0), ('import', 'best', 0), ('import', 'best', -1),
        ('train', 'hide', 0), ('prompt', 'guidance', 0), ('evaluate', 'guidance', 0)}
SEEDS = {('collect', 'seed'), ('train', 'seed'), ('prompt', 'seed'), ('evaluate', 'seed')}

def number_options(command): # name -> int or float
    parameters = inspect.signature(COMMANDS[command]).parameters.values()
    return {p.name: p.annotation for p in parameters if p.annotation in (int, float) and p.name != 'prompt'}

CASES = []
for command in COMMANDS:
    for option, kind in number_options(command).items():
        values = [0, -1, 10**18] if kind is int else ['nan', 'inf', '-inf', 0, -1]
        if (command, option) in SEEDS: values = [-1, 10**18]
        CASES += [(command, option, v) for v in values if (command, option, v) not in FINE]

@pytest.mark.parametrize('command, option, value', CASES)
def test_options_of_commands(command, option, value, capsys, tmp_path, monkeypatch):
    "Every number that a command takes, also one that it will take some day; nothing is read or made before."
    monkeypatch.chdir(tmp_path)
    assert main([command, *WORDS[command], f'--{option}', str(value)]) == 1
    said = capsys.readouterr()
    assert re.fullmatch(r'gpt-kit: .* is no .*; give a (whole )?number from .* to .*\n', said.err), said.err
    assert said.out == '' and not list(tmp_path.iterdir())

def test_all_options_are_tried():
    "The issue's own list is among them."
    tried = {(c, o, str(v)) for c, o, v in CASES}
    wanted = [('train', 'lr', 'nan'), ('train', 'lr', '-1'), ('train', 'lr', '0'), ('train', 'width', '0'),
              ('train', 'depth', '-1'), ('train', 'power', 'nan'), ('prompt', 'updates', '0'),
              ('evaluate', 'opt_steps', '-1'), ('import', 'scale', '0'), ('import', 'scale', 'nan'),
              ('train', 'heads', '0'), ('train', 'heads', '-1'), ('train', 'batch', '-1'),
              ('evaluate', 'starts', '0'), ('collect', 'lr', 'nan'), ('train', 'steps', '0')]
    assert set(wanted) <= tried and len(CASES) > 60

@pytest.mark.parametrize('words', [['train', 'nowhere', 'm.safetensors', '--batch', str(10**9)],
                                   ['collect', 'store', '--epochs', str(10**12)]], ids=lambda w: w[-2])
def test_numbers_that_are_far_too_large(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    assert f'{words[-1]} is no ' in capsys.readouterr().err and not list(Path(tmp_path).iterdir())

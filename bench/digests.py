"""Digests of 65 seeded results, to see that a change of the code changes no number.

python bench/digests.py              prints them, and writes build/digests.json
python bench/digests.py OTHER.json   compares with those of another checkout, made on the same machine
"""
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

# all of the package's names are different
from gpt_kit.gpt.behaviour import *
from gpt_kit.gpt.diffusion import *
from gpt_kit.gpt.evaluate import *
from gpt_kit.gpt.load import *
from gpt_kit.gpt.loop import *
from gpt_kit.gpt.model import *
from gpt_kit.gpt.prompt import *
from gpt_kit.gpt.tokens import *
from gpt_kit.gpt.train import *
from gpt_kit.networks.cartpole import *
from gpt_kit.networks.collect import *
from gpt_kit.networks.distance import *
from gpt_kit.networks.symmetry import *
from gpt_kit.networks.tasks import *
from gpt_kit.networks.weights import *
from gpt_kit.pdiff.compare import *
from gpt_kit.pdiff.pdiff import *
from gpt_kit.pdiff.zoo import *
from gpt_kit.play.landscape import *
from gpt_kit.study.audit import *

BUILD, FOUND = Path(__file__).parents[1]/'build', {}


def note(name, *values):
    "Keep the digest of all numbers in some values, bit by bit."
    h = hashlib.sha256()
    for v in tree_leaves(values): h.update(np.ascontiguousarray(v).tobytes())
    FOUND[name] = h.hexdigest()[:16]
    print(f"{name:34}{FOUND[name]}", flush=True)


def generator(seed=0): return torch.Generator().manual_seed(seed)


def networks(task):
    "Starts, metrics, symmetries."
    layout, rows = Layout(task.layers), start_rows(task, range(8))
    a, b = rows[:4], rows[4:]
    note(f'starts, {task.name}', rows[:6])
    note(f'metrics, {task.name}', measure(task, rows[:6]))
    both = permute_alike(layout, a, b, generator=generator())
    note(f'symmetry, {task.name}', both, align(layout, a, b[0]), canonicalize(layout, a))


def maps(task):
    "Metrics over planes."
    rows, xs = start_rows(task, range(4)), torch.linspace(-1, 1, 5)
    random = random_plane(Layout(task.layers), rows[0], generator())
    for plane in (pca_plane(rows), three_point_plane(*rows[:3]), random):
        name, *_ = plane.labels[0].split()
        values = surface(task, plane, xs, xs[:3])
        note(f'map, {task.name} {name}', plane.axes, values, grid_around(plane, rows, 5))


def training_runs(task):
    "Checkpoints, optimizers."
    uniform = checkpoint_steps(400, 20, [3], spacing='uniform')
    note('checkpoint steps', checkpoint_steps(400, 64, [1, 2]), uniform)
    for name in OPTIMIZERS:
        for _, rows in optimize(task, start_rows(task, range(4)), 12, optimizer=name, lr=1e-2): pass
        note(f'descend, {name}', rows)
    grid = optimizer_grid(task, unseen_starts(task, 3, 5), 5)
    note('optimizers', [[r[k] for k in ('lr', 'weight_decay', 'values', 'mean', 'std')] for r in grid])


def collection(task, folder, n, **recipe):
    "A store."
    store = collect(task, folder/task.name, n, recipe=Recipe(**recipe), progress=False)
    metrics = [store.values(m) for m in store.metrics]
    rows = [store.rows([r]*store.S, range(store.S)) for r in range(store.R)]
    note(f'collection, {task.name}', store.steps, store.seeds, metrics, rows)
    return store


def diffusion():
    "Schedules, solvers, noise."
    ab, noise = linear_schedule(), torch.randn(5, 7, generator=generator())
    note('schedules', ab, cosine_schedule(), timesteps(ab, 10), timesteps(ab, 3))
    for name in SOLVERS:
        guess = lambda x, j: .5*x + .001*j[:, None]
        note(f'sampling, {name}', sample(guess, noise, ab, solver=name))
    note('latent walk', latent_walk(40, 9))


def training(store, tokens):
    "Pairs, losses, some steps of training."
    data, ab, name = prepare_data(store, 'test_loss'), linear_schedule(), f'{store.info["task"]} {tokens}'
    layout, augment = store.layout, tokens != 'neuron'
    torch.manual_seed(0)
    rows = [torch.randn(2, layout.D, generator=generator(i)) for i in range(2)]
    with torch.no_grad(): note(f'tokens, {name}', make_tokens(tokens, layout, 24).encode(*rows))
    for sampling in PAIR_SAMPLERS:
        pairs = sample_pairs(data, data.runs, 8, generator(), sampling=sampling, augment=augment)
        note(f'pairs, {name} {sampling}', pairs)
    torch.manual_seed(0)
    model = GPT(layout.layers, tokens=tokens, width=24, depth=2, heads=2, edge_width=8)
    state = TrainState(model, TrainConfig(steps=8, batch=4))
    def loss(model, g):
        return diffusion_loss(model, sample_pairs(data, data.runs, 4, g, augment=augment), ab, g)
    note(f'training, {name}', [(r.loss, r.norm) for r in train(state, loss)], state.ema.state_dict())


def behaviour(task, store):
    data = prepare_data(store, f'test_{next(iter(task.metrics))}')
    pairs = sample_pairs(data, data.runs, 4, generator())
    loss = BehaviourLoss(task, data, policies=4)
    note(f'behaviour, {task.name}', loss(pairs.start, pairs.future, generator(1)))


def prompting():
    "The shipped digits model, asked."
    ask = load('digits-loss')
    starts = unseen_starts(ask.task, 3, 5)
    for solver, steps in (('ddim', 10), ('ddpm', 5), ('dpm', 5)):
        note(f'prompted, {solver}', ask(starts, .4, seed=3, steps=steps, solver=solver).rows)
    note('prompted, limited', ask(starts, .4, seed=3, limit=True, steps=2, eta=.5).rows)
    note('recursive', list(recursive(ask, starts, .2, n=2)))
    note('calibration', calibration(ask, starts, n_prompts=4))
    note('alignment', prompt_alignment(ask, n_starts=3, n_prompts=4, seed=5))
    note('nearest', nearest_rows(ask.layout, starts, unseen_starts(ask.task, 4, 6)).distance)


def audit(task, store):
    "Nearest networks, predictions."
    rows, others = start_rows(task, range(3)), start_rows(task, range(50, 90))
    near = [nearest_rows(layout, rows, others, k=2)[:2] for layout in (store.layout, None)]
    found = nearest_checkpoints(store, rows, like=('test_loss', measure(task, rows)['loss']))
    note(f'nearest rows, {task.name}', near, found.distance, found.run, found.save)
    p = predict_logits(task, rows).softmax(1)
    wrong = p.argmax(1) != task.test[1]
    note(f'predictions, {task.name}', disagreement(p, p), iou(wrong, wrong))
    note(f'own runs, {task.name}', train_from(task, rows, Recipe(epochs=1, n_saves=3)))


def without_model(task, store):
    first, last = (store.rows(range(store.R), [s]*store.R) for s in (0, store.S - 1))
    starts = start_rows(task, range(3))
    note('what needs no model', baselines(store.layout, first, last, starts, torch.ones(3)))


def from_noise(zoo, net):
    "p-diff."
    p = fit_pdiff(zoo.rows, PDiffConfig(latent=16).with_steps(6, 8))
    note(f'p-diff, {net} {len(zoo.rows)}', zoo.rows, p.sample(3, steps=5), sample_kde(p.codec, zoo.rows, 3))


def everything(folder):
    mlp, deep, cnn, game = digits(), digits((16, 16)), digits_cnn(), cartpole()
    for task in (mlp, deep, cnn): networks(task)
    for task in (mlp, cnn): maps(task)
    training_runs(mlp)
    store = collection(mlp, folder, 24, epochs=3, n_saves=8)
    deep_store = collection(deep, folder, 12, epochs=2, n_saves=6)
    cnn_store = collection(cnn, folder, 8, epochs=2, n_saves=5)
    ppo = dict(optimizer='ppo', lr=2.5e-3, weight_decay=0.)
    game_store = collection(game, folder, 4, epochs=2, n_saves=3, **ppo)
    diffusion()
    for tokens in ('neuron', 'layer', 'chunk-100'): training(store, tokens)
    training(deep_store, 'neuron')
    behaviour(cnn, cnn_store); behaviour(game, game_store)
    prompting()
    audit(mlp, store); audit(deep, deep_store)
    without_model(mlp, store)
    from_noise(zoo_from_run('mlp3', what='all', n=8, epochs=1), 'Sequential')
    from_noise(zoo_from_seeds(n=6, epochs=1), 'Sequential')


if __name__ == '__main__':
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder: everything(Path(folder))
    BUILD.mkdir(exist_ok=True)
    (BUILD/'digests.json').write_text(json.dumps(FOUND, indent=1))
    for other in sys.argv[1:]:
        known = json.loads(Path(other).read_text())
        odd = [n for n in FOUND | known if FOUND.get(n) != known.get(n)]
        print(f"{len(FOUND) - len(odd)} of {len(FOUND)} as in {other}", *odd, sep='\n  not the same: ')
        sys.exit(bool(odd))

"""Many networks at once against the fastest plain PyTorch we can write for one network at a time.

Same machine, same process, same threads, same batches; medians of several repeats, ours and the references in
turn. For each comparison several references are tried, and the fastest one counts. `python bench/speed.py
collection_784` runs that part alone; its figures are processor seconds, the others' are seconds on the wall.
"""
import itertools
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import median_seconds, processor_medians, random_mnist, record

from gpt_kit.networks.collect import checkpoint_values, minibatches, optimize, sample_size
from gpt_kit.networks.symmetry import permute_alike
from gpt_kit.networks.tasks import digits
from gpt_kit.networks.weights import Layout, as_module, measure, sampled_inputs, start_rows
from gpt_kit.play.landscape import surface, three_point_plane

TASK = digits()
LAYOUT = Layout(TASK.layers)


def compare(name, ours, references):
    "Time ours and each reference per network; the fastest reference counts. Both in microseconds."
    seconds = {how: median_seconds(f)/n for how, (f, n) in references.items()}
    f, n = ours
    best, mine = min(seconds, key=seconds.get), median_seconds(f)/n
    record('bench', name, ours_us=mine*1e6, reference_us=seconds[best]*1e6, ratio=seconds[best]/mine,
           reference=best)
    for how in seconds:
        if how != best: print(f"{'':34}   also tried: {how}, {seconds[how]*1e6:.4g} us")


def train_alone(net, X, y, steps, **kw):
    "A module takes gradient steps, as torch.optim.SGD does them."
    opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, nesterov=True, weight_decay=5e-4, **kw)
    batches = minibatches(len(y), 100, torch.Generator().manual_seed(0))
    for ix in itertools.islice(batches, steps):
        opt.zero_grad()
        F.cross_entropy(net(X[ix]), y[ix]).backward()
        opt.step()


def collection(K=64, steps=60):
    "One gradient step of SGD with Nesterov momentum on 100 images, per network."
    rows, (X, y) = start_rows(TASK, range(K)), TASK.train

    def at_once():
        for _ in optimize(TASK, rows, steps): pass

    def alone(**kw): train_alone(as_module(rows[0], LAYOUT), X, y, steps, **kw)

    compare('collection step', (at_once, K*steps), {
        'torch.optim.SGD(fused=True)': (lambda: alone(fused=True), steps),
        'torch.optim.SGD(foreach=True)': (lambda: alone(foreach=True), steps)})


def collection_784(K=64, steps=50, repeats=7):
    """Networks 784-10-10 on 60,000 pictures, measuring included, on one core: of 48 checkpoints in 4 epochs
    of 600 steps one is kept every 50 steps, and measured on 10,000 pictures of each set."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    task = random_mnist()
    layout, rows = Layout(task.layers), start_rows(task, range(K))
    (X, y), sample = task.train, sample_size(task)
    some, labels = sampled_inputs(X.T, y, sample)
    sets = task.test, (some.T, labels)

    def at_once():
        for _, last in optimize(task, rows, steps): pass
        checkpoint_values([task]*K, last[:, None], sample)

    def alone(**kw):
        net = as_module(rows[0], layout)
        train_alone(net, X, y, steps, **kw)
        with torch.inference_mode():
            for inputs, truth in sets: judge(net(inputs), truth)

    ways = [at_once, lambda: alone(fused=True), lambda: alone(foreach=True)]
    ours, *others = processor_medians(ways, repeats)
    mine, theirs = 1e3*ours/K/steps, 1e3*min(others)/steps
    record('bench', 'collecting 784-10-10, one core', ours_ms=mine, reference_ms=theirs, ratio=theirs/mine,
           minutes_for_1024_runs=1024*2400*mine/6e4)
    torch.set_num_threads(threads)


def judge(out, y): return F.cross_entropy(out, y), (out.argmax(1) != y).float().mean()


def evaluation(K=256):
    "Loss and error on the 500 test images, per network, from rows to numbers."
    rows, (X, y) = start_rows(TASK, range(K)), TASK.test
    net = as_module(rows[0], LAYOUT)

    @torch.inference_mode()
    def by_module():
        for r in rows:
            nn.utils.vector_to_parameters(r, net.parameters())
            judge(net(X), y)

    @torch.inference_mode()
    def by_functions():
        for w, b, v, c in zip(*LAYOUT.split(rows).values()):
            judge(F.linear(F.linear(X, w, b).relu_(), v, c), y)

    compare('evaluation', (lambda: measure(TASK, rows), K), {
        'nn.Module, weights copied in': (by_module, K), 'functions on views of the row': (by_functions, K)})


def landscape(n=51, n_points=200):
    "Test loss at n × n points of a plane, per point; the reference walks over a part of them."
    a, b, c = start_rows(TASK, range(3))
    plane, side, (X, y) = three_point_plane(a, b, c), torch.linspace(-1, 1, n), TASK.test
    net, points = as_module(a, LAYOUT), torch.cartesian_prod(side, side)[:n_points]

    @torch.inference_mode()
    def by_module():
        for p in points:
            nn.utils.vector_to_parameters(plane.origin + p @ plane.axes, net.parameters())
            F.cross_entropy(net(X), y)

    for m in (n, 41):
        seconds = median_seconds(lambda: surface(TASK, plane, side[:m], side[:m]))
        print(f"a map of {m} × {m} points: {1e3*seconds:.0f} ms")
    compare('landscape point', (lambda: surface(TASK, plane, side, side), n**2), {
        'nn.Module, weights copied in': (by_module, n_points)})


def landscape_784(n=41):
    "A map of test loss for networks 784-10-10 on 10,000 pictures."
    task = random_mnist()
    plane, side = three_point_plane(*start_rows(task, range(3))), torch.linspace(-1, 1, n)
    seconds = median_seconds(lambda: surface(task, plane, side, side))
    record('bench', f'landscape 784-10-10, {n} × {n} points', seconds=seconds)


def augmentation(K=64):
    "Permute the hidden neurons of start and future, per pair, a training batch at a time."
    a, b, g = start_rows(TASK, range(K)), start_rows(TASK, range(K)), torch.Generator().manual_seed(0)

    def alone():
        for pair in zip(a, b):
            p = torch.randperm(16, generator=g)
            for row in pair:
                w, d, v, c = row.split([1024, 16, 160, 10])
                torch.cat([w.view(16, 64)[p].flatten(), d[p], v.view(10, 16)[:, p].flatten(), c])

    compare('augmentation of a pair', (lambda: permute_alike(LAYOUT, a, b, generator=g), K), {
        'index and concatenate': (alone, K)})


if __name__ == '__main__':
    print(f"{torch.get_num_threads()} threads; microseconds per network; ratio = reference / ours")
    parts = dict(collection=collection, collection_784=collection_784, evaluation=evaluation,
                 augmentation=augmentation, landscape=landscape, landscape_784=landscape_784)
    for name in sys.argv[1:] or parts: parts[name]()

"""Many networks at once against the fastest plain PyTorch we can write for one network at a time.

Same machine, same process, same threads, same batches; medians of several repeats, ours and the reference in turn.
For each comparison several references are tried, and the fastest one counts.
"""
import itertools

import torch
import torch.nn as nn
import torch.nn.functional as F
from common import median_seconds, record

from gpt_kit.collect import descend, minibatches
from gpt_kit.landscape import surface, three_point_plane
from gpt_kit.symmetry import permute_alike
from gpt_kit.tasks import digits
from gpt_kit.weights import Layout, as_module, measure, start_rows

TASK = digits()
LAYOUT = Layout(TASK.layers)


def compare(name, ours, references, unit=1e6):
    "Time ours and each reference per network; the fastest reference counts. Both in microseconds."
    best = min(references, key=references.get)
    record(name, ours_us=ours*unit, reference_us=references[best]*unit, ratio=references[best]/ours, reference=best)
    for other in sorted(set(references) - {best}): print(f"{'':34}   also tried: {other}, {references[other]*unit:.4g} us")


def collection(K=64, steps=60):
    "One gradient step of SGD with Nesterov momentum on 100 images, per network."
    rows, (X, y) = start_rows(TASK, range(K)), TASK.train

    def at_once():
        for _ in descend(TASK, rows, steps): pass

    def alone(**kw):
        net = as_module(rows[0], LAYOUT)
        opt = torch.optim.SGD(net.parameters(), lr=.1, momentum=.9, nesterov=True, weight_decay=5e-4, **kw)
        for ix in itertools.islice(minibatches(len(y), 100, torch.Generator().manual_seed(0)), steps):
            opt.zero_grad(); F.cross_entropy(net(X[ix]), y[ix]).backward(); opt.step()

    compare('collection step', median_seconds(at_once)/K/steps, {f'torch.optim.SGD({k}=True)': median_seconds(lambda: alone(**{k: True}))/steps for k in ('fused', 'foreach')})


def evaluation(K=256):
    "Loss and error on the 500 test images, per network, from rows to numbers."
    rows, (X, y) = start_rows(TASK, range(K)), TASK.test
    net = as_module(rows[0], LAYOUT)

    @torch.inference_mode()
    def by_module():
        for r in rows:
            nn.utils.vector_to_parameters(r, net.parameters())
            out = net(X); F.cross_entropy(out, y), (out.argmax(1) != y).float().mean()

    @torch.inference_mode()
    def by_functions():
        W, b, V, c = LAYOUT.split(rows).values()
        for w, d, v, e in zip(W, b, V, c):
            out = F.linear(F.linear(X, w, d).relu_(), v, e); F.cross_entropy(out, y), (out.argmax(1) != y).float().mean()

    compare('evaluation', median_seconds(lambda: measure(TASK, rows))/K, {'nn.Module, weights copied in': median_seconds(by_module)/K, 'functions on views of the row': median_seconds(by_functions)/K})


def landscape(n=51, sample=200):
    "Test loss at n × n points of a plane, per point; the reference walks over a part of them."
    a, b, c = start_rows(TASK, range(3))
    plane, side, (X, y) = three_point_plane(a, b, c), torch.linspace(-1, 1, n), TASK.test
    net, points = as_module(a, LAYOUT), torch.cartesian_prod(side, side)[:sample]

    @torch.inference_mode()
    def by_module():
        for p in points:
            nn.utils.vector_to_parameters(plane.origin + p @ plane.axes, net.parameters()); F.cross_entropy(net(X), y)

    ours = median_seconds(lambda: surface(TASK, plane, side, side))
    print(f"a map of {n} × {n} points: {1e3*ours:.0f} ms; of 41 × 41: {1e3*median_seconds(lambda: surface(TASK, plane, side[:41], side[:41])):.0f} ms")
    compare('landscape point', ours/n**2, {'nn.Module, weights copied in': median_seconds(by_module)/sample})


def augmentation(K=64):
    "Permute the hidden neurons of start and future, per pair, a training batch at a time."
    a, b, g = start_rows(TASK, range(K)), start_rows(TASK, range(K)), torch.Generator().manual_seed(0)

    def at_once(): permute_alike(LAYOUT, a, b, generator=g)

    def alone():
        for r in zip(a, b):
            p = torch.randperm(16, generator=g)
            for row in r:
                w, d, v, c = row.split([1024, 16, 160, 10])
                torch.cat([w.view(16, 64)[p].flatten(), d[p], v.view(10, 16)[:, p].flatten(), c])

    compare('augmentation of a pair', median_seconds(at_once)/K, {'index and concatenate': median_seconds(alone)/K})


if __name__ == '__main__':
    print(f"{torch.get_num_threads()} threads; microseconds per network; ratio = reference / ours")
    collection(); evaluation(); augmentation(); landscape()

"""What a card makes of this kit: python bench/gpu.py, and then python bench/gpu.py --plan.

On a GPU: the matrix peak that it really reaches in bf16; training steps of the paper's models (Table 1) in bf16,
compiled, and which share of that peak they are; paper-size MNIST networks trained in a second; networks generated in a second.
On a CPU the same runs with tiny models, to show that it runs; its figures say nothing about a GPU, and those stay open.
Collecting is measured on one core, because that is where `gpt-kit collect` works, on as many as Ray has.
`--plan` computes from the measured figures how long runs of the paper's size take, and prints the commands.
"""
import json
import math
import sys

import torch
from common import BUILD, median_seconds, record

from gpt_kit.collect import descend, estimate
from gpt_kit.datasets import MNIST_RECIPE
from gpt_kit.diffusion import linear_schedule, sample
from gpt_kit.model import GPT
from gpt_kit.presets import PRESETS, needs
from gpt_kit.tasks import Task, build_net, task_named
from gpt_kit.train import Plan, State, train
from gpt_kit.weights import Layout, start_rows

GPU = torch.cuda.is_available()
DEVICE, KIND = ('cuda', 'gpu') if GPU else ('cpu', 'cpu')
TINY = {} if GPU else dict(width=48, depth=2, heads=4)


def timed(f, **kw):
    "Median seconds of a call, the device's work included."
    def all_of_it():
        f()
        if GPU: torch.cuda.synchronize()
    return median_seconds(all_of_it, **kw)


def peak():
    "Floating-point operations in a second of the best of some large bf16 products."
    best = 0.
    for n in ((4096, 8192, 16384) if GPU else (512, 1024)):
        a, b = (torch.randn(n, n, device=DEVICE).to(torch.bfloat16) for _ in range(2))
        best = max(best, 2*n**3/timed(lambda: a @ b, at_least=5, for_seconds=.5))
    record(f'{KIND}: matrix peak, bf16', tera_per_second=best/1e12, device=torch.cuda.get_device_name() if GPU else 'cpu')
    return best


def training(name, most):
    "Steps of one of the paper's models: forward, backward, clipping, AdamW, EMA; the batch is on the device. The greatest part of the paper's batch that fits."
    p = PRESETS[name]
    batch = p.plan.batch if GPU else 8
    while True:
        try:
            torch.manual_seed(0)
            model = GPT(p.layers, **p.model | TINY | dict(metric_scale=1.)).to(DEVICE)
            D, params = Layout(p.layers).D, sum(q.numel() for q in model.parameters())
            if GPU: model.compile()
            state = State(model, Plan(steps=10**9, batch=batch, lr=1e-6, clip=p.plan.clip), device=DEVICE)
            x, start, future = (torch.randn(batch, D, device=DEVICE) for _ in range(3))
            j, prompt, metric = torch.randint(1000, (batch,), device=DEVICE), torch.rand(batch, device=DEVICE), torch.rand(batch, device=DEVICE)

            def loss(m, g):
                with torch.autocast(DEVICE, torch.bfloat16): guess = m(x, j, start, prompt, metric)
                return (guess.float() - future).square().mean()
            steps = train(state, loss)
            seconds = timed(lambda: next(steps), at_least=5 if GPU else 3, for_seconds=3. if GPU else .5)
            break
        except torch.cuda.OutOfMemoryError:
            model = state = steps = None; torch.cuda.empty_cache(); batch //= 2
    flops = needs(model, state.plan, 1)['flops']/seconds
    record(f'{KIND}: training {name}', parameters=params, batch=batch, seconds=seconds, tera_per_second=flops/1e12, share_of_peak=flops/most,
           memory_gb=torch.cuda.max_memory_allocated()/1e9 if GPU else 0.)
    if GPU: torch.cuda.reset_peak_memory_stats()
    return model


def stand_in():
    "MNIST's task with random pictures, which cost the same."
    g = torch.Generator().manual_seed(0)
    split = lambda n: (torch.randn(n, 784, generator=g), torch.randint(10, (n,), generator=g))
    return Task('mnist stand-in', build_net(PRESETS['mnist-loss'].layers), split(60_000), split(10_000))


def collection(task):
    "Runs collected in an hour by one core, training and measuring 200 checkpoints on all pictures."
    torch.set_num_threads(1)
    for name, t in (('mnist-loss', task), ('cartpole', task_named(PRESETS['cartpole'].task))):
        record(f'core: collecting {name}', runs_per_hour=64*3600/estimate(t, PRESETS[name].recipe, 64)['seconds'])


def on_the_card(task, K=1024, steps=30):
    "MNIST networks trained on the card in a second, without measuring them: gradient steps of many at once, times the steps of a run."
    rows, r = start_rows(task, range(K)).to(DEVICE), MNIST_RECIPE

    def some():
        for _ in descend(task, rows, steps, r.optimizer, r.lr, r.weight_decay, r.batch): pass
    per_run = timed(some, at_least=3, for_seconds=.5)/steps*r.epochs*math.ceil(60_000/r.batch)
    record('gpu: training MNIST networks', at_once=K, networks_per_second=K/per_run)


def sampling(model, name, steps=10):
    "Networks generated in a second, ten DDIM steps each."
    B, D = 256 if GPU else 8, Layout(PRESETS[name].layers).D
    ab, start, one = linear_schedule().to(DEVICE), torch.randn(B, D, device=DEVICE), torch.ones(B, device=DEVICE)

    def ask():
        with torch.inference_mode(), torch.autocast(DEVICE, torch.bfloat16): sample(lambda x, j: model(x, j, start, one, one).float(), torch.randn_like(start), ab, 'ddim', steps)
    record(f'{KIND}: sampling {name}', at_once=B, networks_per_second=B/timed(ask, at_least=3, for_seconds=.5))


def plan():
    "How runs of the paper's size are laid out, from what was measured here."
    known = json.loads((BUILD/'bench.json').read_text()) if (BUILD/'bench.json').exists() else {}
    get = lambda name, key: known.get(name, {}).get(key)
    print(f"{'':16}{'store':>9}{'collecting':>14}{'training':>14}   commands")
    for name, p in PRESETS.items():
        with torch.device('meta'): model = GPT(p.layers, **p.model)
        like = name.replace('error', 'loss')                 # the same networks, and the same model
        gb, rate = p.runs*p.recipe.n_saves*(Layout(p.layers).D*4 + 24)/1e9, get(f'core: collecting {like}', 'runs_per_hour')
        speed = get(f'gpu: training {name}', 'tera_per_second') or get(f'gpu: training {like}', 'tera_per_second')
        collecting = f"{p.runs/rate:.0f} core h" if rate else 'open'
        training_ = f"{needs(model, p.plan, p.best_at)['flops']/speed/1e12/3600:.0f} GPU h" if speed else 'open'
        print(f"{name:16}{gb:6.0f} GB{collecting:>14}{training_:>14}   gpt-kit collect STORE --preset {name} --ray 64\n{'':56}accelerate launch --num_processes {next(k for k in (8, 5, 1) if p.plan.batch % k == 0)} --mixed_precision bf16 -m gpt_kit.cli train STORE MODEL.safetensors --preset {name}")
    if not get('gpu: matrix peak, bf16', 'tera_per_second'): print("GPU figures are open: no GPU was measured here (python bench/gpu.py on a machine with one fills them in)")


if __name__ == '__main__':
    if '--plan' in sys.argv: plan(); sys.exit()
    most = peak()
    for name in ('mnist-loss', 'mnist-error', 'cifar10-loss', 'cartpole'):
        model = training(name, most)
        if name == 'mnist-loss': sampling(model, name)
        del model
    task = stand_in()
    if GPU: on_the_card(task)
    collection(task)
    if not GPU: print("no GPU here: these are tiny models on a CPU, and the figures for GPUs are open")

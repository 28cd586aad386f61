"""What a card makes of this kit: python bench/gpu.py, and then python bench/gpu.py --plan.

On a GPU: the matrix peak that it really reaches in bf16; training steps of the paper's models (Table 1), and
of ours for its MNIST networks (fashion-loss), in bf16, compiled, and which share of that peak they are;
paper-size MNIST networks trained in a second; networks generated in a second. On a CPU the same runs with
tiny models, to show that it runs; its figures say nothing about a GPU, and those stay open. Collecting is
measured on one core, because that is where `gpt-kit collect` works, on as many as Ray has.
`--plan` computes from the measured figures how long runs of the paper's size take, and prints the commands.
"""
import sys

import torch
from common import figures, median_seconds, random_mnist, record

from gpt_kit.gpt.diffusion import linear_schedule, sample
from gpt_kit.gpt.loop import TrainConfig, TrainState, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.presets import PRESETS, get_world, training_needs
from gpt_kit.networks.collect import estimate, optimize, sample_size
from gpt_kit.networks.datasets import MNIST_RECIPE
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.weights import Layout, start_rows

GPU = torch.cuda.is_available()
DEVICE, KIND = ('cuda', 'gpu') if GPU else ('cpu', 'cpu')
TINY = {} if GPU else dict(width=48, depth=2, heads=4)


def timed(f, at_least=3, for_seconds=.5):
    "Median seconds of a call, the device's work included."
    def all_of_it():
        f()
        if GPU: torch.cuda.synchronize()
    return median_seconds(all_of_it, at_least, for_seconds)


def peak():
    "Floating-point operations in a second of the best of some large bf16 products."
    best = 0.
    for n in ((4096, 8192, 16384) if GPU else (512, 1024)):
        a, b = torch.randn(2, n, n, device=DEVICE).to(torch.bfloat16)
        best = max(best, 2*n**3/timed(lambda: a @ b, at_least=5))
    device = torch.cuda.get_device_name() if GPU else 'cpu'
    record('bench', f'{KIND}: matrix peak, bf16', tera_per_second=best/1e12, device=device)
    return best


def start_training(world, batch):
    "A model, and its steps: forward, backward, clipping, AdamW, EMA; the batch is on the device."
    torch.manual_seed(0)
    model = GPT(world.layers, **world.model | TINY).to(DEVICE)
    if GPU: model.compile()
    config = TrainConfig(steps=10**9, batch=batch, lr=1e-6, clip=world.training.clip)
    x, start, future = torch.randn(3, batch, Layout(world.layers).D, device=DEVICE)
    prompt, metric = torch.rand(2, batch, device=DEVICE)
    j = torch.randint(1000, (batch,), device=DEVICE)

    def loss(m, g):
        with torch.autocast(DEVICE, torch.bfloat16): guess = m(x, j, start, prompt, metric)
        return (guess.float() - future).square().mean()
    return model, config, train(TrainState(model, config, device=DEVICE), loss)


def training(name, most):
    "Steps of a world's model, with the greatest part of its batch that fits."
    world = get_world(name)
    batch = world.training.batch if GPU else 8
    while True:
        try:
            model, config, steps = start_training(world, batch)
            seconds = timed(lambda: next(steps), 5, 3.)
            break
        except torch.cuda.OutOfMemoryError:
            model = steps = None
            torch.cuda.empty_cache()
            batch //= 2
    needs = training_needs(model, config, 1)
    speed = needs['flops']/seconds
    memory = torch.cuda.max_memory_allocated()/1e9                      # 0 without a GPU
    record('bench', f'{KIND}: training {name}', parameters=needs['parameters'], batch=batch, seconds=seconds,
           tera_per_second=speed/1e12, share_of_peak=speed/most, memory_gb=memory)
    if GPU: torch.cuda.reset_peak_memory_stats()
    return model


def collection(task):
    "Runs collected in an hour by one core, training and measuring 200 checkpoints."
    torch.set_num_threads(1)
    for name, t in (('mnist-loss', task), ('cartpole', get_task(PRESETS['cartpole'].task))):
        seconds = estimate(t, PRESETS[name].recipe, 64, sample=sample_size(t))['seconds']
        record('bench', f'core: collecting {name}', runs_per_hour=64*3600/seconds)


def training_networks(task, K=1024, steps=30):
    "MNIST networks trained in a second, not measured: steps of many at once, times the steps of a run."
    rows, r = start_rows(task, range(K)).to(DEVICE), MNIST_RECIPE

    def some():
        for _ in optimize(task, rows, steps, optimizer=r.optimizer, lr=r.lr, batch=r.batch): pass
    per_run = timed(some)/steps*r.n_steps(task)
    record('bench', 'gpu: training MNIST networks', at_once=K, networks_per_second=K/per_run)


def sampling(model, name):
    "Networks generated in a second, ten DDIM steps each."
    B, D = 256 if GPU else 8, Layout(get_world(name).layers).D
    ab, start = linear_schedule().to(DEVICE), torch.randn(B, D, device=DEVICE)
    one = torch.ones(B, device=DEVICE)
    def denoise(x, j): return model(x, j, start, one, one).float()

    @torch.inference_mode()
    def ask():
        with torch.autocast(DEVICE, torch.bfloat16): sample(denoise, torch.randn_like(start), ab)
    record('bench', f'{KIND}: sampling {name}', at_once=B, networks_per_second=B/timed(ask))


def plan():
    "How runs of the paper's size are laid out, from what was measured here."
    known = figures('bench')
    def tera(what): return known.get(f'gpu: {what}', {}).get('tera_per_second')
    print(f"{'':16}{'store':>9}{'collecting':>14}{'training':>14}   commands")
    for name, w in PRESETS.items():
        with torch.device('meta'): model = GPT(w.layers, **w.model)
        flops = training_needs(model, w.training, w.best_at)['flops']
        like = name.replace('error', 'loss')                 # the same networks, and the same model
        gb = w.runs*w.recipe.n_saves*(Layout(w.layers).D*4 + 24)/1e9
        rate = known.get(f'core: collecting {like}', {}).get('runs_per_hour')
        speed = tera(f'training {name}') or tera(f'training {like}')
        collecting = f"{w.runs/rate:.0f} core h" if rate else 'open'
        training = f"{flops/speed/1e12/3600:.0f} GPU h" if speed else 'open'
        processes = next(n for n in (8, 5, 1) if w.training.batch % n == 0)
        print(f"{name:16}{gb:6.0f} GB{collecting:>14}{training:>14}   "
              f"gpt-kit collect STORE --preset {name} --ray 64")
        print(f"{'':56}accelerate launch --num_processes {processes} --mixed_precision bf16 "
              f"-m gpt_kit.run.commands train STORE MODEL.safetensors --preset {name}")
    if not tera('matrix peak, bf16'):
        print("GPU figures are open: no GPU was measured here "
              "(python bench/gpu.py on a machine with one fills them in)")


if __name__ == '__main__':
    if '--plan' in sys.argv: plan(); sys.exit()
    most = peak()
    for name in ('mnist-loss', 'mnist-error', 'cifar10-loss', 'cartpole', 'fashion-loss'):
        model = training(name, most)
        if name in ('mnist-loss', 'fashion-loss'): sampling(model, name)
        del model
    task = random_mnist()
    if GPU: training_networks(task)
    collection(task)
    if not GPU: print("no GPU here: these are tiny models on a CPU, and the figures for GPUs are open")

"Samplers against answers that are known: a Gaussian in closed form, and another library's schedulers."
from functools import partial

import pytest, torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from hypothesis import given, strategies as st

from gpt_kit.gpt.diffusion import SCHEDULES, add_noise, linear_schedule, sample, timesteps, x0_from_eps
from gpt_kit.gpt.noise import normal_noise
from gpt_kit.networks.checks import UserError

AB, M, S = linear_schedule(), .3, .5    # schedule; mean and standard deviation of the data

def generator(seed): return torch.Generator().manual_seed(seed)

def noise(seed=0, shape=(4000, 4)): return torch.randn(shape, generator=generator(seed))

def exact_denoiser(x, j):
    "E[x0 | x] for data N(M, S²)."
    a = AB[j][:, None]
    return M + a.sqrt()*S**2/(a*S**2 + 1 - a)*(x - a.sqrt()*M)

def flow(x):
    "Where the deterministic flow (probability-flow ODE) takes pure noise, for data N(M, S²)."
    a = AB[-1]
    return M + S*(x - a.sqrt()*M)/(a*S**2 + 1 - a).sqrt()

# A Gaussian in closed form

@pytest.mark.parametrize('solver, steps, eta', [
    ('ddpm', 1000, None), ('ddim', 1000, 0.), ('ddim', 1000, 1.), ('ddim', 200, .5), ('dpm', 20, None),
    ('dpm', 50, .5), ('dpm', 50, 1.)])
def test_gaussian_mean_and_spread(solver, steps, eta):
    fresh = partial(normal_noise, (4000, 4), seed=1)
    x = sample(exact_denoiser, noise(), AB, solver=solver, steps=steps, eta=eta, fresh=fresh)
    assert x.shape == (4000, 4)
    assert abs(x.mean() - M) < .02 and abs(x.std() - S) < .02

@pytest.mark.parametrize('solver, steps, eps', [
    ('ddim', 1000, .01), ('ddim', 10, .8), ('dpm', 10, .1), ('dpm', 50, 5e-3)])
def test_deterministic_solvers_follow_the_flow(solver, steps, eps):
    "Not just the right distribution: every single point has a known end."
    x = noise()
    assert (sample(exact_denoiser, x, AB, solver=solver, steps=steps) - flow(x)).abs().max() < eps

def test_second_order_beats_first():
    "At 10 steps by far, and it gains more from twice as many."
    def off(solver, n):
        x = noise()
        return (sample(exact_denoiser, x, AB, solver=solver, steps=n) - flow(x)).abs().mean().item()
    assert off('dpm', 10) < off('ddim', 10)/3
    assert off('dpm', 10)/off('dpm', 20) > off('ddim', 10)/off('ddim', 20)

@pytest.mark.parametrize('solver', ['ddpm', 'ddim', 'dpm'])
def test_one_step_is_the_guess(solver):
    guessed = exact_denoiser(noise(), torch.full((4000,), 999))
    x = sample(exact_denoiser, noise(), AB, solver=solver, steps=1)
    torch.testing.assert_close(x, guessed, atol=1e-5, rtol=1e-5)

# Another library, step for step

W = noise(5, (6, 6))/6**.5
def guess(x, j): return torch.tanh(x @ W + j[:, None]/1000) + .3    # any fixed function will do

def compare(scheduler, solver, eta, kind='linear'):
    "All states on the way, ours and theirs, with the same noise."
    x, ab, seen = noise(2, (8, 6)), SCHEDULES[kind](), []
    js = [int(t) for t in scheduler.timesteps]
    g = generator(3)
    def fresh(draw): return torch.randn(x.shape, generator=g)
    ours = sample(guess, x, ab, solver=solver, steps=js, eta=eta, fresh=fresh, callback=seen.append)
    g.manual_seed(3)
    for t, s in zip(scheduler.timesteps, seen):
        torch.testing.assert_close(s.x, x, atol=1e-4, rtol=1e-4)
        extra = {} if solver == 'ddim' else dict(generator=g)
        if solver == 'ddim' and eta: extra = dict(eta=1., variance_noise=torch.randn(x.shape, generator=g))
        x = scheduler.step(guess(x, t.expand(8)), t, x, **extra).prev_sample
    assert len(seen) == len(js) and (ours - seen[0].x).abs().mean() > .3
    torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-4)

COMMON = dict(num_train_timesteps=1000, prediction_type='sample')
BETAS = dict(linear=dict(beta_schedule='linear', beta_start=1e-4, beta_end=.02),
             cosine=dict(beta_schedule='squaredcos_cap_v2'))

def test_ddpm_as_diffusers():
    s = DDPMScheduler(**COMMON, **BETAS['linear'], variance_type='fixed_large', clip_sample=False)
    s.set_timesteps(1000)
    compare(s, 'ddpm', None)

@pytest.mark.parametrize('steps', [5, 50])
@pytest.mark.parametrize('eta', [0., 1.])
@pytest.mark.parametrize('kind, spacing', [('linear', 'trailing'), ('cosine', 'leading')])
def test_ddim_as_diffusers(kind, spacing, eta, steps):
    "Not from the cosine's very last step: there rounding makes diffusers take the root of a negative number."
    s = DDIMScheduler(**COMMON, **BETAS[kind], clip_sample=False, set_alpha_to_one=True,
                      timestep_spacing=spacing)
    s.set_timesteps(steps)
    compare(s, 'ddim', eta, kind)

@pytest.mark.filterwarnings('ignore:__array__')
@pytest.mark.parametrize('steps', [2, 5, 10, 50])
@pytest.mark.parametrize('eta, algorithm', [(0., 'dpmsolver++'), (1., 'sde-dpmsolver++')])
def test_dpm_as_diffusers(steps, eta, algorithm):
    "On our own steps, evenly spaced in log(signal/noise)."
    s = DPMSolverMultistepScheduler(**COMMON, **BETAS['linear'], algorithm_type=algorithm, solver_order=2,
                                    solver_type='midpoint', final_sigmas_type='zero')
    s.set_timesteps(timesteps=timesteps(AB, steps))
    compare(s, 'dpm', eta)

@pytest.mark.parametrize('kind', SCHEDULES)
def test_schedules_as_diffusers(kind):
    theirs = DDPMScheduler(num_train_timesteps=1000, **BETAS[kind]).alphas_cumprod
    torch.testing.assert_close(SCHEDULES[kind](), theirs, atol=2e-6, rtol=1e-4)

# Small things

@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 1000))
def test_timesteps(kind, n):
    js = timesteps(SCHEDULES[kind](), n)
    assert len(js) == n and js[0] == 999 and (n == 1 or js[-1] == 0)
    assert all(a > b for a, b in zip(js, js[1:])) and js[-1] >= 0

def test_noise_and_back():
    x0, eps, ab = noise(1), noise(2), torch.rand(4000, generator=generator(0))*.9 + .05
    again = x0_from_eps(add_noise(x0, ab, eps), eps, ab[:, None])
    torch.testing.assert_close(again, x0, atol=1e-5, rtol=1e-5)

def test_limit_and_callback():
    seen = []
    x = sample(lambda x, j: 5*x, noise(), AB, solver='ddim', steps=4, limit=(-1, 1), callback=seen.append)
    assert x.abs().max() <= 1
    assert [s.i for s in seen] == [0, 1, 2, 3] and [s.j for s in seen] == timesteps(AB, 4)
    assert all(s.x0.abs().max() <= 1 for s in seen) and seen[0].x.equal(noise())

@pytest.mark.parametrize('what, why', [
    (dict(solver='euler'), 'use one of ddpm, ddim, dpm'), (dict(steps=0), 'take 1 to 1000'),
    (dict(steps=1001), 'take 1 to 1000')])
def test_refused(what, why):
    with pytest.raises(UserError, match=why): sample(guess, noise(2, (8, 6)), AB, **what)

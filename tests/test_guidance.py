"Starts given, hidden, and everything between; from noise alone."
import pytest, torch

from gpt_kit.gpt.behaviour import BehaviourLoss
from gpt_kit.gpt.calibrate import calibration
from gpt_kit.gpt.diffusion import linear_schedule
from gpt_kit.gpt.evaluate import prompt_alignment, unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.noise import normal_noise
from gpt_kit.gpt.presets import seconds_per_step
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import diffusion_loss, noise_bins, sample_pairs, update_errors
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.store import read_tensors, write_tensors

@pytest.fixture(scope='module')
def starts(task): return unseen_starts(task, 3)

def other(ask, **info): # the same model, with something else in its file
    return Prompter(ask.model, ask.info | info)

def hides(ask, share): return other(ask, training=dict(hide=share))

def test_from_noise_alone(ask):
    "A number and n: as many networks, each by its own noise, whatever how many are asked for."
    many = ask(1., n=4, seed=7)
    assert many.rows.shape == (4, ask.layout.D) and many.rows.isfinite().all()
    torch.testing.assert_close(ask(1., n=2, guidance=0, seed=7).rows, many.rows[:2])
    assert len(ask(1.)) == 1 and not torch.equal(ask(1., seed=8).rows, many.rows[:1])
    assert not torch.allclose(many.rows[0], many.rows[1])
    noise = torch.randn(5, ask.layout.D)
    assert len(ask(1., noise=noise)) == 5
    torch.testing.assert_close(ask(torch.tensor([1., 2.]), n=2).rows[0], ask(1.).rows[0])

def test_guidance_0_does_not_look_at_starts(ask, starts):
    "Nor does it measure them."
    free = ask(1., n=3, seed=2).rows
    assert torch.equal(ask(starts, 1., guidance=0, seed=2).rows, free)
    assert torch.equal(ask(starts + 1, 1., guidance=0, seed=2, metric=torch.full((3,), torch.nan)).rows, free)

def test_guidance_1_is_the_default_with_starts(ask, starts):
    assert torch.equal(ask(starts, 1.).rows, ask(starts, 1., guidance=1).rows)
    assert not torch.allclose(ask(starts, 1.).rows, ask(starts, 1., guidance=0).rows)

def test_guidance_mixes_both_guesses(ask, starts):
    "With one step an answer is the guess, so a half is the middle, and 2 is as far beyond."
    free, half, given, beyond = (ask(starts, 1., guidance=w, steps=1).rows for w in (0, .5, 1, 2))
    torch.testing.assert_close(half, (free + given)/2, atol=1e-5, rtol=0)
    torch.testing.assert_close(beyond, 2*given - free, atol=1e-5, rtol=0)

@pytest.mark.parametrize('given, why', [
    (dict(guidance=.5), 'networks to start from'), (dict(guidance=-1), 'from 0 to 10'),
    (dict(guidance='much'), 'guidance'), (dict(guidance=[0]), 'guidance'),
    (dict(n=0), 'number of networks'), (dict(n=[2]), 'number of networks'),
    (dict(n=2, noise=torch.zeros(3, 1210)), 'noise of its own')])
def test_noise_alone_refuses(ask, given, why):
    with pytest.raises(UserError, match=why) as e: ask(1., **given)
    assert '\n' not in str(e.value)

def test_starts_or_a_number_of_networks(ask, starts):
    with pytest.raises(UserError, match='give one of them'): ask(starts, 1., n=3)
    with pytest.raises(UserError, match='no prompt'): ask(starts)
    with pytest.raises(UserError, match='no prompt'): ask()
    assert torch.equal(ask(prompt=1., n=2).rows, ask(1., n=2).rows)
    assert len(ask(torch.tensor([1., 2.]))) == 2

def test_models_that_need_a_start_say_so(ask, starts):
    old = hides(ask, 0.)
    for question in ((1.,), (starts, 1.)):
        with pytest.raises(UserError, match='--hide 0.3'): old(*question, guidance=0)
    assert torch.equal(old(starts, 1.).rows, ask(starts, 1.).rows)

def test_models_that_never_saw_a_start_say_so(ask, starts):
    free = hides(ask, 1.)
    with pytest.raises(UserError, match='guidance 0'): free(starts, 1.)
    assert torch.equal(free(1.).rows, ask(1.).rows)

def test_a_share_of_the_starts_is_hidden(store):
    data = prepare_data(store, 'test_loss')
    for share in (0., .3, 1.):
        pairs = sample_pairs(data, data.runs, 2000, torch.Generator().manual_seed(0), hide=share)
        assert abs(pairs.hidden.float().mean() - share) < .04

def test_alignment_from_noise(ask, starts):
    "The same prompts as with the starts; every answer has noise of its own."
    found, given = (prompt_alignment(ask, starts=starts, n_prompts=4, guidance=w) for w in (0, 1))
    assert torch.equal(found['prompts'], given['prompts'])
    free = ask(found['prompts'].flatten(), n=12).rows
    assert torch.equal(found['rows'].flatten(0, 1), free)

def test_noise_alone_has_a_calibration_of_its_own(ask, starts):
    "Fitted between the best in the data and the mean metric of some starts; the other curve has no say."
    curve = calibration(ask, starts, guidance=0)
    assert curve['worst'] == pytest.approx(ask.measure(starts).mean().item(), rel=1e-6)
    halved = dict(told=[0., .5], given=[0., 1.], worst=curve['worst'])
    asked = other(ask, calibration_from_noise=halved)
    way = curve['worst'] - ask.best
    wanted = ask(ask.best + .3*way, n=2).rows
    torch.testing.assert_close(asked(ask.best + .6*way, n=2).rows, wanted, atol=1e-4, rtol=0)
    assert torch.equal(asked(starts, 1.).rows, ask(starts, 1.).rows)
    assert torch.equal(other(ask, calibration=halved)(1., n=2).rows, ask(1., n=2).rows)

def test_hide_is_a_share():
    with pytest.raises(UserError, match='share of pairs'): TrainConfig(hide=1.5)

def test_a_model_of_before_is_refused(model_file, tmp_path):
    "It knows nothing of hidden starts."
    tensors, info = read_tensors(model_file, 'model')
    for name in ('hidden', 'errors'): del tensors[name]
    del info['sampler'], info['training']['hide']
    old = tmp_path/'old.safetensors'
    write_tensors(old, tensors, info)
    again = 'gpt-kit train STORE .*old.safetensors --metric loss'
    with pytest.raises(UserError, match=f'older version.*{again}'): load(old)
    write_tensors(old, tensors, info | dict(metric='loss'))
    with pytest.raises(UserError, match='older version.*gpt-kit train STORE'): load(old)

@pytest.mark.parametrize('sampler', [
    dict(solver='euler', steps=5, eta=0.), dict(solver='dpm', steps=0, eta=0.), dict(solver='dpm', eta=0.),
    dict(solver='dpm', steps=5), dict(solver='dpm', steps=5, eta=2.)])
def test_a_sampler_that_is_none(model_file, tmp_path, sampler):
    tensors, info = read_tensors(model_file, 'model')
    odd = tmp_path/'odd.safetensors'
    write_tensors(odd, tensors, info | dict(sampler=sampler))
    with pytest.raises(UserError): load(odd)

@pytest.mark.parametrize('training', [3, dict(hide='a'), dict(hide=2)])
def test_a_training_that_cannot_be(model_file, tmp_path, training):
    tensors, info = read_tensors(model_file, 'model')
    odd = tmp_path/'odd.safetensors'
    write_tensors(odd, tensors, info | dict(training=training))
    with pytest.raises(UserError): load(odd)

@pytest.mark.parametrize('name', ['cartpole-return', 'digit-subsets', 'digits-cnn-loss', 'digits-error',
                                  'digits-loss', 'fashion-loss'])
def test_every_model_that_ships_is_loaded(name): load(name)

def test_parts_draw_alike(task, store):
    "Whoever computes a part of a batch draws as all others do, whether or not the part has little noise."
    data, ab, ends = prepare_data(store, 'test_loss'), linear_schedule(), []
    torch.manual_seed(0)
    model, behaviour = GPT(store.info['layers'], width=24, depth=1, heads=2), BehaviourLoss(task, data)
    for part in ((0, 1), (0, 4), (3, 4)):
        g = torch.Generator().manual_seed(0)
        for _ in range(10):
            pairs = sample_pairs(data, data.runs, 8, g, hide=.5)
            diffusion_loss(model, pairs, ab, g, objective='even', part=part, behaviour=behaviour)
        ends.append(g.get_state())
    assert all(torch.equal(ends[0], end) for end in ends)

def test_errors_are_running_means():
    "With a start and without, at each amount of noise; several at once count as one by one with their mean."
    errors = torch.ones(2, 40)
    hidden, bins = torch.tensor([False, True, True]), torch.tensor([3, 5, 5])
    update_errors(errors, hidden, bins, torch.tensor([.5, .2, .4]))
    assert errors[0, 3].item() == pytest.approx(.98*1 + .02*.5)
    assert errors[1, 5].item() == pytest.approx(.98**2*1 + (1 - .98**2)*.3)
    assert (errors != 1).sum() == 2
    bins = noise_bins(linear_schedule())
    assert bins.min() >= 0 and bins.max() < 40 and bins.diff().max() <= 0

def test_timing_changes_no_model(store):
    data = prepare_data(store, 'test_loss')
    model = GPT(store.info['layers'], width=24, depth=1, heads=2)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    seconds_per_step(model, data, TrainConfig(steps=2, batch=4))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())

def test_noise_of_ones_own(ask):
    "None is added on the way, so that it alone decides; or, with eta, that of the first answer."
    own = normal_noise((1, 1210), seed=3)
    assert torch.equal(ask(1., noise=own, seed=3).rows, ask(1., seed=3, eta=0.).rows)
    alone, rows = ask(1., seed=3, eta=.5).rows, ask(1., noise=own.repeat(3, 1), seed=3, eta=.5).rows
    for row in rows: torch.testing.assert_close(row, alone[0], atol=1e-5, rtol=0)
    assert not torch.equal(ask(1., n=2, seed=3).rows[1], alone[0])

"Asking a model: what is refused, what it is told when it is calibrated, and walks through noise."
import numpy as np
import pytest
import torch

from gpt_kit.gpt.calibrate import calibration
from gpt_kit.gpt.evaluate import unseen_starts
from gpt_kit.gpt.load import load
from gpt_kit.gpt.noise import latent_walk
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.networks.checks import UserError

@pytest.fixture(scope='module')
def shipped():
    "As it was before it was calibrated."
    ask = load('digits-loss')
    return Prompter(ask.model, {k: v for k, v in ask.info.items() if not k.startswith('calibration')})

@pytest.fixture(scope='module')
def starts(shipped): return unseen_starts(shipped.task, 3)

def calibrated(ask, **curve): return Prompter(ask.model, ask.info | dict(calibration=curve), task=ask.task)

@pytest.mark.parametrize('prompt, why', [
    (float('nan'), 'has to be a number'), (torch.ones(2), 'give one prompt, or one for each')])
def test_prompts_are_refused(shipped, starts, prompt, why):
    with pytest.raises(UserError, match=why): shipped(starts, prompt)

def test_starts_are_refused(shipped, starts):
    with pytest.raises(UserError, match='was it saved from another architecture'): shipped(starts[:, 1:], .4)
    with pytest.raises(UserError, match='not finite'): shipped(starts/0, .4, metric=torch.ones(3))
    with pytest.raises(UserError, match='give each network'): shipped(starts, .4, metric=torch.ones(2))

def test_one_warning_outside_of_what_was_seen(shipped, starts):
    with pytest.warns(UserWarning, match='outside of what this model has seen') as told:
        shipped(starts, 1000.)
    assert len(told) == 1

def test_a_calibrated_model_is_told_something_else(shipped, starts):
    "Half of what is asked for, counted from the best; what lies outside of the way to the start, as it is."
    halved = calibrated(shipped, told=[0., .5], given=[0., 1.])
    before = shipped.measure(starts)
    way = before - shipped.best
    a, b = halved(starts, shipped.best + .8*way), shipped(starts, shipped.best + .4*way)
    torch.testing.assert_close(a.rows, b.rows, atol=1e-3, rtol=0)
    worse = before + 1
    with pytest.warns(UserWarning): a, b = halved(starts, worse), shipped(starts, worse)
    assert torch.equal(a.rows, b.rows)

def test_calibration_is_of_the_model_itself(shipped, starts):
    "A curve that is there already has no say in the next one."
    curve = calibration(shipped, starts)
    again = calibration(calibrated(shipped, **curve), starts)
    assert again['given'] == pytest.approx(curve['given'], abs=1e-6)
    assert all(a < b for v in (curve['told'], curve['given']) for a, b in zip(v, v[1:]))

def test_nothing_to_calibrate_on(shipped, starts):
    with pytest.raises(UserError, match='calibrate on others'): calibration(shipped, starts[:0])

def test_latent_walk_has_frames_and_weights(): assert latent_walk(40, 24).shape == (24, 40)

@pytest.mark.parametrize('given', [
    dict(steps=[]), dict(steps=[999, 5000]), dict(steps=[999, -1]), dict(steps=[3, 9]), dict(update=-1),
    dict(update=1.5), dict(seed=None), dict(prompt='many'), dict(prompt=None)])
def test_questions_that_make_no_sense(given, ask, task):
    rows = unseen_starts(task, 2)
    with pytest.raises(UserError) as e: ask(rows, given.pop('prompt', 1.), **given)
    assert '\n' not in str(e.value)

def test_numbers_of_numpy(ask, task):
    rows = unseen_starts(task, 1)
    wanted = ask(rows, 1., steps=3, seed=2, metric=torch.tensor([2.])).rows
    got = ask(rows.numpy(), np.float32(1), steps=np.int64(3), seed=np.int64(2), metric=np.float64(2)).rows
    assert torch.equal(got, wanted)
    with pytest.raises(UserError, match='one or more'): ask(rows[:0], 1.)

class Turning(torch.nn.Module):
    "Asked for more than half of the way it gives less again: a network that is nearer and nearer to none."
    def __init__(self, model, row, best, worst):
        super().__init__()
        self.config, self.row, self.best, self.worst = model.config, row, best, worst

    def forward(self, noised, j, start, prompt, metric, hidden=None):
        share = (prompt - self.best)/(self.worst - self.best)          # 0: the best; 1: as the start
        return self.row*(1 - (share - .5).abs()*2)[:, None]

def test_whoever_asks_for_the_best_gets_the_best_there_is(shipped, starts):
    "Where a model gives worse networks the more it is told, its curve begins at the best it gives."
    worst = shipped.measure(starts).mean().item()
    row = shipped(starts[:1], shipped.best).rows[0]*shipped.info['scale']
    ask = Prompter(Turning(shipped.model, row, shipped.best, worst), shipped.info, task=shipped.task)
    curve = calibration(ask, starts, n_prompts=21)
    assert curve['told'][0] == pytest.approx(.5, abs=.06)
    assert all(a < b for v in (curve['told'], curve['given']) for a, b in zip(v, v[1:]))
    before, after = ask(starts, ask.best).metric, calibrated(ask, **curve)(starts, ask.best).metric
    assert before.min() > 2 and after.max() < .5

"A batch that one process computes in parts, one after another, trains the model that the whole batch trains."
import pytest
import torch
from accelerate.state import AcceleratorState

from gpt_kit.gpt.diffusion import linear_schedule
from gpt_kit.gpt.loop import SingleProcess, TrainConfig, TrainState, train
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import Part, diffusion_loss, sample_pairs
from gpt_kit.outside.cluster import Accelerated

BATCH, STEPS = 16, 8

@pytest.fixture
def learner(store):
    "A small model, and the loss of training: starts hidden, every amount of noise counts evenly."
    data, ab = prepare_data(store, 'test_loss'), linear_schedule()
    def loss(model, g, part=Part()):
        pairs = sample_pairs(data, data.runs, BATCH, g, hide=.5)
        return diffusion_loss(model, pairs, ab, g, objective='even', part=part)
    def make():
        torch.manual_seed(0)
        return GPT(store.info['layers'], width=24, depth=1, heads=2)
    return make, loss

def test_the_parts_of_a_step_divide_by_the_same_errors(learner):
    "Those of the step's beginning; they change once, by what all parts have found."
    make, loss = learner
    whole, model = make(), make()
    for seed in range(3):
        expected, found, before = loss(whole, torch.Generator().manual_seed(seed)), [], model.errors.clone()
        parts = []
        for i in range(4):
            assert torch.equal(model.errors, before), 'not before the last part'
            parts.append(loss(model, torch.Generator().manual_seed(seed), Part(i, 4, found, last=i == 3)))
        torch.testing.assert_close(sum(parts)/4, expected)
        torch.testing.assert_close(model.errors, whole.errors)
        assert not torch.equal(model.errors, before)

def test_accumulation_trains_the_same_model(learner):
    make, loss = learner
    AcceleratorState._reset_state(True)                              # it remembers its first settings
    engine = Accelerated(cpu=True, gradient_accumulation_steps=4)
    ends = []
    for e in (SingleProcess(), engine):
        state = TrainState(make(), TrainConfig(steps=STEPS, batch=BATCH, warmup=5))
        curve = torch.tensor([r.loss for r in train(state, loss, e)])
        ends.append((curve, state.model.errors, state.ema.errors))
    for one, four in zip(*ends): torch.testing.assert_close(four, one, rtol=1e-4, atol=1e-6)
    AcceleratorState._reset_state(True)

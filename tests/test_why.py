"What the lesson on noise exports, and its exercise."
import json
import re
from pathlib import Path

import torch

from gpt_kit.gpt.diffusion import linear_schedule, sample
from gpt_kit.gpt.why import Regression
from gpt_kit.networks.tasks import mlp
from gpt_kit.networks.weights import Layout

LESSON = Path(__file__).parent.parent/'nbs'/'gpt'/'12_why.ipynb'
CELLS = {c['id']: ''.join(c['source']) for c in json.loads(LESSON.read_text())['cells']}

def test_a_regression_sees_no_noise_and_without_a_start_all_neurons_are_alike():
    torch.manual_seed(0)
    model, layout = Regression(mlp((64, 16, 10)), width=24, depth=1, heads=2), Layout(mlp((64, 16, 10)))
    for p in model.parameters(): torch.nn.init.normal_(p, std=.1)
    noise, others, start = torch.randn(3, 2, layout.D)
    first, last, prompt, metric = torch.tensor([[0, 0], [999, 500], [1, 1], [2, 2]])
    given, hidden = (start, prompt.float(), metric.float()), torch.tensor([False, True])
    with torch.no_grad():
        guess = model(noise, first, *given, hidden)
        assert (guess == model(others, last, *given, hidden)).all()
        assert (guess != model(noise, first, start + 1, *given[1:], hidden))[0].any()
    weights = guess[:, :16*64].view(2, 16, 64).std(1).amax(1)         # (2,) between neurons
    assert weights[0] > .1 and weights[1] < 1e-5

def test_the_exercise_tells_right_from_not_yet(capsys):
    names = dict(torch=torch, seed=0, linear_schedule=linear_schedule, sample=sample)
    exec(CELLS['toy'], names)
    def told(exercise):
        for source in (exercise, CELLS['exercise-check']): exec(source, names)
        return capsys.readouterr().out
    answer, = re.findall(r'```python\n(.*?)```', CELLS['exercise-answer'], re.S)
    assert 'not yet' in told(CELLS['exercise'])
    assert told(answer).rstrip().endswith('right')
    assert 'not yet' in told('def my_hint(begin): return begin[:, 0] > 0')

"What one move in a widget costs: noise that is drawn once, one message where one is enough."
import ipywidgets as W
import torch

from gpt_kit.gpt import prompt
from gpt_kit.gpt.load import load
from gpt_kit.gpt.prompt import Prompter
from gpt_kit.play.controls import fit_prompt, prompt_slider

def test_a_slider_draws_its_noise_once(model_file, monkeypatch):
    "Another prompt needs the same noise; other seeds and updates need their own."
    ask, drawn = load(model_file), []
    start, normal_noise = torch.zeros(1, ask.layout.D), prompt.normal_noise
    def counted(*words, **kw):
        drawn.append(words)
        return normal_noise(*words, **kw)
    monkeypatch.setattr(prompt, 'normal_noise', counted)
    prompt._row_noise.cache_clear()
    def answer(wanted, **kw): return ask(start, wanted, metric=torch.tensor([2.]), steps=4, eta=.5, **kw).rows
    first = answer(1.)
    assert len(drawn) == 4 and not torch.equal(answer(2.), first)
    assert len(drawn) == 4 and torch.equal(answer(1.), first)
    assert not torch.equal(answer(1., seed=1), first) and not torch.equal(answer(1., update=1), first)
    assert len(drawn) == 12

def test_who_watches_may_write(model_file):
    "A callback that overwrites what it sees does not change the noise of later answers."
    ask = load(model_file)
    def answer(**kw): return ask(torch.zeros(1, ask.layout.D), 1., metric=torch.tensor([2.]), **kw).rows
    first = answer()
    answer(callback=lambda step: step.x.zero_())
    assert torch.equal(answer(), first)

def test_one_message_moves_a_slider(model_file, monkeypatch):
    "Range, step and value that another task asks for arrive together, and agree."
    ask, sent = load(model_file), []
    slider = prompt_slider(ask)
    low, high = ask.seen
    other = Prompter(ask.model, ask.info | dict(seen=[low + .1, high + 1.]), task=ask.task)
    monkeypatch.setattr(W.Widget, '_send', lambda self, message, **kw: sent.append(message['state']))
    fit_prompt(other, slider)
    assert [set(state) for state in sent] == [{'min', 'max', 'step', 'value'}]
    assert sent[0]['min'] <= sent[0]['value'] <= sent[0]['max']

"Noise that is counted: known answers, repeated elsewhere, and the same answers in batches of any size."
import json
import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import playwright
import pytest
import torch
from hypothesis import given, strategies as st

from gpt_kit.gpt.evaluate import prompt_alignment, unseen_starts
from gpt_kit.gpt.noise import normal_noise, threefry
from gpt_kit.gpt.noise import latent_walk
from gpt_kit.gpt.prompt import recursive
from gpt_kit.networks.checks import UserError
from gpt_kit.pdiff.compare import sample_gaussian, sample_noised
from gpt_kit.pdiff.pdiff import PDiffConfig, fit_pdiff, sample_kde, sample_vae
from gpt_kit.study.audit import pca_gaussian

def close(a, b): torch.testing.assert_close(a, b, atol=1e-5, rtol=0)

# The generator

@pytest.mark.parametrize('key, counter, known', [
    ((0, 0), (0, 0), (0x6b200159, 0x99ba4efe)),
    ((0xffffffff,)*2, (0xffffffff,)*2, (0x1cb996fc, 0xbb002be7)),
    ((0x13198a2e, 0x03707344), (0x243f6a88, 0x85a308d3), (0xc4923a9c, 0x483df7a0))])
def test_known_answers_of_threefry(key, counter, known):
    "From Random123, the authors' own library (kat_vectors, threefry2x32 20)."
    words = [tuple(np.array([w], dtype=np.uint32) for w in pair) for pair in (key, counter)]
    assert tuple(int(word[0]) for word in threefry(*words)) == known

def test_golden_noise():
    "These very numbers, on any machine and for good: networks that were asked for depend on them."
    noise = normal_noise((4, 5), seed=7)
    golden = [[-0.0404642, -0.4362647, -0.3205668, 0.7990275, 1.9440785],
              [0.5077349, -0.1577891, -0.3536098, -0.7073909, 1.5756794]]
    torch.testing.assert_close(noise[[0, 3]], torch.tensor(golden), atol=1e-6, rtol=0)
    later, golden = normal_noise((1, 3), 4, seed=2**32 - 1, first=10**6)[0], [-0.39505, 0.7626364, 0.4160856]
    torch.testing.assert_close(later, torch.tensor(golden), atol=1e-6, rtol=0)

JAVASCRIPT = """
const turn = (x, n) => (x << n | x >>> 32 - n) >>> 0
function threefry(a, b, x, y) {
  const keys = [a, b, (a ^ b ^ 0x1BD11BDA) >>> 0], turns = [[13, 15, 26, 6], [17, 29, 16, 24]]
  x = (x + a) >>> 0
  y = (y + b) >>> 0
  for (let group = 0; group < 5; group++) {
    for (const n of turns[group % 2]) {
      x = (x + y) >>> 0
      y = (turn(y, n) ^ x) >>> 0
    }
    x = (x + keys[(group + 1) % 3]) >>> 0
    y = (y + keys[(group + 2) % 3] + group + 1) >>> 0
  }
  return [x, y]
}
function noise(D, draw, seed, row) {
  const out = []
  for (let pair = 0; 2*pair < D; pair++) {
    const [x, y] = threefry(seed, row, pair, draw)
    const radius = Math.sqrt(-2*Math.log((x + .5)/2**32)), angle = y*2*Math.PI/2**32
    out.push(radius*Math.cos(angle), radius*Math.sin(angle))
  }
  return out.slice(0, D)
}
console.log(JSON.stringify(JSON.parse(process.argv[1]).map(words => noise(...words))))
"""

def test_thirty_lines_of_javascript_repeat_it():
    bundled = Path(playwright.__file__).parent/'driver'/'node'
    node = shutil.which('node') or (str(bundled) if bundled.exists() else None)
    if not node: pytest.skip('there is no node')
    asked = [(7, 0, 0, 0), (1210, 3, 2**32 - 1, 258), (6, 1024*5 + 1000, 42, 2**31)]
    words = [node, '-e', JAVASCRIPT, json.dumps(asked)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len(JAVASCRIPT.strip().splitlines()) <= 30
    for (D, draw, seed, row), theirs in zip(asked, json.loads(done.stdout)):
        ours = normal_noise((1, D), draw, seed=seed, first=row)[0]
        torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-6, rtol=0)

SIZES = st.integers(1, 9)

@given(st.integers(0, 2**32 - 1), st.integers(0, 2**20), SIZES, SIZES, st.integers(0, 2**30))
def test_rows_are_their_own(seed, first, B, D, draw):
    "Alone or among others, and in rows cut shorter, numbers are the same."
    many = normal_noise((B + 2, D + 3), draw, seed=seed, first=first)
    assert many[2:, :D].equal(normal_noise((B, D), draw, seed=seed, first=first + 2))

def test_a_bell_curve_without_memory():
    "Mean, spread, tails; and nothing in common between neighbours of any kind."
    noise = [normal_noise((200, 500), draw, seed=seed) for seed, draw in ((0, 0), (0, 1), (1, 0))]
    x = noise[0].double()
    assert abs(x.mean()) < .02 and abs(x.var() - 1) < .03 and abs((x**4).mean() - 3) < .12
    for pair in ((x, noise[1]), (x, noise[2]), (x[1:], x[:-1]), (x[:, 1:], x[:, :-1])):
        assert abs(torch.corrcoef(torch.stack([v.flatten().double() for v in pair]))[0, 1]) < .02

@pytest.mark.parametrize('seed', [-1, 2**32, .5, math.nan, None, '7'])
def test_seeds_are_refused(seed, ask, task):
    with pytest.raises(UserError, match='from 0 to 4,294,967,295'): normal_noise((1, 2), seed=seed)
    with pytest.raises(UserError, match='whole number'): ask(unseen_starts(task, 1), 1., seed=seed)

# Answers in batches of any size

SAMPLERS = dict(ddim={}, ddpm=dict(solver='ddpm'), eta=dict(eta=.5), dpm=dict(solver='dpm'))

@pytest.mark.parametrize('how', SAMPLERS.values(), ids=SAMPLERS)
def test_an_answer_does_not_depend_on_the_others(ask, task, how):
    "Nor on how many fit into a batch of the model's: answer 257 is in the second one."
    rows = unseen_starts(task, 4).repeat(66, 1)
    metric = torch.full((264,), 2.3)
    def asked(n): return ask(rows[:n], 1., metric=metric[:n], seed=3, steps=4, **how).rows
    all_of_them = asked(264)
    close(asked(5), all_of_them[:5])
    close(asked(258), all_of_them[:258])
    assert (all_of_them[0] - all_of_them[256]).abs().max() > 1e-3           # noise of their own, same start

def test_every_update_has_its_own_noise(ask, task):
    rows = unseen_starts(task, 3)
    few, many = (list(recursive(ask, rows[:n], 1., n=2, seed=5, eta=1., steps=3)) for n in (2, 3))
    for (a, _), (b, _) in zip(few, many): close(a, b[:2])
    first, second = (ask(rows, 1., seed=5, update=i).rows for i in (0, 1))
    assert (first - second).abs().max() > 1e-3
    assert not first.equal(ask(rows, 1., seed=6).rows)
    close(many[2][0], ask(many[1][0], 1., seed=5, update=1, eta=1., steps=3).rows)

def test_alignment_of_the_same_starts(ask, task):
    rows = unseen_starts(task, 3)
    few, many = (prompt_alignment(ask, starts=rows[:n], n_starts=n, n_prompts=3, eta=.5) for n in (2, 3))
    torch.testing.assert_close(few['achieved'], many['achieved'][:2], atol=1e-4, rtol=0)

def test_walks_stop_at_the_same_places():
    three, four = latent_walk(40, 12), latent_walk(40, 12, n_stops=4)
    close(three[[0, 4, 8]], four[[0, 3, 6]])

def test_networks_from_noise_do_not_depend_on_the_others():
    rows = normal_noise((20, 40), seed=9)
    tiny = PDiffConfig(latent=4).with_steps(4, 4)
    p, vae = fit_pdiff(rows, tiny), fit_pdiff(rows, PDiffConfig(latent=4, kl=1.).with_steps(4, 4)).codec
    ways = [lambda n: p.sample(n, steps=5), lambda n: p.sample(n, steps=5, solver='ddim'),
            lambda n: sample_kde(p.codec, rows, n), lambda n: sample_vae(vae, n),
            lambda n: sample_noised(rows, n), lambda n: sample_gaussian(rows, n),
            lambda n: pca_gaussian(rows, n)]
    for way in ways:
        close(way(7)[:3], way(3))
        assert (way(3)[0] - way(3)[1]).abs().max() > 1e-4

def test_noise_of_another_shape_is_refused(ask, task):
    with pytest.raises(UserError, match='give each network noise of its own'):
        ask(unseen_starts(task, 2), 1., noise=torch.zeros(1, ask.layout.D))

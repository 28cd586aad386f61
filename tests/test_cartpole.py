"CartPole: our many masked carts are gymnasium's single one, PPO's step is what a plain PyTorch agent does, and the task goes through the whole kit."
import gymnasium, io, json, numpy as np, pytest, torch
import torch.nn.functional as F
from PIL import Image

import gpt_kit.cartpole as module, gpt_kit.widgets as w
from gpt_kit.cartpole import PAPER, POLICY, Game, act, advantages, carts, cartpole, film, objective, play, ppo_gradient, resets, rollout
from gpt_kit.collect import Recipe, collect, descend, estimate, run_seeds, train_runs, usual_recipe
from gpt_kit.draw import Drawing, draw_predictions
from gpt_kit.evaluate import optimizer_grid, prompt_alignment, unseen_starts
from gpt_kit.landscape import grid_around, random_plane, surface
from gpt_kit.model import GPT, restore
from gpt_kit.prompt import Prompter
from gpt_kit.tasks import task_named
from gpt_kit.train import Plan, load_model, prepare, train_gpt
from gpt_kit.views import denoising_view, landscape_view, walk_view
from gpt_kit.weights import Layout, as_module, forward, measure, start_rows

LAYOUT = Layout(POLICY)
SHORT = dict(optimizer='ppo', lr=2e-3, weight_decay=0., epochs=6)

@pytest.fixture(scope='module')
def pole(): return cartpole()

@pytest.fixture(scope='module')
def policies(pole):
    "Bad, middling and good ones."
    for step, rows in descend(pole, start_rows(pole, range(6)), 12*pole.game.steps, 'ppo', 3e-3):
        if step == 4*pole.game.steps: some = rows.clone()
    return torch.cat([start_rows(pole, range(100, 103)), some, rows])          # (15, D)

@pytest.fixture(scope='module')
def pole_store(pole, tmp_path_factory): return collect(pole, tmp_path_factory.mktemp('pole')/'store', 24, Recipe(n_saves=8, **SHORT), progress=False)

@pytest.fixture(scope='module')
def pole_model(pole_store, tmp_path_factory):
    file = tmp_path_factory.mktemp('pole')/'cartpole-return.safetensors'
    torch.manual_seed(0)
    train_gpt(GPT(pole_store.info['layers'], 'layer', width=24, depth=1, heads=2), prepare(pole_store, 'test_return'), Plan(steps=10, batch=16, warmup=5), file, progress=False)
    return file

# The world

def one_by_one(right, begin):
    "An episode of gymnasium's single cart with given actions (T,): steps until the end."
    with gymnasium.make('CartPole-v1') as env:
        env.reset(); env.unwrapped.state = tuple(begin.tolist())
        for t, a in enumerate(right):
            _, _, fell, out_of_time, _ = env.step(int(a))
            if fell or out_of_time: return t + 1

@pytest.fixture
def pushes(monkeypatch):
    "What every cart is told, moment by moment. (Rounding in another order of products may flip a push, and then everything after it is different: so compare worlds with the same pushes.)"
    said = []
    def telling(env, right): said.append(right.clone()); return act(env, right)
    monkeypatch.setattr(module, 'act', telling)
    return said

@pytest.mark.parametrize('draw', [None, 5], ids=['probable', 'drawn'])
def test_many_carts_are_single_carts(policies, pushes, draw):
    begin = resets('CartPole-v1', range(4))
    ours = play(LAYOUT, policies, begin, draw and torch.Generator().manual_seed(draw))
    right = torch.stack(pushes)                                                      # (T, K, N)
    assert len(ours.unique()) > 10 and ours.max() == 500
    assert ours.tolist() == [[one_by_one(right[:, k, n], begin[n]) for n in range(4)] for k in range(15)]

def test_each_policy_pushes_as_it_says(policies, pushes):
    "Its own logit of its own cart: every first push, and the share of rights among drawn ones."
    begin = resets('CartPole-v1', range(5))
    play(LAYOUT, policies, begin)
    with torch.no_grad(): logit = torch.stack([as_module(r, LAYOUT)(begin)[:, 0] for r in policies])      # (15, 5)
    assert torch.equal(pushes[0], logit > 0)
    del pushes[:]
    play(LAYOUT, policies[:2], begin[:1].expand(4000, -1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(pushes[0].float().mean(1), logit[:2, 0].sigmoid(), atol=.03, rtol=0)

def test_beginnings_are_gymnasiums_own():
    with gymnasium.make('CartPole-v1') as env: assert resets('CartPole-v1', [7])[0].tolist() == env.reset(seed=7)[0].tolist()

def test_metrics(pole, policies):
    m = {s: measure(pole, policies, s)['return'] for s in ('train', 'test', 'test2')}
    assert torch.equal(m['test'], play(LAYOUT, policies, resets('CartPole-v1', range(16))).mean(1))
    assert all(((v > 0) & (v <= 500)).all() for v in m.values()) and (m['test'] != m['test2']).any() and (m['test'] != m['train']).any()
    assert torch.equal(measure(pole, policies, 'train')['return'], m['train']), 'drawn from fixed numbers'
    torch.testing.assert_close(measure(pole, policies[7:9], 'train')['return'], m['train'][7:9], rtol=.1, atol=5.)
    assert measure(pole, policies[:0])['return'].shape == (0,) and measure(pole, policies[:1], metrics=['return'])['return'].shape == (1,)

def test_broken_policies_have_a_return(pole):
    rows = torch.stack([torch.full((1249,), v) for v in (float('nan'), float('inf'), 0., 1e30)])
    assert ((m := measure(pole, rows)['return']) > 0).all() and (m < 50).all()

def test_rollout_goes_on_where_gymnasium_would(policies):
    "Between ends, moments follow each other as in gymnasium's single cart; what does not count is the moment of a new beginning."
    env = carts('CartPole-v1', 15*4)
    r = rollout(LAYOUT, policies, env, 200, torch.Generator().manual_seed(0))
    assert torch.equal(r['valid'][1:], 1 - r['over'][:-1]) and torch.equal(r['reward'], r['valid'])
    with gymnasium.make('CartPole-v1') as single:
        for k, e in ((0, 0), (7, 3), (14, 1)):
            for t in range(200):
                single.reset(); single.unwrapped.state = tuple(r['seen'][t, k, :, e].tolist())
                x, _, fell, _, _ = single.step(int(r['right'][t, k, e]))
                if r['valid'][t, k, e]: np.testing.assert_allclose(r['seen'][t + 1, k, :, e], x, atol=1e-6); assert fell == r['fell'][t, k, e]
                else: assert r['seen'][t + 1, k, :, e].abs().max() <= .05

def test_time_is_up():
    "An episode of 500 steps ends without a fall, and the critic's word about what follows counts."
    hand = torch.zeros(1, 1249)
    parts = LAYOUT.split(hand)
    parts['0.weight'][0, 0], parts['2.weight'][0, 0, 0], parts['4.weight'][0, 0, 0] = torch.tensor([.1, .3, 1., 1.]), 1., 1e4    # where it is going to fall, without doubt
    r = rollout(LAYOUT, hand, carts('CartPole-v1', 3), 520, torch.Generator().manual_seed(0))
    up = (r['over'] > r['fell']).nonzero()
    assert len(up)
    t, k, e = up[0].tolist()
    value = torch.rand(521, 1, 3)
    torch.testing.assert_close(advantages(r, value, .99, .95)[t, k, e], .01 + .99*value[t + 1, k, e] - value[t, k, e])

@pytest.mark.parametrize('name, words', [('Acrobot-v1', ["'Acrobot-v1'"]), ('MountainCar-v0', ['MountainCar-v0']), ('Nothing-v3', ["'Nothing-v3'"]), ('', ["''"]), ('no module:Nothing-v3', ['Nothing'])])
def test_other_environments(name, words):
    with pytest.raises(ValueError) as e: cartpole(Game(name))
    assert '\n' not in str(e.value) and [v for v in [*words, "use 'CartPole-v1'"] if v not in str(e.value)] == []

def test_not_like_cartpole(monkeypatch):
    "A vectorised environment with three actions."
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
    class Three(CartPoleVectorEnv):
        def __init__(self, **kw): super().__init__(**kw); self.single_action_space = gymnasium.spaces.Discrete(3)
    gymnasium.register('Three-v0', vector_entry_point=Three)
    with pytest.raises(ValueError, match=r'Three-v0 is not like CartPole: its actions are Discrete\(3\)'): cartpole(Game('Three-v0'))

# PPO

def plain_loss(actor, critic, b, clip):
    "PPO's loss of one agent as it stands in everybody's code (v-loss halved, advantages normalised in the minibatch)."
    keep = b['valid'] > 0
    x, right, old, adv, val = (b[n][..., keep] for n in ('seen', 'right', 'logit', 'advantage', 'value'))
    dist = torch.distributions.Bernoulli(logits=actor(x.T)[:, 0])
    ratio = (dist.log_prob(right) - torch.distributions.Bernoulli(logits=old).log_prob(right)).exp()
    a = (adv - adv.mean())/(adv.std(correction=0) + 1e-8)
    return torch.max(-a*ratio, -a*ratio.clamp(1 - clip, 1 + clip)).mean() + F.mse_loss(critic(x.T)[:, 0], adv + val)/2

def a_batch(pole, policies):
    "A round in which ends occur, and a minibatch of it with probabilities that have moved."
    from gpt_kit.cartpole import _round
    g = torch.Generator().manual_seed(0)
    both = torch.cat([policies, start_rows(pole, range(50, 65))])
    played = _round(pole.game, LAYOUT, both, carts('CartPole-v1', 15*pole.game.carts), g)
    ix = torch.randperm(played['seen'].shape[-1], generator=g)[:300]
    return both + .03*torch.randn(both.shape, generator=g), {n: v[..., ix] for n, v in played.items()}

def test_gradient_is_that_of_one_agent_alone(pole, policies):
    both, batch = a_batch(pole, policies)
    assert (batch['valid'] == 0).any()
    grad, K = ppo_gradient(pole.game, LAYOUT, both, batch), len(policies)
    for k in range(K):
        actor, critic = (as_module(r, LAYOUT) for r in (both[k], both[K + k]))
        plain_loss(actor, critic, {n: v[k] for n, v in batch.items()}, pole.game.clip).backward()
        for net, ours in ((actor, grad[k]), (critic, grad[K + k])):
            torch.nn.utils.clip_grad_norm_(net.parameters(), pole.game.most)
            torch.testing.assert_close(ours, torch.cat([p.grad.flatten() for p in net.parameters()]), rtol=2e-3, atol=2e-5)

def test_objective_is_clipped():
    "Nothing more to gain once the ratio has left its range in the wanted direction; everything to lose otherwise."
    b = {n: torch.tensor([v]) for n, v in dict(right=[1., 1.], logit=[0., 0.], advantage=[1., -1.], value=[0., 0.], valid=[1., 1.]).items()}
    for far, expected in ((3., (0., 1.)), (-3., (1., 0.))):
        logit = torch.full((1, 2), far, requires_grad=True)
        grad, = torch.autograd.grad(objective(logit, torch.tensor([[1., -1.]]), b, .2).sum(), logit)
        assert [float(v != 0) for v in grad[0]] == list(expected)

def test_annealing_and_rates(pole):
    "A rate of its own for each policy; 0 leaves it where it was."
    rows = start_rows(pole, range(3))
    for step, out in descend(pole, rows, 20, 'ppo', torch.tensor([0., 1e-3, 1e-3])): pass
    assert step == 20 and torch.equal(out[0], rows[0]) and not torch.equal(out[1], rows[1])

def test_they_learn(pole):
    "A short school: from 20 or so to hundreds, on both sets of beginnings."
    for step, rows in descend(pole, start_rows(pole, range(16)), 25*pole.game.steps, 'ppo', 2e-3): pass
    for split in ('test', 'test2'): assert measure(pole, rows, split)['return'].mean() > 400

def test_alone_as_among_others(pole):
    recipe = Recipe(n_saves=5, **SHORT | dict(epochs=2))
    seeds = run_seeds(0, 70)
    kept, steps = train_runs(pole, seeds[:3] + seeds[64:67], recipe)
    alone, _ = train_runs(pole, seeds[65:66], recipe)
    assert steps[0, -1] == 32 and torch.equal(kept[:, 0], start_rows(pole, seeds[:3] + seeds[64:67]))
    torch.testing.assert_close(alone[0], kept[4], rtol=1e-3, atol=1e-4)
    again, _ = train_runs(pole, seeds[:3] + seeds[64:67], recipe)
    assert torch.equal(again, kept)

# Through the kit

def test_fingerprints(pole):
    assert task_named('cartpole', pole.fingerprint).name == 'cartpole' and 'Game' in repr(pole.game)
    assert len({t.fingerprint for t in (pole, cartpole(PAPER), cartpole(Game(gamma=.98)))}) == 3
    assert PAPER.carts*PAPER.moments == 8192 and PAPER.steps == 16 and Layout(pole.layers).D == 1249

def test_collected_measured_and_gone_on_with(pole, pole_store, tmp_path):
    assert sorted(pole_store.metrics) == ['test_return', 'train_return'] and not pole_store.metrics['test_return']['minimize']
    rows = pole_store.rows([3, 20], [0, 7])
    assert torch.equal(measure(pole, rows)['return'], torch.tensor(pole_store.values('test_return')[[3, 20], [0, 7]]))
    first = collect(pole, tmp_path/'s', 3, Recipe(n_saves=2, **SHORT | dict(epochs=1)), progress=False)
    file = next((tmp_path/'s').glob('shard*')); whole = file.read_bytes(); file.write_bytes(whole[:99])
    collect(pole, tmp_path/'s', 3, Recipe(n_saves=2, **SHORT | dict(epochs=1)), progress=False)
    assert file.read_bytes() == whole and first.S == 2

def test_recipe(pole, task):
    assert usual_recipe(task) == Recipe() and usual_recipe(pole).optimizer == 'ppo' and usual_recipe(pole).n_steps(pole) == 960
    cost = estimate(pole, usual_recipe(pole), 8)
    assert cost['seconds'] > 0 and cost['bytes'] > 8*64*1249*4

@pytest.mark.parametrize('f', [lambda p: optimizer_grid(p, unseen_starts(p, 2), 3), lambda p: next(descend(p, unseen_starts(p, 2), 3)), lambda p: collect(p, 'never', 2, Recipe(), progress=False)], ids=['grid', 'descend', 'collect'])
def test_other_optimizers_make_no_sense(pole, f, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="task cartpole has no labels for '(sgd|nesterov)' to descend on: its networks learn by playing; use optimizer='ppo'"): f(pole)

def test_labels_cannot_be_played(task):
    with pytest.raises(ValueError, match="there is no optimizer 'ppo'"): next(descend(task, unseen_starts(task, 2), 3, 'ppo'))

def test_landscape_and_pictures(pole, policies):
    plane = random_plane(LAYOUT, policies[-1], torch.Generator().manual_seed(0))
    xs, ys = grid_around(plane, policies[-1:], 3)
    z = surface(pole, plane, xs, ys, 'return')
    assert z.shape == (3, 3) and z[1, 1] == measure(pole, plane.rows(torch.stack([xs[1], ys[1]])[None]))['return'][0]
    fig = Drawing([['a']], {}); draw_predictions(fig, 'a', pole, policies[-1], torch.arange(12))
    assert 'logit' in json.dumps(fig.layout['yaxis'])

def test_model_and_alignment(pole, pole_model):
    ask = Prompter(*load_model(pole_model, restore))
    r = prompt_alignment(ask, pole, 2, 4)
    assert ask.metric == 'return' and (r['prompts'][:, 0] == ask.best).all() and r['prompts'].max() == ask.best and r['achieved'].shape == (2, 4)

def test_widgets(pole_model, tmp_path):
    e = w.Explorer([pole_model.parent], tmp_path, race_steps=20); e.finish()
    assert e.message.value == '' and e.optimizer.options == (('PPO', 'ppo'),) and len(e.view.path.rows) == 21 and e.view.there is not None
    e.prompt.value = 300.; e.finish(); assert e.message.value == ''
    for make in (w.first_look, lambda f: landscape_view(f, 20, 5), denoising_view, lambda f: walk_view(f, n_frames=2)): 
        widget = make(pole_model); widget.finish(); assert widget.message.value == '' and widget.fig.figure.data

def test_widgets_between_tasks(pole_model, model_file, tmp_path):
    for f in (pole_model, model_file): (tmp_path/f.name).write_bytes(f.read_bytes())
    e = w.Explorer([tmp_path], tmp_path, race_steps=20); e.finish()
    for name in ('tiny', 'cartpole-return', 'tiny'):
        e.model.value = name; e.finish()
        assert e.message.value == '' and e.optimizer.value == ('ppo' if 'pole' in name else 'nesterov') and len(e.optimizer.options) == (1 if 'pole' in name else 4)

def test_commands(gpt_kit, pole_model, tmp_path):
    r = gpt_kit('collect', tmp_path/'s', '--task', 'cartpole', '--runs', 2, '--saves', 3, '--epochs', 1)
    assert r.returncode == 0 and 'cartpole' in r.stdout, r.stderr
    assert json.loads((tmp_path/'s'/'index.json').read_text())['recipe']['optimizer'] == 'ppo'
    assert gpt_kit('collect', tmp_path/'s').returncode == 0
    r = gpt_kit('collect', tmp_path/'t', '--task', 'cartpole', '--runs', 2, '--optimizer', 'adam')
    assert r.returncode == 1 and r.stderr.count('\n') == 1 and "use optimizer='ppo'" in r.stderr
    r = gpt_kit('evaluate', pole_model, '--starts', 2, '--json', tmp_path/'n.json')
    assert r.returncode == 0 and 'learn by playing' in r.stdout and json.loads((tmp_path/'n.json').read_text())['baselines'] == {}, r.stderr

def test_film(pole, policies):
    gif = Image.open(io.BytesIO(film(pole, policies[[0, -1]], pole.test[0][0], 30)))
    assert gif.format == 'GIF' and gif.is_animated and gif.size[0] > 2*290
    assert len(film(pole, policies[[0, -1]], pole.test[0][0])) < 300_000

def test_a_start_as_good_as_the_best(pole, pole_model):
    "It cannot be asked for anything better, and is left out of the mean."
    ask = Prompter(*load_model(pole_model, restore))
    ask.best = measure(pole, unseen_starts(pole, 4))['return'].max().item()
    ask.seen = [0., 500.]
    r = prompt_alignment(ask, pole, 4, steps=2)
    left = [e for e, p in zip(r['each'].tolist(), r['prompts']) if p[0] != p[-1]]
    assert len(left) == 3 and r['alignment'] == pytest.approx(sum(left)/3)

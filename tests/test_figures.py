"""Every figure of the G.pt paper at a tiny size: it runs to its verdict, and its rule can say both.
What the verdict is doesn't matter: at this size it means nothing. That it follows from the rule does."""
import json
import re
from pathlib import Path

import pytest

from conftest import follows
from gpt_kit.networks.checks import UserError
from gpt_kit.run.gallery import both_ways, verdict
from gpt_kit.run.parameters import read_parameters

ROOT = Path(__file__).parent.parent
FIGURES = [f for f in sorted((ROOT/'nbs'/'figures').glob('*.ipynb')) if not f.stem.startswith('pdiff')]
SMALL = dict(size=.01, n_starts=2, n_prompts=4, n_samples=6, n_points=7, n_updates=2, opt_steps=12, seeds=1,
             n_orders=2, n_trained=2, n_frames=4, n_rows=2, n_others=6, n_side=3, ddpm_steps=4,
             widths=[24], n_runs=[16], saves=[2], moments=[1.], rates=[[.002], [.002]])

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_figures_look_alike(file):
    cells = json.loads(file.read_text())['cells']
    text = {c['id']: ''.join(c['source']) for c in cells}
    code = '\n'.join(text[c['id']] for c in cells if c['cell_type'] == 'code')
    assert re.match(r'# \S.*\n\n> \S', text[cells[0]['id']])
    assert not re.search(r'^\s*(def|class|while) ', code, re.M)
    assert {'cache', 'size'} <= set(read_parameters(file))
    assert cells[-1]['id'] == 'verdict' and re.search(r'^verdict\(', text['verdict'], re.M)
    assert 'rule(' in text['verdict'] and '**Holds**' in text['rule-md']
    assert 'rule = lambda' in text['rule'] and 'both_ways(rule' in text['rule']
    assert all(c.get('outputs', []) == [] for c in cells)

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_figure(file, figure_here, tmp_path_factory):
    found = figure_here(file, dict(SMALL, cache=str(tmp_path_factory.getbasetemp()/'cache')))
    assert len(found['checks']) >= 2

RULE = lambda n: {'the update is better than a step': n['a'] > 1, 'and better than ten steps': n['b'] > 1}
GOOD = dict(a=2., b=2.)

def test_what_follows_is_seen():
    "The check above, on verdicts that follow from a rule and on others that don't."
    words = {'holds': GOOD, 'holds in part': dict(a=2., b=0.), 'does not hold here': dict(a=0., b=0.)}
    for word, n in words.items():
        found = verdict('Fig. 0', 'an update does more than a step', n, RULE(n))
        assert found['verdict'] == word
        follows(found, RULE, GOOD, RULE(n))
    two, one = RULE(GOOD), {'the update is better than a step': True}
    found = verdict('Fig. 0', 'an update does more than a step', GOOD, two)
    found['ours'] = dict(a=float('nan'), b=1.)
    wrong = [(verdict('Fig. 0', 'an update does more than a step', GOOD, one), one),     # a check is missing
             (verdict('Fig. 0', 'an update does more than a step', {}, two), two),       # no numbers
             (verdict('Fig. 0', 'an update does more than a step', GOOD, dict.fromkeys(two, False)), two),
             (found, two)]
    for found, checks in wrong:
        with pytest.raises(AssertionError): follows(found, RULE, GOOD, checks)

def test_a_rule_says_both():
    both_ways(RULE, holds=GOOD, fails=dict(a=0., b=0.))
    half = dict(a=2., b=0.)
    with pytest.raises(UserError, match="should say 'holds'"): both_ways(RULE, half, dict(a=0., b=0.))
    with pytest.raises(UserError, match="should say 'does not"): both_ways(RULE, GOOD, half)

def test_command(gpt_kit, tmp_path, tmp_path_factory):
    "A figure by its name, and its page; what is there already is not made again."
    cache, out = tmp_path_factory.getbasetemp()/'cache', tmp_path/'out'
    words = ['figures', 'tab1', '-p', 'size', .01, '-p', 'cache', cache, '--out', out]
    first = gpt_kit(*words, cwd=ROOT)
    assert first.returncode == 0, first.stderr
    assert 'Tab. 1' in first.stdout and 'Tab. 1' in (out/'index.html').read_text()
    assert json.loads((out/'verdicts.json').read_text())['tab1_models']['seconds'] > 0
    assert 'has run already' in gpt_kit(*words, cwd=ROOT).stdout
    (tmp_path/'again.yaml').write_text(f'figures/tab1_models:\n  size: .01\n  cache: {cache}\n')
    named = gpt_kit('figures', 'tab1', '-f', tmp_path/'again.yaml', '--out', out, cwd=ROOT)
    assert named.returncode == 0 and 'has run already' in named.stdout, named.stderr

def test_command_refuses(gpt_kit, tmp_path):
    bad, elsewhere = gpt_kit('figures', 'fig99', cwd=ROOT), gpt_kit('figures', cwd=tmp_path)
    assert elsewhere.returncode == 1 and 'clone of the repository' in elsewhere.stderr
    assert bad.returncode == 1
    assert "there is no figure 'fig99' in nbs/figures (did you mean fig09?); there are " in bad.stderr
    assert ' fig03_one_step,' in bad.stderr
    assert elsewhere.stderr.count('\n') == bad.stderr.count('\n') == 1

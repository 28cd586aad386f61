"Every figure of the G.pt paper at a tiny size: it runs to its verdict, and its rule can say both. The verdict itself is not tested: at this size it means nothing."
import json, re
from pathlib import Path

import pytest

from gpt_kit.batch import read_parameters
from gpt_kit.gallery import WORDS

ROOT = Path(__file__).parent.parent
FIGURES = [f for f in sorted((ROOT/'nbs'/'figures').glob('*.ipynb')) if not f.stem.startswith('pdiff')]
SMALL = dict(size=.01, n_starts=2, n_prompts=4, n_samples=6, n_points=7, n_updates=2, opt_steps=12, seeds=1,
             n_orders=2, n_trained=2, n_frames=4, n_rows=2, n_others=6, n_side=3, ddpm_steps=4,
             widths=[24], n_runs=[16], saves=[2], moments=[1.])

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_figures_look_alike(file):
    cells = json.loads(file.read_text())['cells']
    text = {c['id']: ''.join(c['source']) for c in cells}
    code = '\n'.join(text[c['id']] for c in cells if c['cell_type'] == 'code')
    assert re.match(r'# \S.*\n\n> \S', text[cells[0]['id']]) and not re.search(r'^\s*(def|class|while) ', code, re.M)
    assert {'cache', 'size'} <= set(read_parameters(file))
    assert cells[-1]['id'] == 'verdict' and re.search(r'^verdict\(', text['verdict'], re.M) and 'rule(' in text['verdict']
    assert '**Holds**' in text['rule-md'] and 'rule = lambda' in text['rule'] and 'both_ways(rule' in text['rule']
    assert all(c.get('outputs', []) == [] for c in cells)

@pytest.mark.parametrize('file', FIGURES, ids=lambda f: f.stem)
def test_figure(file, run_here, tmp_path_factory):
    found = run_here(file, dict(SMALL, cache=str(tmp_path_factory.getbasetemp()/'cache')))
    assert found['verdict'] in WORDS and found['ours'] and found['paper']

def test_command(gpt_kit, tmp_path, tmp_path_factory):
    "A figure by its name, and its page; what is there already is not made again."
    words = ['figures', 'tab1', '-p', 'size', .01, '-p', 'cache', tmp_path_factory.getbasetemp()/'cache', '--out', tmp_path/'out']
    code, out, err = (r := gpt_kit(*words, cwd=ROOT)).returncode, r.stdout, r.stderr
    assert code == 0, err
    assert 'Tab. 1' in out and 'Tab. 1' in (tmp_path/'out'/'index.html').read_text() and json.loads((tmp_path/'out'/'verdicts.json').read_text())
    assert 'has run already' in gpt_kit(*words, cwd=ROOT).stdout
    bad = gpt_kit('figures', 'fig99', cwd=ROOT)
    elsewhere = gpt_kit('figures', cwd=tmp_path)
    assert elsewhere.returncode == 1 and 'clone of the repository' in elsewhere.stderr and elsewhere.stderr.count('\n') == 1
    assert bad.returncode == 1 and re.search(r"there is no figure 'fig99'.*fig03", bad.stderr) and bad.stderr.count('\n') == 1

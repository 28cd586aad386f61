"The measurement of networks from noise: several models, medians, and what it prints."
import importlib
import sys
from pathlib import Path

import pytest

from gpt_kit.networks.collect import Recipe
from gpt_kit.study.from_noise import describe_networks, train_fresh

BENCH = Path(__file__).parent.parent/'bench'

@pytest.fixture
def bench(monkeypatch, tmp_path):
    "The script, which writes its figures elsewhere and times briefly."
    monkeypatch.syspath_prepend(BENCH)
    common = importlib.import_module('common')
    monkeypatch.setattr(common, 'BUILD', tmp_path)
    script = importlib.import_module('from_noise')
    monkeypatch.setattr(script, 'median_seconds', lambda f, at_least=7: (f(), .5)[1])
    monkeypatch.setattr(script, 'obeys', lambda ask, guidance, seed: .5)      # takes long
    yield script
    for name in ('common', 'from_noise'): sys.modules.pop(name)

def test_several_models_and_one_store(bench):
    assert (bench.parse(['a', 'store']).models, bench.parse(['a', 'store']).store) == (['a'], 'store')
    a = bench.parse(['a', 'b', 'c', 'store', '--guidance', '0', '1'])
    assert (a.models, a.store, a.guidance) == (['a', 'b', 'c'], 'store', [0., 1.])

def test_medians_follow_each_models_own_numbers(bench, capsys):
    bench.record_medians('guidance 0', [dict(error=e) for e in (4., 9., 5.)])
    assert capsys.readouterr().out.split() == 'median of 3, guidance 0 error 5'.split()
    bench.record_medians('guidance 0', [dict(error=4.)])                            # of one there is none
    assert not capsys.readouterr().out

def test_each_model_is_described_as_in_the_lesson(bench, task, store, model_file, tmp_path, capsys):
    other = tmp_path/'other.safetensors'
    other.write_bytes(Path(model_file).read_bytes())
    bench.main([str(model_file), str(other), str(store.path), '--n', '3', '--guidance', '0'])
    lines = capsys.readouterr().out.splitlines()
    names = ['trainings', Path(model_file).name, 'other.safetensors', 'median of 2']
    assert all(line.startswith(name) for line, name in zip(lines, names)) and len(lines) == 4
    found = sys.modules['common'].figures('from_noise')
    trained, (one, two) = found['trainings'], [v for name, v in found.items() if 'safetensors' in name]
    assert one == two == found['median of 2, guidance 0'] and one['seconds_for_64'] == .5
    recipe = Recipe(**store.info['recipe'])
    ends = store.rows(range(store.R), [store.S - 1]*store.R)
    mine = describe_networks(task, train_fresh(task, recipe, 3, seed=bench.UNSEEN).rows, ends)
    for name in ('error', 'loss', 'ensemble, test', 'spread'):
        assert trained[name] == pytest.approx(mine[name], rel=1e-4)

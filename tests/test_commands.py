"The main job as commands, each in a process of its own: collect, train, prompt, evaluate, run."
import json

import pytest
from safetensors.torch import load_file

from gpt_kit.store import Store
from gpt_kit.tasks import digits
from gpt_kit.train import load_model
from gpt_kit.weights import Layout, measure, to_row
from gpt_kit.model import restore

@pytest.mark.slow
def test_from_nothing_to_a_network(gpt_kit, tmp_path):
    "Slow because each command imports torch anew."
    def did(*args):
        r = gpt_kit(*args)
        assert r.returncode == 0, r.stderr
        return r.stdout
    store, model, net = tmp_path/'store', tmp_path/'m.safetensors', tmp_path/'net.safetensors'
    said = did('collect', store, '--task', 'digits', '--runs', 32, '--saves', 4, '--epochs', 1, '--seed', 3)
    assert 'MB' in said.splitlines()[0] and 'about' in said.splitlines()[0]          # what it will cost, before it starts
    assert (Store(store).verify().R, Store(store).S) == (32, 4)
    did('train', store, model, '--metric', 'error', '--tokens', 'neuron', '--width', 24, '--depth', 1, '--heads', 2, '--steps', 5, '--device', 'cpu')
    assert load_model(model, restore)[1]['metric']['name'] == 'test_error' and not list(tmp_path.glob('*.training.*'))
    said = did('prompt', model, 80, '--out', net)
    achieved = measure(digits(), to_row(load_file(net), Layout(digits().layers))[None])['error'].item()
    assert f'achieved {achieved:.4g}' in said
    assert 'achieved' in did('prompt', model, 80, '--start', net)
    did('evaluate', model, '--starts', 2, '--opt_steps', 2, '--json', tmp_path/'numbers.json')
    numbers = json.loads((tmp_path/'numbers.json').read_text())
    assert numbers['metric'] == 'error' and numbers['prompt_alignment'] <= 1 and numbers['baselines']

@pytest.mark.parametrize('command', ['collect', 'train', 'prompt', 'evaluate', 'run', 'report'])
def test_help(command, capsys):
    from gpt_kit.cli import COMMANDS, main
    with pytest.raises(SystemExit) as e: main([command, '--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert e.value.code == 0 and COMMANDS[command].__doc__ in said

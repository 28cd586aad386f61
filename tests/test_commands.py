"The main job as commands, each in a process of its own; every command's help; what each exit code means."
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from gpt_kit.gpt.load import load_model
from gpt_kit.gpt.presets import get_world
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import digits
from gpt_kit.networks.weights import Layout, measure, to_row
from gpt_kit.run.commands import COMMANDS, main

ROOT = Path(__file__).parent.parent

@pytest.mark.slow
def test_from_nothing_to_a_network(gpt_kit, tmp_path):
    "Slow because each command imports torch anew."
    def did(*args):
        r = gpt_kit(*args)
        assert r.returncode == 0, r.stderr
        return r.stdout
    store, model, net = tmp_path/'store', tmp_path/'m.safetensors', tmp_path/'net.safetensors'
    cpu = '--device', 'cpu'
    few = '--runs', 32, '--saves', 4, '--epochs', 1
    said = did('collect', store, '--task', 'digits', *few, '--seed', 3, *cpu)
    assert 'MB' in said.splitlines()[0] and 'about' in said.splitlines()[0]   # the cost, before it starts
    assert (Store(store).verify().R, Store(store).S) == (32, 4)
    small = '--width', 24, '--depth', 1, '--heads', 2, '--steps', 5
    did('train', store, model, '--metric', 'error', '--tokens', 'neuron', *small, *cpu)
    assert load_model(model)[1]['metric']['name'] == 'test_error' and not list(tmp_path.glob('*.training.*'))
    said = did('prompt', model, 80, '--out', net, *cpu)
    achieved = measure(digits(), to_row(load_file(net), Layout(digits().layers))[None])['error'].item()
    assert f'achieved {achieved:.4g}' in said
    assert 'achieved' in did('prompt', model, 80, '--start', net)
    trained = load_model(model)[1]['calibration']
    assert 'prompts are corrected by this curve' in did('calibrate', model, store, '--starts', 8, *cpu)
    assert load_model(model)[1]['calibration'] != trained
    did('evaluate', model, '--starts', 2, '--opt_steps', 2, '--json', tmp_path/'numbers.json', *cpu)
    numbers = json.loads((tmp_path/'numbers.json').read_text())
    assert numbers['metric'] == 'error' and numbers['prompt_alignment'] <= 1 and numbers['baselines']

def test_a_preset_says_what_options_leave_open(store, tmp_path, capsys):
    small = ['--width', '24', '--heads', '2', '--depth', '1', '--steps', '2', '--batch', '8']
    def trained(*words):
        file = tmp_path/f'{len(list(tmp_path.iterdir()))}.safetensors'
        assert main(['train', str(store.path), str(file), *small, *words]) == 0, capsys.readouterr().err
        info = load_model(file)[1]
        return info['metric']['name'], info['sampling'], info['power'], info['training']['lr']
    assert trained() == ('test_loss', 'even', 2., 7e-3)
    assert trained('--preset', 'digits-error') == ('test_error', 'even', 2., 7e-3)
    mine = ['--metric', 'loss', '--sampling', 'paper', '--power', '1', '--lr', '.001']
    assert trained('--preset', 'digits-error', *mine) == ('test_loss', 'paper', 1., 1e-3)

@pytest.mark.parametrize('words', [[], ['--behaviour', '0']])
def test_behaviour_that_is_off_is_off(store, tmp_path, capsys, words):
    "Also where a preset compares losses beside it."
    file = tmp_path/'m.safetensors'
    small = ['--width', '24', '--heads', '2', '--depth', '1', '--steps', '2', '--batch', '8']
    command = ['train', str(store.path), str(file), '--preset', 'fashion-loss', *small, *words]
    assert main(command) == 0, capsys.readouterr().err
    training, usual = load_model(file)[1]['training'], get_world('fashion-loss').training
    assert usual.behaviour > 0 and usual.loss_gap > 0
    wanted = (0, 0) if words else (usual.behaviour, usual.loss_gap)
    assert (training['behaviour'], training['loss_gap']) == wanted

# Help

@pytest.mark.parametrize('name', COMMANDS)
def test_help(name, capsys):
    "What it is for, and a line for each of its parameters."
    assert main([name, '--help']) == 0
    said = ' '.join(capsys.readouterr().out.split())
    assert f'usage: gpt-kit {name} ' in said and COMMANDS[name].__doc__ in said
    code = COMMANDS[name].__code__
    for parameter in code.co_varnames[:code.co_argcount]:
        assert (parameter if parameter != 'notebooks' or name == 'report' else 'NOTEBOOK') in said, parameter

def test_help_of_all(capsys):
    for words in ([], ['--help'], ['-h']):
        assert main(words) == 0
        said = capsys.readouterr().out
        for name, f in COMMANDS.items(): assert name in said and f.__doc__.splitlines()[0] in said

def test_help_comes_without_torch():
    "Nor anything else that takes long to import; in a process of its own, for this one has them all."
    heavy = 'torch', 'numpy', 'pandas', 'plotly', 'papermill', 'nbformat', 'nbconvert', 'jinja2', 'yaml'
    code = f"""
import sys
from gpt_kit.run.commands import COMMANDS, main
codes = [main(words) for words in [['--help'], ['trian'], *([name, '--help'] for name in COMMANDS)]]
print(codes, [name for name in {heavy} if name in sys.modules])"""
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert r.stdout.splitlines()[-1] == f'{[0, 2] + [0]*len(COMMANDS)} []', r.stdout + r.stderr

# Exit codes

@pytest.mark.parametrize('words, said', [
    (['trian', 'store'], "there is no command 'trian' (did you mean train?)"),
    (['collect'], 'the following arguments are required: path'),
    (['collect', 'store', '--run', '2', '--rums', '3'], 'unrecognized arguments: --rums 3'),
    (['collect', 'store', '--runs', 'many'], "invalid int value: 'many'"),
    (['prompt', 'digits-loss', 'low'], "invalid float value: 'low'"),
    (['run'], 'the following arguments are required: NOTEBOOK'),
    (['run', 'start', '-p', 'steps'], 'argument -p: expected 2 arguments')], ids=lambda v: ' '.join(v[:4]))
def test_words_that_make_no_command(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())

def raising(error):
    def f(): raise error
    return f

@pytest.mark.parametrize('error, code, said', [
    (UserError('there is no such thing'), 1, 'gpt-kit: there is no such thing\n'),
    (OSError(28, 'no space left for it'), 1, 'gpt-kit: no space left for it\n'),
    (FileNotFoundError(2, 'No such file', 'a.csv'), 1, "gpt-kit: [Errno 2] No such file: 'a.csv'\n"),
    (KeyboardInterrupt(), 130, '\ngpt-kit: interrupted; what was finished is kept, '
                               'and the same command goes on from there\n')], ids=lambda v: type(v).__name__)
def test_errors_for_people(error, code, said, capsys, monkeypatch):
    monkeypatch.setitem(COMMANDS, 'odd', raising(error))
    assert main(['odd']) == code and capsys.readouterr().err == said

@pytest.mark.parametrize('error', [ValueError('a bug'), RuntimeError('a bug'), KeyError('a bug')], ids=repr)
def test_bugs_keep_their_traces(error, monkeypatch):
    monkeypatch.setitem(COMMANDS, 'odd', raising(error))
    with pytest.raises(type(error), match='a bug'): main(['odd'])

@pytest.mark.skipif(os.name != 'posix', reason='signals as POSIX has them')
def test_interrupted(tmp_path):
    "By a signal, in a process of its own, while it works."
    sleepy = "import time\ndef task():\n    print('go', flush=True)\n    time.sleep(60)\n"
    (tmp_path/'sleepy.py').write_text(sleepy)
    words = [sys.executable, '-m', 'gpt_kit.run.commands', 'collect', 'store', '--task', 'sleepy:task']
    env = os.environ | dict(PYTHONPATH=str(ROOT))
    PIPE = subprocess.PIPE
    p = subprocess.Popen(words, cwd=tmp_path, env=env, text=True, stdout=PIPE, stderr=PIPE)
    assert p.stdout.readline() == 'go\n', p.communicate()[1]
    p.send_signal(signal.SIGINT)
    said = p.communicate(timeout=60)[1]
    assert p.returncode == 130 and said.startswith('\ngpt-kit: interrupted; ') and said.count('\n') == 2
    assert not (tmp_path/'store').exists()

"Tasks by name: what a file names is never run; fingerprints know functions as well as data."
import functools
import hashlib
import importlib
import json
import linecache
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from gpt_kit.gpt.behaviour import behaviour_for
from gpt_kit.gpt.load import load
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks import registry
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.registry import get_task, known_task, known_task_or_family, task_of
from gpt_kit.networks.sources import function_source
from gpt_kit.networks.store import Store, read_tensors, write_tensors
from gpt_kit.networks.tasks import TASKS, Metric, Task, cross_entropy, digits, mlp, uniform_start
from gpt_kit.outside.released import RELEASED_TASKS
from gpt_kit.run.commands import main

ROOT = Path(__file__).parent.parent
SMALL = '--width', 24, '--depth', 1, '--heads', 2, '--steps', 2, '--batch', 8
REFUSED = "which is not one of the kit's own, and nothing that a file names is run"

MINE = """
import torch
from gpt_kit.networks.tasks import classification, mlp
X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
def task(): return classification('mine:task', X, torch.arange(90) % 3, mlp((4, 4, 3)))
def other(): return classification('mine:other', X, torch.arange(90) % 3, mlp((4, 5, 3)))
"""
TRAP = "open('sprung', 'w').write('run')\nfrom mine import task\ndef task2(): return task()\n"

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with a task of one's own, mine.py, a store and a model of it."
    folder = tmp_path_factory.mktemp('mine')
    (folder/'mine.py').write_text(MINE)
    sys.path.insert(0, str(folder))
    recipe = Recipe(epochs=3, n_saves=3)
    store = collect(get_task('mine:task'), folder/'store', 6, recipe=recipe, progress=False)
    torch.manual_seed(0)
    model = GPT(store.info['layers'], width=24, depth=1, heads=2)
    config, file = TrainConfig(steps=2, batch=8, warmup=1), folder/'model.safetensors'
    train_gpt(model, prepare_data(store, 'test_loss'), config, file, progress=False)
    yield folder
    sys.path.remove(str(folder))

@pytest.fixture
def forgotten(monkeypatch):
    "As in a new process: nothing was named, and no module of a test is loaded."
    monkeypatch.setattr(registry, 'NAMED', set())
    for name in ('mine', 'trap', 'bad'): monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    path = list(sys.path)
    yield
    sys.path[:] = path
    for name in ('trap', 'bad'): sys.modules.pop(name, None)

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch, forgotten):
    "Run a command in a folder of its own: its exit code and its last sentence."
    monkeypatch.chdir(tmp_path)
    def run(*words):
        code = main([str(w) for w in words])
        out, err = capsys.readouterr()
        said = [line for line in err.splitlines() if line.startswith('gpt-kit: ')]
        return code, said[-1] if said else out
    return run

def renamed(made, folder, name):
    "Copies of the model and the store that say they are of another task, and a module for it beside them."
    tensors, info = read_tensors(made/'model.safetensors')
    write_tensors(folder/'model.safetensors', tensors, dict(info, task=name))
    (folder/'store').mkdir()
    for file in (made/'store').iterdir(): (folder/'store'/file.name).write_bytes(file.read_bytes())
    index = json.loads((folder/'store'/'index.json').read_text())
    (folder/'store'/'index.json').write_text(json.dumps(dict(index, task=name)))
    (folder/'trap.py').write_text(TRAP)
    (folder/'mine.py').write_text(MINE)

# What a file names

COMMANDS = dict(
    prompt=('prompt', 'model.safetensors', 1), evaluate=('evaluate', 'model.safetensors', '--starts', 2),
    calibrate=('calibrate', 'model.safetensors', 'store', '--starts', 2),
    train=('train', 'store', 'new.safetensors', '--behaviour', 1, *SMALL),
    collect=('collect', 'store', '--runs', 8))

@pytest.mark.parametrize('words', COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize('name', ['trap:task2', 'wine', 'gpt_kit.networks.tasks:digits'])
def test_commands_run_nothing_that_a_file_names(kit, made, tmp_path, words, name):
    "Neither a module that lies beside the download nor one that is installed."
    renamed(made, tmp_path, name)
    before = {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()}
    code, said = kit(*words)
    assert code == 1 and REFUSED in said and repr(name) in said and '--task module:function' in said
    assert 'trap' not in sys.modules and str(tmp_path) not in sys.path
    assert {f: f.read_bytes() for f in tmp_path.rglob('*') if f.is_file()} == before

def test_python_runs_nothing_that_a_file_names(made, tmp_path, monkeypatch, forgotten):
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(tmp_path)
    renamed(made, tmp_path, 'trap:task2')
    ask, store = load('model.safetensors'), Store('store')
    for use in (lambda: ask.task, lambda: ask.measure(store.rows([0], [0])), lambda: task_of(store.info),
                lambda: behaviour_for(prepare_data(store, 'test_loss'), 1.)):
        with pytest.raises(UserError, match=REFUSED): use()
    assert not Path('sprung').exists()

def test_a_training_state_runs_nothing_either(kit, made, tmp_path):
    renamed(made, tmp_path, 'trap:task2')
    state = dict(kind='training', about=dict(task='trap:task2'), config={}, step=1, seconds=1.)
    write_tensors(tmp_path/'new.training.safetensors', dict(x=torch.zeros(1)), state)
    assert kit('train', 'store', 'new.safetensors', '--behaviour', 0, *SMALL)[0] == 1
    assert 'trap' not in sys.modules and not (tmp_path/'sprung').exists()

def test_a_model_that_would_abort(gpt_kit, made, tmp_path):
    "In a process of its own, for without the refusal it dies by a signal."
    renamed(made, tmp_path, 'os:abort')
    r = gpt_kit('prompt', 'model.safetensors', 1, cwd=tmp_path)
    assert r.returncode == 1 and REFUSED in r.stderr and r.stderr.count('\n') == 1

@given(st.one_of(st.none(), st.integers(), st.lists(st.text()), st.text(), st.sampled_from(
    ['digits-999999999', 'digits-' + '9'*5000, 'digits-4097', 'digits-0', 'digits' + '-2'*9, 'digits-٣',
     'digits-linear-2', 'mine:task', ':', 'a:', ':a', 'os:abort', '../mnist', 'digits-1e3', 'digits--2'])))
def test_names_of_any_kind(name):
    with pytest.raises(UserError): known_task(name)

def test_the_kits_names():
    assert set(TASKS) == {'digits', 'digits-cnn', 'cartpole', 'cartpole-paper', 'fashion', 'fashion-cnn',
                          'mnist', 'mnist-released', 'cifar10', 'cifar10-released'}
    assert set(RELEASED_TASKS.values()) <= set(TASKS)
    for name in ('digits', 'digits-cnn', 'cartpole', 'cartpole-paper', 'digits-32-16', 'digits-linear'):
        task = known_task(name)
        assert task.name == name and known_task(name, task.fingerprint).layers == task.layers
    with pytest.raises(UserError, match='another task'): known_task('digits', '0'*12)

def test_widths():
    assert get_task('digits-4096').layers[0] == ['Linear', 64, 4096, True]
    for name in ('digits-999999999', 'digits-4097', 'digits-0', 'digits-8-0', 'digits-' + '9'*5000):
        with pytest.raises(UserError, match='up to 8 hidden layers of 1 to 4096 neurons'): get_task(name)

# What you name

def test_a_task_that_is_named(kit, made, tmp_path):
    "From the store to a network, with the task's name on every command; in its own folder."
    renamed(made, tmp_path, 'mine:task')
    mine = '--task', 'mine:task'
    for words in COMMANDS.values():
        short = ('--opt_steps', 3) if words[0] == 'evaluate' else ()
        code, said = kit(*words, *short, *mine)
        assert code == 0, said
    for words in COMMANDS.values():
        code, said = kit(*words, '--task', 'mine:other')
        assert code == 1 and 'another task' in said

def test_a_task_that_is_given(made, forgotten):
    file, store = made/'model.safetensors', Store(made/'store')
    with pytest.raises(UserError, match=REFUSED): load(file).task
    assert load(file, task='mine:task').task.name == 'mine:task'
    assert load(file).task.name == 'mine:task', 'it was named in this process'
    task = get_task('mine:task')
    assert load(file, task=task).task is task
    assert behaviour_for(prepare_data(store, 'test_loss'), 1., task=task).layout.D == store.D
    for other in ('digits', digits(), 'mine:other'):
        with pytest.raises(UserError, match='made for another task'): load(file, task=other)

def test_from_another_folder(kit, made, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p != str(made)])
    code, said = kit('prompt', made/'model.safetensors', 1, '--task', 'mine:task')
    assert (code, said) == (1, 'gpt-kit: the task mine:task is not found from here; run where mine.py lies, '
                               'or add its folder to PYTHONPATH')
    monkeypatch.chdir(made)
    assert kit('prompt', made/'model.safetensors', 1, '--task', 'mine:task')[0] == 0

BAD = """
from gpt_kit.networks.tasks import digits, Task
from gpt_kit.networks.checks import UserError
def fails(): return {}['x']
def silent(): raise AssertionError
def leaves(): raise SystemExit('3 lines\\n of\\n text')
def says(): raise UserError("choose another folder")
def argument(widths): return digits(widths)
def keyword(*, widths): return digits(widths)
def number(): return 3
table = {}
made = digits((2,))
kind = Task
"""

@pytest.mark.parametrize('function, sentence', dict(
    fails="bad:fails failed with KeyError: 'x'; mend it there",
    silent='bad:silent failed with AssertionError; mend it there',
    leaves='bad:leaves failed with SystemExit: 3 lines of text; mend it there',
    says='choose another folder',
    argument="bad:argument takes an argument (missing a required argument: 'widths'), but a task's function "
             "is called without any; give it a default",
    keyword="bad:keyword takes an argument (missing a required argument: 'widths'), but a task's function "
            "is called without any; give it a default",
    number='bad:number gave a int, but a Task was expected',
    table='bad:table is a dict, but a function that returns your Task was expected',
    made='bad:made is a Task, but a function that returns your Task was expected',
    kind="bad:kind takes an argument (missing a required argument: 'name'), but a task's function is called "
         "without any; give it a default",
    fial="bad.py has no function 'fial' (did you mean fails?), so there is no task bad:fial").items())
def test_functions_that_are_no_tasks(kit, tmp_path, function, sentence):
    (tmp_path/'bad.py').write_text(BAD)
    code, said = kit('collect', 'store', '--task', f'bad:{function}')
    assert (code, said) == (1, f'gpt-kit: {sentence}')
    assert not (tmp_path/'store').exists()

@pytest.mark.parametrize('source, error', [
    ('def task(:', 'SyntaxError: invalid syntax (bad.py, line 1)'),
    ('import no_such_thing', "ModuleNotFoundError: No module named 'no_such_thing'"),
    ('1/0', 'ZeroDivisionError: division by zero'), ('import sys; sys.exit()', 'SystemExit')])
def test_modules_that_fail(kit, tmp_path, source, error):
    (tmp_path/'bad.py').write_text(source)
    code, said = kit('collect', 'store', '--task', 'bad:task')
    assert code == 1 and said.startswith(f'gpt-kit: bad.py of task bad:task failed with {error}')

# Fingerprints

GAIN = 1.
def half(x): return x/2
def start(shape, fan_in, generator, factor=1.): return half(torch.ones(shape))*GAIN*factor
def wobbly(X, generator): return X
def near(logits, y): return cross_entropy(logits, y)
def made_of(**changes):
    X = torch.arange(24.).view(6, 4)
    options = dict(start=start, loss=near, metrics=dict(loss=Metric('loss', 'nats', near))) | changes
    return Task('any', mlp((4, 3, 2)), (X, [0, 1]*3), (X, [0, 1]*3), **options)
class Smooth(torch.nn.CrossEntropyLoss):
    def forward(self, z, y): return super().forward(z, y.expand(len(z), -1)).mean()*torch.ones(len(z))
def within(limit): return lambda shape, fan_in, generator: limit*torch.ones(shape)

ALONE, SPLIT = lambda s, f, g: torch.ones(s), lambda s, f, g: (
    torch.zeros(s))
VARIANTS = dict(
    start=dict(start=uniform_start), loss=dict(loss=lambda z, y: 2*near(z, y)),
    metric=dict(metrics=dict(loss=Metric('loss', 'nats', lambda z, y: 2*near(z, y)))),
    sense=dict(metrics=dict(loss=Metric('loss', 'nats', near, minimize=False))),
    augment=dict(augment=wobbly), two=dict(start=functools.partial(start, factor=2.)),
    three=dict(start=functools.partial(start, factor=3.)),
    one=dict(start=within(1.)), held=dict(start=within(2.)),
    on_its_line=dict(start=ALONE), on_two_lines=dict(start=SPLIT), in_c=dict(start=torch.add),
    object=dict(loss=Smooth()),
    smooth=dict(loss=Smooth(label_smoothing=.1)), plain={})

def test_every_function_counts():
    "No two of these tasks have the same fingerprint, and each has its own again when it is made again."
    once, again = ([made_of(**changes).fingerprint for changes in VARIANTS.values()] for _ in range(2))
    assert once == again and len(set(once)) == len(once) == len(VARIANTS)

def test_what_a_function_uses_counts(monkeypatch):
    "A number beside it, a default, a function beside it."
    before = made_of().fingerprint
    for name, value in dict(GAIN=2., half=lambda x: x/3).items():
        with monkeypatch.context() as m:
            m.setattr(sys.modules[__name__], name, value)
            assert made_of().fingerprint != before, name
    with monkeypatch.context() as m:
        m.setattr(start, '__defaults__', (2.,))
        assert made_of().fingerprint != before
    assert made_of().fingerprint == before

@pytest.mark.parametrize('which', ['start', 'loss', 'metric'])
def test_a_store_refuses_other_functions(which, tmp_path):
    quick = dict(recipe=Recipe(epochs=1, n_saves=2), progress=False)
    other = made_of(**VARIANTS[which])
    collect(made_of(), tmp_path/'s', 2, **quick)
    before = {f: f.read_bytes() for f in (tmp_path/'s').iterdir()}
    with pytest.raises(UserError, match='made for another task'): collect(other, tmp_path/'s', 4, **quick)
    assert {f: f.read_bytes() for f in (tmp_path/'s').iterdir()} == before
    assert collect(made_of(), tmp_path/'s', 4, **quick).R == 4

SAMPLE = '''
import functools
GAIN, scale = 2., 7
def helper(x):
    "A # in a text."
    return x*GAIN
def loss(logits, y, w=3.):
    # a comment
    return sum([helper(v) for v in logits]) + w
def factory(k):
    def metric(logits, y): return k*len("""
not indented
""")
    return metric
a, b = (lambda s, f, g: s + 1), lambda s, f, g: (s if f else
     g)
class Start:
    def __init__(self, n): self.n = n
    def __call__(self, s, f, g): return self.n
exec("def unread(x): return x")
things = [loss, factory(2), a, b, functools.partial(helper, 3), Start(4)]
things += [functools.lru_cache(helper), len, unread]
'''
DIGEST = '''
import hashlib, json, sys
sys.path[:0] = sys.argv[1:]
import sources, sample
said = json.dumps([sources.function_source(f) for f in sample.things], sort_keys=True)
print(hashlib.sha256(said.encode()).hexdigest()[:12])
'''

def test_the_same_in_every_process(tmp_path):
    "In another folder, further down in its file, with other hashes: always this digest."
    networks = str(Path(registry.__file__).parent)
    for i in range(2):
        folder = tmp_path/str(i)
        folder.mkdir()
        (folder/'sample.py').write_text('\n'*i*5 + SAMPLE)
        words = [sys.executable, '-c', DIGEST, str(folder), networks]
        env = os.environ | dict(PYTHONHASHSEED=str(i))
        found = subprocess.run(words, capture_output=True, text=True, check=True, env=env)
        assert found.stdout == '244cfe4e1a64\n'

OWN = """
import functools
from collections import namedtuple
from dataclasses import dataclass
import numpy as np
import torch

class Cfg: smooth = .1
class Base:
    def scale(self): return 2.
class Obj(Base):
    def __init__(self, n=1.): self.n = n
    @property
    def twice(self): return self.n*2
    @staticmethod
    def shift(x): return x + 1
    @functools.lru_cache
    def kept(self): return self.again()
    def again(self): return Obj
    def __call__(self, z, y): return self.shift(z)*self.n*self.twice
@dataclass(frozen=True, slots=True)
class Slots: width: float = 3.
class Net(torch.nn.Module):
    def __init__(self, p=.5):
        super().__init__()
        self.p, self.linear, self.drop = p, torch.nn.Linear(2, 2), torch.nn.Dropout(.25)
        for t in self.parameters(): t.data.fill_(1)
    def forward(self, z, y): return self.drop(self.linear(z))*self.p

@functools.lru_cache
def cached(n): return 4*n
def inner(x): return x - 5
DEEP = {'a': [1, (6., {7, 8})], (1, 2): torch.tensor([9.]), 'array': np.array([10.]), 'function': inner}
LARGE, PAIR = torch.ones(20_000), namedtuple('Pair', 'a b')(1, 11.)
obj, slots, net = Obj(12.), Slots(), Net(.75)
DEEP['itself'] = DEEP

def with_class(z, y): return Cfg.smooth
def with_cached(z, y): return cached(z)
def with_deep(z, y, w=(13., inner)): return DEEP, LARGE, PAIR
def with_object(z, y): return obj(z, y)
def with_slots(z, y): return slots.width
def with_net(z, y): return net(z, y)
"""
NAMES = ['Obj()', 'Net()', 'with_class', 'with_cached', 'with_deep', 'with_object', 'with_slots', 'with_net',
         'obj.again', 'functools.partial(with_class, Cfg(), w=Obj())']
CHANGES = [  # what the change is noticed in, and the change
    ('Obj()', '+ 1', '+ 1.5'), ('Obj()', 'self.n*2', 'self.n*3'),
    ('Obj()', 'return 2.', 'return 2.5'), ('Obj()', 'n=1.', 'n=1.5'),
    ('Obj()', 'return self.again()', 'return 0'), ('with_class', 'smooth = .1', 'smooth = .2'),
    ('with_cached', '4*n', '5*n'), ('with_deep', '6.', '6.5'), ('with_deep', '8}', '9}'),
    ('with_deep', '[9.]', '[9.5]'), ('with_deep', '[10.]', '[10.5]'), ('with_deep', '11.', '11.5'),
    ('with_deep', '13.', '13.5'), ('with_deep', 'x - 5', 'x - 6'), ('with_deep', '(1, 2)', '(1, 3)'),
    ('with_deep', 'ones(20_000)', 'zeros(20_000)'), ('with_object', 'Obj(12.)', 'Obj(12.5)'),
    ('with_object', '+ 1', '+ 1.5'), ('with_slots', '= 3.', '= 3.5'), ('with_net', '.75', '.8'),
    ('with_net', 'fill_(1)', 'fill_(2)'), ('with_net', 'Dropout(.25)', 'Dropout(.3)'),
    ('with_net', '(z))*self.p', '(z))+self.p'), ('Net()', 'p=.5', 'p=.6'),
    ('obj.again', 'Obj(12.)', 'Obj(12.5)'), (NAMES[-1], 'n=1.', 'n=1.5')]

def sources_of(text, names=NAMES, count=iter(range(10**6))):
    "As a kernel runs it: in `__main__`, from a cell that is no file of a module."
    file = f'ipykernel_1/{next(count)}.py'
    linecache.cache[file] = len(text), None, text.splitlines(True), file
    space = dict(__name__='__main__')
    exec(compile(text, file, 'exec'), space)
    return {name: json.dumps(function_source(eval(name, space)), sort_keys=True) for name in names}

def test_a_notebook_and_a_script_agree(tmp_path, monkeypatch):
    "Classes, caches, containers and nets, and no name of the module that they stand in."
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'own2.py').write_text(OWN)
    own = vars(importlib.import_module('own2'))
    script = {name: json.dumps(function_source(eval(name, own)), sort_keys=True) for name in NAMES}
    assert sources_of(OWN) == script and len(set(script.values())) == len(NAMES)
    assert not any('own2' in text or '__main__' in text for text in script.values())

@pytest.mark.parametrize('name, old, new', CHANGES)
def test_what_is_within_counts(name, old, new):
    assert old in OWN
    before, after = (sources_of(text, [name]) for text in (OWN, OWN.replace(old, new)))
    assert before == sources_of(OWN, [name]) and before != after

def test_the_state_of_a_net_is_no_part_of_it():
    "Whether it trains, and the hooks that somebody hung into it."
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout())
    before = function_source(net)
    net.eval().register_forward_hook(print)
    assert function_source(net) == before

def test_without_a_source():
    "Functions written in C and by `exec` go by their names."
    space = dict(__name__='made_up')
    exec('def f(x): return x', space)
    assert function_source(space['f']) == 'made_up.f' and function_source(None) is None
    assert function_source(len) == 'builtins.len'

def test_a_file_that_is_edited_meanwhile(tmp_path, monkeypatch):
    "What counts is the function that runs, not what its file says by now."
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'edited.py').write_text('def f(x):\n    return x\n')
    f = importlib.import_module('edited').f
    before = function_source(f)
    (tmp_path/'edited.py').write_text('def g(x):\n    return 2*x\n\ndef f(x):\n    return x\n')
    os.utime(tmp_path/'edited.py', (1, 1))
    assert function_source(f) == before

SHIPPED = {  # digests of all tensors, in order of their names
    'digit-subsets': '3f6c9d522c83',
    'cartpole-return': '8ff49035b164',
    'digits-cnn-loss': '94c776aa4ff4',
    'digits-error': 'c0f82f2c972e',
    'digits-loss': 'b55ba1601573',
    'fashion-loss': '398ed90db0c1',
    'points-loss': '56560fa623c0',
}

@pytest.mark.parametrize('name', SHIPPED)
def test_models_that_ship_know_their_tasks(name, request):
    "When a function of a task is changed, they have to be told; their weights stay."
    if name == 'fashion-loss': request.getfixturevalue('fashion_folder')
    file = ROOT/'data'/'models'/f'{name}.safetensors'
    info = read_tensors(file, 'model')[1]
    assert known_task_or_family(info['task'], info['fingerprint']).layers == info['config']['layers']
    digest = hashlib.sha256()
    for _, t in sorted(load_file(file).items()):
        assert t.dtype == torch.float16
        digest.update(t.numpy().tobytes())
    assert digest.hexdigest()[:12] == SHIPPED[name]

"Command lines: each option with values that make sense and with others, wrong counts, wrong files."
from typing import NamedTuple

from hypothesis import strategies as st

from gpt_kit.networks.store import Store

from .fixtures import put, same_contents
from .harness import Case

JUNK = dict(int=['abc', '1.5', '', 'nan', '1e3', '0x10', '½', '-', 'None', '1 2'],
            float=['abc', '', '1,5', '0x1p3', '.', 'None', '1 2', '−1'])     # that argparse turns down


class Values(NamedTuple):
    "What an option takes, what it refuses, and what it may do either with."
    good:list
    bad:list
    kind:str = 'str'
    either:list = ()


def ints(good, bad, either=()): return Values(good, [*bad, -10**9, 10**15], 'int', either)
def floats(good, bad): return Values(good, [*bad, 'nan', 'inf', 'NaN', '1e999'], 'float')


def seeds(): return Values([0, 1, 7], [10**30, -10**30], 'int', [-1, 2**32, 2**63])


DEVICE = Values(['cpu'], ['tpu', 'cuda:99', 'CPU', 'cuda:x', 'mps:7'])
MADE_UP = ['adan', 'Even', ' ', 'ü', '../..', 'a b', 'None', '*']
RATE = floats([.1, '1e-2', .05], [0, -1, '-1e-3', '1e-400', '-2E+1'])
TASKS = Values(['digits-2', 'digits-3-2', 'digits-linear'],
               ['digit', 'digits-0', 'digits--2', 'digits-999999999', 'nowhere:task', 'os:getcwd',
                'os:nothing', 'json:', ':', ':f', 'a:b:c', 'digits-2-', 'DIGITS', '../x:y', 'ü:ü', 'math:pi',
                '.:x'])
FOR_TRAINING = dict(
    metric=Values(['loss', 'error'], ['los', 'test_loss', 'return', *MADE_UP]),
    preset=Values([], ['mnist', 'digits', *MADE_UP]),
    tokens=Values(['neuron', 'layer', 'chunk-64'],
                  ['words', 'chunk-0', 'chunk--1', 'chunk-x', 'chunk-', 'Neuron', 'chunk-1.5', *MADE_UP]),
    width=ints([8, 16], [0, -8, 7]), depth=ints([1], [-1]), heads=ints([1, 2], [0, -1, 3]),
    condition=Values(['adaptive', 'tokens'], MADE_UP), steps=ints([1, 2], [0, -1]),
    batch=ints([1, 4], [0, -1, 10**9]), lr=RATE, sampling=Values(['even', 'paper'], MADE_UP),
    power=floats([1, 2.], [0, -1, '-1e-3']), behaviour=floats([0], [-1, '-1e-9']), seed=seeds(),
    device=DEVICE)
OPTIONS = dict(
    collect=dict(task=TASKS, preset=Values([], ['mnist', *MADE_UP]), runs=ints([1, 2], [0, -1]),
                 saves=ints([2, 3, 4], [0, 1, -5]), epochs=ints([1, 2], [0, -1, 10**12]),
                 spacing=Values(['log', 'uniform'], MADE_UP),
                 optimizer=Values(['nesterov', 'momentum', 'sgd', 'adam'], ['ppo', *MADE_UP]),
                 lr=RATE, seed=seeds(), ray=ints([0], [-1]), device=DEVICE),
    train=FOR_TRAINING,
    prompt=dict(seed=seeds(), steps=ints([1, 3], [0, -1]), updates=ints([1, 2], [0, -1]), device=DEVICE,
                start=Values(['net.safetensors', 'net.pt'],
                             ['none.pt', 'store', 'wide.pt', 'm.safetensors', 'note.txt', '', 'n' * 300]),
                out=Values(['o.safetensors', 'a b/ü o.safetensors'],
                           ['o.pt', 'o', 'm.safetensors', 'd.safetensors', 'note.txt/o.safetensors',
                            'store'])),
    calibrate=dict(starts=Values([2, 3], [0, 1, -1, -10**9], 'int', [10**15]), device=DEVICE),
    evaluate=dict(starts=ints([1], [0, -1]), seed=seeds(), steps=ints([1, 2], [0, -1]),
                  opt_steps=ints([1], [-1]), device=DEVICE,
                  store=Values(['store', 'other'],
                               ['wide', 'none', 'm.safetensors', 'note.txt', 'd.safetensors']),
                  json=Values(['e.json', 'a b/e.json'],
                              ['d.safetensors', 'note.txt/e.json', 'm.safetensors', 'store'])),
    data={}, export={}, report={})
SHORT = dict(collect=dict(task='digits-2', runs=2, saves=3, epochs=1), prompt=dict(steps=1), calibrate={},
             train=dict(width=8, depth=1, heads=2, steps=1, batch=4), data={}, export={}, report={},
             evaluate=dict(starts=1, steps=1, opt_steps=1))          # so that it is done in a moment
PLACES = dict(         # for each word that a command needs: good ones, bad ones
    collect=[(['s', 'a b/ü s'], ['note.txt', 'm.safetensors', 'note.txt/s', 'x' * 300])],
    train=[(['store'], ['none', 'm.safetensors', 'd.safetensors', '', 'n' * 300]),
           (['o.safetensors', 'a b/ü o.safetensors'],
            ['o.pt', 'o', '', 'd.safetensors', 'note.txt/o.safetensors', 'store', 'x' * 300 + '.safetensors',
             'store/shard-00000.safetensors'])],
    prompt=[(['m.safetensors', './m.safetensors'],
             ['none.safetensors', 'store', 'd.safetensors', 'note.txt', 'net.safetensors', 'bad.safetensors',
              'digits-los', '', 'n' * 300, 'bad\udcff.safetensors', 'store/shard-00000.safetensors']),
            ([2, '1.5', '1e-3', '-1e-5', '-2', '2e0', '.5', '-.5e+1'], ['nan', 'inf', 'NaN', '1e999'])],
    calibrate=[(['m.safetensors'], ['none.safetensors', 'bad.safetensors', 'd.safetensors', 'x']),
               (['store'], ['none', 'wide', 'note.txt', 'd.safetensors', ''])],
    evaluate=[(['m.safetensors'],
               ['none.safetensors', 'bad.safetensors', 'd.safetensors', 'net.pt', 'n' * 300])],
    export=[(['store', './store/'], ['none', 'note.txt', 'd.safetensors', '']),
            (['t.csv', 'a b/ü.csv'],
             ['t.txt', 't', '', 'd.csv', 'note.txt/t.csv', 'store/index.json', 'store'])],
    data=[(['mnist', 'fashion'], ['minst', 'Mnist', 'cifar10', 'digits', '', '../mnist', 'n' * 300])],
    report=[(None, None)])
WRITES = dict(collect=0, train=1, export=1)                          # which word is the output


def put_all(folder):
    put(folder, 'store', 'other', 'wide', 'm.safetensors', 'net.safetensors', 'net.pt', 'wide.pt')
    (folder/'note.txt').write_text('mine\n')
    (folder/'bad.safetensors').write_text('no model\n')
    (folder/'d.safetensors').mkdir()
    (folder/'d.csv').mkdir()
    (folder/'d.safetensors'/'photo.jpg').write_bytes(b'jpg')


def outputs(name, words, given):
    "What a command line writes."
    if name in WRITES: found = [words[WRITES[name]]]
    elif name == 'calibrate': found = [words[0]]
    else: found = [given[o] for o in ('out', 'json') if o in given]
    return tuple(str(f) for f in found)


def check_command(name, words, given):
    "Did a command line that makes sense do what it says?"
    def check(folder, said):
        if name == 'collect':
            s = Store(folder/words[0]).verify()
            assert (s.R, s.S) == (given['runs'], given['saves']) and s.info['task'] == given['task']
            for option in ('lr', 'epochs', 'seed', 'optimizer', 'spacing'):
                told = s.info if option == 'seed' else s.info['recipe']
                if option in given: assert str(told[option]) == str(type(told[option])(given[option]))
        for o in outputs(name, words, given): assert (folder/o).exists(), f"{o} is not there"
        if name == 'prompt': assert 'achieved' in said and 'nan' not in said
        if name != 'calibrate': same_contents(folder/'store')
    return check


def option_words(given):
    words = []
    for option, value in given.items(): words += [f'--{option}', str(value)]
    return words


@st.composite
def odd_options(draw):
    "A command with one option that makes no sense, among others that do."
    name = draw(st.sampled_from([n for n in OPTIONS if OPTIONS[n]]))
    there, given = OPTIONS[name], dict(SHORT[name])
    words = [str(draw(st.sampled_from(good))) for good, _ in PLACES[name]]
    for other in draw(st.lists(st.sampled_from(sorted(there)), max_size=2, unique=True)):
        if there[other].good: given[other] = draw(st.sampled_from(there[other].good))
    option = draw(st.sampled_from(sorted(there)))
    about, values = there[option], dict(sentence=there[option].bad)
    if about.kind in JUNK: values['usage'] = JUNK[about.kind]
    if about.either: values['right sentence'] = about.either
    ends = draw(st.sampled_from(sorted(values)))
    given[option] = draw(st.sampled_from(values[ends]))
    if about.kind == 'float' and draw(st.booleans()) and ends == 'sentence':
        given[option] = draw(st.floats(-1e30, -1e-9))
    order = draw(st.permutations(sorted(given)))
    line = [*words, *option_words({o: given[o] for o in order})]
    makes = outputs(name, words, given) if 'right' in ends else ()
    return Case(f'{name} --{option}', put_all, (name, *line), ends, outputs=makes)


@st.composite
def good_options(draw):
    "A command line that makes sense, in whatever order."
    name = draw(st.sampled_from([n for n in OPTIONS if OPTIONS[n]]))
    there, given = OPTIONS[name], dict(SHORT[name])
    words = [str(draw(st.sampled_from(good))) for good, _ in PLACES[name]]
    for other in draw(st.lists(st.sampled_from(sorted(there)), max_size=4, unique=True)):
        if there[other].good: given[other] = draw(st.sampled_from(there[other].good))
    if name == 'collect' and given['task'] == 'digits-linear': given['task'] = 'digits-2'
    order = draw(st.permutations(sorted(given)))
    line = [*words, *option_words({o: given[o] for o in order})]
    return Case(f'{name}, as it should be', put_all, (name, *line), 'right',
                check_command(name, words, given), outputs(name, words, given))


@st.composite
def odd_places(draw):
    "A file or folder that is not there, of another kind, in the way, or a source."
    name = draw(st.sampled_from([n for n in PLACES if PLACES[n][0][0]]))
    words = [str(draw(st.sampled_from(good))) for good, _ in PLACES[name]]
    at = draw(st.integers(0, len(words) - 1))
    words[at] = str(draw(st.sampled_from(PLACES[name][at][1])))
    return Case(f'{name}, word {at}', put_all, (name, *words, *option_words(SHORT[name])), 'sentence')


@st.composite
def odd_counts(draw):
    "Words that are missing or too many, options that there are not, commands that there are not."
    name = draw(st.sampled_from([n for n in PLACES if PLACES[n][0][0]]))
    words = [str(draw(st.sampled_from(good))) for good, _ in PLACES[name]]
    line, what = [name, *words, *option_words(SHORT[name])], draw(st.integers(0, 5))
    if what == 0: line.pop(draw(st.integers(1, len(words))))
    elif what == 1: line.insert(1, draw(st.sampled_from(['more', 'a b', 'ü', '7'])))
    elif what == 2: line += [draw(st.sampled_from(['--colour', '--zoom', '-q', '--stepps'])), '3']
    elif what == 3: line.append(draw(st.sampled_from(['--device', '--seed', '--starts'])))
    elif what == 4: line[0] = draw(st.sampled_from(['trian', 'Train', 'x', 'store', '--sttore', 'ü', '']))
    else: line = [name]
    return Case(f'{name}, wrong words ({what})', put_all, tuple(line), 'usage')


@st.composite
def odd_imports(draw):
    "Imports of things that are something else."
    source = draw(st.sampled_from(['none', 'note.txt', 'd.safetensors', 'store', 'm.safetensors', '',
                                   'n' * 300, 'net.pt', 'wide.pt']))
    kind = draw(st.sampled_from(['gpt-lmdb', 'gpt-model', 'folder', 'Folder', 'lmdb', '', 'ü']))
    out = draw(st.sampled_from(['s', 's.safetensors', 'note.txt', 'other', 'd.safetensors']))
    task = draw(st.sampled_from(['digits-2', 'digits-3', *TASKS.bad]))
    more = dict(heads=2, scale=1., best=.1, metric='loss') if kind == 'gpt-model' else {}
    line = ('import', kind, source, out, '--task', task, *option_words(more))
    return Case(f'import {kind}', put_all, line, 'sentence')


@st.composite
def helps(draw):
    "What says more about the commands."
    line = draw(st.sampled_from([('--help',), ('-h',), ('help',), ('--version',), (), ('help', 'train')]))
    if draw(st.booleans()): line = draw(st.sampled_from(sorted(PLACES))), '--help'
    def check(folder, said): assert said.strip(), 'nothing is said'
    return Case('help', lambda folder: None, line, 'right', check)


def quick_commands():
    "Those that end before anything is imported, so that a process of their own takes no time."
    return st.one_of(odd_counts(), odd_counts(), odd_counts(), helps())


def commands():
    "Any of them."
    return st.one_of(odd_options(), odd_options(), odd_places(), odd_counts(), odd_imports(), good_options(),
                     helps())

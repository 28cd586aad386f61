"""2,000 inputs that make no sense, made up by generators that know the right result; 50 as real processes.

Each ends in the right result or in one sentence, never in a traceback, and changes nothing that was there.
`python bench/bad_input.py` tries 10,000."""
from collections import Counter

import pytest
from bad_inputs import KINDS, commands, fixtures, folders, models, stores, tasks
from bad_inputs.harness import Case, command_alone, command_forked, differences, judge, snapshot, try_cases

from gpt_kit.networks.checks import UserError
from gpt_kit.networks.tasks import Task

COUNTS = dict(commands=400, tasks=450, stores=300, models=400, folders=150, notebooks=300)


@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Where cases are tried; beside it lies what they begin with."
    folder = tmp_path_factory.mktemp('bad')
    with pytest.MonkeyPatch.context() as m:
        fixtures.prepare(folder/'fixtures', m)
        yield folder/'case'


def faults(found):
    "What people read about the cases that did not end well."
    return [f"{case!r} {outcome.end}: {outcome.said}" for case, outcome in found if not outcome.good]


def test_there_are_enough(): assert sum(COUNTS.values()) >= 2000 and set(COUNTS) == set(KINDS)


@pytest.mark.parametrize('kind', KINDS)
def test_ends_well(kind, place):
    found = try_cases(KINDS[kind](), COUNTS[kind], place)
    bad = faults(found)
    assert not bad, f"{len(bad)} of {len(found)}:\n\n" + '\n\n'.join(bad[:5])
    ends = Counter(outcome.end for case, outcome in found)
    assert len(found) >= COUNTS[kind] and min(ends['right'], ends['sentence']) > COUNTS[kind]/20, ends


@pytest.mark.slow
def test_ends_well_in_a_process_of_its_own(place):
    "Forty are turned down before anything is imported; ten begin where it has been."
    found = try_cases(commands.quick_commands(), 40, place, alone=command_alone)
    heavy = commands.odd_options(), stores.stores(), models.models(), folders.folders(), tasks.functions()
    for cases in heavy:
        found += try_cases(cases, 2, place, seed=1, alone=command_forked)
    assert len(found) >= 50 and not faults(found), '\n\n'.join(faults(found)[:5])


# Some that they have found

def flipped(folder):
    fixtures.put(folder, 'store', 'm.safetensors')
    file = folder/'store'/'shard-00000.safetensors'
    file.write_bytes(stores.damage(file.read_bytes(), 'flip', .9))


def listed(folder):
    fixtures.write_notebook(folder/'n.ipynb', 'n: int = 3  # how many')
    (folder/'f.yaml').write_text('[]')


def described(**changes):
    "A model whose description has another value."
    def lay(folder):
        tensors, info = models.model()
        config = info['config'] | changes.get('config', {})
        models.put_model(folder, tensors, info | changes | dict(config=config))
    return lay


QUICK = '--task', 'digits-2', '--runs', '1', '--epochs', '1'
FOUND = {
    'a table of an altered store': (flipped, ('export', 'store', 't.csv')),
    'a curve from an altered store': (flipped, ('calibrate', 'm.safetensors', 'store')),
    'an empty start': (commands.put_all, ('prompt', 'm.safetensors', '2', '--start', '')),
    'an empty store': (commands.put_all, ('evaluate', 'm.safetensors', '--store', '')),
    'a parameter file with a list': (listed, ('run', 'n.ipynb', '-f', 'f.yaml', '--out', 'o')),
    'a folder for nothing': (tasks.nothing, ('collect', 'a/b', *QUICK, '--spacing', 'odd')),
    'an import of nothing': (commands.put_all, ('import', 'folder', 'wide', 's', '--task', 'digits-2')),
    'a list for a number': (described(config=dict(start_gain=[1])), models.PROMPT),
    'a scale beyond all': (described(scale=10**30), models.PROMPT),
    'a network without its ReLU': (
        lambda folder: described(config=dict(layers=models.model()[1]['config']['layers'][::2]))(folder),
        models.PROMPT),
    'half a calibration': (described(calibration=dict(told=[0, 1], given=[0])), models.PROMPT)}


@pytest.mark.parametrize('name', FOUND)
def test_found(name, place):
    lay, words = FOUND[name]
    outcome = judge(Case(name, lay, words, 'sentence'), place)
    assert outcome.end == 'sentence', outcome


@pytest.mark.parametrize('more', [dict(loss=None), dict(start='uniform'), dict(metrics={}), dict(name=7),
                                  dict(metrics=dict(loss=3)), dict(test=None), dict(image=4)], ids=str)
def test_found_in_tasks(more):
    t = tasks.plain()
    whole = dict(name='mine', net=tasks.net(), train=t.train, test=t.test)
    Task(**whole)
    with pytest.raises(UserError): Task(**whole | more)


# The judge sees what it is there for

def put(folder): (folder/'a').write_text('mine')


def end_of(do, place, ends='right sentence', **more):
    return judge(Case('x', put, do, ends, **more), place).end


def test_the_judge_sees_a_traceback(place):
    assert end_of(lambda folder: 1/0, place) == 'traceback'
    assert end_of(lambda folder: exit(), place) == 'traceback'


def test_the_judge_sees_what_changed(place):
    assert end_of(lambda folder: (folder/'a').write_text('yours'), place) == 'changed'
    assert end_of(lambda folder: (folder/'a').unlink(), place) == 'changed'
    assert end_of(lambda folder: (folder/'b').mkdir(), place) == 'changed'
    assert end_of(lambda folder: (folder/'b').write_text('yours'), place, outputs=('b',)) == 'right'


def test_the_judge_sees_a_wrong_result(place):
    def check(folder, value): assert value == 3
    assert end_of(lambda folder: 3, place, check=check) == 'right'
    assert end_of(lambda folder: 4, place, check=check) == 'wrong result'
    assert end_of(lambda folder: 3, place, 'sentence').startswith('ended right')
    assert end_of(('trian', 'x'), place, 'sentence').startswith('ended usage')


def test_the_judge_sees_a_row_in_the_wrong_place(place):
    "Two checkpoints change places: the same files and steps, other weights."
    way = folders.Way('digits-2', 'index', '', '{step}', '.pt', 'plain', 'float32', False, 1, (1, 2), False)
    case = Case('swapped', lambda folder: swapped(way, folder), folders.import_words(way), 'right',
                folders.check_store(way, range(1)), ('store',))
    assert judge(case, place).end == 'wrong result'


def swapped(way, folder):
    folders.write_all(way, folder)
    first, second = (folder/'ckpts'/folders.file_of(way, 0, e) for e in way.epochs)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


def test_differences(tmp_path):
    put(tmp_path)
    before = snapshot(tmp_path)
    (tmp_path/'o').mkdir()
    (tmp_path/'o'/'b').write_text('')
    assert differences(before, snapshot(tmp_path), ()) == ['o is new', 'o/b is new']
    assert differences(before, snapshot(tmp_path), ('o',)) == []

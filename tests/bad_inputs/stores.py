"Stores that were damaged: an index with other types or keys, or cut short; shards cut, flipped, swapped."
import copy
import json

from hypothesis import strategies as st

from gpt_kit.networks.store import Store, shard_file

from .commands import SHORT, option_words
from .fixtures import put, same_contents
from .harness import Case, anything

ODD = [
    None, True, 0, -1, 10**30, 1.5, float('nan'), float('inf'), '', 'ü', '5', [], [1], [None], {}, {'a': 1},
    [[]], [{}], 'os:abort', '../../x', -2**63]
TEXTS = ['', '[]', 'null', '3', '"text"', '{}', '{"version": 2}', '{"version": "2"}', '{"version": [2]}',
         '\ufeff{}', '{"version": 2, "shards": []}', '{"version": 2.5}', '[{"version": 2}]', '\0', 'NaN',
         '{"version": 2, "shards": {"0": {}}}', '[' * 5000, '{"version": 1e999}', '{"version": true}']
TRAIN = ('train', 'store', 'o.safetensors', *option_words(SHORT['train']))
USES = dict(export=('export', 'store', 't.csv'), train=TRAIN, collect=('collect', 'store'),
            calibrate=('calibrate', 'm.safetensors', 'store', '--starts', '2'),
            evaluate=('evaluate', 'm.safetensors', '--store', 'store', *option_words(SHORT['evaluate'])))
MAKES = dict(
    export=('t.csv',), train=('o.safetensors',), calibrate=('m.safetensors',),
    collect=('store/index.json', f'store/{shard_file(0)}'))


def paths_in(value, at=()):
    "Every place in nested dicts and lists."
    if at: yield at
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for k in keys: yield from paths_in(value[k], (*at, k))


def changed(value, at, new):
    "A copy with another value there; it is taken out when the new one is DROP."
    value = copy.deepcopy(value)
    parent = value
    for k in at[:-1]: parent = parent[k]
    if new is DROP: del parent[at[-1]]
    elif new is TEXT: parent[at[-1]] = str(parent[at[-1]])
    else: parent[at[-1]] = new
    return value


DROP, TEXT = object(), object()          # instead of a value: take it out; write it as a text


def same_table(folder):
    "What was exported is what the undamaged store gives."
    from gpt_kit.networks.exports import metrics_table
    told = metrics_table(Store(FOLDER_OF['store']/'store')).to_csv(index=False)
    assert (folder/'t.csv').read_text() == told, 'another table'


FOLDER_OF = {}


def check_use(name):
    "A command that took a store has to give what it gives of the undamaged one."
    def check(folder, said):
        if name in ('collect', 'export'): same_contents(folder/'store')
        if name == 'export': same_table(folder)
    return check


@st.composite
def odd_index(draw, index):
    "One place of the index is something else, or all of it."
    name = draw(st.sampled_from(sorted(USES)))
    ends, check = 'sentence', check_use(name)
    if draw(st.integers(0, 3)) == 0:
        text = draw(st.sampled_from(TEXTS))
        if draw(st.booleans()): text = json.dumps(index)[:draw(st.integers(0, len(json.dumps(index)) - 2))]
        about = f'an index of {text[:40]!r}'
    else:
        at = draw(st.sampled_from(list(paths_in(index))))
        new = draw(st.sampled_from([DROP, TEXT, *ODD]))
        text, about = json.dumps(changed(index, at, new)), f"index: {'.'.join(map(str, at))}"
        ends = 'right sentence'                       # what nobody reads does no harm
        if at[-1] in ('name', 'unit', 'minimize') and isinstance(new, str | bool): check = anything  # may be
    def lay(folder):
        put(folder, 'store', 'm.safetensors')
        (folder/'store'/'index.json').write_text(text, encoding='utf-8')
    return Case(about, lay, USES[name], ends, check, MAKES.get(name, ()))


def damage(data, how, at):
    "Bytes, damaged somewhere (0..1)."
    n = int(at*(len(data) - 1))
    if how == 'cut': return data[:n]
    if how == 'longer': return data + b'\0'*(1 + n)
    if how == 'flip': return data[:n] + bytes([data[n] ^ 1 << n % 8]) + data[n + 1:]
    if how == 'zeros': return data[:n] + bytes(min(64, len(data) - n)) + data[n + 64:]
    return dict(empty=b'', text=b'hello', header=b'\xff'*8 + data[8:])[how]


@st.composite
def odd_shard(draw):
    "A shard is cut short, altered, another's, gone, or a folder. `collect` makes it again."
    name = draw(st.sampled_from(['train', 'calibrate', 'export', 'collect', 'verify']))
    how = draw(st.sampled_from(['cut', 'longer', 'flip', 'flip', 'zeros', 'empty', 'text', 'header',
                                'gone', 'swap', 'folder']))
    at = draw(st.floats(0, 1))
    def lay(folder):
        put(folder, 'store', 'other', 'm.safetensors')
        file, data = folder/'store'/shard_file(0), (folder/'store'/shard_file(0)).read_bytes()
        new = (folder/'other'/shard_file(0)).read_bytes() if how == 'swap' else None
        if how in ('gone', 'folder'): file.unlink()
        elif how != 'swap':
            new = damage(data, how, at)
            if new == data: new = data[:-1]
        if new is not None: file.write_bytes(new)
        if how == 'folder': file.mkdir()
    if name == 'verify':
        return Case(f'shard: {how}', lay, lambda folder: Store(folder/'store').verify(), 'sentence')
    ends = 'right' if name == 'collect' and how != 'folder' else 'sentence'
    return Case(f'shard: {how}', lay, USES[name], ends, check_use(name), MAKES[name])


FOREIGN = [
    'photo.jpg', '.secret.tmp', '.shard-00000.tmp', '.bashrc.tmp', 'shard-00001.safetensors', 'notes.txt',
    'shard-99999.safetensors', '.index.json.tmp', 'index.json.bak', 'sub/.a.1.tmp', 'shard-1.safetensors',
    '.thesis.2024.tmp', 'm.training.safetensors', '.o.tmp', '.o.backup.tmp']


@st.composite
def foreign_files(draw):
    "What else lies in a store, or beside a model, stays as it is."
    name = draw(st.sampled_from(sorted(USES)))
    files = draw(st.lists(st.sampled_from(FOREIGN), min_size=1, max_size=4, unique=True))
    where, data = draw(st.sampled_from(['store', '.'])), draw(st.binary(max_size=20))
    def lay(folder):
        put(folder, 'store', 'm.safetensors')
        for f in files:
            (folder/where/f).parent.mkdir(exist_ok=True)
            (folder/where/f).write_bytes(data)
    def check(folder, said):
        check_use(name)(folder, said)
        for f in files: assert (folder/where/f).read_bytes() == data, f"{f} changed"
    return Case(f'beside: {files}', lay, USES[name], 'right', check, MAKES.get(name, ()))


def stores():
    "Any of them."
    from . import fixtures
    FOLDER_OF['store'] = fixtures.FOLDER
    index = json.loads((fixtures.FOLDER/'store'/'index.json').read_text())
    return st.one_of(odd_index(index), odd_index(index), odd_shard(), foreign_files())

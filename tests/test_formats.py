"Files in the wrong form: one sentence that names them, whatever they hold, and what is whole is read."
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lmdb, numpy as np, pytest, torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from gpt_kit.gpt.load import load, load_model
from gpt_kit.gpt.loop import read_training
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.forms import check_form
from gpt_kit.networks.store import Store, write_tensors
from gpt_kit.outside.databases import BadDatabase, DatabaseReader
from gpt_kit.outside.imports import StoreWriter
from gpt_kit.outside.released import RELEASED_METRICS, convert_released, import_lmdb, read_released_state
from test_imports import TINY, Writer, contents, kept, kit, tiny  # noqa: F401  (kit is a fixture)
from test_released import GOLDEN, LAYERS

ROOT = Path(__file__).parents[1]

def refuses(f, *words):
    "One sentence with these words in it."
    with pytest.raises(UserError) as e: f()
    said = str(e.value)
    assert all(w in said for w in words) and '\n' not in said, said

# Databases

BARE = """
import json, lmdb, sys
keys = list(json.load(open(sys.argv[1] + '/runs.json'))['checkpoints'])
with lmdb.open(sys.argv[1], readonly=True, lock=False) as env, env.begin(buffers=True) as t:
    for k in keys: bytes(t.get(k.encode()) or b'')
"""

def make_deadly(folder):
    "Let all entries of a database's leaf pages lie far outside of these pages."
    file = folder/'data.mdb'
    data = bytearray(file.read_bytes())
    for p in range(2, len(data)//4096):
        if data[p*4096 + 10] == 2: data[p*4096 + 16:p*4096 + 80] = b'\xff'*64
    file.write_bytes(data + bytes(-len(data) % 2**16))

def test_a_database_that_kills(kit, tmp_path):
    "Whoever reads it himself is ended by the system; here the run is named, and the others come in."
    write = Writer(tmp_path/'source', 60)
    for n in ('000000', '000001', '000002'): write(n)
    deadly = write.folder/'000001'
    make_deadly(deadly)
    assert subprocess.run([sys.executable, '-c', BARE, deadly], capture_output=True).returncode < 0
    before = contents(write.folder)
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', *TINY)
    assert code == 1 and len(said) == 1 and 'run 000001 is left out: its database is damaged' in said[0], said
    store = Store(tmp_path/'store')
    assert list(kept(store, ['test_loss'])) == ['000000', '000002'] and contents(write.folder) == before
    for r, name in enumerate(store.names):
        rows = store.rows([r]*60, range(60)).numpy()
        assert (rows == [write.weights[write.key(name, s)] for s in range(60)]).all()
    code, out, said = kit('import', 'gpt-lmdb', deadly, 'alone', *TINY)
    assert code == 1 and len(said) == 1 and 'its database is damaged' in said[0]

def test_random_damage(tmp_path):
    "A damaged page is noticed, kills the reader or is not noticed at all; none of it reaches this process."
    write = Writer(tmp_path/'source', 60)
    good = (write('a')/'data.mdb').read_bytes()
    keys, rng, found = [write.key('a', s) for s in range(60)], np.random.default_rng(0), set()
    with DatabaseReader() as read:
        for i in range(60):
            data, n, bad = bytearray(good), int(rng.choice([1, 4, 16, 64])), tmp_path/f'bad{i}'
            at = int(rng.integers(2, len(data)//4096))*4096 + int(rng.integers(0, 200))
            data[at:at + n] = rng.bytes(n)
            bad.mkdir()
            (bad/'data.mdb').write_bytes(data)
            try: found.add(read(bad, keys)[1].shape)
            except BadDatabase as e: found.add('ended' if 'ended by the system' in str(e) else 'noticed')
    assert {(60, 77), 'noticed'} <= found <= {(60, 77), 'noticed', 'ended'}

def test_a_reader_that_dies_is_followed_by_another(tmp_path):
    write = Writer(tmp_path/'source', 3)
    folder, keys = write('a'), [write.key('a', s) for s in range(3)]
    with DatabaseReader() as read:
        first = read(folder, keys)[1]
        process = read.process
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BadDatabase, match='SIGKILL'): read(folder, keys)
        assert (read(folder, keys)[1] == first).all() and read.process is not process
        last = read.process
    assert process.poll() == -signal.SIGKILL and last.poll() is not None        # none is left behind

def test_a_reader_that_hangs(tmp_path):
    write = Writer(tmp_path/'source', 3)
    folder = write('a')
    with DatabaseReader(patience=1.) as read:
        read(folder)
        os.kill(read.process.pid, signal.SIGSTOP)
        with pytest.raises(BadDatabase, match='is damaged'): read(folder)

def test_what_is_open_elsewhere_is_read(tmp_path):
    write = Writer(tmp_path/'source', 3)
    with lmdb.open(str(write('a')), readonly=True, lock=False), lmdb.open(str(write('b'))):
        store = import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False)
    assert store.names == ['a', 'b']

def test_a_database_in_one_file(kit, tmp_path):
    write = Writer(tmp_path/'source', 3)
    one = tmp_path/'one'/'run.mdb'
    one.parent.mkdir()
    lmdb.open(str(one), subdir=False).close()
    for source, words in ((write('a')/'data.mdb', str(write.folder/'a')), (one, 'is a file'),
                          (one.parent, 'holds no folders of runs')):
        code, out, said = kit('import', 'gpt-lmdb', source, 'store', *TINY)
        assert code == 1 and len(said) == 1 and words in said[0] and str(source) in said[0], said

def change_runs(folder, change): # what a run's runs.json says
    file = folder/'runs.json'
    runs = json.loads(file.read_text())
    file.write_text(json.dumps(change(runs)))

def with_checkpoints(new): return lambda runs: dict(runs, checkpoints=new(runs['checkpoints']))
FIRST = list(RELEASED_METRICS)[0]

RUNS = {    # change -> words
    'a list': (lambda runs: [runs], 'holds a list'), 'a text': (lambda runs: 'runs', 'holds a str'),
    'nothing': (lambda runs: None, 'holds a NoneType'), 'empty': (lambda runs: {}, 'lists no runs'),
    'a list of runs': (lambda runs: {'b': [runs]}, 'lists no checkpoints'),
    'a list of keys': (with_checkpoints(list), 'lists no checkpoints'),
    'no checkpoints': (with_checkpoints(lambda c: {}), 'lists no checkpoints'),
    'lists of metrics': (with_checkpoints(lambda c: {k: list(v) for k, v in c.items()}),
                         'lists no checkpoints'),
    'a number as text': (with_checkpoints(lambda c: {k: dict(v, **{FIRST: 'x'}) for k, v in c.items()}),
                         'lacks a metric'),
    'NaN': (with_checkpoints(lambda c: {k: dict(v, **{FIRST: float('nan')}) for k, v in c.items()}),
            'its metrics of step 0 are not finite'),
    'twice': (with_checkpoints(lambda c: {**c, 'again/ep000_it00001.pt': next(iter(c.values()))}),
              'the same epoch and iteration')}

@pytest.mark.parametrize('how', RUNS)
def test_runs_json_in_another_form(how, tmp_path):
    change, words = RUNS[how]
    write = Writer(tmp_path/'source', 3)
    for n in 'abc': write(n)
    change_runs(write.folder/'b', change)
    with pytest.warns(UserWarning, match=f'run b is left out: .*{words}'):
        assert import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False).names == ['a', 'c']

@pytest.mark.parametrize('metadata', [[], 3, None, dict(min_parameter_val='a', max_parameter_val=[])])
def test_metadata_in_another_form(metadata, tmp_path):
    "It is only looked at when it says something."
    write = Writer(tmp_path/'source', 3)
    change_runs(write('a'), lambda runs: dict(runs, metadata=metadata))
    assert import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False).R == 1

def test_most_runs_say_which_metrics_and_how_many_checkpoints(kit, tmp_path):
    "Not the first."
    for name, n in (('a', 3), ('b', 4), ('c', 4), ('d', 4)): Writer(tmp_path/'source', n)(name)
    def without_first(c): return {k: {n: x for n, x in v.items() if n != FIRST} for k, v in c.items()}
    change_runs(tmp_path/'source/b', with_checkpoints(without_first))
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', *TINY)
    assert code == 1 and len(said) == 2, said
    assert 'run a is left out: it has 3' in said[0] and 'run b' in said[1]
    assert Store(tmp_path/'store').names == ['c', 'd'] and len(Store(tmp_path/'store').metrics) == 4

def test_weights_of_a_run_that_are_not_finite(tmp_path):
    write = Writer(tmp_path/'source', 3)
    for n in 'ab': write(n)
    with lmdb.open(str(write.folder/'a')) as env, env.begin(write=True) as t:
        t.put(write.key('a', 1).encode(), np.full(77, np.inf, np.float32).tobytes())
    with pytest.warns(UserWarning, match='run a is left out: its weights of step 1 are not finite'):
        assert import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False).names == ['b']

INTERRUPTED = """
import sys
from gpt_kit.outside import released
from gpt_kit.run.commands import main
released.import_lmdb.__kwdefaults__['shard_bytes'] = 300_000
sys.exit(main(sys.argv[1:]))
"""

def test_ctrl_c_while_importing(tmp_path):
    "One sentence, exit code 130; whole shards stay, and the same command goes on; nobody reads on."
    write = Writer(tmp_path/'in', 100)
    one = write('a')
    (tmp_path/'source').mkdir()
    for i in range(200): (tmp_path/f'source/{i:04d}').symlink_to(one)
    words = [sys.executable, '-c', INTERRUPTED, 'import', 'gpt-lmdb', 'source', 'store', *TINY]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT/'tests')]))
    with open(tmp_path/'said', 'w+') as said:
        process = subprocess.Popen(words, cwd=tmp_path, env=env, stderr=said, start_new_session=True)
        while len(list(tmp_path.glob('store/shard-*'))) < 2 and process.poll() is None: time.sleep(.01)
        os.killpg(process.pid, signal.SIGINT)                   # as a terminal does: all of the group get it
        assert process.wait(60) == 130
        said.seek(0)
        lines = [line for line in said.read().replace('\r', '\n').splitlines() if line.startswith('gpt-kit')]
    assert len(lines) == 1 and 'what was finished is kept' in lines[0] and 'Traceback' not in lines[0]
    assert 'Traceback' not in (tmp_path/'said').read_text()
    with pytest.raises(ProcessLookupError): os.killpg(process.pid, 0)
    there = Store(tmp_path/'store').verify()
    assert 9 <= there.R < 200
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    store = Store(tmp_path/'store').verify()
    assert done.returncode == 0 and store.R == 200 and len(set(store.names)) == 200
    assert torch.equal(store.rows([0], [0]), store.rows([199], [0]))

# Our own files

INDEX = {   # how index.json is changed -> words
    'a list': (lambda index: [], 'it is a list'), 'a number': (lambda index: 3, 'it is a whole number'),
    'without shards': (lambda index: {k: v for k, v in index.items() if k != 'shards'}, "has no 'shards'"),
    'a list of shards': (lambda index: dict(index, shards=[]), "it['shards'] is a list"),
    'shards without numbers': (lambda index: dict(index, shards={'a': index['shards']['0']}), 'no numbers'),
    'a shard that is a list': (lambda index: dict(index, shards={'0': []}), "it['shards']['0'] is a list"),
    'bytes as text': (lambda index: dict(index, shards={'0': dict(index['shards']['0'], bytes='9')}),
                      "it['shards']['0']['bytes'] is a text"),
    'metrics as texts': (lambda index: dict(index, metrics=['test_loss']), "it['metrics'][0] is a text"),
    'no layers': (lambda index: dict(index, layers=[]), 'layers that are none'),
    'other layers': (lambda index: dict(index, layers=[['Loop', 3]]), 'layers that are none'),
    'fewer layers': (lambda index: dict(index, layers=[['Linear', 12, 5, True]]), 'other shapes than'),
    'a recipe as list': (lambda index: dict(index, recipe=[]), "it['recipe'] is a list"),
    'no version': (lambda index: dict(index, version=None), 'format version None'),
    'another metric': (lambda index: dict(index, metrics=index['metrics'][:1]), 'other shapes than'),
    'deep': (lambda index: json.loads('['*500 + ']'*500), 'it is a list')}

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    "A store of three runs. Read it, don't touch it."
    folder = tmp_path_factory.mktemp('small')
    write = Writer(folder/'source', 3)
    for n in 'abc': write(n)
    return import_lmdb(write.folder, folder/'store', tiny(), progress=False)

@pytest.mark.parametrize('how', INDEX)
def test_an_index_in_another_form(how, small, tmp_path):
    change, words = INDEX[how]
    shutil.copytree(small.path, tmp_path/'store')
    file = tmp_path/'store/index.json'
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    before = contents(tmp_path/'store')
    refuses(lambda: Store(tmp_path/'store'), words, str(tmp_path/'store'))
    if 'shapes' not in words:
        def write(): StoreWriter(tmp_path/'store', tiny(), source='gpt-lmdb', metrics=['test_loss'])
        refuses(write, words)
    assert contents(tmp_path/'store') == before

def test_an_index_as_commands_meet_it(kit, tmp_path):
    (tmp_path/'s').mkdir()
    (tmp_path/'s/index.json').write_text('[]')
    for words in (('collect', 's'), ('train', 's', 'm.safetensors'), ('export', 's', 'm.csv'),
                  ('import', 'folder', 'in', 's', *TINY)):
        (tmp_path/'in').mkdir(exist_ok=True)
        code, out, said = kit(*words)
        assert code == 1 and len(said) == 1 and said[0].startswith('gpt-kit: s/index.json is not as'), said

def changed_header(file, change):
    "Another header of the same length, so that the file's size is right."
    data = file.read_bytes()
    n = int.from_bytes(data[:8], 'little')
    header = change(data[8:8 + n].decode()).encode()
    file.write_bytes(data[:8] + header.ljust(n)[:n] + data[8 + n:])

@pytest.mark.parametrize('change', [lambda h: '[]', lambda h: 'x', lambda h: h.replace('F32', 'Q32'),
                                    lambda h: h.replace('weights', 'weighty'),
                                    lambda h: h.replace('[3,', '[2,'),
                                    lambda h: h.replace('"shape"', '"space"')],
                         ids=['list', 'text', 'dtype', 'names', 'shapes', 'keys'])
def test_a_shard_with_another_header(change, small, tmp_path):
    shutil.copytree(small.path, tmp_path/'store')
    changed_header(tmp_path/'store/shard-00000.safetensors', change)
    refuses(lambda: Store(tmp_path/'store'), 'shard-00000.safetensors', 'make it again with: gpt-kit import')

MODEL = {   # how a model's description is changed -> words
    'a list': (lambda info: [], 'it is a list'),
    'no config': (lambda info: dict(info, config=3), "it['config']"),
    'without version': (lambda info: {k: v for k, v in info.items() if k != 'version'}, "has no 'version'"),
    'a layer less': (lambda info: dict(info, config=dict(info['config'], layers=[])), 'layers that are none'),
    'other options': (lambda info: dict(info, config=dict(info['config'], deep=3)), 'no model that can'),
    'a width as text': (lambda info: dict(info, config=dict(info['config'], width='9')), 'no model that can'),
    'wider': (lambda info: dict(info, config=dict(info['config'], width=48)), 'do not fit the model'),
    'a metric as text': (lambda info: dict(info, metric='test_loss'), "it['metric'] is a text"),
    'a training metric': (lambda info: dict(info, metric=dict(info['metric'], name='loss')), 'a metric'),
    'a scale of 0': (lambda info: dict(info, scale=0), 'scale'),
    'a scale of NaN': (lambda info: dict(info, scale=float('nan')), 'scale'),
    'seen one': (lambda info: dict(info, seen=[1.]), 'seen'),
    'best as text': (lambda info: dict(info, best='0'), 'best'),
    'another schedule': (lambda info: dict(info, schedule='straight'), 'noise schedule'),
    'another kind': (lambda info: dict(info, kind=['model']), 'but a model was expected')}

def rewrite(file, to, change_info=lambda info: info, change=lambda tensors: tensors):
    from safetensors import safe_open
    with safe_open(file, 'pt') as f: info = json.loads(f.metadata()['gpt_kit'])
    save_file(change(load_file(file)), to, {'gpt_kit': json.dumps(change_info(info))})
    return to

@pytest.mark.parametrize('how', MODEL)
def test_a_model_that_is_described_in_another_form(how, model_file, tmp_path):
    change, words = MODEL[how]
    file = rewrite(model_file, tmp_path/'m.safetensors', change)
    refuses(lambda: load(file), words)

def test_a_model_without_some_of_it(model_file, tmp_path):
    def refused(change, *words):
        file = rewrite(model_file, tmp_path/'m.safetensors', change=change)
        refuses(lambda: load_model(file), 'm.safetensors', *words)
    name = 'blocks.0.qkv.weight'
    refused(lambda t: {k: v for k, v in t.items() if k != name}, name, 'is not there')
    refused(lambda t: dict(t, more=torch.zeros(1)), 'more has shape (1,)')
    refused(lambda t: dict(t, **{name: t[name][1:].contiguous()}), name, 'has shape')
    refused(lambda t: dict(t, **{name: t[name]*float('nan')}), name, 'not finite')

@pytest.mark.parametrize('change', [dict(step='3'), dict(step=None), dict(about=[]), dict(config='x'),
                                    dict(seconds=[])], ids=str)
def test_a_training_state_in_another_form(change, tmp_path):
    info = dict(kind='training', about={}, config={}, step=3, seconds=1.) | change
    write_tensors(tmp_path/'m.safetensors', dict(a=torch.zeros(1)), info)
    refuses(lambda: read_training(tmp_path/'m.safetensors'), 'm.safetensors is damaged', 'delete that file',
            f"it[{next(iter(change))!r}] is")

KINDS = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                     lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=3), v, max_size=3))

@given(KINDS)
def test_a_form_takes_what_it_says(value):
    "Of numbers in lists by name: exactly those, and everything else is refused in one line."
    right = isinstance(value, dict) and all(isinstance(v, list) for v in value.values()) and not [
        n for v in value.values() for n in v if isinstance(n, bool) or not isinstance(n, (int, float))]
    def check(): return check_form('x', value, {str: [(int, float)]}, 'do')
    if right: assert check() is value
    else: refuses(check, 'x is not as this kit writes it (it')

# Released models

PREFIX = 'decoder.blocks.0.attn'

def released(change, tmp_path):
    state = dict(read_released_state(GOLDEN/'gpt_tiny.pt'))
    change(state)
    torch.save({'G_ema': state, 'G': state}, tmp_path/'m.pt')
    return convert_released(read_released_state(tmp_path/'m.pt'), LAYERS, heads=2)

def without(name): return lambda state: state.pop(name)
def instead(name, change): return lambda state: state.update({name: change(state.get(name))})

@pytest.mark.parametrize('change, words', [
    (without(f'{PREFIX}.key.weight'), 'attn.key.weight is missing'),
    (without('decoder.ln_f.bias'), 'norm.bias is not there'),
    (without('decoder.input_parameter_projections.1.0.weight'), 'encoders.'),
    (instead('more.weight', lambda t: torch.zeros(2)), 'more.weight has shape (2,)'),
    (instead(f'{PREFIX}.key.weight', lambda t: t[1:]), 'different shapes'),
    (instead('decoder.ln_f.bias', lambda t: t[1:]), 'norm.bias has shape'),
    (instead('decoder.pos_emb', lambda t: t[0, 0, 0]), 'decoder.pos_emb has shape ()'),
    (instead('scalar_embedder.frequencies', lambda t: t[None]), 'frequencies has shape'),
    (instead('decoder.ln_f.bias', lambda t: t*float('inf')), 'not finite'),
    (instead(7, lambda t: torch.zeros(2)), 'has a 7 that is no ordinary tensor'),
    (instead('decoder.ln_f.bias', lambda t: t.to_sparse()), "'decoder.ln_f.bias' that is no ordinary tensor"),
    (instead('epoch', lambda t: 3), "has a 'epoch' that is no ordinary tensor")])
def test_a_released_model_in_another_form(change, words, tmp_path):
    refuses(lambda: released(change, tmp_path), words)

def test_a_released_model_as_it_is(tmp_path):
    assert released(lambda state: None, tmp_path).config['heads'] == 2

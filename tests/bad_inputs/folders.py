"""Folders of checkpoints as people save them: names, containers, prefixes, types, tables.

The generator knows each checkpoint's run, step and weights, so that a row in the wrong place is seen."""
import csv
import functools
import io
import json
import struct
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpt_kit.networks.store import Store
from gpt_kit.networks.tasks import digits
from gpt_kit.networks.weights import Layout

from .harness import Case

WIDTHS = {'digits-2': (2,), 'digits-3-3-3': (3, 3, 3)}           # the second has two layers of one shape
LAYERS = {2: dict(index=['0', '2'], words=['inp', 'out'], ends=['input', 'head'], fc=['fc1', 'fc2'],
                  blocks=['layers.0', 'layers.1'], late=['9', '10']),
          4: dict(index=['0', '2', '4', '6'], words=['inp', 'hid', 'mid', 'out'],
                  ends=['zero', 'c', 'b', 'a'], fc=['fc1', 'fc2', 'fc3', 'fc4'],
                  blocks=[f'layers.{i}' for i in range(4)], late=['8', '9', '10', '11'])}
NAMED = 'words', 'ends'                                          # by words, which have no order of their own
PREFIXES = ['', 'module.', 'net.', 'model.', '_orig_mod.', 'model.net.', 'module._orig_mod.']
NAMES = {  # what a file is called at (step, epoch) -> which of both is its step
    '{step}': 'step', 'step-{step}': 'step', 'step={step}': 'step', 'ckpt_{step:06d}': 'step',
    'model_step{step}': 'step', 'epoch={epoch}-step={step}': 'step', 'epoch={epoch}-step={step}-v1': 'step',
    'ep{epoch}_acc0.97': 'epoch', 'epoch={epoch}-val_loss=0.5': 'epoch', 'epoch_{epoch}': 'epoch',
    'net.{epoch}': 'epoch', 'epoch{epoch}_loss1.25e-3': 'epoch', 'ep{epoch:03d}_it{step:05d}': None}
IN_FOLDERS = ['checkpoint-{step}/model', 'checkpoint-{step}/net', 'step_{step}/weights']
CONTAINERS = ['plain', 'plain', 'state_dict', 'model_state_dict', 'model', 'lightning']
BESIDE = ['optimizer.pt', '._{first}', 'README.txt', '.DS_Store', 'scheduler.pt', 'notes.md', 'args.json']
TYPES = ['float32', 'float32', 'float64', 'bfloat16', 'float16', 'strided']


class Way(NamedTuple):
    "How somebody saves checkpoints."
    task:str
    layers:str
    prefix:str
    name:str
    suffix:str
    container:str
    type:str
    more:bool         # has a buffer that is no weight
    runs:int
    epochs:tuple
    flat:bool         # the checkpoints of one run lie in the folder itself


@st.composite
def ways(draw):
    task = draw(st.sampled_from(sorted(WIDTHS)))
    layers = draw(st.sampled_from(sorted(LAYERS[len(WIDTHS[task]) + 1])))
    name = draw(st.sampled_from([*NAMES, *IN_FOLDERS]))
    suffix = draw(st.sampled_from(['.pt', '.pth', '.PTH', '.safetensors', '.safetensors']))
    container = draw(st.sampled_from(CONTAINERS))
    if container == 'lightning': suffix = '.ckpt'
    if suffix == '.safetensors': container = 'plain'
    runs = draw(st.integers(1, 3))
    epochs = draw(st.lists(st.integers(0, 120), min_size=2, max_size=4, unique=True))
    return Way(task, layers, draw(st.sampled_from(PREFIXES)), name, suffix, container,
               draw(st.sampled_from(TYPES)), draw(st.booleans()), runs, tuple(sorted(epochs)),
               runs == 1 and draw(st.booleans()))


@functools.cache
def layout(task): return Layout(digits(WIDTHS[task]).layers)


def layout_of(way): return layout(way.task)


def row_of(way, run, save):
    "The weights of a checkpoint, (D,), as its type keeps them."
    g = torch.Generator().manual_seed(1000*run + save)
    row = torch.randn(layout_of(way).D, generator=g)
    if way.type in ('bfloat16', 'float16'): row = row.to(getattr(torch, way.type)).float()
    return row


def state_of(way, row):
    "The same as this person's state_dict."
    names, parts = LAYERS[len(WIDTHS[way.task]) + 1][way.layers], layout_of(way).split(row[None])
    state = {}
    for i, (name, part) in enumerate(parts.items()):
        end, t = name.split('.')[1], part[0].clone()
        if way.type in ('float64', 'bfloat16', 'float16'): t = t.to(getattr(torch, way.type))
        if way.type == 'strided' and t.ndim == 2 and way.suffix != '.safetensors': t = t.t().contiguous().t()
        state[f'{way.prefix}{names[i//2]}.{end}'] = t
    if way.more: state[f'{way.prefix}{names[0]}.num_batches_tracked'] = torch.tensor(7)
    return state


def write_checkpoint(way, file, row, step):
    file.parent.mkdir(parents=True, exist_ok=True)
    state = state_of(way, row)
    if way.suffix == '.safetensors': return save_file(state, file)
    lightning = dict(epoch=1, global_step=step, state_dict=state, hyper_parameters={})
    whole = dict(plain=state, lightning=lightning)
    torch.save(whole.get(way.container, {way.container: state, 'epoch': 1, 'optimizer': {'lr': .1}}), file)


def step_of(way, epoch): return 17*epoch + 5


def file_of(way, run, epoch):
    "Where a checkpoint lies, below the folder."
    name = way.name.format(step=step_of(way, epoch), epoch=epoch) + way.suffix
    return name if way.flat else f'run{run}/{name}'


def write_all(way, folder):
    for run in range(way.runs):
        for i, epoch in enumerate(way.epochs):
            file = folder/'ckpts'/file_of(way, run, epoch)
            write_checkpoint(way, file, row_of(way, run, i), step_of(way, epoch))


def check_store(way, runs, values=None):
    "Raises AssertionError unless the store holds those runs, every row in its place, bit for bit."
    def check(folder, said):
        store = Store(folder/'store').verify()
        named = [n for k in store.shards for n in store.info['shards'][str(k)]['names']]
        wanted = ['ckpts'] if way.flat else [f'run{r}' for r in runs]
        assert sorted(named) == sorted(wanted), f"it has the runs {named}"
        assert store.S == len(way.epochs)
        for r in runs:
            at = 0 if way.flat else named.index(f'run{r}')
            found = store.rows(np.full(store.S, at), np.arange(store.S)).numpy()
            for i, epoch in enumerate(way.epochs):
                wanted = row_of(way, r, i).numpy()
                assert np.array_equal(found[i], wanted), f"run {r}, epoch {epoch}: another network"
            steps = dict(step=[step_of(way, e) for e in way.epochs], epoch=list(way.epochs))
            wanted = steps.get(NAMES.get(way.name, 'step'))
            if wanted: assert store.steps[at].tolist() == wanted, f"steps {store.steps[at]}, not {wanted}"
            if values: same_values(store, at, [values[file_of(way, r, e)] for e in way.epochs])
    return check


def same_values(store, at, wanted):
    for name in store.metrics:
        found = store.values(name)[at]
        assert np.array_equal(found, np.float32([w[name] for w in wanted])), f"{name} {found}"


def import_words(way, *more): return 'import', 'folder', 'ckpts', 'store', '--task', way.task, *more


def ends_of(way):
    "Words say nothing about the order of layers of one shape, where the file has none of its own either."
    ambiguous = way.task == 'digits-3-3-3' and way.layers in NAMED
    if ambiguous: return 'sentence' if way.suffix == '.safetensors' else 'right sentence'
    return 'right'


@st.composite
def good_folders(draw):
    "Whatever the names and containers: right, or refused where it is ambiguous."
    way = draw(ways())
    beside, linked = draw(st.lists(st.sampled_from(BESIDE), max_size=3, unique=True)), draw(st.booleans())
    def lay(folder):
        write_all(way, folder)
        if linked and not way.flat:
            (folder/'ckpts'/'run0').rename(folder/'elsewhere')
            (folder/'ckpts'/'run0').symlink_to(folder/'elsewhere')
        where = folder/'ckpts'/('' if way.flat else 'run0')
        first = file_of(way, 0, way.epochs[0]).split('/')[-1]
        for name in beside:
            file = where/name.format(first=first)
            if name == 'optimizer.pt': torch.save(dict(state={}, param_groups=[dict(lr=.1)]), file)
            elif name == 'scheduler.pt': torch.save(dict(last_epoch=3), file)
            else: file.write_bytes(b'\0\5\x16\7mine')
    return Case(f"{way}{', a link' if linked else ''}, beside {beside}", lay, import_words(way), ends_of(way),
                check_store(way, range(way.runs)), ('store',))


SPOILT = ['fewer', 'cut', 'nan', 'inf', 'shape', 'text', 'double', 'unnumbered', 'folder', 'gone']


def spoil(way, how, folder):
    "The last run is spoilt."
    r, at = way.runs - 1, folder/'ckpts'
    file = at/file_of(way, r, way.epochs[-1])
    if how in ('fewer', 'folder'): file.unlink()
    if how == 'folder': file.mkdir()
    elif how == 'cut': file.write_bytes(file.read_bytes()[:-100])
    elif how == 'text': file.write_text('hello')
    elif how in ('nan', 'inf'): write_checkpoint(way, file, torch.full((layout_of(way).D,), float(how)), 1)
    elif how == 'double': (at/f'run{r}'/('again_' + file.name)).write_bytes(file.read_bytes())
    elif how == 'unnumbered': (at/f'run{r}'/f'best{way.suffix}').write_bytes(file.read_bytes())
    elif how == 'shape':
        row = torch.ones(Layout(digits((5,)).layers).D)
        write_checkpoint(way._replace(task='digits-2', layers='index'), file,
                         row[:layout_of(way._replace(task='digits-2')).D], 1)
        state = {k: torch.ones(2, 2) for k in ('a.weight', 'b.weight')}
        if way.suffix == '.safetensors': save_file(state, file)
        else: torch.save(state, file)
    elif how == 'gone':
        for f in (at/f'run{r}').iterdir(): f.unlink()


@st.composite
def spoilt_folders(draw):
    "One run of three is spoilt: it is left out by name, the others are there, and the exit code says so."
    way = draw(ways())
    name = way.name if '/' not in way.name else '{step}'
    way = way._replace(runs=3, flat=False, layers='index', name=name)
    how = draw(st.sampled_from(SPOILT))
    def lay(folder):
        write_all(way, folder)
        spoil(way, how, folder)
    inside = check_store(way, range(2))
    def check(folder, said):
        try: inside(folder, said)
        except AssertionError:
            if how not in MAYBE: raise
            check_store(way, range(3))(folder, said)
    ends = 'right' if how == 'gone' else 'partly right' if how in MAYBE else 'partly'
    return Case(f'one run spoilt ({how}): {way}', lay, import_words(way), ends, check, ('store',))


MAYBE = 'unnumbered', 'double', 'folder'     # an extra file may be passed over too


HEADS = {',': 'csv', ';': 'csv', '\t': 'csv', 'json': 'json'}


def table_text(rows, delimiter, head, bom, text, path):
    "A table of metrics: rows are file -> {metric: value}."
    out = io.StringIO()
    names = list(next(iter(rows.values())))
    write = csv.writer(out, delimiter=delimiter)
    write.writerow([head, *names, *(['note'] if text else [])])
    for file, row in rows.items():
        write.writerow([path + file, *(row[n] for n in names), *(['a, b; c'] if text else [])])
    return ('\ufeff' if bom else '') + out.getvalue()


@st.composite
def tables(draw):
    "Metrics in a table, as programs write them; one cell may be empty or no number."
    way = draw(ways())._replace(runs=3, flat=False, layers='index')
    hole = draw(st.sampled_from([None, None, '', 'nan', 'inf', 'n/a', 'gone', 'line']))
    choices = dict(delimiter=[',', ';', '\t'], head=['file', 'File'], bom=[True, False], text=[True, False],
                   path=['', './'])
    look = {name: draw(st.sampled_from(values)) for name, values in choices.items()}
    names = [f'{split}_{m}' for split in ('test', 'train') for m in ('loss', 'error')]
    if draw(st.booleans()): names = names[:2]
    values = {}
    for r in range(way.runs):
        for i, e in enumerate(way.epochs):
            values[file_of(way, r, e)] = {n: round(1 + r + i/7 + k/3, 4) for k, n in enumerate(names)}
    rows = {f: dict(v) for f, v in values.items()}
    last = file_of(way, 2, way.epochs[0])
    if hole == 'line': del rows[last]
    elif hole == 'gone': rows = {f: v for f, v in rows.items() if not f.startswith('run2/')}
    elif hole is not None: rows[last][names[0]] = hole
    def lay(folder):
        write_all(way, folder)
        (folder/'ckpts'/'metrics.csv').write_text(table_text(rows, **look), encoding='utf-8')
    runs, ends = (range(3), 'right') if hole is None else (range(2), 'partly')
    return Case(f'a table ({look}, {hole!r})', lay, import_words(way), ends, check_store(way, runs, values),
                ('store',))


TABLES = [
    '', '\n', 'file\n', 'a,b\n1,2\n', '{}', '[]', 'file,test_loss\n', '\0\0', 'file,test_loss\nx,1\n',
    'test_loss\n3\n', '{"a": 1}', '{"a": {"test_loss": "x"}}', 'file,test_los\nrun0/1.pt,1\n', '[[1]]',
    'null']


@st.composite
def odd_tables(draw):
    "A table that is none."
    way = draw(ways())._replace(flat=False, layers='index', name='{step}')
    text = draw(st.sampled_from(TABLES))
    name = draw(st.sampled_from(['t.csv', 't.json', 'ckpts', 'none.csv']))
    def lay(folder):
        write_all(way, folder)
        if name.startswith('t.'): (folder/name).write_text(text)
    return Case(f'a table {name} of {text!r}', lay, import_words(way, '--metrics', name), 'sentence')


RUNS_JSON = [
    '', '[]', '{}', 'null', '3', '{"a": []}', '{"a": {"checkpoints": []}}', '{"checkpoints": {}}',
    '{"a": {"checkpoints": {"x": 1}}}', '{"checkpoints": [1]}', '{"a": {"checkpoints": {"it1.pt": null}}}',
    '{"a": {"checkpoints": {"a/it1.pt": {"avg_test_loss": "x"}}}}', '{"checkpoints": 3}', '{"1": 2}', '\0',
    '{"a": {"checkpoints": {"a/it1.pt": {"avg_test_loss": 1.0}}, "metadata": []}}', '{"checkpoints": "x"}']


@st.composite
def odd_lmdb(draw):
    "Released checkpoints that are none."
    text = draw(st.sampled_from(RUNS_JSON))
    data = draw(st.sampled_from([None, b'', b'hello', b'\0'*8192, 'folder']))
    def lay(folder):
        (folder/'set'/'a').mkdir(parents=True)
        (folder/'set'/'a'/'runs.json').write_text(text)
        if data == 'folder': (folder/'set'/'a'/'data.mdb').mkdir()
        elif data is not None: (folder/'set'/'a'/'data.mdb').write_bytes(data)
    words = ('import', 'gpt-lmdb', draw(st.sampled_from(['set', 'set/a', 'set/a/runs.json'])), 'store',
             '--task', 'digits-2')
    return Case(f'runs.json of {text!r}, data.mdb of {data!r}', lay, words, 'sentence')


RELEASED = Way('digits-2', 'index', '', '', '', '', 'float32', False, 3, (0, 1), False)


def write_lmdb(folder, run):
    "A run as the authors of G.pt released theirs: all values in a database, metrics beside it."
    import lmdb
    folder.mkdir(parents=True)
    sizes, checkpoints = struct.pack('<4f', *layout_of(RELEASED).sizes.values()), {}
    with lmdb.open(str(folder), map_size=2**20) as env, env.begin(write=True) as t:
        for save in RELEASED.epochs:
            key = f'{folder.name}/ep{save:03d}_it00003.pt'
            t.put(key.encode(), row_of(RELEASED, run, save).numpy().tobytes())
            t.put(f'{key}_arch'.encode(), sizes)
            checkpoints[key] = dict(avg_test_loss=1 + run + save/2, avg_test_err=30.)
    (folder/'lock.mdb').unlink()
    about = {folder.name: dict(checkpoints=checkpoints, metadata={})}
    (folder/'runs.json').write_text(json.dumps(about))


@st.composite
def spoilt_lmdb(draw):
    "Bytes are flipped in a database: that run is as it was, or left out by name."
    at = draw(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=8))
    def lay(folder):
        for run in range(3): write_lmdb(folder/'set'/f'run{run}', run)
        file = folder/'set'/'run2'/'data.mdb'
        data = bytearray(file.read_bytes())
        for where, byte in at: data[int(where*(len(data) - 1))] = byte
        file.write_bytes(data)
    def check(folder, said):
        store = Store(folder/'store').verify()
        assert store.names[:2] == ['run0', 'run1'], f"it has the runs {store.names}"
        for r in range(store.R):
            found = store.rows([r, r], [0, 1])
            wanted = torch.stack([row_of(RELEASED, r, save) for save in RELEASED.epochs])
            changed = (found != wanted).sum()                # bytes of a weight itself may be flipped
            assert changed <= (len(at) if r == 2 else 0), f"run {r}: another network"
    words = 'import', 'gpt-lmdb', 'set', 'store', '--task', 'digits-2'
    return Case(f'a database with other bytes at {at}', lay, words, 'right partly', check, ('store',))


MODEL = dict(metric='loss', heads=2, scale=1., best=.1, task='digits-2')
STATES = ['empty', 'list', 'names', 'half', 'numbers', 'nan', 'whole', 'keys', 'text', 'cut']


@st.composite
def odd_released(draw):
    "A released model that is none, or has other parts; or options that make no sense for one."
    how, option = draw(st.sampled_from(STATES)), draw(st.sampled_from(['none', *MODEL]))
    odd = dict(metric='los', heads=0, scale='nan', best='inf', task='digits-9-x')
    given = dict(MODEL)
    if option in odd: given[option] = odd[option]
    names = ['decoder.pos_emb', 'scalar_embedder.frequencies',
             'decoder.input_parameter_projections.0.0.weight',
             'decoder.output_parameter_projections.0.0.weight', 'decoder.blocks.0.attn.query.weight']
    state = {n: torch.ones(2, 3, 4)[:, :, i] for i, n in enumerate(names[:4])}
    if how == 'names': state = {f'x.{n}': t for n, t in state.items()}
    if how == 'half': state[names[4]] = torch.ones(2, 2)
    if how == 'numbers': state = dict.fromkeys(names, 3)
    if how == 'nan': state = {n: t*float('nan') for n, t in state.items()}
    if how == 'keys': state = {i: t for i, t in enumerate(state.values())}
    value = dict(empty={}, list=[1], text='x').get(how, state)
    def lay(folder):
        torch.save(value if how in ('list', 'text') else dict(G=value, G_ema=value), folder/'r.pt')
        if how == 'cut': (folder/'r.pt').write_bytes((folder/'r.pt').read_bytes()[:-200])
    options = [word for name, v in given.items() for word in (f'--{name}', str(v))]
    words = 'import', 'gpt-model', 'r.pt', 'm.safetensors', *options
    return Case(f'a released model: {how}, --{option}', lay, words, 'sentence')


def folders():
    "Any of them. A damaged database takes a process of its own, so there are few."
    often = good_folders(), good_folders(), spoilt_folders(), tables()
    return st.one_of(*often, *often, odd_tables(), odd_lmdb(), odd_released(), spoilt_lmdb())

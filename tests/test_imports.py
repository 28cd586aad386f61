"Other people's checkpoints: what was there comes in, what is damaged is named, the source stays as it is."
import hashlib, json, random, re, struct
from pathlib import Path

import lmdb, numpy as np, pandas as pd, pytest, torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from gpt_kit.networks.cartpole import cartpole
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.store import Store
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.tasks import Task, classification, mlp
from gpt_kit.networks.weights import measure
from gpt_kit.outside import released
from gpt_kit.outside.folders import import_folder
from gpt_kit.outside.imports import Recorder, trainer_callback
from gpt_kit.outside.released import RELEASED_METRICS, import_lmdb

GOLDEN = Path(__file__).parent/'golden'
SIZES = [48, 4, 20, 5]      # of a network 12-4-5, 77 weights
TINY = '--task', 'test_imports:tiny'

def tiny():
    "A task for networks 12-4-5."
    g = torch.Generator().manual_seed(0)
    X, y = torch.randn(300, 12, generator=g), torch.randint(5, (300,), generator=g)
    return classification('test_imports:tiny', X, y, mlp((12, 4, 5)))

class Writer:
    "Writes the released layout, from its description: keys, float32 bytes, sizes as float32, runs.json."
    def __init__(self, folder, n_saves, *, sizes=SIZES, names=tuple(RELEASED_METRICS)[:4], epochs=True):
        self.folder, self.n_saves, self.sizes, self.names = Path(folder), n_saves, sizes, names
        self.epochs, self.rng = epochs, random.Random(0)
        self.weights, self.metrics = {}, {}                  # key -> what was written

    def key(self, name, s):
        return f'{name}/ep{s//10:03d}_it{s % 10:05d}.pt' if self.epochs else f'{name}/it{s:05d}.pt'

    def run(self, name, put):
        about, values = {}, []
        for s in range(self.n_saves):
            k = self.key(name, s)
            w = [self.rng.gauss(0, 1) for _ in range(sum(self.sizes))]
            put(k, struct.pack(f'<{len(w)}f', *w))
            put(k + '_arch', struct.pack(f'<{len(self.sizes)}f', *self.sizes))
            self.weights[k] = np.array(w, np.float32)
            self.metrics[k] = about[k] = {n: self.rng.random()*3 for n in self.names}
            values += self.weights[k].tolist()
        metadata = dict(min_parameter_val=min(values), max_parameter_val=max(values))
        return dict(checkpoints=about, metadata=metadata)

    def __call__(self, *names):
        folder = self.folder/'_'.join(names)
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**28) as env, env.begin(write=True) as t:
            runs = {n: self.run(n, lambda k, v: t.put(k.encode(), v)) for n in names}
        (folder/'lock.mdb').unlink()
        about = runs if len(names) > 1 else runs[names[0]]
        (folder/'runs.json').write_text(json.dumps(about, sort_keys=True))
        (folder/'DONE.txt').touch()
        return folder

def contents(folder):
    files = [f for f in sorted(Path(folder).rglob('*')) if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

def kept(store, metrics):
    "Run name -> (weights (S, D), metrics (S, M)) of a store."
    shards = sorted(store.info['shards'].items(), key=lambda s: int(s[0]))
    names = [n for _, shard in shards for n in shard['names']]
    values = np.stack([store.values(m) for m in metrics], 2)
    return {n: (store.rows([r]*store.S, range(store.S)).numpy(), values[r]) for r, n in enumerate(names)}

def test_golden_set(tmp_path):
    "The authors' own Database wrote this one, the second folder with two runs."
    store = import_lmdb(GOLDEN/'lmdb_tiny', tmp_path/'store', tiny(), progress=False)
    expected = load_file(GOLDEN/'lmdb_tiny_expected.safetensors')
    assert (store.R, store.S, store.D) == (3, 3, 77)
    assert list(store.metrics) == ['test_loss', 'test_error', 'train_loss', 'train_error']
    runs = kept(store, store.metrics)
    assert set(runs) == {'000000', '000001', '000002'}
    for name, (rows, values) in runs.items():
        for row, key in zip(rows, ('ep000_it00000', 'ep000_it00007', 'ep003_it00002'), strict=True):
            assert torch.equal(torch.from_numpy(row), expected[f'{name}/{key}.pt'])
        np.testing.assert_allclose(values[:, 0], [2.1, 1.6, 1.1], rtol=1e-6)
        np.testing.assert_allclose(values[:, 1], [82, 62, 42])
    assert (np.diff(store.steps) > 0).all() and (store.seeds < 0).all()

N_RUNS, N_SAVES = 50, 200

@pytest.fixture
def source(tmp_path):
    "50 runs × 200 checkpoints, some alone in their folder and some with others."
    write = Writer(tmp_path/'source', N_SAVES)
    names = [f'{k:06d}' for k in range(N_RUNS)]
    for i in range(0, 40, 4): write(*names[i:i + 4])
    for n in names[40:]: write(n)
    return write

@pytest.fixture
def bring_in(source, tmp_path):
    "Import it, five runs to a shard."
    room = 5*N_SAVES*77*4
    return lambda name: import_lmdb(source.folder, tmp_path/name, tiny(), progress=False, shard_bytes=room)

def as_written(source, store):
    "Is every weight and every metric of a store what was written, and are all runs there?"
    runs = kept(store, [RELEASED_METRICS[n] for n in source.names])
    assert set(runs) == {f'{k:06d}' for k in range(N_RUNS)} and store.S == N_SAVES
    for name, (rows, values) in runs.items():
        keys = [source.key(name, s) for s in range(N_SAVES)]
        assert (rows == [source.weights[k] for k in keys]).all()
        assert (values == np.float32([[source.metrics[k][n] for n in source.names] for k in keys])).all()

def test_round_trip(source, bring_in):
    "Alone and fused: every weight and every metric, in order; the source untouched."
    before = contents(source.folder)
    store = bring_in('store')
    as_written(source, store)
    assert len(store.info['shards']) == 10 and contents(source.folder) == before
    assert list(kept(store, ['test_loss'])) == [f'{k:06d}' for k in range(N_RUNS)]

def test_interrupted_and_gone_on_with(source, bring_in, tmp_path, monkeypatch):
    "The same bits as without the interruption, and what is there is not read again."
    store, read, seen = bring_in('store'), released.read_lmdb_run, []
    def dies(*args, **options):
        seen.append(1)
        if len(seen) == 30: raise KeyboardInterrupt
        return read(*args, **options)
    monkeypatch.setattr(released, 'read_lmdb_run', dies)
    with pytest.raises(KeyboardInterrupt): bring_in('again')
    (tmp_path/'again/.shard-00003.safetensors.4242.tmp').write_bytes(b'half')
    bring_in('again')
    assert len(seen) - 30 == N_RUNS - 25  # of the seventh folder one run was in a whole shard, three were not
    a, b = contents(tmp_path/'store'), contents(tmp_path/'again')
    a.pop('index.json'), b.pop('index.json')                      # which name the folder
    assert a == b and Store(tmp_path/'again').info['shards'] == store.info['shards']

def test_a_damaged_shard_comes_again(source, bring_in, tmp_path):
    bring_in('store')
    shard = tmp_path/'store/shard-00002.safetensors'
    shard.write_bytes(shard.read_bytes()[:5000])
    with pytest.raises(UserError, match='gpt-kit import gpt-lmdb'): Store(tmp_path/'store')
    store = bring_in('store').verify()
    as_written(source, store)
    assert store.R == len(set(store.seeds)) == N_RUNS

def test_a_name_with_an_underline(tmp_path, monkeypatch):
    "It looks like two runs, and is one. What is there already is not even opened again."
    write = Writer(tmp_path/'source', 3)
    write('a'); write('b_c'); write('d', 'e')
    store = import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False)
    assert list(kept(store, ['test_loss'])) == ['a', 'b_c', 'd', 'e']
    def never(self, folder, keys=()): raise AssertionError(folder)
    monkeypatch.setattr(released.DatabaseReader, '__call__', never)
    assert import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False).R == 4

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    "Run a command in this process: its exit code, what it printed, and what it said beside progress bars."
    from gpt_kit.run.commands import main
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(Path(__file__).parent)
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        out, err = capsys.readouterr()
        lines = [l for l in re.split(r'[\r\n]+', err) if l.strip()]
        return code, out, [l for l in lines if not re.search(r'\d+%\||\d+/\d+ \[|\d+run \[', l)]
    return run

def spoil(folder, how):
    "Damage the database of a folder, or what is beside it."
    file, table = folder/'data.mdb', folder/'runs.json'
    data, rng = bytearray(file.read_bytes()), random.Random(0)
    pages = range(2, len(data)//4096)
    kind = {p: data[p*4096 + 10] for p in pages}
    if how == 'cut short': data = data[:len(data)*2//3]
    elif how == 'no LMDB': data = data[:100]
    elif how == 'corrupt':
        for p in pages:
            if kind[p] == 2: data[p*4096:p*4096 + 16] = rng.randbytes(16)      # every leaf's header
    elif how == 'weights':
        w = next(p for p in pages if kind[p] == 4)                             # a value's own page
        data[w*4096 + 16:w*4096 + 116] = struct.pack('<25f', *[1e6]*25)
    elif how == 'half a runs.json': table.write_text(table.read_text()[:300])
    elif how == 'runs.json': table.unlink()
    file.write_bytes(data)
    if how == 'gone': file.unlink()

@pytest.mark.parametrize('how, words', [
    ('cut short', ['cut short', 'bytes']), ('no LMDB', ['no LMDB']), ('corrupt', ['corrupt']),
    ('gone', ['no data.mdb']), ('runs.json', ['runs.json is missing']), ('half a runs.json', ['is damaged'])])
def test_damage_is_named(how, words, kit, tmp_path):
    "Alone: one sentence. Among others: these come in, and the damaged one is named. Exit code 1 for both."
    write = Writer(tmp_path/'source', 60)
    for n in ('000000', '000001', '000002'): write(n)
    spoil(write.folder/'000001', how)
    code, out, said = kit('import', 'gpt-lmdb', write.folder/'000001', 'alone', *TINY)
    assert code == 1 and len(said) == 1 and all(x in said[0] for x in words), said
    assert not re.search(r'[.!?] +[A-Z]', said[0]), said
    code, out, said = kit('import', 'gpt-lmdb', write.folder, 'store', *TINY)
    assert code == 1 and len(said) == 1 and all(x in said[0] for x in ['000001 is left out', *words]), said
    store = Store(tmp_path/'store')
    assert store.R == 2 and list(store.info['left_out']) == ['000001']

def test_altered_weights_are_noticed(tmp_path):
    "LMDB has no checksums, but runs.json says how far a run's weights go."
    write = Writer(tmp_path/'source', 20, sizes=[784*10, 10, 100, 10])
    for n in ('000000', '000001'): write(n)
    spoil(write.folder/'000001', 'weights')
    few, fewer = (torch.zeros(20, 784), torch.zeros(20)), (torch.zeros(2, 784), torch.zeros(2))
    task = Task('big', mlp((784, 10, 10)), few, fewer)
    with pytest.warns(UserWarning, match='000001 is left out: its weights go from'):
        assert import_lmdb(write.folder, tmp_path/'store', task, progress=False).R == 1

@pytest.mark.parametrize('key, value, words', [
    ('b/ep000_it00002.pt', b'0'*4*76, 'has another size than'),
    ('b/ep000_it00002.pt', None, 'is not in the database'),
    ('b/ep000_it00002.pt_arch', struct.pack('<4f', 47, 5, 20, 5), 'has another size than'),
    ('b/ep000_it00000.pt_arch', b'0'*15, 'holds no whole number of float32')])
def test_altered_values_are_noticed(key, value, words, tmp_path):
    write = Writer(tmp_path/'source', 4)
    write('a')
    with lmdb.open(str(write('b'))) as env, env.begin(write=True) as t:
        if value is None: t.delete(key.encode())
        else: t.put(key.encode(), value)
    with pytest.warns(UserWarning, match=f'run b is left out: .*{words}'):
        assert import_lmdb(write.folder, tmp_path/'store', tiny(), progress=False).R == 1

def test_another_architecture(kit, tmp_path):
    Writer(tmp_path/'source', 5, sizes=[48, 4, 28, 7])('000000')
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', *TINY)
    assert code == 1 and len(said) == 1 and '[48, 4, 28, 7]' in said[0] and '[48, 4, 20, 5]' in said[0]
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', '--task', 'digits')
    assert code == 1 and 'choose the --task' in said[0]

def test_runs_json_without_a_metric(tmp_path):
    write = Writer(tmp_path/'source', 3)
    for n in 'abc': write(n)
    changes = ('b', 'avg_train_err', 'other'), ('c', 'c/ep000_it00001.pt', 'c/nonsense.pt')
    for run, there, instead in changes:
        file = write.folder/run/'runs.json'
        file.write_text(file.read_text().replace(there, instead, 1))
    with pytest.warns(UserWarning) as told:
        assert import_lmdb(tmp_path/'source', tmp_path/'store', tiny(), progress=False).R == 1
    first, second = (str(w.message) for w in told)
    assert 'run b is left out' in first and 'lacks a metric' in first
    assert 'run c is left out' in second and 'names no iteration' in second

def test_runs_of_another_length(tmp_path):
    Writer(tmp_path/'source', 6)('a'); Writer(tmp_path/'source', 4)('b')
    with pytest.warns(UserWarning, match='run b is left out: it has 4 checkpoints, and the others have 6'):
        assert import_lmdb(tmp_path/'source', tmp_path/'store', tiny(), progress=False).R == 1

def test_policies(tmp_path):
    "CartPole's keys have no epoch, its metric is train_ret, and log_std comes before the weights."
    sizes = [1, 128, 32, 1024, 32, 32, 1]
    write = Writer(tmp_path/'source', 5, sizes=sizes, names=('train_ret',), epochs=False)
    write('000000', '000001')
    store = import_lmdb(write.folder, tmp_path/'store', cartpole(), progress=False)
    assert store.D == 1249 and list(store.metrics) == ['test_return']
    assert not store.metrics['test_return']['minimize'] and store.steps[1].tolist() == [0, 1, 2, 3, 4]
    written = write.weights['000001/it00003.pt']
    assert (store.rows([1], [3])[0].numpy() == written[1:]).all()
    assert load_file(store.path/'shard-00000.safetensors')['log_std'][1, 3, 0] == written[0]
    whole = import_lmdb(write.folder, tmp_path/'paper', get_task('cartpole-paper'), progress=False)
    assert whole.D == 1250 and (whole.rows([1], [3])[0].numpy() == written).all()

def test_an_imported_store_is_a_store(kit, tmp_path):
    "A model is trained on it; a collection does not go on with it, and says how to."
    Writer(tmp_path/'source', 6)('000000', '000001', '000002')
    kit('import', 'gpt-lmdb', 'source', 'store', *TINY)
    small = '--width', 12, '--depth', 1, '--heads', 2, '--steps', 3, '--batch', 4
    code, out, said = kit('train', 'store', 'm.safetensors', *small)
    assert code == 0, said
    code, out, said = kit('collect', 'store')
    assert code == 1 and said == ['gpt-kit: the store in store was not collected here; go on with: '
                                  'gpt-kit import gpt-lmdb source store --task test_imports:tiny']
    assert kit('export', 'store', 'metrics.parquet')[0] == 0
    assert set(pd.read_parquet('metrics.parquet').name) == {'000000', '000001', '000002'}

class Theirs(nn.Module):
    "Layers whose names are sorted the other way round in a safetensors file."
    def __init__(self):
        super().__init__()
        self.zeta, self.alpha = nn.Linear(12, 4), nn.Linear(4, 5)

def flat(net): return torch.cat([p.detach().flatten() for p in net.parameters()])

def write_table(file, values):
    "Metrics of checkpoints, as .json or .csv."
    if file.suffix == '.json': file.write_text(json.dumps(values))
    else: pd.DataFrame.from_dict(values, orient='index').to_csv(file, index_label='file')

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('table', [None, 'metrics.csv', 'metrics.json'])
def test_a_folder_of_state_dicts(suffix, table, tmp_path):
    task, rng, rows, given = tiny(), random.Random(0), {}, {}
    for r in range(3):
        for s in (0, 5, 40):
            torch.manual_seed(10*r + s)
            net, file = Theirs(), tmp_path/f'in/run{r}/step{s}{suffix}'
            file.parent.mkdir(parents=True, exist_ok=True)
            (save_file if suffix == '.safetensors' else torch.save)(net.state_dict(), file)
            rows[r, s] = flat(net)
            given[f'run{r}/step{s}{suffix}'] = dict(test_loss=rng.random(), test_error=50*rng.random())
    if table: write_table(tmp_path/'in'/table, given)
    store = import_folder(tmp_path/'in', tmp_path/'store', task, progress=False)
    assert (store.R, store.S, store.steps[0].tolist()) == (3, 3, [0, 5, 40])
    assert len(store.metrics) == (2 if table else 4)
    for r in range(3):
        for i, s in enumerate((0, 5, 40)):
            row = store.rows([r], [i])
            assert torch.equal(row[0], rows[r, s])
            for metric, value in measure(task, row).items():
                name = f'test_{metric}'
                expected = given[f'run{r}/step{s}{suffix}'][name] if table else value.item()
                assert abs(store.values(name)[r, i] - expected) < 1e-5

def test_bad_folders(kit, tmp_path):
    (tmp_path/'in').mkdir()
    network, table = tmp_path/'in/a-0.pth', tmp_path/'in/metrics.csv'
    def refused(*more):
        code, out, said = kit('import', 'folder', 'in', 'store', *TINY, *more)
        assert code == 1 and len(said) == 1, said
        return said[0]
    network.write_bytes(b'junk')
    assert 'cannot be read as a state_dict' in refused()
    torch.save(tiny().net.state_dict(), network)
    table.write_text('name,test_loss\na-0.pth,1')
    assert 'is no table of metrics' in refused('--metrics', 'in/metrics.csv')
    table.write_text('file,speed\na-0.pth,1')
    assert 'has none of the metrics' in refused()
    table.write_text('file,test_loss\nb-0.pth,1')
    assert 'the table of metrics lacks' in refused()
    assert 'there is no file' in refused('--metrics', 'nowhere.csv')

def test_recorder(tmp_path):
    "Three lines in a plain loop; a second program adds to the store; a damaged shard is not thrown away."
    task, written = tiny(), []
    X, y = task.train
    def program(seed):
        record = Recorder(tmp_path/'store', task)                           # 1
        torch.manual_seed(seed)
        net = mlp((12, 4, 5))
        opt = torch.optim.Adam(net.parameters())
        for step in range(5):
            record(net, step)                                               # 2
            written.append(flat(net))
            opt.zero_grad(); F.cross_entropy(net(X), y).backward(); opt.step()
        record.end()                                                        # 3
        record.close()
    for seed in range(3): program(seed)
    store = Store(tmp_path/'store')
    assert (store.R, store.S) == (3, 5)
    runs, saves = np.repeat(range(3), 5), np.tile(range(5), 3)
    assert torch.equal(store.rows(runs, saves), torch.stack(written))
    rows = store.rows([2]*5, range(5))
    assert (store.values('test_loss')[2] == measure(task, rows)['loss'].numpy()).all()
    record = Recorder(tmp_path/'store', task)
    record(mlp((12, 4, 5)), 3)
    with pytest.raises(UserError, match='call end'): record(mlp((12, 4, 5)), 3)
    with pytest.raises(UserError, match='does not have the layout'): record(mlp((12, 5, 5)), 4)
    record.writer.flush(); record.close()
    (tmp_path/'store/shard-00000.safetensors').write_bytes(b'')
    with pytest.raises(UserError, match='cannot be recorded again'): Recorder(tmp_path/'store', task)

def test_recorder_after_a_run_that_was_cut_off(tmp_path):
    "A run that is too short is refused, and the next one begins anew."
    record = Recorder(tmp_path/'store', tiny())
    def run(n):
        for step in range(n): record(mlp((12, 4, 5)), step)
        record.end()
        return Store(tmp_path/'store')
    assert run(3).R == 1
    with pytest.raises(UserError, match='it has 2 checkpoints, and the others have 3'): run(2)
    assert run(3).R == 2

class Inside(nn.Module):
    "A network of ours inside a model of transformers' kind."
    def __init__(self):
        super().__init__()
        self.net = mlp((12, 4, 5))

    def forward(self, x, labels):
        logits = self.net(x)
        return dict(loss=F.cross_entropy(logits, labels), logits=logits)

@pytest.mark.slow
def test_transformers_trainer(tmp_path):
    "Slow because importing transformers takes seconds. Its Trainer trains a network of ours."
    from transformers import Trainer, TrainingArguments
    task = tiny()
    data = [dict(x=x, labels=y) for x, y in zip(*task.train)]
    options = dict(max_steps=6, per_device_train_batch_size=16, use_cpu=True, report_to=[], disable_tqdm=True,
                   save_strategy='no', logging_strategy='no')
    with Recorder(tmp_path/'store', task) as record:
        callback = trainer_callback(record, (0, 1, 3, 6).__contains__, network=lambda model: model.net)
        for seed in range(2):
            torch.manual_seed(seed)
            args = TrainingArguments(str(tmp_path/'trainer'), seed=seed, **options)
            Trainer(Inside(), args, train_dataset=data, callbacks=[callback]).train()
    store = Store(tmp_path/'store')
    assert (store.R, store.S, store.steps[1].tolist()) == (2, 4, [0, 1, 3, 6])
    assert (store.rows([0, 0], [0, 3]).diff(dim=0) != 0).any()

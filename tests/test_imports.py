"Other people's checkpoints: what comes in is what was there, what is damaged is named, and nothing of the source changes."
import hashlib, json, random, re, struct, sys, warnings
from pathlib import Path

import numpy as np, pytest, torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from gpt_kit import imports
from gpt_kit.cli import main
from gpt_kit.imports import Recorder, import_folder, import_lmdb, trainer_callback
from gpt_kit.store import Store
from gpt_kit.tasks import Task, classification, mlp, task_named
from gpt_kit.weights import Layout, measure

GOLDEN = Path(__file__).parent/'golden'
SIZES = [48, 4, 20, 5]      # of a network 12-4-5, 77 weights

def tiny():
    "A task for networks 12-4-5."
    g = torch.Generator().manual_seed(0)
    return classification('test_imports:tiny', torch.randn(300, 12, generator=g), torch.randint(5, (300,), generator=g), mlp((12, 4, 5)))

class Writer:
    "Writes the released layout, from its description alone: keys, float32 bytes, sizes as float32 bytes, runs.json."
    def __init__(self, folder, n_saves, sizes=SIZES, names=('avg_train_loss', 'avg_train_err', 'avg_test_loss', 'avg_test_err'), key='{}/ep{:03d}_it{:05d}.pt', seed=0):
        self.folder, self.n_saves, self.sizes, self.names, self.key, self.rng = Path(folder), n_saves, sizes, names, key, random.Random(seed)
        self.weights, self.metrics = {}, {}                  # key -> what was written

    def run(self, name, put):
        about = {}
        for s in range(self.n_saves):
            k = self.key.format(name, s//10, s % 10) if self.key.count('{') == 3 else self.key.format(name, s)
            w = [self.rng.gauss(0, 1) for _ in range(sum(self.sizes))]
            put(k, struct.pack(f'<{len(w)}f', *w)); put(k + '_arch', struct.pack(f'<{len(self.sizes)}f', *self.sizes))
            self.weights[k] = np.array(w, np.float32); self.metrics[k] = about[k] = {n: self.rng.random()*3 for n in self.names}
        all_ = [float(x) for k in about for x in self.weights[k]]
        return dict(checkpoints=about, metadata=dict(min_parameter_val=min(all_), max_parameter_val=max(all_)))

    def __call__(self, names):
        import lmdb
        folder = self.folder/'_'.join(names)
        folder.mkdir(parents=True)
        with lmdb.open(str(folder), map_size=2**28) as env, env.begin(write=True) as t:
            runs = {n: self.run(n, lambda k, v: t.put(k.encode(), v)) for n in names}
        (folder/'lock.mdb').unlink()
        (folder/'runs.json').write_text(json.dumps(runs if len(names) > 1 else runs[names[0]], sort_keys=True)); (folder/'DONE.txt').touch()
        return folder

def contents(folder): return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(Path(folder).rglob('*')) if f.is_file()}

def kept(store, metrics):
    "Run name -> (weights (S, D), metrics (S, M)) of a store."
    names = [n for k in store._shards for n in store.info['shards'][k]['names']]
    return {n: (store.rows([r]*store.S, range(store.S)).numpy(), np.stack([store.values(m)[r] for m in metrics], 1)) for r, n in enumerate(names)}

def test_golden_set(tmp_path):
    "The authors' own Database wrote this one, the second folder with two runs."
    store = import_lmdb(GOLDEN/'lmdb_tiny', tmp_path/'store', tiny(), progress=False)
    expected = load_file(GOLDEN/'lmdb_tiny_expected.safetensors')
    assert (store.R, store.S, store.D) == (3, 3, 77) and list(store.metrics) == ['test_loss', 'test_error', 'train_loss', 'train_error']
    for name, (rows, values) in kept(store, store.metrics).items():
        for row, key in zip(rows, ('ep000_it00000', 'ep000_it00007', 'ep003_it00002')): assert torch.equal(torch.from_numpy(row), expected[f'{name}/{key}.pt'])
        np.testing.assert_allclose(values[:, 0], [2.1, 1.6, 1.1], rtol=1e-6); np.testing.assert_allclose(values[:, 1], [82, 62, 42])
    assert (np.diff(store.steps) > 0).all() and (store.seeds < 0).all()

def test_round_trip(tmp_path):
    "50 runs × 200 checkpoints, alone and fused: every weight and every metric; interrupted and gone on with, the same bits; the source untouched."
    w = Writer(tmp_path/'source', 200)
    names = [f'{k:06d}' for k in range(50)]
    for i in range(0, 40, 4): w(names[i:i + 4])
    for n in names[40:]: w([n])
    before, room = contents(w.folder), 8*200*77*4                 # eight runs to a shard
    store = import_lmdb(w.folder, tmp_path/'store', tiny(), progress=False, shard_bytes=room)
    assert (store.R, store.S, len(store._shards)) == (50, 200, 7) and contents(w.folder) == before
    names_of = dict(test_loss='avg_test_loss', test_error='avg_test_err', train_loss='avg_train_loss', train_error='avg_train_err')
    there = kept(store, names_of)
    assert list(there) == names
    for n, (rows, values) in there.items():
        for s in range(200):
            k = f'{n}/ep{s//10:03d}_it{s % 10:05d}.pt'
            assert (rows[s] == w.weights[k]).all() and (values[s] == np.float32([w.metrics[k][theirs] for theirs in names_of.values()])).all()
    read, seen = imports.read_released, []
    def dies(*a):
        seen.append(1)
        if len(seen) == 30: raise KeyboardInterrupt
        return read(*a)
    with pytest.MonkeyPatch.context() as m:
        m.setattr(imports, 'read_released', dies)
        with pytest.raises(KeyboardInterrupt): import_lmdb(w.folder, tmp_path/'again', tiny(), progress=False, shard_bytes=room)
    (tmp_path/'again/.shard-00003.safetensors.4242.tmp').write_bytes(b'half')
    opened = []
    with pytest.MonkeyPatch.context() as m:
        m.setattr(imports, 'read_released', lambda *a: opened.append(1) or read(*a))
        import_lmdb(w.folder, tmp_path/'again', tiny(), progress=False, shard_bytes=room)
    assert len(opened) == 50 - 24                                 # three shards were whole, and were not read again
    a, b = contents(tmp_path/'store'), contents(tmp_path/'again')
    assert {k: v for k, v in a.items() if k != 'index.json'} == {k: v for k, v in b.items() if k != 'index.json'}
    assert Store(tmp_path/'again').info['shards'] == store.info['shards']
    shard = tmp_path/'again/shard-00002.safetensors'
    shard.write_bytes(shard.read_bytes()[:5000])                  # a shard that was damaged comes again
    with pytest.raises(ValueError, match='gpt-kit import gpt-lmdb'): Store(tmp_path/'again')
    mended = import_lmdb(w.folder, tmp_path/'again', tiny(), progress=False, shard_bytes=room).verify()
    assert all((rows == there[n][0]).all() and (values == there[n][1]).all() for n, (rows, values) in kept(mended, names_of).items())
    assert mended.R == len(set(mended.seeds)) == 50

@pytest.fixture
def kit(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path); monkeypatch.syspath_prepend(Path(__file__).parent)
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        out, err = capsys.readouterr()
        return code, out, [l for l in re.split(r'[\r\n]+', err) if l.strip() and not re.search(r'\d+%\||\d+/\d+ \[|\d+run \[', l)]
    return run

def spoil(folder, how, seed=0):
    data = bytearray((folder/'data.mdb').read_bytes())
    rng, pages = random.Random(seed), range(2, len(data)//4096)
    if how == 'cut short': data = data[:len(data)*2//3]
    elif how == 'no LMDB': data = data[:100]
    elif how == 'corrupt':                                        # every leaf's header
        for p in pages:
            if data[p*4096 + 10] == 2: data[p*4096:p*4096 + 16] = rng.randbytes(16)
    elif how == 'weights':
        at = next(m.start() for m in re.finditer(re.escape(b'_arch'), bytes(data)))
        w = next(p for p in pages if data[p*4096 + 10] == 4)      # a value's own page
        data[w*4096 + 16:w*4096 + 116] = struct.pack('<25f', *[1e6]*25); assert at
    (folder/'data.mdb').write_bytes(data)

@pytest.mark.parametrize('how, words', [('cut short', ['cut short', 'bytes']), ('no LMDB', ['no LMDB']), ('corrupt', ['corrupt']), ('runs.json', ['runs.json is missing']), ('half a runs.json', ['is damaged']), ('gone', ['no data.mdb'])])
def test_damage_is_named(how, words, kit, tmp_path):
    "Alone: one sentence and exit code 1. Among others: these come in, and the damaged one is named."
    w = Writer(tmp_path/'source', 60)
    for n in ('000000', '000001', '000002'): w([n])
    bad = w.folder/'000001'
    if how == 'runs.json': (bad/'runs.json').unlink()
    elif how == 'half a runs.json': (bad/'runs.json').write_text((bad/'runs.json').read_text()[:300])
    elif how == 'gone': (bad/'data.mdb').unlink()
    else: spoil(bad, how)
    code, out, said = kit('import', 'gpt-lmdb', bad, 'alone', '--task', 'test_imports:tiny')
    assert code == 1 and len(said) == 1 and all(x in said[0] for x in words) and not re.search(r'[.!?] +[A-Z]', said[0]), said
    code, out, said = kit('import', 'gpt-lmdb', w.folder, 'store', '--task', 'test_imports:tiny')
    assert code == 0 and len(said) == 1 and '000001 is left out' in said[0] and all(x in said[0] for x in words), said
    assert Store(tmp_path/'store').R == 2 and list(Store(tmp_path/'store').info['left_out']) == ['000001']

def test_altered_weights_are_noticed(tmp_path):
    "LMDB has no checksums, but runs.json says how far a run's weights go."
    w = Writer(tmp_path/'source', 20, sizes=[784*10, 10, 100, 10])
    for n in ('000000', '000001'): w([n])
    spoil(w.folder/'000001', 'weights')
    task = Task('big', mlp((784, 10, 10)), (torch.zeros(20, 784), torch.zeros(20)), (torch.zeros(2, 784), torch.zeros(2)))
    with pytest.warns(UserWarning, match='000001 is left out: its weights go from'): assert import_lmdb(w.folder, tmp_path/'store', task, progress=False).R == 1

def test_another_architecture(kit, tmp_path):
    Writer(tmp_path/'source', 5, sizes=[48, 4, 28, 7])(['000000'])
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', '--task', 'test_imports:tiny')
    assert code == 1 and len(said) == 1 and '[48, 4, 28, 7]' in said[0] and '[48, 4, 20, 5]' in said[0]
    code, out, said = kit('import', 'gpt-lmdb', 'source', 'store', '--task', 'digits')
    assert code == 1 and 'choose the --task' in said[0]

def test_runs_json_without_a_metric(tmp_path):
    w = Writer(tmp_path/'source', 3)
    for n in 'abc': w([n])
    file = w.folder/'b/runs.json'; file.write_text(file.read_text().replace('avg_train_err', 'other', 1))
    file = w.folder/'c/runs.json'; file.write_text(file.read_text().replace('c/ep000_it00001.pt', 'c/nonsense.pt'))
    with pytest.warns(UserWarning) as told: assert import_lmdb(tmp_path/'source', tmp_path/'store', tiny(), progress=False).R == 1
    assert ["lacks a metric" in str(told[0].message), "names no iteration" in str(told[1].message)] == [True, True]

def test_runs_of_another_length(tmp_path):
    w, short = Writer(tmp_path/'source', 6), Writer(tmp_path/'source', 4)
    w(['a']); short(['b'])
    with pytest.warns(UserWarning, match='run b is left out: it has 4 checkpoints, and the others have 6'): import_lmdb(tmp_path/'source', tmp_path/'store', tiny(), progress=False)

def test_policies(tmp_path):
    "CartPole's keys have no epoch, its metric is train_ret, and log_std comes before the weights."
    from gpt_kit.cartpole import cartpole
    w = Writer(tmp_path/'source', 5, sizes=[1, 128, 32, 1024, 32, 32, 1], names=('train_ret',), key='{}/it{:05d}.pt')
    w(['000000', '000001'])
    store = import_lmdb(w.folder, tmp_path/'store', cartpole(), progress=False)
    assert store.D == 1249 and list(store.metrics) == ['test_return'] and not store.metrics['test_return']['minimize']
    assert (store.rows([1], [3])[0].numpy() == w.weights['000001/it00003.pt'][1:]).all() and store.steps[1].tolist() == [0, 1, 2, 3, 4]
    assert load_file(store.path/'shard-00000.safetensors')['log_std'][1, 3, 0] == w.weights['000001/it00003.pt'][0]
    all_ = import_lmdb(w.folder, tmp_path/'paper', task_named('cartpole-paper'), progress=False)
    assert all_.D == 1250 and (all_.rows([1], [3])[0].numpy() == w.weights['000001/it00003.pt']).all()

def test_an_imported_store_is_a_store(kit, tmp_path):
    "A model is trained on it; a collection does not go on with it, and says how to."
    Writer(tmp_path/'source', 6)(['000000', '000001', '000002'])
    kit('import', 'gpt-lmdb', 'source', 'store', '--task', 'test_imports:tiny')
    code, out, said = kit('train', 'store', 'm.safetensors', '--width', 12, '--depth', 1, '--heads', 2, '--steps', 3, '--batch', 4)
    assert code == 0, said
    code, out, said = kit('collect', 'store')
    assert code == 1 and said == ['gpt-kit: the store in store was not collected here; go on with: gpt-kit import gpt-lmdb source store --task test_imports:tiny']
    assert kit('export', 'store', 'metrics.parquet')[0] == 0
    import pandas as pd
    assert set(pd.read_parquet('metrics.parquet').name) == {'000000', '000001', '000002'}

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('table', [None, 'metrics.csv', 'metrics.json'])
def test_a_folder_of_state_dicts(suffix, table, tmp_path):
    task, rng, rows = tiny(), random.Random(0), {}
    class Theirs(nn.Module):
        def __init__(self): super().__init__(); self.zeta, self.alpha = nn.Linear(12, 4), nn.Linear(4, 5)     # safetensors files sort these by name
    for r in range(3):
        for s in (0, 5, 40):
            torch.manual_seed(10*r + s); net = Theirs(); file = tmp_path/f'in/run{r}/step{s}{suffix}'; file.parent.mkdir(parents=True, exist_ok=True)
            (save_file if suffix == '.safetensors' else torch.save)(net.state_dict(), file); rows[f'run{r}', s] = torch.cat([p.detach().flatten() for p in net.parameters()])
    given = {f'run{r}/step{s}{suffix}': dict(test_loss=rng.random(), test_error=50*rng.random()) for r, s in rows for r in [r[3:]]}
    if table == 'metrics.json': (tmp_path/'in'/table).write_text(json.dumps(given))
    if table == 'metrics.csv': (tmp_path/'in'/table).write_text('\n'.join(['file,test_loss,test_error'] + [f"{k},{v['test_loss']!r},{v['test_error']!r}" for k, v in given.items()]))
    store = import_folder(tmp_path/'in', tmp_path/'store', task, progress=False)
    assert (store.R, store.S, store.steps[0].tolist()) == (3, 3, [0, 5, 40])
    for r in range(3):
        for i, s in enumerate((0, 5, 40)):
            row = store.rows([r], [i])
            assert torch.equal(row[0], rows[f'run{r}', s])
            expected = given[f'run{r}/step{s}{suffix}']['test_loss'] if table else measure(task, row)['loss'].item()
            assert abs(store.values('test_loss')[r, i] - expected) < 1e-6

def test_bad_folders(kit, tmp_path):
    (tmp_path/'in').mkdir(); (tmp_path/'in/a-0.pth').write_bytes(b'junk')
    code, out, said = kit('import', 'folder', 'in', 'store', '--task', 'test_imports:tiny')
    assert code == 1 and len(said) == 1 and 'cannot be read as a state_dict' in said[0]
    torch.save(tiny().net.state_dict(), 'in/a-0.pth'); (tmp_path/'in/metrics.csv').write_text('name,test_loss\na-0.pth,1')
    code, out, said = kit('import', 'folder', 'in', 'store', '--task', 'test_imports:tiny')
    assert code == 1 and len(said) == 1 and 'is no table of metrics' in said[0]
    (tmp_path/'in/metrics.csv').write_text('file,speed\na-0.pth,1')
    assert 'has none of the metrics' in kit('import', 'folder', 'in', 'store', '--task', 'test_imports:tiny')[2][0]
    (tmp_path/'in/metrics.csv').write_text('file,test_loss\nb-0.pth,1')
    assert 'lacks' in kit('import', 'folder', 'in', 'store', '--task', 'test_imports:tiny')[2][0]
    assert 'there is no file' in kit('import', 'folder', 'in', 'store', '--task', 'test_imports:tiny', '--metrics', 'nowhere.csv')[2][0]

def test_recorder(tmp_path):
    "Three lines in a plain loop; a second program adds to the store; a damaged shard is not thrown away."
    task = tiny()
    (X, y), kept_rows = task.train, []
    def program(seed):
        record = Recorder(tmp_path/'store', task)                           # 1
        torch.manual_seed(seed); net = mlp((12, 4, 5)); opt = torch.optim.Adam(net.parameters())
        for step in range(5):
            record(net, step)                                               # 2
            kept_rows.append(torch.cat([p.detach().flatten().clone() for p in net.parameters()]))
            opt.zero_grad(); F.cross_entropy(net(X), y).backward(); opt.step()
        return record.end()                                                 # 3
    for seed in range(3): store = program(seed)
    assert (store.R, store.S) == (3, 5) and torch.equal(store.rows([r for r in range(3) for _ in range(5)], [*range(5)]*3), torch.stack(kept_rows))
    assert (store.values('test_loss')[2] == measure(task, store.rows([2]*5, range(5)))['loss'].numpy()).all()
    record = Recorder(tmp_path/'store', task); record(mlp((12, 4, 5)), 3)
    with pytest.raises(ValueError, match='call end'): record(mlp((12, 4, 5)), 3)
    with pytest.raises(ValueError, match='does not have the layout'): record(mlp((12, 5, 5)), 4)
    (tmp_path/'store/shard-00001.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='cannot be recorded again'): Recorder(tmp_path/'store', task)

@pytest.mark.slow
def test_transformers_trainer(tmp_path):
    "Slow because importing transformers takes seconds. Its Trainer trains a network of ours inside a model of its kind."
    from transformers import Trainer, TrainingArguments
    task = tiny(); X, y = task.train
    class Model(nn.Module):
        def __init__(self): super().__init__(); self.net = mlp((12, 4, 5))
        def forward(self, x, labels): logits = self.net(x); return dict(loss=F.cross_entropy(logits, labels), logits=logits)
    for seed in range(2):
        args = TrainingArguments(str(tmp_path/'trainer'), max_steps=6, per_device_train_batch_size=16, report_to=[], save_strategy='no', use_cpu=True, seed=seed, disable_tqdm=True, logging_strategy='no')
        torch.manual_seed(seed)
        Trainer(Model(), args, train_dataset=[dict(x=a, labels=b) for a, b in zip(X, y)],
                callbacks=[trainer_callback(Recorder(tmp_path/'store', task), lambda step: step in (0, 1, 3, 6), lambda model: model.net)]).train()
    store = Store(tmp_path/'store')
    assert (store.R, store.S, store.steps[1].tolist()) == (2, 4, [0, 1, 3, 6]) and (store.rows([0, 0], [0, 3]).diff(dim=0) != 0).any()

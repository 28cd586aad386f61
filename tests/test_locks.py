"One writer at a time, nothing left by the dead, and nothing deleted that the kit did not make."
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.files import WriteLock, append_record, claim_folder, read_records, sweep
from gpt_kit.networks.store import JOURNAL, Store, delete_store, journal_runs
from gpt_kit.networks.tasks import digits, mlp
from gpt_kit.outside.imports import Recorder, StoreWriter
from gpt_kit.run.commands import main
from gpt_kit.run.gallery import write_gallery
from gpt_kit.run.pages import page_html
from gpt_kit.run.report import write_report
from gpt_kit.study.lab import Lab

TINY = Recipe(epochs=1, n_saves=2)
D = 1210

def contents(folder): # every file's bytes
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob('*')) if f.is_file()}

def net(k): # as a state_dict
    torch.manual_seed(k)
    return mlp((64, 16, 10)).state_dict()

def record_run(record, k, name=None, n=2):
    for step in range(n): record(net(2*k + step), step)
    record.end(name)

HOLD = """
import sys, time
from gpt_kit.networks.files import WriteLock
lock = WriteLock(sys.argv[1], 'x')
print('held', flush=True)
time.sleep(60)
"""

@pytest.fixture
def hold():
    "Hold a lock in another process; gives the process."
    made = []
    def start(file):
        p = subprocess.Popen([sys.executable, '-c', HOLD, str(file)], stdout=subprocess.PIPE)
        made.append(p)
        assert p.stdout.readline() == b'held\n'
        return p
    yield start
    for p in made: p.kill(); p.communicate()

# Locks

def test_the_second_process_is_told_who_writes(hold, tmp_path, capsys):
    "Collecting, recording and importing into a store, and training into a file; the dead leave no lock."
    store = collect(digits(), tmp_path/'store', 8, recipe=TINY, progress=False)
    model, before = tmp_path/'m.safetensors', contents(tmp_path)
    holder = hold(tmp_path/'store'/'.gpt-kit.lock')
    words = ['collect', tmp_path/'store', '--runs', '16', '--saves', '2', '--epochs', '1']
    assert main([str(w) for w in words]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and f'is being written by process {holder.pid}' in said[0]
    with pytest.raises(UserError, match='is being written'): Recorder(store.path, digits())
    (tmp_path/'runs'/'a').mkdir(parents=True)
    torch.save(net(0), tmp_path/'runs'/'a'/'0.pt')
    assert main(['import', 'folder', str(tmp_path/'runs'), str(store.path), '--task', 'digits']) == 1
    assert 'is being written' in capsys.readouterr().err
    trainer = hold(tmp_path/'.m.gpt-kit.lock')
    words = ['train', store.path, model, '--steps', '1', '--width', '24', '--depth', '1', '--heads', '2']
    assert main([str(w) for w in words]) == 1
    assert f'{model} is being written by process {trainer.pid}' in capsys.readouterr().err
    (tmp_path/'runs'/'a'/'0.pt').unlink()
    left = contents(tmp_path)
    assert {n: left[n] for n in before} == before
    assert set(left) - set(before) == {'store/.gpt-kit.lock', '.m.gpt-kit.lock'}
    for p in (holder, trainer): p.send_signal(signal.SIGKILL); p.wait()
    assert collect(digits(), store.path, 16, recipe=TINY, progress=False).R == 16
    assert not (store.path/'.gpt-kit.lock').exists()

def test_two_in_one_process(tmp_path):
    "A recorder that is still open is named; closed, forgotten or failed ones are not in the way."
    one = Recorder(tmp_path/'s', digits())
    with pytest.raises(UserError, match='by this process'): Recorder(tmp_path/'s', digits())
    one.close()
    with pytest.raises(UserError, match='was closed'): one(net(0), 0)
    two = Recorder(tmp_path/'s', digits())
    record_run(two, 0)
    del two
    with pytest.raises(UserError, match='has the metrics') as kept:        # whose traceback is still there
        StoreWriter(tmp_path/'s', digits(), source='recorder', metrics=['test_loss'])
    with pytest.raises(UserError, match='made for other settings') as also:
        collect(digits(), tmp_path/'s', 8, recipe=TINY, progress=False)
    assert kept and also
    Recorder(tmp_path/'s', digits()).close()
    assert not (tmp_path/'s'/'.gpt-kit.lock').exists() and Store(tmp_path/'s').R == 1

def test_a_fork_does_not_let_go(tmp_path):
    "A child that ends, or forgets the lock, leaves its parent's alone."
    lock = WriteLock(tmp_path/'lock', 'x')
    child = os.fork()
    if not child:
        lock.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path/'lock').exists()
    with pytest.raises(UserError): WriteLock(tmp_path/'lock', 'x')
    lock.close()
    WriteLock(tmp_path/'lock', 'x').close()

@pytest.mark.filterwarnings('ignore:waiting for')
def test_one_at_a_time_whoever_comes(tmp_path):
    "Eight threads that take the lock again and again; never are two inside."
    inside, most, rounds = [], [], 20
    def work():
        for _ in range(rounds):
            with WriteLock(tmp_path/'lock', 'x', wait=True):
                inside.append(1); most.append(len(inside)); time.sleep(.001); inside.pop()
    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert most == [1]*8*rounds and list(tmp_path.iterdir()) == []

def test_who_waits_says_for_whom(hold, tmp_path):
    holder = hold(tmp_path/'lock')
    threading.Timer(1, holder.kill).start()
    with pytest.warns(UserWarning, match=f'waiting for process {holder.pid}, which makes x'):
        WriteLock(tmp_path/'lock', 'x', wait=True).close()

@pytest.mark.filterwarnings('ignore:waiting for')
def test_two_labs_make_a_thing_once(tmp_path):
    "The second waits, and reads what the first has made."
    made, found = [], []
    def work():
        def make(): made.append(1); time.sleep(.5); return len(made)
        found.append(Lab(tmp_path/'cache').cached('n', dict(a=1), make))
    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert (made, found) == ([1], [1, 1])

def test_only_our_temporary_files_are_swept(tmp_path):
    "By whoever writes next: those of the names that are written, with a process's number."
    ours = '.index.json.4242.tmp', '.shard-00000.safetensors.4242.tmp'
    theirs = '.notes.tmp', '.index.json.tmp', '.photo.jpg.4242.tmp', '.shard-0.safetensors.4242.tmp', 'a.tmp'
    store = tmp_path/'store'
    store.mkdir()
    for name in ours + theirs: (store/name).touch()
    collect(digits(), store, 8, recipe=TINY, progress=False)
    assert {f.name for f in store.glob('*.tmp')} | {f.name for f in store.glob('.*.tmp')} == set(theirs)
    models = '.m.safetensors.1.tmp', '.m.training.safetensors.1.tmp'
    others = '.m.tmp', '.m.notes.tmp', '.m2.safetensors.1.tmp', '.m.safetensors.x.tmp'
    for name in models + others: (tmp_path/name).touch()
    data = prepare_data(Store(store), 'test_loss')
    model = GPT(data.store.layout.layers, tokens='neuron', width=24, depth=1, heads=2)
    train_gpt(model, data, TrainConfig(steps=1, batch=4), tmp_path/'m.safetensors', progress=False)
    assert {f.name for f in tmp_path.glob('.*')} == set(others)

# The journal

@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.lists(st.binary(max_size=80), min_size=1, max_size=4), draw=st.data())
def test_a_journal_is_read_up_to_where_it_was_cut(tmp_path, data, draw):
    "Cut anywhere, what was whole is read; changed anywhere, it is refused or the change is seen as a cut."
    file = tmp_path/'journal'
    file.unlink(missing_ok=True)
    ends = [0]
    for i, d in enumerate(data):
        append_record(file, str(i), d)
        ends.append(file.stat().st_size)
    good, n = file.read_bytes(), draw.draw(st.integers(0, ends[-1]))
    file.write_bytes(good[:n])
    whole = sum(end <= n for end in ends) - 1
    assert read_records(file) == ({str(i): data[i] for i in range(whole)}, ends[whole])
    at = draw.draw(st.integers(0, ends[-1] - 1))
    file.write_bytes(good[:at] + bytes([good[at] ^ draw.draw(st.integers(1, 255))]) + good[at + 1:])
    try: records, end = read_records(file)
    except UserError as e: assert 'is damaged from byte' in str(e)
    else: assert records == {str(i): data[i] for i in range(ends.index(end))} and end <= at

def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path):
    "A limit on a file's size stands for a full disk."
    import resource
    file = tmp_path/'journal'
    append_record(file, 'a', b'a'*1000)
    before, limits = file.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(OSError, match='no space left'): append_record(file, 'b', b'b'*5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert file.read_bytes() == before
    append_record(file, 'c', b'c')
    assert list(read_records(file)[0]) == ['a', 'c']

# The recorder

def test_an_ended_run_costs_the_same_whatever_there_is(tmp_path):
    "Counted in bytes that the process writes: for the 5th run as for the 150th, and no file is made anew."
    if not hasattr(psutil.Process(), 'io_counters'): pytest.skip('this system does not count what is written')
    costs, written = [], lambda: psutil.Process().io_counters().write_chars
    with Recorder(tmp_path/'s', digits()) as record:
        for k in range(150):
            for step in range(2): record(net(k), step)
            before = written()
            record.end()
            costs.append(written() - before)
        names = {f.name for f in (tmp_path/'s').iterdir()}
    assert names == {'.gpt-kit.lock', 'index.json', JOURNAL}
    assert costs[4] < 2*D*4*1.5 and costs[149] <= costs[4] + 20

def test_shards_are_filled_and_the_journal_goes(tmp_path):
    "Runs move from the journal into a shard; opened anew in between, the store's bytes are the same."
    def fill(path, again):
        record = Recorder(path, digits())
        for k in range(7):
            if k in again:
                record.close()
                record = Recorder(path, digits())
            record.writer.shard_bytes = 3*2*D*4                           # three runs
            record_run(record, k)
            assert Store(path).verify().R == k + 1
        record.close()
        return contents(path)
    one = fill(tmp_path/'a', ())
    two = fill(tmp_path/'b', range(1, 7))
    two['index.json'] = two['index.json'].replace(bytes(tmp_path/'b'), bytes(tmp_path/'a'))
    shards = {f'shard-0000{k}.safetensors' for k in range(2)}
    assert one == two and set(one) == {'index.json', JOURNAL, *shards}
    store = Store(tmp_path/'a')
    assert store.names == [f'{k:06d}' for k in range(7)] and list(journal_runs(store.path)) == ['000006']
    assert store.seeds.tolist() == [-k for k in range(1, 8)]
    for k in range(7): assert torch.equal(store.rows([k], [1])[0][:1024], net(2*k + 1)['0.weight'].flatten())

def test_a_run_in_the_journal_and_in_a_shard_counts_once(tmp_path):
    "As it is when somebody is killed after the index was written, and before the journal went."
    record = Recorder(tmp_path/'s', digits())
    for k in range(2): record_run(record, k)
    journal = (tmp_path/'s'/JOURNAL).read_bytes()
    record.writer.flush()
    record.close()
    (tmp_path/'s'/JOURNAL).write_bytes(journal + b'{"name": "000002", "by')   # and a run under way
    assert Store(tmp_path/'s').verify().names == ['000000', '000001']
    with Recorder(tmp_path/'s', digits()) as record: record_run(record, 2)
    assert Store(tmp_path/'s').names == ['000000', '000001', '000002']

def test_a_full_journal_becomes_a_shard_when_opened(tmp_path):
    "As it is when somebody is killed between the run that fills a shard and the shard."
    record = Recorder(tmp_path/'s', digits())
    for k in range(3): record_run(record, k)
    record.close()
    room = dict(source='recorder', metrics=record.metrics, shard_bytes=3*2*D*4)
    StoreWriter(tmp_path/'s', digits(), **room).close()
    assert not (tmp_path/'s'/JOURNAL).exists() and Store(tmp_path/'s').verify().R == 3

def test_recorder_as_a_block(tmp_path):
    "Left by an error it drops the run under way and keeps the others; left well it ends the run."
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path/'s', digits()) as record:
        record_run(record, 0, 'first')
        record(net(9), 0)
        1/0
    assert Store(tmp_path/'s').names == ['first'] and not (tmp_path/'s'/'.gpt-kit.lock').exists()
    with Recorder(tmp_path/'s', digits()) as record:
        for step in range(2): record(net(step), step)
    assert Store(tmp_path/'s').names == ['first', '000001']

def test_a_full_disk_costs_no_run(tmp_path):
    "A limit on a file's size stands for a full disk: the run is kept, and end() can be called again."
    import resource
    record, limits = Recorder(tmp_path/'s', digits()), resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    record(net(0), 0); record(net(1), 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(OSError, match='no space left'): record.end('a')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    record.end('a')
    record.close()
    assert Store(tmp_path/'s').names == ['a']

def test_a_process_may_go_to_another_folder(tmp_path, monkeypatch):
    "The lock of a store in the folder that it went to is left alone, and the run goes where it was meant to."
    for name in ('here', 'there'): (tmp_path/name).mkdir()
    monkeypatch.chdir(tmp_path/'here')
    record = Recorder('s', digits())
    monkeypatch.chdir(tmp_path/'there')
    other = Recorder('s', digits())
    record_run(record, 0)
    record.close()
    assert (tmp_path/'there'/'s'/'.gpt-kit.lock').exists() and Store(tmp_path/'here'/'s').R == 1
    other.close()

def test_files_of_others_in_place_of_a_store(tmp_path):
    "Neither somebody's index nor somebody's shard is taken for ours, or replaced."
    (tmp_path/'a').mkdir(); (tmp_path/'b').mkdir()
    (tmp_path/'a'/'index.json').write_text('{"pages": []}')
    save_file(dict(w=torch.zeros(3)), tmp_path/'b'/'shard-00000.safetensors')
    before = contents(tmp_path)
    for name, words in dict(a='not the index of a store', b='not a shard of a store').items():
        with pytest.raises(UserError, match=words):
            collect(digits(), tmp_path/name, 8, recipe=TINY, progress=False)
    assert contents(tmp_path) == before

def test_a_name_is_taken_once(tmp_path):
    "The run that is refused is not lost: it can be ended under another name."
    with Recorder(tmp_path/'s', digits()) as record:
        record_run(record, 0, '000001')
        with pytest.raises(UserError, match="there is a run '000001'"): record_run(record, 1, '000001')
        record.end('other')
        record_run(record, 2)
    assert Store(tmp_path/'s').names == ['000001', 'other', '000002']
    with Recorder(tmp_path/'s', digits()) as record:
        with pytest.raises(UserError, match="there is a run 'other'"): record_run(record, 3, 'other')

def test_a_journal_that_is_not_right(tmp_path):
    "Damaged, or without its index: one sentence, and nothing is changed."
    with Recorder(tmp_path/'s', digits()) as record:
        for k in range(2): record_run(record, k)
    file = tmp_path/'s'/JOURNAL
    good = file.read_bytes()
    file.write_bytes(good[:500] + b'?' + good[501:])
    for f in (lambda: Store(tmp_path/'s'), lambda: Recorder(tmp_path/'s', digits())):
        with pytest.raises(UserError, match='is damaged from byte 0'): f()
    file.write_bytes(good)
    (tmp_path/'s'/'index.json').unlink()
    with pytest.raises(UserError, match='whose index.json is gone'): Recorder(tmp_path/'s', digits())
    with pytest.raises(UserError, match='whose index.json is gone'):
        collect(digits(), tmp_path/'s', 8, recipe=TINY, progress=False)
    assert file.read_bytes() == good

# Only what we made goes

def foreign(folder):
    "What a person may have: photographs, folders, files and links that are called nearly as ours."
    (folder/'holidays-0123456789ab').mkdir(parents=True)
    (folder/'holidays-0123456789ab'/'1.jpg').write_bytes(b'1'*5000)
    (folder/'raw').mkdir()
    (folder/'raw'/'index.json').write_text('[]')
    names = 'a.jpg', 'IMG-0123456789ab.jpg', 'x.json', 'm-0123456789AB.json', 'm-0123456789ab', '.hidden'
    for name in names: (folder/name).write_bytes(b'0'*5000)
    (folder/'link-0123456789ab.json').symlink_to(folder/'a.jpg')
    return contents(folder)

def test_a_lab_takes_no_folder_that_it_did_not_make(tmp_path):
    before = foreign(tmp_path/'data')
    with pytest.raises(UserError, match='files that this kit did not make'): Lab(tmp_path/'data', limit=0)
    assert contents(tmp_path/'data') == before

def test_a_lab_deletes_only_what_it_made(tmp_path):
    "In its own folder too, and in its own stores: a photograph that was put there stays."
    lab = Lab(tmp_path/'c', limit=0)
    before = foreign(tmp_path/'c')
    path = lab.path('digits', dict(a=1))
    collect(digits(), path, 8, recipe=TINY, progress=False)
    (path/'photo.jpg').write_bytes(b'p')
    lab.cached('n', dict(a=1), lambda: 1)
    state = tmp_path/'c'/'m-0123456789ab.training.safetensors'
    state.write_bytes(b's')
    lab.used.clear()
    gone = lab.trim()
    assert sorted(gone) == sorted([path.name, state.name, lab.path('n', dict(a=1), '.json').name])
    assert contents(tmp_path/'c') == before | {f'{path.name}/photo.jpg': b'p'}
    assert Lab(tmp_path/'c', limit=0).trim() == []

def test_a_lab_spares_the_state_of_what_it_uses(hold, tmp_path):
    "A training that was interrupted goes on from its state, however full the cache is."
    lab = Lab(tmp_path/'c', limit=0)
    model = lab.path('m', dict(a=1), '.safetensors')
    state = model.with_suffix('.training.safetensors')
    state.write_bytes(b's')
    assert lab.trim() == [] and state.exists()
    lab.used.clear()
    holder = hold(tmp_path/'c'/f'.{model.name}.gpt-kit.lock')
    assert lab.trim() == [] and state.exists()
    holder.kill(); holder.wait()
    assert lab.trim() == [state.name]

def test_a_lab_spares_what_is_being_made(hold, tmp_path):
    lab = Lab(tmp_path/'c', limit=0)
    file = lab.path('n', dict(a=1), '.json')
    lab.cached('n', dict(a=1), lambda: 1)
    lab.used.clear()
    hold(tmp_path/'c'/f'.{file.name}.gpt-kit.lock')
    assert lab.trim() == [] and file.exists()

def test_a_store_is_deleted_file_by_file(tmp_path):
    with Recorder(tmp_path/'s', digits()) as record: record_run(record, 0)
    (tmp_path/'s'/'mine.safetensors').touch()
    delete_store(tmp_path/'s')
    assert [f.name for f in (tmp_path/'s').iterdir()] == ['mine.safetensors']
    collect(digits(), tmp_path/'t', 8, recipe=TINY, progress=False)
    delete_store(tmp_path/'t')
    assert not (tmp_path/'t').exists()

def test_what_other_programs_leave_anywhere(tmp_path):
    (tmp_path/'.DS_Store').write_bytes(b'd')
    (tmp_path/'.ipynb_checkpoints').mkdir()
    assert claim_folder(tmp_path) == claim_folder(tmp_path) == tmp_path

def test_claim_folder_twice_at_once(tmp_path):
    claim_folder(tmp_path/'c'); (tmp_path/'c'/'x').touch(); claim_folder(tmp_path/'c')
    sweep(tmp_path/'c', 'x')
    assert (tmp_path/'c'/'x').exists()

def run_folder(folder):
    "An executed notebook, as `gpt-kit run` leaves it."
    cell = dict(cell_type='markdown', id='a', metadata={}, source='# One\n\n> A line')
    (folder/'gpt').mkdir(parents=True)
    book = dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)
    for name in ('gpt/01_one.ipynb', 'fig03.ipynb'): (folder/name).write_text(json.dumps(book))
    (folder/'jobs.json').write_text('{}')
    return folder

PAGES = ['index.html', 'summary.json', 'gpt/01_one.html', 'plotly.min.js', 'figures.js']

@pytest.mark.parametrize('name', PAGES)
def test_a_report_replaces_nothing_of_others(name, tmp_path, capsys):
    notebooks, out = run_folder(tmp_path/'nbs'), tmp_path/'site'
    (out/'gpt').mkdir(parents=True)
    for file in (out/name, out/'photos.html', out/'gpt'/'photos.html'): file.write_text('mine')
    before = contents(out)
    assert main(['report', '--notebooks', str(notebooks), '--out', str(out)]) == 1
    assert str(out/name) in capsys.readouterr().err
    left = contents(out)
    assert {n: left.get(n) for n in before} == before and (name == 'index.html' or 'index.html' not in left)

def test_a_report_deletes_only_its_own_pages(tmp_path):
    notebooks, out = run_folder(tmp_path/'nbs'), tmp_path/'site'
    write_report(notebooks, out)
    mine, old = out/'gpt'/'photos.html', out/'gpt'/'09_gone.html'
    mine.write_text('mine'); old.write_text(page_html('gone', ''))
    write_report(notebooks, out)
    assert mine.read_text() == 'mine' and not old.exists() and (out/'gpt'/'01_one.html').exists()

def test_a_report_that_cannot_be_written_is_not_lost(tmp_path):
    "The old pages stay until the new ones are there, and the next report goes on."
    notebooks, out = run_folder(tmp_path/'nbs'), tmp_path/'site'
    write_report(notebooks, out)
    (out/'gpt'/'09_gone.html').write_text(page_html('gone', ''))
    before = contents(out)
    full = f'.index.html.{os.getpid()}.tmp'
    (out/full).mkdir()                                                    # so the first page fails
    with pytest.raises(OSError): write_report(notebooks, out)
    assert contents(out) == before
    (out/full).rmdir()
    (out/'index.html').unlink()
    write_report(notebooks, out)
    assert set(contents(out)) == set(before) - {'gpt/09_gone.html'}

def test_a_json_file_is_ours_by_what_it_says(tmp_path):
    "Not by the index.html that lies beside it."
    for write, name in ((write_report, 'summary.json'), (lambda _, out: write_gallery(out), 'verdicts.json')):
        notebooks = out = run_folder(tmp_path/name)
        write(notebooks, out)
        (out/name).write_text('{"mine": 1}')
        with pytest.raises(UserError, match='was not made by this gpt_kit'): write(notebooks, out)
        assert (out/name).read_text() == '{"mine": 1}'

# Notebooks that run

def test_two_do_not_run_notebooks_into_one_folder(hold, tmp_path, capsys):
    "The second is told who does; into another folder a notebook may run others itself."
    import nbformat
    inner, outer, out = tmp_path/'inner.ipynb', tmp_path/'outer.ipynb', tmp_path/'out'
    run = ('from gpt_kit.run.jobs import job_of, run_jobs\n'
           f'run_jobs([job_of({str(inner)!r})], {{}}, {str(tmp_path/"in")!r})')
    for file, code in ((inner, '1'), (outer, run)):
        first = nbformat.v4.new_code_cell('n: int = 1', metadata=dict(tags=['parameters']))
        nbformat.write(nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(code)]), file)
    holder = hold(out/'.gpt-kit.lock')
    assert main(['run', str(outer), '--out', str(out)]) == 1
    assert f'{out} is being written by process {holder.pid}' in capsys.readouterr().err
    assert [f.name for f in out.iterdir()] == ['.gpt-kit.lock']
    holder.kill(); holder.wait()
    assert main(['run', str(outer), '--out', str(out)]) == 0
    for folder, name in ((out, 'outer'), (tmp_path/'in', 'inner')):
        assert {f.name for f in folder.iterdir()} == {'jobs.json', f'{name}.ipynb'}

@pytest.mark.parametrize('name', ['index.html', 'verdicts.json', 'fig03.html', 'plotly.min.js'])
def test_a_gallery_replaces_nothing_of_others(name, tmp_path):
    out = run_folder(tmp_path/'out')
    (out/name).write_text('mine')
    before = contents(out)
    with pytest.raises(UserError, match='choose another folder'): write_gallery(out)
    assert {n: b for n, b in contents(out).items() if n in before} == before
    (out/name).unlink()
    write_gallery(out)
    write_gallery(out)                                                    # its own may go
    assert (out/name).exists()

"""Files found and fetched: from a server on this machine that breaks off, begins anew, lies, or is not there.

Where Fashion-MNIST is installed, its real files are sent as their authors published them."""
import hashlib
import os
import signal
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from gpt_kit.gpt.presets import get_world
from gpt_kit.networks import datasets, fetch
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.datasets import fashion, read_idx
from gpt_kit.networks.fetch import MNIST_FILES, PICTURE_SETS, fetch_file, fetch_files, find_pictures
from gpt_kit.networks.registry import get_task, known_task, resize_task
from gpt_kit.networks.store import Store
from gpt_kit.run.commands import main

DATA = bytes(range(256))*4000           # about a megabyte
NAME = 'train-images.gz'

class Home(BaseHTTPRequestHandler):
    "Sends the server's files, with the fault it is told to have."
    def log_message(self, *args): pass

    def do_GET(self):
        s, name, start = self.server, self.path.rpartition('/')[2], 0
        told = self.headers.get('Range')
        if told and s.fault != 'begins anew': start = int(told[6:-1])
        s.asked.append((name, start))
        if s.fault == 404 or name not in s.files: return self.send_error(404)
        rest = s.files[name][start:]
        if start and not rest: return self.send_error(416)
        self.send_response(206 if start else 200)
        if s.fault != 'no length': self.send_header('Content-Length', str(len(rest)))
        self.end_headers()
        if s.fault in ('breaks', 'Ctrl-C'): rest = rest[:len(rest)//2]
        self.wfile.write(rest)
        if s.fault == 'Ctrl-C':
            self.wfile.flush()
            os.kill(os.getpid(), signal.SIGINT)
            s.go_on.wait(5)

@pytest.fixture
def serve():
    "`serve(fault, files=...)` starts a server with its address in `home`, and what it was asked in `asked`."
    servers = []
    def start(fault=None, files=None):
        s = ThreadingHTTPServer(('127.0.0.1', 0), Home)
        s.fault, s.files, s.asked, s.go_on = fault, files or {NAME: DATA}, [], threading.Event()
        s.home = f'http://127.0.0.1:{s.server_port}/'
        threading.Thread(target=s.serve_forever, args=(.01,), daemon=True).start()
        servers.append(s)
        return s
    yield start
    for s in servers:
        s.go_on.set()
        s.shutdown()
        s.server_close()

def sha256(data): return hashlib.sha256(data).hexdigest()
def starts(server): return [start for _, start in server.asked]
def names(folder): return sorted(f.name for f in folder.iterdir())

def get(folder, *servers):
    fetch_file([s.home for s in servers], folder/NAME, sha256(DATA), progress=False)
    assert names(folder) == [NAME] and (folder/NAME).read_bytes() == DATA

def refused(folder, *homes):
    with pytest.raises(UserError) as e: fetch_file(homes, folder/NAME, sha256(DATA), progress=False)
    assert '\n' not in str(e.value) and not (folder/NAME).exists()
    return str(e.value)

# One file

@pytest.mark.parametrize('fault', [None, 'no length'])
def test_a_file_is_fetched(tmp_path, serve, fault): get(tmp_path, serve(fault))

def test_a_broken_connection_goes_on_where_it_broke(tmp_path, serve):
    s = serve('breaks')
    assert 'the connection broke' in refused(tmp_path, s.home) and names(tmp_path) == [f'{NAME}.part']
    s.fault = None
    get(tmp_path, s)
    assert starts(s) == [0, len(DATA)//2]

def test_the_next_home_goes_on(tmp_path, serve):
    breaks, fine = serve('breaks'), serve()
    get(tmp_path, breaks, fine)
    assert starts(fine) == [len(DATA)//2]

def test_a_server_that_cannot_go_on_begins_anew(tmp_path, serve):
    get(tmp_path, serve('breaks'), serve('begins anew'))

def test_all_of_it_was_there(tmp_path, serve):
    "As after an end between the last byte and the new name."
    (tmp_path/f'{NAME}.part').write_bytes(DATA)
    get(tmp_path, serve())

@pytest.mark.parametrize('junk', [b'<html>log in</html>', DATA + b'x'], ids=['page', 'longer'])
def test_a_file_that_is_not_the_one_we_know(tmp_path, serve, junk):
    "Sent by a server, or left by an earlier try: nothing of it stays, and another home has the real one."
    odd, fine = serve(files={NAME: junk}), serve()
    assert 'SHA-256' in refused(tmp_path, odd.home) and names(tmp_path) == []
    get(tmp_path, odd, fine)
    (tmp_path/NAME).rename(tmp_path/f'{NAME}.part')
    (tmp_path/f'{NAME}.part').write_bytes(junk)
    get(tmp_path, fine, fine)

def test_not_found_and_no_network(tmp_path, serve):
    "One sentence with what each home said; port 9 is nobody's, and names below .invalid are none."
    said = refused(tmp_path, serve(404).home, 'http://127.0.0.1:9/', 'http://fashion.invalid/')
    assert all(word in said for word in ('HTTP 404', 'Connection refused', 'fashion.invalid')), said
    assert names(tmp_path) == []

def test_a_server_that_says_nothing(tmp_path, monkeypatch):
    def silent(*a, timeout): raise TimeoutError('timed out')
    monkeypatch.setattr(fetch, 'urlopen', silent)
    assert 'timed out' in refused(tmp_path, 'http://127.0.0.1:9/')

def test_a_full_disk_is_not_the_networks_fault(tmp_path, serve):
    (tmp_path/f'{NAME}.part').symlink_to('/dev/full')
    with pytest.raises(OSError, match='No space left'): get(tmp_path, serve())

def test_two_processes_fetch_once(tmp_path, serve, recwarn):
    s, digests = serve(), {NAME: sha256(DATA)}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4): pool.submit(fetch_files, [s.home], tmp_path/'set', digests, progress=False)
    assert names(tmp_path/'set') == [NAME] and starts(s) == [0]

def test_nothing_fetched_leaves_no_folder(tmp_path, serve):
    homes = [serve(404).home]
    with pytest.raises(UserError): fetch_files(homes, tmp_path/'a'/'b', {NAME: ''}, progress=False)
    assert names(tmp_path) == []

# A data set

@pytest.fixture
def small(tmp_path, serve, monkeypatch):
    "A server with four small files as MNIST's; its address and their digests are those that the kit knows."
    files = {f'{name}.gz': name.encode() for name in MNIST_FILES}
    s = serve(files=files)
    about = PICTURE_SETS['mnist']._replace(homes=(s.home,), digests=tuple(map(sha256, files.values())))
    monkeypatch.setitem(PICTURE_SETS, 'mnist', about)
    return s

def find(raw): return [f.relative_to(raw).as_posix() for f in find_pictures('mnist', raw, progress=False)]

def test_only_what_is_missing_is_fetched(tmp_path, small):
    (tmp_path/'mnist').mkdir()
    (tmp_path/'mnist'/MNIST_FILES[1]).write_bytes(b'mine, and not gzipped')
    wanted = [f'mnist/{name}.gz' for name in MNIST_FILES]
    wanted[1] = f'mnist/{MNIST_FILES[1]}'
    assert find(tmp_path) == wanted == find(tmp_path)
    assert [name for name, _ in small.asked] == [f'{MNIST_FILES[i]}.gz' for i in (0, 2, 3)]

def test_own_files_go_before_those_of_the_system(tmp_path, small, monkeypatch):
    "And both before the network."
    installed = tmp_path/'system'
    about = PICTURE_SETS['mnist']._replace(installed=installed)
    monkeypatch.setitem(PICTURE_SETS, 'mnist', about)
    for folder in (installed, tmp_path/'mnist'):
        folder.mkdir()
        for name in MNIST_FILES: (folder/f'{name}.gz').write_bytes(b'')
        assert {f.parent for f in find_pictures('mnist', tmp_path)} == {folder}
    assert small.asked == []

def test_nothing_to_be_had(tmp_path, small):
    "What is there is kept, and what to do is said."
    small.files.pop(f'{MNIST_FILES[2]}.gz')
    with pytest.raises(UserError) as e: find(tmp_path)
    said = str(e.value)
    assert f'{MNIST_FILES[2]}.gz could not be fetched' in said and 'HTTP 404' in said and '\n' not in said
    assert f'into {tmp_path/"mnist"}' in said and 'package' not in said
    assert names(tmp_path/'mnist') == sorted(f'{name}.gz' for name in MNIST_FILES[:2])

def test_debian_has_a_package_of_fashion(tmp_path, monkeypatch):
    about = PICTURE_SETS['fashion']._replace(homes=('http://fashion.invalid/',), installed=tmp_path/'none')
    monkeypatch.setitem(PICTURE_SETS, 'fashion', about)
    with pytest.raises(UserError, match="or install Debian's package dataset-fashion-mnist"):
        fashion(tmp_path)

# The command

@pytest.fixture
def data(monkeypatch, tmp_path, capfd):
    "`data('mnist')` with files below tmp_path: exit code, what is said, and errors without progress."
    monkeypatch.setattr(find_pictures, '__defaults__', (tmp_path,))
    monkeypatch.setenv('TQDM_DISABLE', '1')
    def run(name):
        code = main(['data', name])
        out, err = capfd.readouterr()
        return code, out, [line for line in err.splitlines() if line.startswith('gpt-kit')]
    return run

PUBLISHED = dict(zip(MNIST_FILES, [1504176606, 1504176606, 1504176627, 1504176627]))    # in seconds of Unix

@pytest.fixture(scope='session')
def published(fashion_folder):
    "The files as their authors published them: Debian leaves out name and time in the head, nothing else."
    def whole(name, seconds):
        head = b'\x1f\x8b\x08\x08' + struct.pack('<I', seconds) + b'\0\3' + name.encode() + b'\0'
        return head + (fashion_folder/f'{name}.gz').read_bytes()[10:]
    return {f'{name}.gz': whole(name, seconds) for name, seconds in PUBLISHED.items()}

def test_the_real_files_are_fetched_after_an_interruption(tmp_path, data, published, serve, monkeypatch):
    "By the digests that the kit has of them; what Ctrl-C interrupted is gone on with."
    s = serve('Ctrl-C', files=published)
    about = PICTURE_SETS['fashion']._replace(homes=(s.home,), installed=None)
    monkeypatch.setitem(PICTURE_SETS, 'fashion', about)
    first, big = tmp_path/'fashion'/f'{MNIST_FILES[0]}.gz.part', len(published[f'{MNIST_FILES[0]}.gz'])
    assert data('fashion')[0] == 130
    have = first.stat().st_size
    assert 0 <= have <= big//2 and names(tmp_path/'fashion') == [first.name]
    s.fault = None
    s.go_on.set()
    code, said, _ = data('fashion')
    assert (code, said) == (0, f"Fashion-MNIST: 60,000 pictures to train on and 10,000 to test on, "
                               f"in {tmp_path/'fashion'}\n")
    assert starts(s) == [0, have, 0, 0, 0] and names(tmp_path/'fashion') == sorted(published)

def test_what_is_installed_is_found(data, fashion_folder):
    assert data('fashion')[1].endswith(f'in {fashion_folder}\n')

def test_no_data_and_no_such_data(data, tmp_path, monkeypatch):
    monkeypatch.setitem(PICTURE_SETS, 'mnist', PICTURE_SETS['mnist']._replace(homes=('http://127.0.0.1:9/',)))
    code, said, errors = data('mnist')
    assert (code, said, len(errors)) == (1, '', 1) and 'Connection refused' in errors[0]
    code, said, errors = data('mnits')
    assert (code, said) == (1, '') and 'did you mean mnist' in errors[0]

# The tasks

@pytest.fixture(scope='session')
def clothes(fashion_folder): return get_task('fashion')

def test_widths(clothes):
    "Networks of other widths are tasks on the same pictures, by name."
    wide, conv = get_task('fashion-32-16'), get_task('fashion-cnn')
    assert [l[2] for l in wide.layers if l[0] == 'Linear'] == [32, 16, 10] and conv.layers[0][0] == 'Image'
    assert resize_task(clothes, (32,)).name == 'fashion-32'
    fingerprints = {t.fingerprint for t in (clothes, wide, conv)}
    assert len(fingerprints) == 3 and known_task(wide.name, wide.fingerprint).layers == wide.layers
    with pytest.raises(UserError, match='fashion has up to 8 hidden layers'): get_task('fashion-0')

def test_fashion(clothes):
    "The numbers are the same on every machine, so its models know their task; it is read once."
    assert [len(y) for _, y in (clothes.train, clothes.test, clothes.test2)] == [50000, 10000, 10000]
    assert clothes.name == 'fashion' and clothes.classes[9] == 'Ankle boot' and clothes.image == (1, 28, 28)
    X = clothes.train[0].double()
    assert X.mean(0).abs().max() < 1e-5 and abs(X.std() - 1) < 1e-6
    assert clothes.fingerprint == '56dfe67f3533' and get_task('fashion') is clothes

def test_pictures_are_those_that_they_should_be(clothes):
    "A boot, a shirt, trousers: the first of the test set, and the first that is set aside."
    assert [clothes.classes[i] for i in clothes.test[1][:3]] == ['Ankle boot', 'Pullover', 'Trouser']
    boot = clothes.scaling.undo(clothes.test[0][:1]).view(28, 28)
    assert boot.min().abs() < 1e-3 and boot[20, 2:26].mean() > 100 > boot[:7].abs().max()
    whole = datasets.read_pictures(find_pictures('fashion'))
    assert torch.equal(clothes.test2[1], torch.tensor(whole[1][50000:]).long())

@pytest.fixture
def named_mnist(tmp_path, fashion_folder, monkeypatch):
    "The real files in a folder mnist, which is where MNIST is looked for; and there is no network."
    (tmp_path/'mnist').mkdir()
    for file in fashion_folder.iterdir(): (tmp_path/'mnist'/file.name).symlink_to(file)
    monkeypatch.setattr(datasets.mnist, '__defaults__', (tmp_path,))
    monkeypatch.setattr(fetch, 'urlopen', None)
    return tmp_path/'mnist'

def test_the_same_files_as_mnist(clothes, named_mnist, data):
    "Found, counted, and the same task but for its name."
    said = f"MNIST: 60,000 pictures to train on and 10,000 to test on, in {named_mnist}\n"
    assert data('mnist') == (0, said, [])
    task = get_task('mnist')
    assert (task.name, task.fingerprint, task.classes) == ('mnist', clothes.fingerprint, None)

def test_from_mnists_files_to_a_network(named_mnist, tmp_path, capfd):
    "Without any other step. A twentieth of the real pictures, so that it takes no time."
    for name in MNIST_FILES:
        file = named_mnist/f'{name}.gz'
        a = read_idx(file)[::20]
        file.unlink()
        (named_mnist/name).write_bytes(struct.pack(f'>4B{a.ndim}I', 0, 0, 8, a.ndim, *a.shape) + a.tobytes())
    store, model, world = tmp_path/'store', tmp_path/'m.safetensors', ('--preset', 'fashion-loss')
    def did(*words):
        assert main([*map(str, words)]) == 0, capfd.readouterr().err
        return capfd.readouterr().out
    assert 'of mnist' in did('collect', store, *world, '--task', 'mnist', '--runs', 2, '--saves', 3)
    info, recipe = Store(store).info, get_world('fashion-loss').recipe
    assert info['task'] == 'mnist' and info['recipe'] == asdict(replace(recipe, n_saves=3))
    small = '--width', 8, '--heads', 2, '--depth', 1, '--steps', 1, '--batch', 2
    assert 'M parameters' in did('train', store, model, *world, *small)
    assert 'achieved' in did('prompt', model, 1, '--steps', 2)

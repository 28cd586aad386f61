"Image sets in their own formats: small files, byte by byte as the real ones are, and how they can be wrong."
import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
from urllib.error import URLError

import numpy as np
import pytest
import torch

from gpt_kit.gpt.presets import PRESETS
from gpt_kit.networks import datasets, fetch
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.datasets import (CIFAR10_1_FILES, CIFAR_ARCHIVE, CIFAR_BATCHES, CIFAR_FOLDER, cifar10,
                                       mnist, read_cifar10, read_cifar_batch, read_idx,
                                       shifted_and_mirrored)
from gpt_kit.networks.fetch import MNIST_FILES
from gpt_kit.networks.registry import get_task
from gpt_kit.networks.weights import Layout

G = np.random.default_rng(0)
SIZES = 30, 12  # training and test pictures of the small MNIST

@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    "No test of this file reaches for the network."
    def nothing(*a, **kw): raise URLError('no network')
    monkeypatch.setattr('sklearn.datasets.fetch_openml', nothing)
    monkeypatch.setattr(fetch, 'urlopen', nothing)

def one_sentence(f, *words):
    with pytest.raises(UserError) as e: f()
    message = str(e.value)
    assert '\n' not in message and [w for w in words if str(w) not in message] == [], message

# MNIST

def idx(a, kind=8):
    head = bytes([0, 0, kind, a.ndim]) + struct.pack(f'>{a.ndim}I', *a.shape)
    return head + a.astype(np.uint8).tobytes()

@pytest.fixture(params=['plain', 'gzipped'])
def mnist_raw(tmp_path, request):
    folder = tmp_path/'mnist'
    folder.mkdir()
    parts = [p for n in SIZES for p in (G.integers(0, 256, (n, 28, 28)), np.arange(n) % 10)]
    for name, a in zip(MNIST_FILES, parts):
        if request.param == 'plain': (folder/name).write_bytes(idx(a))
        else: (folder/f'{name}.gz').write_bytes(gzip.compress(idx(a)))
    return tmp_path

def change(raw, i, f):
    "Alter the i-th file of MNIST."
    file, = (raw/'mnist').glob(MNIST_FILES[i] + '*')
    file.write_bytes(f(file.read_bytes()))
    return file

def test_mnist_is_read(mnist_raw):
    task = mnist(mnist_raw)
    assert [len(y) for _, y in (task.train, task.test, task.test2)] == [25, 12, 5]      # a sixth is set aside
    assert task.image == (1, 28, 28) and Layout(task.layers).D == 7960
    assert torch.allclose(task.train[0].mean(0), torch.zeros(784), atol=1e-5)
    assert abs(task.train[0].std() - 1) < 1e-5
    assert task.test2[1].tolist() == [5, 6, 7, 8, 9]
    file, = (mnist_raw/'mnist').glob(MNIST_FILES[0] + '*')
    pixels = torch.tensor(read_idx(file)[:, 3, 5]/255)
    a = torch.cat([task.train[0], task.test2[0]])[:, 3*28 + 5]
    b = pixels - pixels[:25].mean()
    assert torch.allclose(a/a.norm(), (b/b.norm()).float(), atol=1e-5)

def test_read_once_and_other_files_anew(mnist_raw):
    task = mnist(mnist_raw)
    assert mnist(mnist_raw) is task
    change(mnist_raw, 1, lambda old: old)
    again = mnist(mnist_raw)
    assert again is not task and again.fingerprint == task.fingerprint

def test_found_by_name_and_collected(mnist_raw, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.mnist, '__defaults__', (mnist_raw,))
    task = get_task('mnist')
    assert task.name == 'mnist' and task.fingerprint == mnist(mnist_raw).fingerprint
    store = collect(task, tmp_path/'s', 2, recipe=Recipe(epochs=1, n_saves=2), progress=False)
    assert store.info['task'] == 'mnist' and store.D == 7960
    assert store.info['layers'] == PRESETS['mnist-loss'].layers

@pytest.mark.parametrize('i, f, words', [
    (0, lambda d: d[:-20], ['cut short']), (1, lambda d: d[:len(d)//2], ['cut short']),
    (2, lambda d: b'', ['no IDX file']), (3, lambda d: b'<html>404</html>', ['no IDX', 'two zero bytes']),
    (0, lambda d: d[:6], ['cut short'])],
    ids=['picture', 'half', 'empty', 'html', 'header'])
def test_damaged_idx(mnist_raw, i, f, words):
    change(mnist_raw, i, f)
    one_sentence(lambda: mnist(mnist_raw), mnist_raw/'mnist'/MNIST_FILES[i], *words)

def replace_file(raw, i, data):
    "Put other numbers in the i-th file of MNIST, gzipped if it was."
    change(raw, i, lambda old: gzip.compress(data) if old[:2] == b'\x1f\x8b' else data)

BLACK = np.zeros((30, 28, 28))
@pytest.mark.parametrize('i, data, words', [
    (0, idx(np.zeros((30, 27, 28))), ['27 × 28', '28 × 28']), (0, idx(BLACK, 0x0d), ['0x0d', '0x08']),
    (1, idx(np.full(30, 10)), ['10 to 10', '0..9']), (1, idx(np.arange(29) % 10), ['30', '29', 'pair up']),
    (3, idx(np.zeros((12, 28, 28))), ['labels', '(12, 28, 28)']), (0, idx(BLACK), ['the same']),
    (0, idx(BLACK + 1) + b'x', ['cut short or damaged'])],
    ids=['size', 'floats', 'out of range', 'too few', 'pictures for labels', 'black', 'longer'])
def test_idx_that_is_not_mnist(mnist_raw, i, data, words):
    replace_file(mnist_raw, i, data)
    one_sentence(lambda: mnist(mnist_raw), *words)

def test_an_idx_file_that_promises_the_world(tmp_path):
    (tmp_path/'x').write_bytes(b'\0\0\x08\x04' + b'\xff'*16)
    one_sentence(lambda: read_idx(tmp_path/'x'), 'cut short')

def test_one_file_is_missing(mnist_raw):
    next((mnist_raw/'mnist').glob(MNIST_FILES[2] + '*')).unlink()
    one_sentence(lambda: mnist(mnist_raw), f'put {MNIST_FILES[2]}.gz, gzipped or not', 'no network')

@pytest.mark.parametrize('make, words', [
    (mnist, [*MNIST_FILES, 'mnist', 'no network']), (cifar10, [CIFAR_ARCHIVE, CIFAR_FOLDER])],
    ids=['mnist', 'cifar10'])
def test_nothing_there_and_no_network(tmp_path, make, words):
    one_sentence(lambda: make(tmp_path), tmp_path, 'put', *words)

def test_fetched_from_openml(tmp_path, monkeypatch):
    """As scikit-learn gives it: numbers as floats, labels as text, training pictures first.

    The real sizes matter for the cut, so most rows are views of one."""
    n, pixels = 50000, 3072
    def openml(name, version, as_frame, return_X_y, data_home):
        few = G.integers(0, 256, (40, pixels)).astype(np.float32)
        X = np.concatenate([few, np.broadcast_to(few[:1], (n - 30, pixels))])
        return X, np.array([str(i % 10) for i in range(n + 10)])
    def black(train, others, each_pixel): return [torch.zeros(len(p), pixels) for p in (train, *others)], None
    monkeypatch.setattr('sklearn.datasets.fetch_openml', openml)
    monkeypatch.setattr(datasets, 'standardize_pictures', black)
    task = cifar10(tmp_path)
    assert [len(y) for _, y in (task.train, task.test)] == [n, 10] and task.train[1][13] == 3

# CIFAR-10

class Python2(pickle._Pickler):
    "Pickles as Python 2, in which CIFAR-10 was made: bytes are plain strings, numpy's parts have old names."
    dispatch = dict(pickle._Pickler.dispatch)
    def old_bytes(self, b):
        head = b'U' + bytes([len(b)]) if len(b) < 256 else b'T' + struct.pack('<i', len(b))
        self.write(head + b)
        self.memoize(b)
    dispatch[bytes] = old_bytes

def pickled(d):
    out = io.BytesIO()
    Python2(out, protocol=2).dump(d)
    return out.getvalue().replace(b'numpy._core.multiarray', b'numpy.core.multiarray')

def batch(n=6, labels=None):
    labels = list(range(n)) if labels is None else labels
    return {b'batch_label': b'testing batch', b'labels': labels, b'filenames': [b'a.png']*n,
            b'data': G.integers(0, 256, (n, 3072), dtype=np.uint8)}

def folder(raw, **other):
    (raw/CIFAR_FOLDER).mkdir()
    for n in CIFAR_BATCHES: (raw/CIFAR_FOLDER/n).write_bytes(other.get(n, pickled(batch())))
    return raw

def archive(raw):
    with tarfile.open(raw/CIFAR_ARCHIVE, 'w:gz') as t: t.add(raw/CIFAR_FOLDER, CIFAR_FOLDER)
    shutil.rmtree(raw/CIFAR_FOLDER)
    return raw

def test_python_2_is_what_it_says():
    assert b'cnumpy.core.multiarray' in pickled(batch()) and b'_codecs' not in pickled(batch())
    with pytest.raises(UnicodeDecodeError): pickle.loads(pickled(batch()))

def test_cifar_is_read_packed_and_unpacked(tmp_path):
    a = read_cifar10(folder(tmp_path))
    b = read_cifar10(archive(tmp_path))
    assert a[0].shape == (30, 3, 32, 32) and a[2].shape == (6, 3, 32, 32)
    assert a[1].tolist() == list(range(6))*5
    assert not (tmp_path/CIFAR_FOLDER).exists()
    for x, y in zip(a, b): assert np.array_equal(x, y)
    task = cifar10(tmp_path)
    assert Layout(task.layers).D == 5370 and task.test2 is None and task.augment is shifted_and_mirrored
    assert torch.allclose(task.train[0].view(30, 3, -1).mean((0, 2)), torch.zeros(3), atol=1e-4)

def test_red_green_blue(tmp_path):
    "A row is all red pixels, then green, then blue, row by row."
    X = np.zeros((1, 3072), np.uint8)
    X[0, 1024 + 32*5 + 7] = 9
    pictures, _ = read_cifar_batch(pickled({b'data': X, b'labels': [0]}), 'x')
    assert pictures[0, 1, 5, 7] == 9 and pictures.sum() == 9

def test_a_batch_written_by_a_new_python():
    for protocol in range(2, 5):
        _, y = read_cifar_batch(pickle.dumps(batch(), protocol), 'x')
        assert y.tolist() == list(range(6))

class Bomb:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.system, (f'touch {self.path}',)

@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_code_in_a_batch_never_runs(tmp_path, protocol):
    mark = tmp_path/'exploded'
    data = pickle.dumps({b'data': Bomb(mark), b'labels': []}, protocol)
    folder(tmp_path, data_batch_3=data)
    one_sentence(lambda: cifar10(tmp_path), 'data_batch_3', 'system', 'nothing in it was run')
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()

@pytest.mark.parametrize('data, words', [
    (pickled(batch())[:-100], ['cut short']), (pickled(batch())[:5000], ['cut short']), (b'', ['cut short']),
    (b'<html>', ['cut short or no batch']), (pickled([1, 2]), ['no batch']),
    (pickled({b'data': 1, b'fine_labels': []}), ['CIFAR-100']),
    (pickled(batch() | {b'data': np.zeros((6, 3073), np.uint8)}), ['3072', '(6, 3073)']),
    (pickled(batch() | {b'data': np.zeros((6, 3072))}), ['3072']),
    (pickled(batch(labels=[0, 1])), ['6 labels']), (pickled(batch(labels=['a']*6)), ['whole numbers']),
    (pickled(batch(labels=[0, 1, 2, 3, 4, 10])), ['0 to 10', '0..9']),
    (pickled(batch(labels=[-1]*6)), ['-1', '0..9'])],
    ids=['cut', 'cut early', 'empty', 'html', 'list', 'cifar-100', 'size', 'floats', 'few labels', 'names',
         'above', 'below'])
def test_damaged_batches(tmp_path, data, words):
    folder(tmp_path, test_batch=data)
    one_sentence(lambda: cifar10(tmp_path), 'test', *words)

@pytest.mark.parametrize('keep', [.5, .01, 0])
def test_a_cut_archive(tmp_path, keep):
    file = archive(folder(tmp_path))/CIFAR_ARCHIVE
    file.write_bytes(file.read_bytes()[:int(file.stat().st_size*keep)])
    one_sentence(lambda: cifar10(tmp_path), file, 'cut short or no archive')

@pytest.mark.parametrize('packed', [False, True], ids=['folder', 'archive'])
def test_a_missing_batch(tmp_path, packed):
    (folder(tmp_path)/CIFAR_FOLDER/'data_batch_4').unlink()
    if packed: archive(tmp_path)
    one_sentence(lambda: cifar10(tmp_path), 'lacks data_batch_4')

def shift(x, y):
    "A picture (3, 32, 32) and what was made of it: shift down, shift right, mirrored?"
    for mirrored in (False, True):
        inner = x.flip(2) if mirrored else x
        for dy in range(-4, 5):
            for dx in range(-4, 5):
                there = inner[:, 8 + dy:24 + dy, 8 + dx:24 + dx]
                if torch.equal(y[:, 8:24, 8:24], there): return dy, dx, mirrored

def test_pictures_are_shifted_and_mirrored():
    "Every picture is a shift of itself, about half of them mirrored."
    X = torch.randn(200, 3072)
    Y = shifted_and_mirrored(X, torch.Generator().manual_seed(0))
    found = [shift(x, y) for x, y in zip(X.view(200, 3, 32, 32), Y.view(200, 3, 32, 32))]
    assert None not in found and len(set(found)) > 90 and .4 < sum(f[2] for f in found)/200 < .6

# CIFAR-10.1

def second(raw, X=None, y=None):
    X = G.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8) if X is None else X
    y = np.arange(8, dtype=np.int32) if y is None else y
    (raw/'cifar-10.1').mkdir()
    for name, part in zip(CIFAR10_1_FILES, (X, y)): np.save(raw/'cifar-10.1'/name, part)
    return raw/'cifar-10.1'

def test_a_second_test_set(tmp_path):
    X = np.zeros((8, 32, 32, 3), np.uint8)
    X[3, 5, 7, 1] = 255                                                    # colours come last in this format
    second(folder(tmp_path), X)
    rows, y = cifar10(tmp_path).test2
    odd = rows.view(8, 3, 32, 32)[3] - rows.view(8, 3, 32, 32)[0]
    assert y.tolist() == list(range(8)) and odd.nonzero().tolist() == [[1, 5, 7]]

@pytest.mark.parametrize('X, y, words', [
    (np.zeros((8, 32, 31, 3), np.uint8), None, ['32 × 31 × 3']),
    (np.zeros((7, 32, 32, 3), np.uint8), None, ['8 labels', '7']),
    (np.zeros((8, 32, 32, 3)), None, ['float64']),
    (None, np.full(8, 11), ['11', '0..9']), (None, np.full(8, .5), ['whole numbers']),
    (None, np.array([None]*8), ['damaged'])],
    ids=['size', 'count', 'floats', 'range', 'fractions', 'pickled'])
def test_a_wrong_second_test_set(tmp_path, X, y, words):
    second(folder(tmp_path), X, y)
    one_sentence(lambda: cifar10(tmp_path), *words)

@pytest.mark.parametrize('i, keep', [(0, None), (1, None), (0, -1), (1, 0)],
                         ids=['no pictures', 'no labels', 'cut', 'empty'])
def test_a_damaged_second_test_set(tmp_path, i, keep):
    file = second(folder(tmp_path))/CIFAR10_1_FILES[i]
    if keep is None: file.unlink()
    else: file.write_bytes(file.read_bytes()[:keep])
    one_sentence(lambda: cifar10(tmp_path), *CIFAR10_1_FILES, 'missing, cut short or damaged')

"Data as people bring it is taken or refused in a sentence; networks that leave take the same data."
import json
import warnings
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import onnx
import pandas as pd
import pytest
import scipy.sparse
import torch
import torch.nn as nn
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from gpt_kit.gpt.load import load
from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prompt import Answer
from gpt_kit.gpt.tokens import make_tokens
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks.cartpole import cartpole
from gpt_kit.networks.checks import UserError
from gpt_kit.networks.collect import Recipe, collect, optimize
from gpt_kit.networks.datasets import standardize_pictures
from gpt_kit.networks.exports import raw_module, write_network
from gpt_kit.networks.layers import flat_layers, flat_state, read_layers
from gpt_kit.networks.own_data import Standardize, as_classes, as_inputs
from gpt_kit.networks.states import read_network
from gpt_kit.networks.tasks import Metric, Task, classification, digits, digits_cnn, mlp
from gpt_kit.networks.weights import Layout, as_module, forward, measure, start_rows, to_row
from gpt_kit.pdiff.zoo import mlp3_task
from gpt_kit.play.draw import Drawing, draw_predictions
from gpt_kit.run.commands import main

RANDOM = np.random.default_rng(0)
X, Y = RANDOM.normal(3., 2., (60, 4)), np.arange(60) % 3

def task_of_mine(X=X, y=Y, net=None, **kw): return classification('mine', X, y, net or mlp((4, 5, 3)), **kw)

def same_data(a, b):
    return all(torch.equal(u, v) for u, v in zip((*a.train, *a.test), (*b.train, *b.test)))

def refused(make, *words):
    "The one sentence with which something is refused."
    with pytest.raises(UserError) as e: make()
    said = str(e.value)
    assert '\n' not in said and [w for w in words if w not in said] == [], said

# Data that are taken

TABLE = pd.DataFrame(X, columns=['age', 'height', 'weight', 'x y'], index=range(1, 61))
FROM_ONE = pd.Series(Y, index=range(1, 61))
TAKEN = dict(
    table=(TABLE, Y), series=(X, FROM_ONE), both=(TABLE, FROM_ONE), views=(X[::-1][::-1], Y[::-1][::-1]),
    backwards=(X[::-1].copy()[::-1], Y[::-1].copy()[::-1]), fortran=(np.asfortranarray(X), Y),
    lists=(X.tolist(), Y.tolist()),
    tensors=(torch.tensor(X), torch.tensor(Y)), gradients=(torch.tensor(X, requires_grad=True), Y),
    labels_with_gradients=(X, torch.tensor(Y, dtype=torch.float, requires_grad=True)),
    floats=(X, Y.astype(float)), small=(X, Y.astype(np.uint8)), big=(X, Y.astype(np.uint64)),
    objects=(X, Y.astype(object)), nullable=(X, pd.Series(Y, dtype='Int64')))

@pytest.mark.parametrize('name', TAKEN)
def test_data_that_are_taken(name):
    task = task_of_mine(*TAKEN[name])
    assert same_data(task, task_of_mine()) and task.classes is None
    assert task.fingerprint == task_of_mine().fingerprint
    for x, y in (task.train, task.test):
        assert x.dtype == torch.float32 and y.dtype == torch.int64 and not x.requires_grad

@pytest.mark.parametrize('name', TAKEN)
def test_a_task_takes_them_too(name):
    x, y = TAKEN[name]
    task = Task('mine', mlp((4, 5, 3)), (x, y), (X, Y))
    assert torch.equal(task.train[0], task.test[0]) and torch.equal(task.train[1], task.test[1])

def test_backwards_is_backwards():
    assert torch.equal(as_inputs(X[::-1], 'X'), torch.tensor(X[::-1].copy(), dtype=torch.float32))

def test_a_read_only_array_is_copied():
    frozen = X.astype(np.float32)
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        as_inputs(frozen, 'X').zero_()
    assert frozen.any()

def test_tables_of_mixed_numbers():
    "Truth values, whole numbers and nullable ones beside fractions."
    table = pd.DataFrame(dict(a=[True, False], b=[1, 2], c=[.5, 1.5], d=pd.array([1, 2], 'Int64'),
                              e=pd.arrays.SparseArray([0., 1.])))
    assert as_inputs(table, 'X').tolist() == [[1, 1, .5, 1, 0], [0, 2, 1.5, 2, 1]]

TWO = [['a', 'b'], [1, 2], [0, 2], [-1, 1], [-1., 1.], ['2', '10'], [.5, 1.5]]
@pytest.mark.parametrize('names', TWO, ids=str)
@pytest.mark.parametrize('kind', [list, np.array, pd.Series, pd.Categorical])
def test_labels_that_are_names(names, kind):
    names = sorted(names)
    at = np.arange(60) % 2
    task = task_of_mine(y=kind([names[i] for i in at]), net=mlp((4, 5, 2)))
    assert task.classes == names and same_data(task, task_of_mine(y=at, net=mlp((4, 5, 2))))

def test_labels_that_are_truth_values():
    at = np.arange(60) % 2
    for y in (at == 1, torch.tensor(at == 1), pd.Series(at == 1), pd.Series(at == 1, dtype='boolean')):
        task = task_of_mine(y=y, net=mlp((4, 5, 2)))
        assert same_data(task, task_of_mine(y=at, net=mlp((4, 5, 2))))

words = st.text('abcdeäß ', min_size=1, max_size=3)
@given(st.lists(words, min_size=2, max_size=6, unique=True), st.data())
def test_names_stand_for_their_places(names, data):
    labels = names + data.draw(st.lists(st.sampled_from(names), max_size=9))
    y, classes = as_classes(labels, 'y', len(names))
    assert [classes[i] for i in y] == labels and classes == sorted(names)

def test_numbers_of_outputs_stay():
    "Digits without a 5 are still the digits 0 to 9."
    y, classes = as_classes([0, 9, 3, 9], 'y', 10)
    assert y.tolist() == [0, 9, 3, 9] and classes is None

def test_a_class_that_nobody_can_learn():
    "Taken, with a note that names it as its owner does."
    y = np.array(['often']*59 + ['rare'])
    order = {s: torch.randperm(60, generator=torch.Generator().manual_seed(s)) for s in range(20)}
    seeds = [s for s in order if 59 in order[s][40:]]
    with pytest.warns(UserWarning, match='no input to train on is of class rare') as w:
        task = task_of_mine(y=y, net=mlp((4, 5, 2)), seed=seeds[0])
    assert task.classes == ['often', 'rare'] and len(w) == 1 and w[0].filename == __file__
    with pytest.warns(UserWarning, match='of class 3, 4,'): task_of_mine(net=mlp((4, 5, 5)))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        task_of_mine()

def test_names_are_shown():
    row, picks = start_rows(digits(), [0])[0], torch.arange(9)
    x, y = digits().test
    names = list('abcdefghij')
    plain = classification('plain', x, [names[i] for i in y], mlp((64, 16, 10)))
    fig = Drawing([['a']], {})
    draw_predictions(fig, 'a', plain, row, picks)
    assert fig.layout['yaxis']['ticktext'] == names and fig.layout['yaxis']['tickvals'] == list(range(10))
    fig, said = Drawing([['a']], {}), Drawing([['a']], {})
    draw_predictions(fig, 'a', replace(digits(), classes=names), row, picks)
    draw_predictions(said, 'a', digits(), row, picks)
    letters, numbers = fig.data[1]['text'], said.data[1]['text']
    assert [names.index(t[-1]) for t in letters] == [int(t[-1]) for t in numbers]

# Data that are refused

HOLES = X.copy()
HOLES[7, 2] = np.nan
SPARSE = scipy.sparse.csr_matrix(X)
WRONG_X = dict(
    constant=(np.full((60, 4), .1), ['are the same', 'nothing to learn']),
    alike=(np.repeat(X[:1], 60, 0), ['are the same']),
    scipy=(SPARSE, ['X is a sparse matrix', '.toarray()']),
    array=(scipy.sparse.csr_array(X), ['sparse']),
    torch=(torch.tensor(X).to_sparse(), ['sparse', '.to_dense()']),
    objects=(X.astype(object), ['type object', '.astype(float)']),
    words=(X.astype(str), ['not plain numbers']), complex=(X + 1j, ['complex128']),
    times=(np.zeros((60, 4), 'datetime64[s]'), ['datetime64']),
    column=(TABLE.assign(name='Ada'), ['no numbers (name)', 'get_dummies']),
    day=(TABLE.assign(day=pd.Timestamp('2020-01-01')), ['no numbers (day)']),
    holes=(HOLES, ['nan in row 7, column 2', 'not finite']),
    table_with_holes=(TABLE.replace(TABLE.iloc[3, 1], np.nan), ['nan in row 3, column 1']),
    none=(TABLE.astype('Float64').where(TABLE > TABLE.min()), ['not finite']),
    masked=(np.ma.masked_less(X, 0), ['masked']),
    infinite=(np.where(np.isnan(HOLES), np.inf, X), ['inf in row 7, column 2']),
    too_large=(X*1e300, ['inf in row 0', 'not finite']), large=(3e38*np.sign(X - 3), ['standard deviation']),
    flat=(X[:, 0], ['shape (60,)', '(N, n_in)']), series=(TABLE['age'], ['shape (60,)']),
    pictures=(X.reshape(60, 2, 2), ['shape (60, 2, 2)']), number=(3., ['shape ()']),
    ragged=([[1, 2, 3, 4], [1, 2]]*30, ['equally long']), nothing=(None, ['type object']),
    wide=(np.ones((60, 5))*Y[:, None], ['(40, 5)', '(N, 4)']), empty=(X[:0], ['0 inputs are too few']),
    one=(X[:1], ['1 inputs are too few']), short=(X[:50], ['50 rows', '60 labels']))

@pytest.mark.parametrize('name', WRONG_X)
def test_inputs_that_are_refused(name):
    x, words = WRONG_X[name]
    refused(lambda: task_of_mine(x), 'task mine', *words)

@pytest.mark.parametrize('name', [n for n in WRONG_X if n not in ('constant', 'alike', 'large', 'one')])
def test_a_task_refuses_them_too(name):
    "A task of one's own is scaled as its owner likes, but everything else holds for it, in each split."
    for splits in ((WRONG_X[name][0], Y), (X, Y)), ((X, Y), (WRONG_X[name][0], Y)):
        refused(lambda: Task('mine', mlp((4, 5, 3)), *splits), 'task mine: t')

WRONG_Y = dict(
    single=(np.ones(60), ['all 1', 'single class']), one_word=(['a']*60, ['all a', 'single class']),
    more=(np.arange(60) % 4, ['4 classes (0, 1, 2, 3)', '3 outputs']),
    fewer=(np.where(Y > 0, 'a', 'b'), ['2 classes (a, b)', '3 outputs']),
    measured=(X[:, 0], ['60 classes', '3 outputs']), holes=(np.where(Y > 1, np.nan, Y), ['not finite']),
    missing=(['a', 'b', None]*20, ['missing']), unknown=(pd.Series(['a', 'b', pd.NA]*20), ['missing']),
    infinite=(np.where(Y > 1, np.inf, Y), ['not finite']), complex=(Y + 1j, ['complex128']),
    one_hot=(np.eye(3)[Y], ['shape (60, 3)', '(N,)']), column=(Y[:, None], ['shape (60, 1)']),
    number=(1, ['shape ()']), short=(Y[:50], ['60 rows', '50 labels']),
    times=(Y.astype('datetime64[s]'), ['datetime64']),
    sparse=(scipy.sparse.csr_matrix(Y), ['sparse']), pairs=([(0, 1)]*60, ['shape (60, 2)']))

@pytest.mark.parametrize('name', WRONG_Y)
def test_labels_that_are_refused(name):
    y, words = WRONG_Y[name]
    refused(lambda: task_of_mine(y=y), 'task mine', *words)

def test_a_task_wants_numbers():
    "Names of classes are for `classification`, which gives all splits the same."
    def made(*splits): return lambda: Task('mine', mlp((4, 5, 3)), *splits)
    refused(made((X, ['a', 'b', 'c']*20), (X, Y)), 'train labels', '`classification`')
    refused(made((X, Y), (X, Y + 1)), 'test labels go from 1 to 3', '0..2')
    refused(made(X, (X, Y)), 'train is a ndarray', 'pair')

@pytest.mark.parametrize('n', [-5, 0, 60, 61, 10**12, 2.5, 40., True, '40', np.nan], ids=repr)
def test_sizes_that_are_refused(n):
    refused(lambda: task_of_mine(n_train=n), 'n_train is ', repr(n), '1 to 59')
    refused(lambda: task_of_mine(n_train=10, n_test=n if n != 40. else 51), 'n_test is ', '1 to 50')

def test_sizes_that_are_taken():
    task = task_of_mine(n_train=np.int64(30), n_test=10)
    assert [len(y) for _, y in (task.train, task.test, task.test2)] == [30, 10, 20]
    assert task_of_mine(n_train=59).test2 is None

# Networks

A, B = nn.Linear(4, 5), nn.Linear(5, 3)
PLAIN = nn.Sequential(A, nn.ReLU(), B)
EMPTY = nn.Sequential()
NESTED = dict(
    boxes=nn.Sequential(nn.Sequential(A, nn.ReLU()), nn.Sequential(nn.Sequential(B))),
    identity=nn.Sequential(nn.Identity(), A, nn.Identity(), nn.ReLU(), B, nn.Identity()),
    both=nn.Sequential(nn.Sequential(nn.Identity()), EMPTY, nn.Sequential(A, nn.Identity(), nn.ReLU()), B),
    named=nn.Sequential(OrderedDict(hidden=A, act=nn.ReLU(), head=B)))

@pytest.mark.parametrize('name', NESTED)
def test_networks_in_boxes(name, tmp_path):
    "The same layers, and the same row: from the network, and from its state_dict in a file."
    net, layout = NESTED[name], Layout(read_layers(PLAIN))
    assert read_layers(net) == layout.layers and list(flat_state(net)) == list(PLAIN.state_dict())
    row, x = to_row(net, layout), torch.randn(7, 4)
    torch.testing.assert_close(forward(layout, row[None], x.T)[0].T, net(x))
    torch.save(net.state_dict(), tmp_path/'net.pt')
    assert torch.equal(read_network(tmp_path/'net.pt', layout), row)
    assert task_of_mine(net=net).fingerprint == task_of_mine(net=PLAIN).fingerprint

def test_convolutions_in_boxes():
    conv, tail = nn.Conv2d(1, 8, 3), [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    boxes = nn.Sequential(nn.Sequential(conv, nn.ReLU()), nn.Sequential(*tail))
    plain = nn.Sequential(conv, nn.ReLU(), *tail)
    assert read_layers(boxes, (1, 4, 4)) == read_layers(plain, (1, 4, 4))
    built = nn.Sequential(nn.Sequential(nn.Unflatten(1, (1, 4, 4)), conv), *tail)
    assert read_layers(built)[0] == ['Image', 1, 4, 4] and list(flat_state(built))[0] == '0.weight'

@pytest.mark.parametrize('net, words', [
    (nn.Sequential(nn.Sequential(A, nn.BatchNorm1d(5)), B), ['layer 0.1 (BatchNorm1d)']),
    (nn.Sequential(A, nn.Dropout(), B), ['layer 1 (Dropout)', 'nn.Identity()', 'keeps the names']),
    (nn.Sequential(nn.Sequential(A), nn.Sequential(A)), ['layer 1.0 (Linear)']),
    (nn.Sequential(nn.Identity(), nn.Sequential()), ['at least one layer'])], ids=range(4))
def test_layers_in_boxes_that_are_refused(net, words): refused(lambda: read_layers(net), *words)

def test_names_of_layers():
    assert list(flat_layers(NESTED['both'])) == ['2.0', '2.2', '3']
    assert list(flat_layers(NESTED['named'])) == ['hidden', 'act', 'head']

def test_a_network_without_hidden_layers():
    layers = read_layers(nn.Sequential(nn.Linear(4, 3)))
    refused(lambda: make_tokens('neuron', Layout(layers), 24), '--tokens chunk-256', "tokens='chunk-256'")
    refused(lambda: GPT(layers, width=24, depth=1, heads=2), '--tokens chunk-256')
    assert GPT(layers, width=24, depth=1, heads=2, tokens='chunk-256')

# Numbers of another precision

@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)

def test_everything_is_float32_whatever_the_default(task, tmp_path, double):
    "Data, rows, metrics, models and answers."
    store = collect(task, tmp_path/'s', 4, recipe=Recipe(epochs=1, n_saves=3), progress=False)
    assert store.rows([0], [0]).dtype == torch.float32 and store.values('test_loss').dtype == np.float32
    model = GPT(store.info['layers'], width=24, depth=1, heads=2)
    train_gpt(model, prepare_data(store, 'test_loss'), TrainConfig(steps=2, batch=8, warmup=1),
              tmp_path/'m.safetensors', progress=False)
    ask, rows = load(tmp_path/'m.safetensors'), start_rows(task, [0, 1])
    answer = ask(rows, 1.5)
    assert {t.dtype for t in (rows, answer.rows, answer.metric, *model.parameters())} == {torch.float32}
    assert as_module(rows[0], ask.layout)(task.test[0]).dtype == torch.float32
    assert start_rows(digits_cnn(), [0]).dtype == torch.float32                 # its biases are plain zeros

def test_the_default_changes_no_network(task, double):
    rows = start_rows(task, [0, 1])
    torch.set_default_dtype(torch.float32)
    assert torch.equal(rows, start_rows(task, [0, 1])) and task.fingerprint == digits().fingerprint

@pytest.mark.parametrize('kind', [torch.float64, torch.bfloat16], ids=str)
def test_starts_of_another_precision(task, ask, kind):
    starts = start_rows(task, [0, 1]).to(kind)
    rows = starts.float()
    for metric in (None, ask.measure(rows).to(torch.float64)):
        told = dict(metric=metric, noise=torch.randn(2, 1210, dtype=torch.float64))
        a, b = ask(starts, 1.5, **told), ask(rows, 1.5, **told)
        assert a.rows.dtype == torch.float32
        torch.testing.assert_close(a.rows, b.rows)
    for name, value in measure(task, starts).items():
        assert value.dtype == torch.float32 and torch.equal(value, measure(task, rows)[name])
    for (_, one), (_, other) in zip(optimize(task, starts, 2), optimize(task, rows, 2)):
        assert one.dtype == torch.float32 and torch.equal(one, other)

def test_starts_of_policies_in_double():
    task = cartpole()
    rows = start_rows(task, [0])
    assert torch.equal(measure(task, rows.double())['return'], measure(task, rows)['return'])

# Out again

def described(file): # what the metadata of a .safetensors file says
    with safe_open(file, 'pt') as f: return json.loads(f.metadata()['gpt_kit'])

def raw_test_set(): # of the kit's digits, pixels from 0 to 16 as scikit-learn has them
    x, y = load_digits(return_X_y=True)
    test = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[1000:1500]
    return x[test].astype(np.float32), torch.tensor(y)[test]

def percent_wrong(logits, y): return (torch.as_tensor(logits).argmax(1) != y).float().mean().item()*100

@pytest.mark.parametrize('make', [digits, digits_cnn])
def test_networks_take_raw_inputs(make, tmp_path):
    """Each way out has the error that was measured inside, on inputs as they were brought.

    Without the scaling it would be another: the check at the end."""
    task = make()
    layout = Layout(task.layers)
    *_, (_, rows) = optimize(task, start_rows(task, [0]), 150)
    inside, (x, y) = measure(task, rows)['error'].item(), raw_test_set()
    assert inside < 30
    near = pytest.approx(inside, abs=.21)                                # one of 500 may fall the other way
    row = rows[0]
    for ending in ('onnx', 'safetensors'): write_network(tmp_path/f'net.{ending}', row, layout, task)
    run = ReferenceEvaluator(onnx.load(tmp_path/'net.onnx'))
    assert percent_wrong(run.run(None, {'input': x})[0], y) == near
    info = described(tmp_path/'net.safetensors')
    mean, std = (torch.tensor(info['inputs'][k]) for k in ('mean', 'std'))
    net = as_module(torch.zeros_like(row), layout)
    net.load_state_dict(load_file(tmp_path/'net.safetensors'))
    assert info['inputs']['use'] == 'give the network (x - mean)/std' and info['task'] == task.name
    with torch.no_grad():
        assert percent_wrong(net((torch.tensor(x) - mean)/std), y) == near
        assert percent_wrong(raw_module(row, layout, task)(torch.tensor(x).double()), y) == near
        assert percent_wrong(net(torch.tensor(x)), y) > inside + 20 or make is digits_cnn

def test_answers_leave_with_their_scaling(ask, tmp_path):
    answer = ask(start_rows(ask.task, [0, 1]), 1.5)
    x, y = raw_test_set()
    with torch.no_grad():
        logits = answer.module(1, raw=True)(torch.tensor(x))
        torch.testing.assert_close(logits, answer.module(1)(ask.task.test[0]), rtol=1e-4, atol=1e-4)
    file = answer.save(tmp_path/'net.safetensors')[1]
    assert 'mean' in described(file)['inputs']
    assert torch.equal(read_network(file, ask.layout), answer.rows[1])
    onnx_file = answer.save(tmp_path/'net.onnx')[1]
    program = onnx.load(onnx_file)
    torch.testing.assert_close(torch.tensor(ReferenceEvaluator(program).run(None, {'input': x})[0]), logits,
                               rtol=1e-4, atol=1e-4)
    info = json.loads({p.key: p.value for p in program.metadata_props}['gpt_kit'])
    assert 'raw' in info['inputs']['use']

def test_a_raw_module_is_ones_own(task):
    "Whoever changes it changes no task."
    row = start_rows(task, [0])[0]
    net = raw_module(row, Layout(task.layers), task).double()
    assert net(torch.zeros(2, 64)).dtype == torch.float64 and task.scaling.mean.dtype == torch.float32

def test_the_sentence_says_it(model_file, capsys, tmp_path):
    for ending, words in dict(safetensors=['(x - mean)/std', 'metadata'], onnx=['raw inputs']).items():
        assert main(['prompt', str(model_file), '1.5', '--out', str(tmp_path/f'net.{ending}')]) == 0
        said = capsys.readouterr().out
        assert all(w in said for w in words), said

def test_classes_leave_too(tmp_path):
    task = task_of_mine(y=np.array(['a', 'b', 'c'])[Y])
    layout, row = Layout(task.layers), start_rows(task, [0])[0]
    write_network(tmp_path/'net.safetensors', row, layout, task)
    info = described(tmp_path/'net.safetensors')
    assert info['classes'] == ['a', 'b', 'c'] and info['layers'] == layout.layers

def test_a_network_whose_task_is_not_here(ask, tmp_path):
    "It leaves all the same, and a warning says what it leaves without."
    class Elsewhere:
        layout = ask.layout
        @property
        def task(self): raise UserError('there is no MNIST here')
    answer = Answer(start_rows(ask.task, [0]), Elsewhere())
    with pytest.warns(UserWarning, match='cannot say how to centre.*no MNIST here'):
        answer.save(tmp_path/'net.safetensors')
    assert 'inputs' not in described(tmp_path/'net.safetensors')
    refused(lambda: answer.module(0, raw=True), 'no MNIST here')

def test_tasks_that_do_not_scale(tmp_path):
    "A game's states and what somebody scaled by themselves are taken as they are."
    own = Task('own', mlp((4, 5, 3)), (X, Y), (X, Y))
    for task in (own, cartpole()):
        layout, (row,) = Layout(task.layers), start_rows(task, [0])
        x = torch.randn(5, 4)
        assert torch.equal(raw_module(row, layout, task)(x), as_module(row, layout)(x))
        write_network(tmp_path/'net.safetensors', row, layout, task)
        assert 'inputs' not in described(tmp_path/'net.safetensors')

def test_scalings_of_other_tasks():
    "Pictures of whole bytes, and the digits of p-diff's networks."
    p = RANDOM.integers(0, 256, (20, 3, 2, 2)).astype(np.uint8)
    for each_pixel in (True, False):
        (rows,), scaling = standardize_pictures(p, [], each_pixel=each_pixel)
        torch.testing.assert_close(scaling(torch.tensor(p).flatten(1)), rows, rtol=1e-4, atol=1e-5)
        bytes_again = scaling.undo(rows).round().to(torch.uint8)
        assert torch.equal(bytes_again, torch.tensor(p).flatten(1))
    assert torch.equal(mlp3_task().scaling.mean, digits().scaling.mean)
    assert Standardize(0., 2.)(torch.tensor([[3]])).item() == 1.5

# What goes with the data

def bring(**more): # a task of three classes with more said about it
    data = torch.arange(24.).view(6, 4), torch.arange(6) % 3
    return Task('t', mlp((4, 3, 3)), data, data, **more)

@pytest.mark.parametrize('classes', [np.array(['a', 'b', 'c']), list(np.array([5, 7, 9])), ('x', 'y', 'z')])
def test_names_of_classes_are_plain(classes):
    assert bring(classes=classes).classes == np.asarray(classes).tolist()
    json.dumps(bring(classes=classes).classes)

@pytest.mark.parametrize('more, words', [
    (dict(classes=['a']), 'a name for each of 3 outputs'),
    (dict(scaling='minmax'), 'Standardize'),
    (dict(scaling=Standardize(torch.zeros(4), torch.zeros(4))), 'above 0'),
    (dict(scaling=Standardize(torch.zeros(3), torch.ones(3))), 'each of 4 inputs'),
    (dict(loss=torch.nn.CrossEntropyLoss()), 'a number for each network'),
    (dict(loss=lambda logits, y: logits.mean()), 'a number for each network'),
    (dict(metrics=dict(m=Metric('m', '%', lambda logits, y: 1/0))), 'ZeroDivisionError')])
def test_what_goes_with_the_data_has_to_fit(more, words):
    with pytest.raises(UserError, match=words): bring(**more)

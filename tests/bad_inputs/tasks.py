"Data, labels and networks as people have them, and task functions that fail. What plain ones give is known."
import functools

import numpy as np
import pandas as pd
import scipy.sparse
import torch
import torch.nn as nn
from hypothesis import strategies as st

from gpt_kit.networks.tasks import Metric, Task, classification, error_percent

from .harness import Case

N, N_IN, C = 60, 4, 3
RNG = np.random.default_rng(0)
X = RNG.integers(-50, 50, (N, N_IN)).astype(np.float32)
Y = np.arange(N) % C
NAMES = np.array(['ant', 'bee', 'cat'])


def net(): return nn.Sequential(nn.Linear(N_IN, 5), nn.ReLU(), nn.Linear(5, C))


INPUTS = dict(
    lists=lambda: X.tolist(), array=lambda: X, tensor=lambda: torch.from_numpy(X),
    double=lambda: X.astype(float), integers=lambda: X.astype(int), bytes=lambda: X.astype(np.int8),
    half=lambda: X.astype(np.float16), backwards=lambda: X[::-1].copy()[::-1],
    fortran=lambda: np.asfortranarray(X), strided=lambda: np.repeat(X, 2, 1)[:, ::2],
    table=lambda: pd.DataFrame(X, columns=list('abcd')),
    shuffled_index=lambda: pd.DataFrame(X, index=range(N, 0, -1)),
    named=lambda: pd.DataFrame(X.astype(int), columns=['x', 'y', 'ü', ' ']),
    bfloat16=lambda: torch.from_numpy(X).bfloat16(),
    requires_grad=lambda: torch.from_numpy(X).requires_grad_(),
    double_tensor=lambda: torch.from_numpy(X).double(),
    read_only=lambda: np.frombuffer(X.tobytes(), np.float32).reshape(N, N_IN),
    big_endian=lambda: X.astype('>f4'), transposed=lambda: torch.from_numpy(X.T.copy()).T,
    nullable=lambda: pd.DataFrame(X).astype('Float64'), tuples=lambda: tuple(map(tuple, X)),
    matrix=lambda: np.ma.array(X))
BAD_INPUTS = dict(
    sparse=lambda: scipy.sparse.csr_matrix(X), sparse_tensor=lambda: torch.from_numpy(X).to_sparse(),
    words=lambda: X.astype(str), objects=lambda: np.array([[object()]*N_IN]*N),
    mixed=lambda: [['a', 1, 2, 3]]*N, nan=lambda: np.where(X == X[3, 3], np.nan, X),
    inf=lambda: np.where(X == X[3, 3], np.inf, X), constant=lambda: np.ones_like(X), zeros=lambda: 0*X,
    flat=lambda: X.ravel(), cube=lambda: X[None], wide=lambda: np.repeat(X, 2, 1), short=lambda: X[:-1],
    empty=lambda: X[:0], none=lambda: None, number=lambda: 3, text=lambda: 'data.csv',
    ragged=lambda: [[1, 2, 3, 4], [1]], column=lambda: X[:, :1], dict=lambda: {'x': X},
    complex=lambda: X + 1j, huge=lambda: X.astype(float)*1e300,
    missing=lambda: pd.DataFrame(X).mask(X == X[3, 3]),
    text_column=lambda: pd.DataFrame(X).assign(c='a').iloc[:, 1:], generator=lambda: (x for x in X),
    dates=lambda: X.astype('datetime64[s]'), masked=lambda: np.ma.masked_less(X, 0), function=lambda: len)
LABELS = dict(
    array=lambda: Y, lists=lambda: Y.tolist(), tensor=lambda: torch.from_numpy(Y),
    floats=lambda: Y.astype(float), bytes=lambda: Y.astype(np.uint8), series=lambda: pd.Series(Y),
    from_one=lambda: pd.Series(Y, index=range(1, N + 1)),
    shuffled=lambda: pd.Series(Y, index=range(N, 0, -1)), backwards=lambda: Y[::-1].copy()[::-1],
    requires_grad=lambda: torch.from_numpy(Y).double().requires_grad_(), words=lambda: NAMES[Y],
    word_list=lambda: NAMES[Y].tolist(), objects=lambda: NAMES[Y].astype(object), from_1=lambda: Y + 1,
    gaps=lambda: 2*Y, negative=lambda: Y - 1, categories=lambda: pd.Series(NAMES[Y], dtype='category'),
    word_series=lambda: pd.Series(NAMES[Y]), half=lambda: torch.from_numpy(Y).half(), tens=lambda: 10*Y + 5,
    nullable=lambda: pd.Series(Y).astype('Int64'), strings=lambda: pd.Series(NAMES[Y]).astype('string'))
BY_NAME = 'words', 'word_list', 'objects', 'categories', 'word_series', 'strings'
CLASSES = dict.fromkeys(BY_NAME, NAMES.tolist())
CLASSES |= dict(from_1=[1, 2, 3], gaps=[0, 2, 4], negative=[-1, 0, 1], tens=[5, 15, 25])
BAD_LABELS = dict(
    one=lambda: 0*Y, one_word=lambda: ['a']*N, more=lambda: np.arange(N), table=lambda: Y[:, None],
    onehot=lambda: np.eye(C)[Y], short=lambda: Y[:-1], empty=lambda: Y[:0], none=lambda: None,
    number=lambda: 1, nan=lambda: np.where(Y == 1, np.nan, Y), missing=lambda: [None, *NAMES[Y][1:]],
    text=lambda: 'abc', halves=lambda: Y + .5*(np.arange(N) == 3), complex=lambda: Y + 1j,
    lists=lambda: [[1], [1, 2]]*(N//2), sparse=lambda: scipy.sparse.csr_matrix(Y),
    objects=lambda: [object() for _ in Y], inf=lambda: np.where(Y, np.inf, 0))
NETS = dict(
    plain=net, nested=lambda: nn.Sequential(nn.Sequential(nn.Linear(N_IN, 5), nn.ReLU()), nn.Linear(5, C)),
    deep=lambda: nn.Sequential(nn.Sequential(nn.Sequential(*net()))), eval=lambda: net().eval(),
    identity=lambda: nn.Sequential(nn.Identity(), *net()),
    last=lambda: nn.Sequential(*net(), nn.Identity()),
    inside=lambda: nn.Sequential(net()[0], nn.Identity(), nn.ReLU(), nn.Sequential(nn.Identity(), net()[2])),
    double=lambda: net().double(), frozen=lambda: net().requires_grad_(False),
    empty=lambda: nn.Sequential(nn.Sequential(), *net()),
    named=lambda: nn.Sequential(dict_of(a=net()[0], act=nn.ReLU(), b=net()[2])), half=lambda: net().half())


def dict_of(**modules):
    from collections import OrderedDict
    return OrderedDict(modules)


class Mine(nn.Module):
    def forward(self, x): return x


BAD_NETS = dict(
    none=lambda: None, function=lambda: net, linear=lambda: nn.Linear(N_IN, C), empty=nn.Sequential,
    list=lambda: [*net()], words=lambda: 'mlp', wide=lambda: nn.Sequential(nn.Linear(7, C)),
    few=lambda: nn.Sequential(nn.Linear(N_IN, 2)),
    misfit=lambda: nn.Sequential(nn.Linear(N_IN, 5), nn.ReLU(), nn.Linear(6, C)),
    mine=lambda: nn.Sequential(Mine(), *net()),
    norm=lambda: nn.Sequential(nn.Linear(N_IN, 5), nn.BatchNorm1d(5), nn.Linear(5, C)),
    relu=lambda: nn.Sequential(nn.ReLU()), softmax=lambda: nn.Sequential(*net(), nn.Softmax(1)),
    conv=lambda: nn.Sequential(nn.Conv2d(1, 2, 3), *net()),
    dropout=lambda: nn.Sequential(nn.Dropout(.5), *net()),
    lazy=lambda: nn.Sequential(nn.LazyLinear(5), nn.Linear(5, C)),
    tied=lambda: nn.Sequential(*[nn.Linear(N_IN, N_IN)]*2, nn.Linear(N_IN, C)),
    only=lambda: nn.Sequential(nn.Identity()), lstm=lambda: nn.Sequential(nn.LSTM(N_IN, 5)),
    dictionary=lambda: nn.ModuleList(net()), hollow=lambda: nn.Sequential(nn.Sequential()))
SIZES = [
    dict(n_train=-5), dict(n_train=0), dict(n_train=N), dict(n_train=N + 1), dict(n_train=1.5),
    dict(n_train='30'), dict(n_test=0), dict(n_test=-1), dict(n_test=N), dict(n_train=N - 1, n_test=2),
    dict(n_train=float('nan')), dict(image=(1, 2, 3)), dict(image=(1, 2)), dict(image='x'),
    dict(image=(1, -2, -2)), dict(image=4), dict(image=(1., 2., 2.)), dict(image=()), dict(n_train=True),
    dict(n_train=[30]), dict(image=(0, 2, 2))]


@functools.cache
def plain():
    "The task of plain data, whose numbers are checked once."
    task = classification('plain', X, Y, net())
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).numpy()
    x = X[order].astype(float)
    wanted = (x - x[:40].mean(0))/(x[:40] - x[:40].mean(0)).std(ddof=1)
    found = torch.cat([task.train[0], task.test[0]]).numpy()
    assert np.allclose(found, wanted, atol=1e-5)
    assert (torch.cat([task.train[1], task.test[1]]).numpy() == Y[order]).all()
    return task


def same_task(labels):
    "Raises AssertionError unless a task is the one of plain data."
    def check(folder, task):
        for split in ('train', 'test'):
            for mine, theirs in zip(getattr(task, split), getattr(plain(), split)):
                assert mine.dtype == theirs.dtype and torch.equal(mine, theirs), f"another {split}"
        assert task.layers == plain().layers, f"its layers are {task.layers}"
        if labels not in CLASSES: return
        assert [*map(str, task.classes)] == [*map(str, CLASSES[labels])], f"its classes are {task.classes}"
    return check


def nothing(folder): return None


@st.composite
def data(draw):
    "Data of some kind, labels of some kind, a network of some kind; at most one of them makes no sense."
    kinds = dict(X=draw(st.sampled_from(sorted(INPUTS))), y=draw(st.sampled_from(sorted(LABELS))),
                 net=draw(st.sampled_from(sorted(NETS))))
    made = dict(X=INPUTS[kinds['X']], y=LABELS[kinds['y']], net=NETS[kinds['net']])
    bad, more = draw(st.sampled_from(['X', 'y', 'net', 'more', None, None, None])), {}
    if bad == 'more': more = draw(st.sampled_from(SIZES))
    elif bad:
        kinds[bad] = draw(st.sampled_from(sorted(dict(X=BAD_INPUTS, y=BAD_LABELS, net=BAD_NETS)[bad])))
        made[bad] = dict(X=BAD_INPUTS, y=BAD_LABELS, net=BAD_NETS)[bad][kinds[bad]]
    double = draw(st.booleans()) and not bad
    def do(folder):
        old = torch.get_default_dtype()
        if double: torch.set_default_dtype(torch.float64)
        try: return classification('mine', made['X'](), made['y'](), made['net'](), **more)
        finally: torch.set_default_dtype(old)
    about = f"{kinds}{', double by default' if double else ''}{more or ''}, bad: {bad}"
    return Case(about, nothing, do, 'sentence' if bad else 'right', same_task(kinds['y']))


BAD_METRICS = [None, {}, [], 'loss', dict(loss=3), dict(loss=None), dict(loss=error_percent), {1: 2},
               {'': Metric('', '%', error_percent)}, dict(a=Metric('b', '%', error_percent)),
               {'a b': Metric('a b', '', None)}, {'x_y': None}]
BAD_STARTS = [None, 3, 'uniform']


@st.composite
def whole_tasks(draw):
    "A task put together by hand."
    metrics = draw(st.sampled_from(BAD_METRICS))
    more = draw(st.sampled_from(['metrics', 'metrics', 'start', 'loss', 'name', 'train', 'test']))
    given = dict(metrics=dict(metrics=metrics), start=dict(start=draw(st.sampled_from(BAD_STARTS))),
                 loss=dict(loss=draw(st.sampled_from(BAD_STARTS))))
    def do(folder):
        t = plain()
        parts = dict(name='mine', net=net(), train=t.train, test=t.test) | given.get(more, {})
        if more == 'name': parts['name'] = 7
        if more in ('train', 'test'): parts[more] = draw_split(t)
        return Task(**parts)
    odd = draw(st.sampled_from(['none', 'one', 'three', 'swapped', 'text']))
    def draw_split(t):
        return dict(none=None, one=t.train[:1], three=(*t.train, 1), swapped=t.train[::-1], text='ab')[odd]
    return Case(f'a task whose {more} are odd: {given.get(more, odd)}', nothing, do, 'sentence')


FUNCTIONS = {
    'def task(): raise ValueError("my own words")': 'sentence', 'def task(): return 3': 'sentence',
    'def task(x): return x': 'sentence', 'task = 3': 'sentence', 'def task(): 1/0': 'sentence',
    'def task(:': 'sentence', 'import nowhere_at_all': 'sentence', 'raise SystemExit(3)': 'sentence',
    'def task(): raise SystemExit("bye")': 'sentence', 'def task(): raise KeyboardInterrupt': 'interrupted',
    'def task(): return None': 'sentence', 'class task: pass': 'sentence', 'task = None': 'sentence',
    'def task(): raise Exception("two\\nlines")': 'sentence', 'x = 3': 'sentence', '\0': 'sentence',
    'def task(): raise MemoryError': 'sentence', 'def task(*, k): pass': 'sentence',
    'raise KeyError("k")': 'sentence', 'def task(): return task()': 'sentence',
    'def task(): yield 3': 'sentence',
    'from gpt_kit.networks.tasks import digits as task': 'right',
    'import own\ndef task(): return own.t()': 'sentence',
    'def task():\n from gpt_kit.networks.tasks import digits\n return digits((2,))': 'right',
    'from gpt_kit.networks.tasks import Task\ntask = Task': 'sentence', '"\\udcff"\ntask = "x"': 'sentence'}


@st.composite
def functions(draw):
    "Somebody's module: its own error is quoted."
    body = draw(st.sampled_from(sorted(FUNCTIONS)))
    def lay(folder): (folder/'own.py').write_text(body, encoding='utf-8')
    ends = FUNCTIONS[body]
    words = 'collect', 's', '--task', 'own:task', '--runs', '1', '--saves', '2', '--epochs', '1'
    return Case(f'a task function: {body!r}', lay, words, ends, outputs=('s', '__pycache__'))


def tasks():
    "Any of them."
    plain()
    return st.one_of(data(), data(), data(), whole_tasks(), functions())

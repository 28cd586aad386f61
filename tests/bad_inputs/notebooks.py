"Notebooks' parameters: values of every kind, cells as people write them, files that are no notebook."
import ast
import math

from hypothesis import strategies as st

from gpt_kit.run.parameters import check_parameters, read_parameters

from .fixtures import write_notebook
from .harness import Case

VALUES = {  # type -> (text as it is given, what it means)
    'int': [('5', 5), ('-3', -3), ('0', 0), ('+7', 7), ('1000000', 10**6)],
    'float': [('.5', .5), ('-2e-3', -.002), ('1e5', 1e5), ('3', 3.), ('-1E-9', -1e-9), ('0', 0.),
              ('+1.5', 1.5)],
    'bool': [('true', True), ('false', False), ('True', True), ('False', False)],
    'str': [('a b', 'a b'), ('', ''), ('3', '3'), ('ü', 'ü'), ('true', 'true'), ('[1]', '[1]'), ('-x', '-x'),
            ('nan', 'nan'), ('2020-01-01', '2020-01-01'), ('"', '"'), ("a'b", "a'b")],
    'list': [('[1, 2]', [1, 2]), ('[]', []), ('[a, b]', ['a', 'b']), ('[[1], [2.5]]', [[1], [2.5]]),
             ('[true, null]', [True, None])],
    'dict': [('{a: 1}', {'a': 1}), ('{}', {}), ('{a: [1, 2], b: {c: x}}', {'a': [1, 2], 'b': {'c': 'x'}})]}
WRONG = {
    'int': ['abc', '1.5', '', 'nan', 'inf', '1e3', '[1]', 'true', 'None', '0x10', '½'],
    'float': ['abc', '', 'nan', 'inf', '-inf', '1e999', '[1]', 'true', '1;5', 'NaN'],
    'bool': ['1', '0', 'maybe', '', '[true]', '{}', 'null', '2.5'],
    'list': ['{a: 1}', '3', 'abc', '', '[', '[nan', '[1, .nan]', '[.inf]', 'null',
             '!!python/object:os.system [1]', '&a [*a]'],
    'dict': ['[1]', '3', 'abc', '', '{', '{a: .nan}', 'null', '{a: {b: .inf}}', '&a {b: *a}', '{[1]: 2}']}
KEPT_OR_NAMED = {
    'list': [('[2020-01-01]', None), ('[1e3]', None), ('[!!set {a}]', None), ('[2020-01-01 10:00:00]', None)],
    'dict': [('{1: a}', {1: 'a'}), ('{2020-01-01: 1}', None), ('{a: 2020-01-01}', None),
             ('{true: 1}', {True: 1}),
             ('{1.5: 2}', {1.5: 2}), ('{null: 1}', {None: 1})]}
CELL = dict(int='n: int = 3  # how many', float='n: float = .5  # how fast', bool='n: bool = False  # or not',
            str="n: str = 'x'  # which", list='n: list = [1]  # these', dict='n: dict = {}  # of what')


@st.composite
def values(draw):
    "A value of the right kind, of another, or one that JSON has no word for."
    kind = draw(st.sampled_from(sorted(CELL)))
    texts = dict(right=VALUES[kind], sentence=[(w, None) for w in WRONG.get(kind, [])],
                 either=KEPT_OR_NAMED.get(kind, []))
    ends = draw(st.sampled_from([e for e in texts if texts[e]]))
    text, meant = draw(st.sampled_from(texts[ends]))
    if ends == 'right' and kind in ('int', 'float') and draw(st.booleans()):
        meant = draw(st.integers(-10**12, 10**12) if kind == 'int' else st.floats(-1e30, 1e30))
        text = repr(meant)
    def lay(folder): write_notebook(folder/'n.ipynb', CELL[kind])
    def do(folder): return check_parameters(folder/'n.ipynb', dict(n=text))['n']
    def check(folder, value):
        if ends == 'right':
            assert value == meant and type(value) is type(meant), f"{text!r} came as {value!r}"
        if kind in ('int', 'float'): assert math.isfinite(value)
        assert type(value).__name__ == kind and ast.literal_eval(repr(value)) == value
    ends = 'right sentence' if ends == 'either' else ends
    return Case(f'-p n {text!r} for {CELL[kind]}', lay, do, ends, check)


@st.composite
def wrong_on_the_line(draw):
    "The same by `gpt-kit run`, which refuses before anything runs and leaves nothing."
    kind = draw(st.sampled_from(sorted(WRONG)))
    text = draw(st.sampled_from([w for w in WRONG[kind]]))
    if draw(st.integers(0, 4)) == 0: kind, text = 'int', '-2.5e-3'
    def lay(folder): write_notebook(folder/'n.ipynb', CELL[kind])
    words = ('run', 'n.ipynb', '-p', 'n', text, '--out', 'o')
    return Case(f'-p n {text!r} for {CELL[kind]}', lay, words, 'sentence')


FILES = [
    '[]', '3', 'n: abc', 'n: [1, 2]', 'm: 3', 'n: nan', 'n: .nan', '\0', '{', 'n: 1\nn: 2.5', 'x: y: z',
    'n: 2020-01-01', '1: 2', 'null: 3', '[1]: 2', '? [a]\n: 3', 'n: !!python/object/apply:os.abort []',
    'n: true']


@st.composite
def parameter_files(draw):
    "A file of parameters that says something else."
    text = draw(st.sampled_from(FILES))
    file = draw(st.sampled_from(['f.yaml', 'f.yaml', 'f.yaml', 'none.yaml', 'folder']))
    def lay(folder):
        write_notebook(folder/'n.ipynb', CELL['int'])
        (folder/'folder').mkdir()
        (folder/'f.yaml').write_text(text)
    return Case(f'{file} of {text!r}', lay, ('run', 'n.ipynb', '-f', file, '--out', 'o'), 'sentence')


CELLS = {
    'n: int = 3': dict(n=('int', 3)), 'n = 3': dict(n=('int', 3)),
    'n: float = -2e-3  # x': dict(n=('float', -.002)), 'n: int | None = None  # x': dict(n=(None, None)),
    "n: str = 'a # b'  # c": dict(n=('str', 'a # b')), 'n: list = [1, -2.5]': dict(n=('list', [1, -2.5])),
    "n: dict = {'a': 1}": dict(n=('dict', {'a': 1})),
    '# only a comment\nn: bool = True': dict(n=('bool', True)),
    'n = 2\nm = 3.5': dict(n=('int', 2), m=('float', 3.5)), 'n: int = 2 + 3': None, 'n: int = int(3)': None,
    'import os': None, 'n: int = os.abort()': None, 'n: int': None, 'n: int = ': None,
    'n: str = f"{1}"': None, 'n = m = 3': None, 'a, b = 1, 2': None, 'n = [x for x in y]': None,
    'print(3)': None, 'def f(): pass': None, 'n = 1e3**2': None, '((((': None,
    'n: int = 3\nm: int = n': None, 'n = __import__("os").abort()': None, 'n: float = float("nan")': None,
    'n: int = 3; m: int = 4 + 4': None}


@st.composite
def parameter_cells(draw):
    "Cells of parameters: literals are read, whatever else stands there is refused, and never run."
    source = draw(st.sampled_from(sorted(CELLS)))
    meant = CELLS[source]
    metadata = draw(st.sampled_from([None, {}, dict(kernelspec=dict(name='julia', display_name='J')),
                                     dict(language_info=dict(name='R'))]))
    def lay(folder): write_notebook(folder/'n.ipynb', source, metadata=metadata)
    def do(folder): return read_parameters(folder/'n.ipynb')
    def check(folder, found):
        assert list(found) == list(meant), f"there are {list(found)}"
        for name, (kind, default) in meant.items():
            p = found[name]
            assert p.default == default and type(p.default) is type(default), f"{name} is {p}"
            assert kind is None or kind in p[0], f"{name} is {p}"
    ends = 'sentence' if meant is None else 'right sentence' if metadata else 'right'    # Julia is no Python
    return Case(f'a parameters cell {source!r}, {metadata}', lay, do, ends, check)


BOOKS = [
    '', '{}', '[]', 'null', '3', '{"cells"', '{"cells": []}', '{"cells": 3, "nbformat": 4}', '\0', 'hello',
    '{"cells": [3], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    '{"cells": [], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
    '{"cells": [], "nbformat": 99, "nbformat_minor": 5, "metadata": {}}',
    '{"worksheets": [], "nbformat": 3}',
    '{"cells": [{"cell_type": "code"}], "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', '[' * 5000]


@st.composite
def no_notebooks(draw):
    "Files that are no notebook, notebooks without parameters, outputs that lie in the way of their source."
    what = draw(st.integers(0, 3))
    text = draw(st.sampled_from(BOOKS))
    out = draw(st.sampled_from(['.', './', 'note.txt', 'note.txt/o', 'x' * 300]))
    def lay(folder):
        (folder/'note.txt').write_text('mine')
        if what == 0: (folder/'n.ipynb').write_text(text)
        elif what == 1: (folder/'n.ipynb').mkdir()
        elif what == 2: write_notebook(folder/'n.ipynb', CELL['int'])
    words = ('run', 'n.ipynb', '-p', 'n', '3', '--out', out if what == 2 else 'o')
    about = f'a notebook of {text!r}' if what == 0 else f'no notebook ({what}, {out})'
    return Case(about, lay, words, 'sentence')


HTML = [
    'photos.html', 'index.html', 'gpt/my.html', 'networks/thesis.html', 'plotly.min.js', 'style.css',
    'notes.txt']


@st.composite
def odd_reports(draw):
    "Reports of nothing, or into folders where somebody else's pages lie."
    files = draw(st.lists(st.sampled_from(HTML), max_size=3, unique=True))
    kind = draw(st.sampled_from(['report', 'report', 'figures']))
    def lay(folder):
        for f in files:
            (folder/'out'/f).parent.mkdir(parents=True, exist_ok=True)
            (folder/'out'/f).write_text('mine')
        (folder/'nb').mkdir()
        if 'index.html' in files and kind == 'report': write_notebook(folder/'nb'/'n.ipynb', CELL['int'])
    places = draw(st.sampled_from(['nb', 'none', 'out']))
    words = (('report', '--notebooks', places, '--out', 'out') if kind == 'report' else
             ('figures', draw(st.sampled_from(['fig99', 'x', ''])), '--out', 'out'))
    return Case(f'a {kind} beside {files}', lay, words, 'sentence')


def notebooks():
    "Any of them."
    return st.one_of(values(), values(), wrong_on_the_line(), parameter_files(), parameter_cells(),
                     no_notebooks(), odd_reports())

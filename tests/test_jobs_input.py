"What people bring to notebooks that run in batch: values and cells of every form, foreign kernels."
import ast
import json
import math
import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_kit.networks.checks import UserError
from gpt_kit.run.commands import given_parameters, main
from gpt_kit.run.jobs import find_jobs, job_of, own_kernel, read_parameter_file, run_jobs
from gpt_kit.run.parameters import PARAMETER_TYPES, check_parameters, parse_parameters, read_notebook
from gpt_kit.run.parameters import read_parameters, read_value, with_parameters

CELL = '''x: float = 1.  # a number
n: int = 3  # another
maybe: int | None = None  # may be nothing
either: int | str = 1
told: str | None = "a"
open = None
table: dict = {}
pair: tuple = (1, 2)
names: list = []
loud: bool = False
day: str = ""'''

def notebook(path, parameters=CELL, code='print(x)', kernelspec=None, tags=('parameters',)):
    "With a parameters cell and a cell of code; without kernelspec unless one is given."
    v4 = nbformat.v4
    first = v4.new_code_cell(parameters, id='a', metadata=dict(tags=list(tags)))
    cells = [first, v4.new_code_cell(code, id='b')]
    nb = v4.new_notebook(cells=cells, metadata=dict(kernelspec=kernelspec) if kernelspec else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)
    return path

@pytest.fixture
def nb(tmp_path): return notebook(tmp_path/'in'/'one.ipynb')

def refused(f, *words):
    with pytest.raises(UserError) as e: f()
    said = str(e.value)
    assert '\n' not in said and [w for w in words if w not in said] == [], said

# Values

@pytest.mark.parametrize('name, text, value', [
    ('x', '-2e-3', -2e-3), ('x', '1e-3', 1e-3), ('x', '7', 7.), ('either', '5', 5), ('told', 'b', 'b'),
    ('maybe', 'null', None), ('maybe', 'None', None), ('maybe', '4', 4), ('either', 'five', 'five'),
    ('told', 'null', None), ('open', '[1, 2]', [1, 2]), ('open', '3', 3), ('open', 'text', 'text'),
    ('table', '{1: a, 2.5: b}', {1: 'a', 2.5: 'b'}), ('pair', '[3, 4]', (3, 4)), ('pair', '(3, 4)', (3, 4)),
    ('table', "{1: 'a', 'b': (1, 2)}", {1: 'a', 'b': (1, 2)}),
    ('names', '[1e-3, -2e-3]', [1e-3, -2e-3]), ('names', '[2026-01-31]', ['2026-01-31']),
    ('table', '{day: 2026-01-31}', dict(day='2026-01-31')), ('day', '2026-01-31', '2026-01-31'),
    ('loud', 'yes', True)], ids=str)
def test_values_that_are_taken(nb, tmp_path, name, text, value):
    "From the command line, and the same from a file; and as they come out of the cell that they go into."
    def arrives(given):
        cell = with_parameters(read_notebook(nb), given).cells[1]
        assert cell.metadata.tags == ['injected-parameters']
        return ast.literal_eval(ast.parse(cell.source).body[0].value)
    found = check_parameters(nb, {name: text})
    assert found == {name: value} and type(found[name]) is type(value) and arrives(found) == value
    if text.startswith(('(', '{1: \'')) or name == 'day': return               # no YAML
    file = tmp_path/'f.yaml'
    file.write_text(f'{name}: {text}\n')
    again = check_parameters(nb, read_parameter_file(file, [job_of(nb)])['one'])
    assert again == {name: value} or text in ('None', 'yes')

@pytest.mark.parametrize('name, text', [
    ('x', 'nan'), ('x', 'inf'), ('x', '-inf'), ('x', '1e999'), ('x', 'many'), ('x', ''), ('n', '1e3'),
    ('n', '2.5'), ('n', 'nan'), ('n', 'null'), ('maybe', '2.5'), ('loud', '1'), ('pair', '3'),
    ('names', '[1, .nan]'), ('table', '{a: .inf}'), ('names', '[!!timestamp 2026-01-31]'),
    ('names', '{1, 2}'), ('names', '!!set {1, 2}'), ('names', '!!binary aGk='), ('names', '[' * 5000),
    ('names', '!!timestamp 2026-99-99'), ('names', '!!python/tuple [1]'), ('table', '{[1]: 2}'),
    ('pair', '(1, nan)')], ids=lambda v: v[:20])
def test_values_that_are_refused(nb, name, text):
    "By their names, whatever they are."
    refused(lambda: check_parameters(nb, {name: text}), f'parameter {name} of', 'has to be', repr(text)[:20])

def test_a_value_that_is_refused_starts_nothing(nb, tmp_path, capsys):
    for words in (['x', 'nan'], ['x', 'inf'], ['names', '[.nan]'], ['names', '[!!timestamp 2026-01-31]']):
        assert main(['run', str(nb), '-p', *words, '--out', str(tmp_path/'out')]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f'gpt-kit: parameter {words[0]} of') and said.count('\n') == 1
    assert not (tmp_path/'out').exists()

literals = st.recursive(st.none() | st.booleans() | st.integers() | st.text()
                        | st.floats(allow_nan=False, allow_infinity=False),
                        lambda inner: st.lists(inner) | st.tuples(inner, inner)
                        | st.dictionaries(st.integers() | st.text(), inner), max_leaves=8)

@given(literals)
def test_any_literal_arrives_as_it_is(value):
    cell, names = nbformat.v4.new_code_cell('v = 1', metadata=dict(tags=['parameters'])), {}
    nb = nbformat.v4.new_notebook(cells=[cell])
    exec(with_parameters(nb, dict(v=value)).cells[1].source, names)
    assert names['v'] == value and repr(names['v']) == repr(value) and read_value(repr(value)) == value

@given(st.text(max_size=40))
def test_any_text_is_a_value_or_refused(text):
    "By a ValueError, never another."
    try: value = read_value(text)
    except ValueError: return
    assert value is None or isinstance(value, object)

@pytest.mark.parametrize('number', ['-1e-5', '-2E-3', '-.5', '-1', '-1e400'])
def test_negative_numbers_are_no_options(number, capsys, nb, tmp_path):
    "argparse takes -1e-5 for an option."
    main(['prompt', 'digits-lost', number])         # goes on as far as the model, which isn't there
    assert "there is no model 'digits-lost'" in capsys.readouterr().err
    assert main(['run', str(nb), '-p', 'x', number, '-p', 'who', '1', '--out', str(tmp_path/'out')]) == 1
    said = capsys.readouterr().err
    assert ("no parameter 'who'" if math.isfinite(float(number)) else 'parameter x of') in said, said

def test_a_parameter_file_with_odd_values(nb, tmp_path):
    file, jobs = tmp_path/'f.yaml', [job_of(nb)]
    file.write_text('one:\n  x: .nan\n')
    refused(lambda: check_parameters(nb, read_parameter_file(file, jobs)['one']), 'parameter x')
    file.write_text('one:\n  table: {1: a}\n  names: [2026-01-31, -2e-3]\n')
    taken = check_parameters(nb, read_parameter_file(file, jobs)['one'])
    assert taken == dict(table={1: 'a'}, names=['2026-01-31', -2e-3])
    for text in ('one: !!timestamp 2026-99-99', 'one: &a [*a]', '- 1', '!!binary "', '['*5000, '\x00'):
        file.write_text(text)
        refused(lambda: read_parameter_file(file, jobs), str(file))

# Cells

@pytest.mark.parametrize('line', [
    'n = 2*3', 'n: int = len("abc")', 'import math', 'a = b = 1', 'a, b = 1, 2', 'n: int', 'n += 1',
    'print(1)', '%matplotlib inline', 'n = (', 'd["a"] = 1', 'n = f"{1}"'])
def test_a_cell_that_computes(tmp_path, line, capsys):
    "Refused with the line, before anything runs."
    path = notebook(tmp_path/'one.ipynb', 'x = 1  # fine\n' + line)
    refused(lambda: read_parameters(path), 'line 2', repr(line), str(path), 'another cell')
    assert main(['run', str(path), '--out', str(tmp_path/'out')]) == 1
    assert 'line 2' in capsys.readouterr().err and not (tmp_path/'out').exists()

@pytest.mark.parametrize('line, types', [
    ('n: int = 1', ('int',)), ('n: int | None = None', ('NoneType', 'int')),
    ('n: None | int = 4', ('NoneType', 'int')), ('n: int = None', ('NoneType', 'int')),
    ('n = None', tuple(PARAMETER_TYPES)), ('n: list[dict[str, int]] = []', ('list',)),
    ('n: "float" = 1', ('float',)), ('n: Sizes = (1,)', ('tuple',)), ('n = -1e-3', ('float',)),
    ('n: int | str = 1', ('int', 'str'))])
def test_types_of_parameters(line, types): assert parse_parameters(line)['n'].types == types

def test_comments_over_several_lines():
    found = parse_parameters('a = [1,  # one\n     2]  # and two\n# a remark\n\nb = "# no remark"  # b')
    assert (found['a'].help, found['b'].help, found['b'].default) == ('one and two', 'b', '# no remark')

def test_no_parameters_cell(tmp_path):
    for given in (dict(parameters=''), dict(tags=['other'])):
        refused(lambda: read_parameters(notebook(tmp_path/'one.ipynb', **given)), "the tag 'parameters'")

@pytest.mark.parametrize('text', [
    '', '[]', '{"cells"', '{"cells": 3, "nbformat": 4}', '{"nbformat": 4, "cells": [1]}', 'null',
    '{"nbformat": 99}', '{"cells": [], "metadata": {}, "nbformat": 4}', 'é'])
def test_a_file_that_is_no_notebook(tmp_path, text):
    (tmp_path/'one.ipynb').write_text(text, encoding='latin-1')
    refused(lambda: read_parameters(tmp_path/'one.ipynb'), str(tmp_path/'one.ipynb'))

# Kernels

FOREIGN = dict(argv=['/nowhere/python', '-m', 'ipykernel_launcher', '-f', '{connection_file}'],
               display_name='foreign', language='python')

def test_no_kernelspec_and_a_foreign_one(tmp_path, monkeypatch):
    "Our own interpreter, always; and what is given arrives in the kernel as it was."
    kernels = tmp_path/'share'/'kernels'
    for name in ('python3', 'other'):
        (kernels/name).mkdir(parents=True)
        (kernels/name/'kernel.json').write_text(json.dumps(FOREIGN))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'share'))
    spec = own_kernel()(kernel_name='python3').kernel_spec
    assert spec.argv[0] == sys.executable
    code = 'import sys; print(sys.executable); print(repr([table, pair, maybe]))'
    bare = notebook(tmp_path/'in'/'bare.ipynb', code=code)
    other = notebook(tmp_path/'in'/'other.ipynb', code=code,
                     kernelspec=dict(name='other', display_name='other', language='python'))
    given = {'bare': dict(table='{1: a}', pair='(3, 4)', maybe='7'), 'other': {}}
    run_jobs([job_of(bare), job_of(other)], given, tmp_path/'out', progress=False, say=lambda text: None)
    for name, values in (('bare', "[{1: 'a'}, (3, 4), 7]"), ('other', '[{}, (1, 2), None]')):
        done = nbformat.read(tmp_path/'out'/f'{name}.ipynb', 4)
        assert done.cells[-1].outputs[0].text.splitlines() == [sys.executable, values]
    assert not list((tmp_path/'out').glob('.*'))

def test_every_notebook_of_ours_can_be_read():
    "Their parameters cells, by the same rules."
    jobs = find_jobs(['course', 'networks', 'gpt', 'figures'])
    assert len(jobs) > 50 and all(read_parameters(job.path) for job in jobs)
    assert given_parameters(jobs, [('seed', '3')], None)

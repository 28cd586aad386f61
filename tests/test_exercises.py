"""Exercises of the course: a stub that solves nothing is not yet right, and the folded answer is.

Only an exercise's own cells run, after the lesson's imports and parameters, with the names of its module."""
import json
import re
from importlib import import_module
from pathlib import Path

import pytest

from gpt_kit.run.jobs import COURSE, all_jobs

ROOT = Path(__file__).parents[1]
LESSONS = {job.name: job.path for job in all_jobs(ROOT/'nbs') if job.name in COURSE}

def cells(path):
    return {c['id']: ''.join(c['source']) for c in json.loads(path.read_text())['cells']}

def exercises(path):
    "Of a lesson: 'exercise', 'exercise-2', ..., those with a cell to be written in."
    return [name for name in cells(path) if re.fullmatch(r'exercise(-\d)?', name)]

def namespace(path):
    "What a reader has who ran the lesson's first cells, and its definitions."
    found = cells(path)
    module, = re.findall(r'^#\| default_exp (\S+)$', '\n'.join(found.values()), re.M) or ['']
    names = dict(vars(import_module(f'gpt_kit.{module}'))) if module else {}
    names = {k: v for k, v in names.items() if not k.startswith('__')}
    for name in ('imports', 'test-helpers', 'parameters'):
        exec(found.get(name, ''), names)
    return names

ALL = [(lesson, name) for lesson, path in LESSONS.items() for name in exercises(path)]

@pytest.mark.parametrize('lesson, name', ALL, ids=[f'{lesson}-{name}' for lesson, name in ALL])
def test_tells_right_from_not_yet(lesson, name, capsys, monkeypatch):
    path = LESSONS[lesson]
    found = cells(path)
    monkeypatch.chdir(path.parent)
    answer, = re.findall(r'```python\n(.*?)```', found[f'{name}-answer'], re.S)
    for source, said in ((found[name], 'not yet'), (answer, 'right')):
        names = namespace(path)
        capsys.readouterr()
        exec(source, names)
        exec(found[f'{name}-check'], names)
        assert capsys.readouterr().out.startswith(said)

"""The glossary: each term once, its lesson explains it in bold, and no lesson before that one uses it.

A use is a word of a lesson's prose, or of a comment or sentence in code that is not folded. Formulas and code
don't count, nor links to other lessons, which say where a word will be explained."""
import ast
import io
import json
import re
import tokenize
from pathlib import Path
from unicodedata import normalize

import pytest

from gpt_kit.run.jobs import COURSE, all_jobs

ROOT = Path(__file__).parent.parent
LESSONS = {job.name: job for job in all_jobs(ROOT/'nbs') if job.name in COURSE}
LINE = re.compile(r'- \*\*(?P<term>[^*]+)\*\*(?P<unit> \([^)]+\))?: '
                  r'(?P<words>.+) → \[(?P<name>[^\]]+)\]\((?P<file>\S+)\)')
GLOSSARY = (ROOT/'nbs'/'GLOSSARY.md').read_text()
ENTRIES = [LINE.fullmatch(line) for line in GLOSSARY.splitlines() if line.startswith('-')]
TERMS = {m['term'].strip('`'): m for m in ENTRIES if m}

# One runs a cell; a run is a noun. And the title of a paper is quoted as it is.
EVERYDAY = {'run': r'\bruns\b|(?<=\ba )run\b|(?<=\beach )run\b|(?<=\bone )run\b|(?<=\bthe )run\b'}
QUOTED = '*Learning to Learn with Generative Models of Neural Network Checkpoints*'

def bare(text):
    "Prose without what doesn't count."
    text = text.replace(QUOTED, '')
    text = re.sub(r'\[[^\]]*\]\([^)]*\.ipynb\)', '', text)
    text = re.sub(r'```.*?```|\$\$.+?\$\$|(?<![\\$])\$[^$\n]+\$', '', text, flags=re.S)
    return re.sub(r'`([^`]*)`', lambda m: m[0] if m[1].startswith('#|') else '', text)

def said_in_code(source):
    "Comments, and those of its texts that are sentences."
    source = re.sub(r'^(#\|.*\n)+', '', source)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    said = [t.string for t in tokens if t.type == tokenize.COMMENT]
    texts = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    return '\n'.join(said + [t for t in texts if isinstance(t, str) and ' ' in t.strip()])

def read_lesson(name):
    "Of a lesson: id of a cell -> what it says."
    said = {}
    for c in json.loads(LESSONS[name].path.read_text())['cells']:
        source = ''.join(c['source'])
        folded = c['metadata'].get('jupyter', {}).get('source_hidden') or source.startswith('#| hide')
        if c['cell_type'] == 'markdown': said[c['id']] = bare(source)
        elif not folded and c['id'] != 'imports': said[c['id']] = said_in_code(source)
    return said

SAID = {name: read_lesson(name) for name in COURSE}

def pattern(term):
    "A term as it stands in a sentence, one or many."
    return rf'(?<![\w-]){re.escape(term)}(?:e?s)?(?![\w-])'

def uses(term, text, terms=TERMS):
    "Places where a text uses a term, and not a longer term that holds it: a latent walk is no latent."
    longer = [t for t in terms if t != term and re.search(pattern(term), t, re.I)]
    for t in longer: text = re.sub(pattern(t), lambda m: '_'*len(m[0]), text, flags=re.I)
    return [m.start() for m in re.finditer(EVERYDAY.get(term, pattern(term)), text, re.I)]

def lesson_of(term): return next(name for name, job in LESSONS.items() if job.file == TERMS[term]['file'])

each_term = pytest.mark.parametrize('term', TERMS)

def test_uses():
    terms = ['latent', 'latent walk', 'share of signal']
    assert uses('latent', 'Latents, a latent walk, latent_walk and a latent.', terms) == [0, 42]
    assert uses('nat', bare('a [nat](a.ipynb), a `nat`, $a nat$, **a nat**')) == [14]
    assert uses('nat', said_in_code('#| export\nx = 1  # in nats\ny = "natural or nat"')) == [5, 21]
    assert uses('nat', said_in_code('nats = dict(unit="nats")')) == []
    assert uses('run', 'Run a run of 2 runs') == [6, 15] and uses('run', 'Run it, and it can run') == []

def test_every_line_is_an_entry():
    assert all(ENTRIES), 'a line is: - **term** (symbol or unit): one sentence. → [lesson](file)'
    assert len(ENTRIES) >= 70 and len({m['term'].casefold() for m in ENTRIES}) == len(ENTRIES)
    for m in ENTRIES: assert re.search(r'[.]$', m['words']) and '. ' not in m['words'].replace('et al. ', '')

def test_alphabetical():
    order = [normalize('NFKC', re.sub(r'^\W+', '', m['term'])).casefold() for m in ENTRIES]      # R² as r2
    assert order == sorted(order)

def test_lessons_are_of_the_course():
    "And called as in the README."
    files, readme = {job.file for job in LESSONS.values()}, (ROOT/'README.md').read_text()
    for m in ENTRIES:
        assert m['file'] in files, m['file']
        assert f"[{m['name']}](nbs/{m['file']})" in readme, m[0]
    assert '(nbs/GLOSSARY.md)' in readme.partition('## The lessons')[2].partition('\n## ')[0]

@each_term
def test_its_lesson_explains_it_in_bold(term):
    name = lesson_of(term)
    text = '\n'.join(SAID[name].values())
    bold = re.findall(r'\*\*([^*]+)\*\*', text)
    assert any(re.search(pattern(term), b, re.I) for b in bold), f'lesson {name} has no {term} in bold'

@each_term
def test_no_lesson_before_uses_it(term):
    before = COURSE[:COURSE.index(lesson_of(term))]
    early = {}
    for name in before:
        for cell, text in SAID[name].items():
            for at in uses(term, text): early[name, cell] = text[max(0, at - 60):at + 40]
    assert early == {}, f'{term} is used before lesson {lesson_of(term)} explains it'

"The report's first page: the map of the course, its pictures, the glossary; for any set of notebooks."
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat import v4

from gpt_kit.networks.pictures import STAGES
from gpt_kit.run import report
from gpt_kit.run.jobs import COURSE, all_jobs
from gpt_kit.run.report import GLOSSARY, PICTURES, map_stages, write_report

ROOT = Path(__file__).parent.parent
FILES = {job.name: job.file for job in all_jobs(ROOT/'nbs')}
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="9" height="9"><text>{}</text></svg>'

def executed(folder, files, cells=()):
    "A folder with executed notebooks; `cells` of all of them show a picture that says which cell it is."
    for file in files:
        shown = [v4.new_markdown_cell(f'# {file}\n\n> About it.')]
        for cell in cells:
            picture = v4.new_output('display_data', {'image/svg+xml': SVG.format(f'{cell} of {file}')})
            shown.append(v4.new_code_cell('sheet', id=cell, outputs=[picture]))
        (folder/file).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(v4.new_notebook(cells=shown), folder/file)
    return folder

class Index(HTMLParser):
    "Links of a page as (where, words), those inside its map apart, and the words of the map."
    def __init__(self, file):
        super().__init__()
        self.links, self.map_links, self.map_words = [], [], ''
        self.in_map, self.in_style, self.href = False, False, None
        self.feed(file.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'section' and attrs.get('class') == 'map': self.in_map = True
        if tag == 'a': self.href = unquote(attrs['href'])
        if tag == 'style': self.in_style = True                             # of a picture

    def handle_endtag(self, tag):
        if tag == 'section': self.in_map = False
        if tag == 'a': self.href = None
        if tag == 'style': self.in_style = False

    def handle_data(self, words):
        if self.in_style or not words.strip(): return
        if self.in_map: self.map_words += words
        if not self.href: return
        self.links.append((self.href, words.strip()))
        if self.in_map: self.map_links.append((self.href, words.strip()))

def made(tmp_path, files, cells=()):
    "The index of a report of such notebooks."
    write_report(executed(tmp_path/'notebooks', files, cells), tmp_path/'report')
    return Index(tmp_path/'report'/'index.html')

def dead_links(folder):
    "Links of all pages that lead to no file."
    found = []
    for page in folder.rglob('*.html'):
        found += [(page.name, to) for to, _ in Index(page).links
                  if not to.startswith('#') and not (page.parent/to.partition('#')[0]).is_file()]
    return found

def test_every_lesson_stands_on_the_map_once():
    "Under its own name, and the map has nothing else."
    on_it = [name.replace('-', '') for stage in map_stages({}) for name in stage['lessons']]
    assert sorted(on_it) == sorted(name.rpartition('/')[2] for name in COURSE)
    assert [stage['name'] for stage in map_stages({})][-len(STAGES):] == list(STAGES)

def test_the_whole_course(tmp_path):
    "Each stage leads to its first lesson, each lesson to its own page; the first of all is `start`."
    index = made(tmp_path, [FILES[name] for name in COURSE])
    pages = [FILES[name].replace('.ipynb', '.html') for name in COURSE]
    assert index.map_links[0] == ('00_start.html', 'begin here')
    assert sorted({to for to, _ in index.map_links}) == sorted(pages)
    assert ('gpt/02_tokens.html', 'a model') in index.map_links
    assert ('pdiff/01_pdiff.html', 'p-diff') in index.map_links
    text = (tmp_path/'report'/'index.html').read_text()
    assert 'have not run' not in text and text.index('class="map"') < text.index('class="lessons"')
    assert dead_links(tmp_path/'report') == []
    words = (tmp_path/'report'/'glossary.html').read_text()
    assert words.count('.html">') >= GLOSSARY.read_text().count('.ipynb)') >= 70

def test_a_part_of_the_course(tmp_path):
    "What has not run stands there without a link; a stage leads to what of it has run."
    index = made(tmp_path, ['00_start.ipynb', 'gpt/03_model.ipynb'])
    assert [to for to, _ in index.map_links] == ['00_start.html']*2 + ['gpt/03_model.html']*2
    assert {'a model', 'model', 'begin here', 'start'} == {words for _, words in index.map_links}
    for name in ('tasks', 'many networks', 'audit'): assert name in index.map_words
    assert 'have not run' in (tmp_path/'report'/'index.html').read_text()
    assert dead_links(tmp_path/'report') == []

def test_own_notebooks_have_no_map(tmp_path):
    "Nor a glossary, and that of an earlier report is gone."
    made(tmp_path, ['00_start.ipynb', 'mine.ipynb'])
    assert (tmp_path/'report'/'glossary.html').exists()
    (tmp_path/'notebooks'/'00_start.ipynb').unlink()
    index = made(tmp_path, ['mine.ipynb'])
    assert index.map_words == '' and [to for to, _ in index.links] == ['mine.html']
    assert not (tmp_path/'report'/'glossary.html').exists()

def test_a_notebook_called_glossary(tmp_path):
    "Keeps its page."
    index = made(tmp_path, ['00_start.ipynb', 'glossary.ipynb'])
    assert [words for to, words in index.links if to == 'glossary.html'] == ['glossary.ipynb']
    assert 'glossary.ipynb</h1>' in re.sub('<a.*?</a>', '', (tmp_path/'report'/'glossary.html').read_text())

def test_without_a_glossary(tmp_path, monkeypatch):
    "As in a package that was installed without its notebooks."
    monkeypatch.setattr(report, 'GLOSSARY', tmp_path/'none.md')
    assert 'glossary.html' not in [to for to, _ in made(tmp_path, ['00_start.ipynb']).links]
    assert dead_links(tmp_path/'report') == []

def test_a_glossary_of_somebody_else_stays(tmp_path):
    (tmp_path/'report').mkdir()
    (tmp_path/'report'/'glossary.html').write_text('mine')
    with pytest.raises(report.UserError, match='glossary.html'): made(tmp_path, ['00_start.ipynb'])
    assert [f.name for f in (tmp_path/'report').iterdir()] == ['glossary.html']

def test_pictures_of_the_lessons_that_ran(tmp_path):
    "The two pictures stand after the map, each from its own lesson's cell; without the lesson there is none."
    cells = [cell for _, cell in PICTURES]
    made(tmp_path, ['gpt/02_tokens.ipynb', 'gpt/01_diffusion.ipynb'], cells)
    text = (tmp_path/'report'/'index.html').read_text()
    shown = [f'{cell} of {FILES[name]}' for name, cell in PICTURES]
    assert re.findall('<figure>.*?<text>(.*?)</text>', text, re.S) == shown
    (tmp_path/'notebooks'/'gpt'/'02_tokens.ipynb').unlink()
    made(tmp_path, ['gpt/01_diffusion.ipynb'])                          # ran, but shows nothing
    assert '<figure>' not in (tmp_path/'report'/'index.html').read_text()

@pytest.mark.parametrize('name, cell', PICTURES)
def test_lessons_have_these_pictures(name, cell):
    cells = json.loads((ROOT/'nbs'/FILES[name]).read_text())['cells']
    source, = (''.join(c['source']) for c in cells if c['id'] == cell)
    assert re.search(r'^(token|weights)_picture\(', source, re.M)

def test_the_page_without_python(tmp_path):
    "Is linked when it lies beside the report."
    live = '../page/index.html'
    assert live not in [to for to, _ in made(tmp_path, ['00_start.ipynb']).links]
    (tmp_path/'page').mkdir(); (tmp_path/'page'/'index.html').write_text('a page')
    assert live in [to for to, _ in made(tmp_path, ['00_start.ipynb']).links]
    assert dead_links(tmp_path/'report') == []

def test_make_run_runs_the_course():
    "But for its last two lessons, in its order."
    lessons, = re.findall(r'^LESSONS = ((?:.*\\\n)*.*)$', (ROOT/'Makefile').read_text(), re.M)
    assert lessons.replace('\\\n', ' ').split() == list(COURSE[:-2])

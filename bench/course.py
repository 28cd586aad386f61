"""How long the course is: words, lines of code that are not folded, minutes, exercises and predictions.

python bench/course.py
python bench/course.py --answers    # run each lesson, small, with its exercises solved

A minute is 200 words of text or ten lines of code. Folded are cells whose source JupyterLab hides.
"""
import argparse
import json
import re
from pathlib import Path

import papermill
import yaml

from gpt_kit.run.jobs import COURSE, all_jobs, own_kernel

ROOT = Path(__file__).parents[1]


def cells_of(path):
    "Kind, id, source and whether it is folded, of each cell."
    for cell in json.loads(path.read_text())['cells']:
        folded = cell['metadata'].get('jupyter', {}).get('source_hidden', False)
        yield cell['cell_type'], cell['id'], ''.join(cell['source']), folded


def counts(path):
    "What a reader has before them."
    found = dict(words=0, lines=0, exercises=0, predictions=0)
    for kind, name, source, folded in cells_of(path):
        found['exercises'] += kind == 'markdown' and source.startswith('## Exercise')
        found['predictions'] += kind == 'code' and bool(re.search(r'^predict\(', source, re.M))
        if kind == 'markdown':
            open_text = re.sub(r'<details>.*?</details>|<[^>]*>', '', source, flags=re.S)
            found['words'] += len(open_text.split())
        elif not folded and not source.startswith('#| hide'):
            lines = [line for line in source.split('\n') if line.strip() and not line.startswith('#|')]
            found['lines'] += len(lines)
    return found


def solved(path):
    "A notebook with the folded answers put into its exercises, and how many these are."
    nb, n = json.loads(path.read_text()), 0
    answers = {c['id']: ''.join(c['source']) for c in nb['cells'] if c['id'].endswith('-answer')}
    for cell in nb['cells']:
        answer = answers.get(f"{cell['id']}-answer")
        if answer is None: continue
        cell['source'], = re.findall(r'```python\n(.*?)```', answer, re.S)
        n += 1
    return nb, n

def run_solved(job, parameters, folder):
    "Run a lesson with its answers; says how many of its checks say right. An error in it is raised."
    nb, n = solved(job.path)
    given, made = folder/f'{job.path.stem}.ipynb', folder/f'{job.path.stem}.done.ipynb'
    given.write_text(json.dumps(nb))
    kernel = dict(kernel_name='python3', kernel_manager_class=own_kernel(), store_widget_state=False)
    papermill.execute_notebook(given, made, parameters, cwd=job.path.parent, progress_bar=False, **kernel)
    right = 0
    for cell in json.loads(made.read_text())['cells']:
        if not re.fullmatch(r'exercise(-\d)?-check', cell.get('id', '')): continue
        said = ''.join(''.join(o.get('text', '')) for o in cell['outputs'])
        right += said.startswith('right')
    print(f'{job.name:22}{right} of {n} right', flush=True)
    return right == n

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--answers', action='store_true', help='run the lessons with the answers put in')
    if parser.parse_args().answers: return run_all_solved()
    jobs, total = {job.name: job for job in all_jobs(ROOT/'nbs')}, {}
    heads = 'words', 'lines', 'exercises', 'predictions', 'minutes'
    print(f"{'lesson':22}" + ''.join(f'{head:>12}' for head in heads))
    for name in COURSE:
        found = counts(jobs[name].path)
        found['minutes'] = found['words']/200 + found['lines']/10
        total = {k: total.get(k, 0) + v for k, v in found.items()}
        print(f'{name:22}' + ''.join(f'{v:12.0f}' for v in found.values()))
    print(f"{'all':22}" + ''.join(f'{v:12.0f}' for v in total.values()))

def run_all_solved():
    jobs = {job.name: job for job in all_jobs(ROOT/'nbs')}
    small = yaml.safe_load((ROOT/'tests'/'small.yaml').read_text())
    folder = ROOT/'build'/'solved'
    folder.mkdir(parents=True, exist_ok=True)
    wrong = [name for name in COURSE if not run_solved(jobs[name], small.get(name) or {}, folder)]
    if wrong: raise SystemExit(f"not all right: {', '.join(wrong)}")

if __name__ == '__main__': main()

"""How long the course is: words, lines of code that are not folded, minutes, exercises and predictions.

python bench/course.py

A minute is 200 words of text or ten lines of code. Folded are cells whose source JupyterLab hides.
"""
import json
import re
from pathlib import Path

from gpt_kit.run.jobs import COURSE, all_jobs

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


def main():
    jobs, total = {job.name: job for job in all_jobs(ROOT/'nbs')}, {}
    heads = 'words', 'lines', 'exercises', 'predictions', 'minutes'
    print(f"{'lesson':22}" + ''.join(f'{head:>12}' for head in heads))
    for name in COURSE:
        found = counts(jobs[name].path)
        found['minutes'] = found['words']/200 + found['lines']/10
        total = {k: total.get(k, 0) + v for k, v in found.items()}
        print(f'{name:22}' + ''.join(f'{v:12.0f}' for v in found.values()))
    print(f"{'all':22}" + ''.join(f'{v:12.0f}' for v in total.values()))


if __name__ == '__main__': main()

"""How much code there is: Python tokens without comments and strings, in package, bench and unexported cells.

python bench/size.py           of this checkout
python bench/size.py REVISION  and of another state of the repository
"""
import io
import json
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path

LEFT_OUT = {'COMMENT', 'NL', 'NEWLINE', 'INDENT', 'DEDENT', 'STRING', 'ENCODING', 'ENDMARKER'}


def tokens(source):
    "Tokens that a reader has to follow."
    found = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(tokenize.tok_name[t.type] not in LEFT_OUT for t in found)


def unexported(file):
    "The code of a notebook that no module has."
    cells = (''.join(c['source']) for c in json.loads(file.read_text())['cells'] if c['cell_type'] == 'code')
    return '\n'.join(code for code in cells if not code.startswith('#| export'))


def sizes(root):
    "Tokens by part."
    package = [f.read_text() for f in root.glob('gpt_kit/**/*.py') if f.stem != '_modidx']
    parts = dict(package=package, bench=[f.read_text() for f in root.glob('bench/*.py')],
                 cells=[unexported(f) for f in root.glob('nbs/**/*.ipynb') if 'checkpoints' not in str(f)])
    return {part: sum(map(tokens, sources)) for part, sources in parts.items()}


if __name__ == '__main__':
    found = {'here': sizes(Path(__file__).parents[1])}
    for revision in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(f'git archive {revision} | tar -x -C {folder}', shell=True, check=True)
            found[revision] = sizes(Path(folder))
    for name, parts in found.items(): print(f"{name:10}{sum(parts.values()):8} tokens  {parts}")

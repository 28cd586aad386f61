"`make setup` refuses a Python that the pins have no wheels for, in one sentence, before it does anything."
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

@pytest.mark.parametrize('version, fine', [('3.10.4', False), ('3.14.0', False), ('3.12.1', True)])
def test_python_versions(tmp_path, version, fine):
    for name in ('Makefile', 'settings.ini', 'constraints.txt', 'setup.py'): shutil.copy(ROOT/name, tmp_path)
    python = tmp_path/'some-python'       # judges as that version would, and makes no environment
    major, minor, _ = version.split('.')
    judge = f'python3 -c "import sys; sys.version_info = ({major}, {minor}); exec(sys.argv[1])" "$2"'
    answers = f'-c) {judge};; --version) echo Python {version};; *) exit 1;;'
    python.write_text(f'#!/bin/sh\ncase "$1" in {answers} esac\n')
    python.chmod(0o755)
    done = subprocess.run(['make', 'setup', f'PYTHON={python}'], cwd=tmp_path, capture_output=True, text=True)
    said = done.stderr.splitlines()[0]
    assert done.returncode != 0 and ('needs Python' in said) == (not fine), said
    if not fine: assert f'is Python {version}' in said and '3.12' in said

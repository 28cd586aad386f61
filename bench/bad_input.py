"""10,000 made-up inputs that make no sense: python bench/bad_input.py [how many] [kinds, such as stores].

Each has to end in the right result or in one sentence, and to change nothing that was there. Prints how many
ended how, by kind, and each fault once; the exit code is 1 when there is one.
"""
import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from common import record

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
sys.dont_write_bytecode = True       # tasks that cases bring are not to leave a __pycache__
from bad_inputs import KINDS, fixtures  # noqa: E402
from bad_inputs.harness import try_cases  # noqa: E402


def show(case, outcome):
    "A fault, for people."
    print(f"\n{case!r}\n{outcome.end}: {outcome.said}", flush=True)


def try_kind(kind, n, seed, folder):
    "So many cases of a kind; how many were at fault."
    t, ends, shown = time.process_time(), Counter(), set()
    for case, outcome in try_cases(KINDS[kind](), n, folder/'case', seed=seed):
        ends[outcome.end if outcome.good else 'fault'] += 1
        key = case.about[:25], outcome.end, outcome.said.strip()[-50:]
        if outcome.good or key in shown: continue
        shown.add(key)
        show(case, outcome)
    seconds = time.process_time() - t
    record('bench', f'bad input, {kind}', cases=sum(ends.values()), **ends, seconds=seconds)
    return ends['fault']


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('cases', nargs='?', type=int, default=10_000)
    p.add_argument('kinds', nargs='*', default=list(KINDS), help=', '.join(KINDS))
    p.add_argument('--seed', type=int, default=0)
    given = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp, pytest.MonkeyPatch.context() as m:
        fixtures.prepare(Path(tmp)/'fixtures', m)
        os.chdir(tmp)
        faults = [try_kind(k, -(-given.cases//len(given.kinds)), given.seed, Path(tmp)) for k in given.kinds]
    sys.exit(any(faults))

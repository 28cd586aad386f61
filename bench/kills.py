"""Kill collection, training, import and recording at random moments: python bench/kills.py [kills [seed]].

200 SIGKILLs unless told otherwise, a quarter of them for each; every other round has two writers at once.
Nothing finished may be lost, no lock may be left, and the same command has to end with the same bits.
"""
import os
import sys
import time
from pathlib import Path

from common import record

TESTS = Path(__file__).parent.parent/'tests'
sys.path.insert(0, str(TESTS))
os.environ['PYTHONPATH'] = str(TESTS)                            # for the processes that are killed
from test_kills import JOBS, kill_rounds  # noqa: E402


def say(line): print(line, flush=True)


if __name__ == '__main__':
    n, seed = (int(a) for a in (sys.argv[1:] + ['200', '0'][len(sys.argv) - 1:]))
    for job in JOBS:
        t = time.perf_counter()
        ends = kill_rounds(n//len(JOBS), seed=seed, jobs=(job,), two=(False, True), say=say)[job]
        seconds = time.perf_counter() - t                       # none was lost, or else it had raised
        record('bench', f'kills of {job}', kills=n//len(JOBS), ends=ends, lost=0, seconds=seconds)

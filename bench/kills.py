"""Kill collection and training at 20 random moments each: python bench/kills.py [kills].

Nothing finished may be lost, and the same command has to end with the same bits.
"""
import sys
import time
from pathlib import Path

from common import record

sys.path.insert(0, str(Path(__file__).parent.parent/'tests'))
from test_kills import kill_rounds  # noqa: E402

if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for job in ('collect', 'train'):
        t = time.perf_counter()
        hits = kill_rounds(n, seed=0, jobs=(job,))[job]      # raises when anything is lost or differs
        record('bench', f'kills of {job}', kills=n, at_work=hits, lost=0, seconds=time.perf_counter() - t)

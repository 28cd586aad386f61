"What a case is, how it is tried in this process or in one of its own, and how its end is judged."
import hashlib
import io
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from forked import run_command
from gpt_kit.networks.checks import UserError
from gpt_kit.run.commands import main

ROOT = Path(__file__).parents[2]
SECONDS, BYTES = 60, 2**32      # that a case may take
CODES = {0: 'right', 1: 'sentence', 2: 'usage', 130: 'interrupted'}
GOOD = (*CODES.values(), 'partly')


class TooLong(BaseException):
    "A case hangs."


def anything(folder, came): "Nothing more is asked of it."


class Case(NamedTuple):
    "An input that a generator made, and the ends that it may come to."
    about:str        # what is odd about it
    put:Callable     # (folder), lays down what is there before
    do:tuple|Callable            # a command's words, or a function (folder) -> value
    ends:str                     # of GOOD, several with spaces; 'partly': what is good is done, exit code 1
    check:Callable = anything    # (folder, value or what was printed), raises AssertionError when it is wrong
    outputs:tuple = ()           # below the folder: may appear or change when the command succeeds

    def __repr__(self):
        what = ' '.join(map(repr, self.do)) if isinstance(self.do, tuple) else 'call'
        return f"<{self.about}: {what} -> {self.ends}>"


class Outcome(NamedTuple):
    "How a case ended."
    end:str          # one of GOOD, or a fault
    said:str = ''

    @property
    def good(self): return self.end in GOOD


def snapshot(folder):
    "Path -> digest of all that is in a folder; a folder's digest is ''."
    found = {}
    for f in sorted(Path(folder).rglob('*')):
        found[str(f.relative_to(folder))] = hashlib.sha256(f.read_bytes()).hexdigest() if f.is_file() else ''
    return found


def _below(path, outputs):
    return any(path == o or path.startswith(f'{o}/') or o.startswith(f'{path}/') for o in outputs)


def differences(before, after, outputs):
    "What is gone, changed or new outside of the outputs, in words."
    told = []
    for path, digest in before.items():
        if path in after and after[path] == digest: continue
        if path in outputs and path in after: continue
        told.append(f"{path} {'changed' if path in after else 'is gone'}")
    told += [f"{path} is new" for path in after if path not in before and not _below(path, outputs)]
    return [t for t in told if '.gpt-kit.lock' not in t]


@contextmanager
def limits():
    "A case that hangs or eats all memory is stopped: TooLong, MemoryError."
    def ring(*a): raise TooLong(f"it took more than {SECONDS} s")
    old, (soft, hard) = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    mapped = int(Path('/proc/self/statm').read_text().split()[0])*resource.getpagesize()
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + BYTES, hard))
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextmanager
def at_home(folder):
    "In that folder, and without a trace in this process."
    path, modules = list(sys.path), set(sys.modules)
    try:
        with chdir(folder), warnings.catch_warnings():
            warnings.simplefilter('always', UserWarning)        # as for the first time
            yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if str(folder) in (getattr(sys.modules[name], '__file__', None) or ''): del sys.modules[name]


def _captured(errors): return io.TextIOWrapper(io.BytesIO(), 'utf-8', errors, write_through=True)


def _text(stream): return stream.buffer.getvalue().decode('utf-8', 'replace')


def command_here(words):
    "(exit code, stdout, stderr) of a command in this process."
    out, err = _captured('strict'), _captured('backslashreplace')
    with redirect_stdout(out), redirect_stderr(err): code = main(list(words))
    return code, _text(out), _text(err)


def command_alone(folder, words):
    "The same in a process of its own."
    paths = os.pathsep.join([str(ROOT), str(ROOT/'tests')])
    env = dict(os.environ, PYTHONPATH=paths, OMP_NUM_THREADS='1', PYTHONIOENCODING='utf-8')
    r = subprocess.run([sys.executable, '-m', 'gpt_kit.run.commands', *words], cwd=folder, env=env,
                       capture_output=True, timeout=120)
    return r.returncode, *(t.decode('utf-8', 'replace') for t in (r.stdout, r.stderr))


def command_forked(folder, words):
    "The same in one that begins with everything imported."
    r = run_command(*words, cwd=folder)
    return r.returncode, r.stdout, r.stderr


NOTE = 'gpt-kit: note: '


def sentences(err, ends):
    "What a command said, without progress bars; notes, when what is left out is named by them."
    lines = [line for line in _lines(err).splitlines() if line.startswith('gpt-kit: ')]
    notes = [line for line in lines if line.startswith(NOTE)]
    return notes[:1] if 'partly' in ends and notes == lines else [line for line in lines if line not in notes]


def _check(case, folder, came):
    try: case.check(folder, came)
    except (AssertionError, UserError, KeyError, IndexError, ValueError, OSError) as e:
        return f"{type(e).__name__}: {e}"


def _lines(err): # without progress bars
    return '\n'.join(line for line in re.split(r'[\r\n]+', err) if line.strip() and '%|' not in line)


def _command_end(case, folder, run):
    code, out, err = run(case.do)
    said = f"exit code {code}: {_lines(err)[-800:]}"
    if 'Traceback' in err or code not in CODES: return Outcome('traceback', said)
    end = CODES[code]
    if code in (1, 130) and len(sentences(err, case.ends)) != 1: return Outcome('no sentence', said)
    if code == 2 and not err.strip(): return Outcome('no sentence', said)
    if code == 1 and 'partly' in case.ends.split(): end = 'partly'
    if end not in case.ends.split(): return Outcome(f"ended {end}, not {case.ends}", said)
    wrong = _check(case, folder, out) if end in ('right', 'partly') else None
    return Outcome('wrong result', f"{wrong}\n{said}") if wrong else Outcome(end, said)


def _call_end(case, folder):
    warnings.simplefilter('ignore')
    try: value = case.do(folder)
    except (UserError, OSError) as e:
        if '\n' in str(e) or not str(e): return Outcome('no sentence', str(e))
        end = 'sentence' if 'sentence' in case.ends.split() else f'ended sentence, not {case.ends}'
        return Outcome(end, str(e))
    if 'right' not in case.ends.split(): return Outcome(f'ended right, not {case.ends}', repr(value)[:300])
    wrong = _check(case, folder, value)
    return Outcome('wrong result', wrong) if wrong else Outcome('right')


def _try(case, folder, alone):
    try:
        if callable(case.do):
            with at_home(folder), limits(): return _call_end(case, folder)
        if alone: return _command_end(case, folder, lambda words: alone(folder, words))
        with at_home(folder), limits(): return _command_end(case, folder, command_here)
    except BaseException as e:       # this is what must not happen
        where = [f"{Path(f.filename).stem}:{f.lineno}" for f in traceback.extract_tb(e.__traceback__)[-6:]]
        return Outcome('traceback', f"{' '.join(where)}\n{type(e).__name__}: {str(e)[:300]}")


def judge(case, folder, *, alone=None):
    """Try a case in an empty folder, which is gone afterwards, and say how it ended.

    `alone` is what runs a command in a process of its own: `command_alone` or `command_forked`."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    try:
        case.put(folder)
        before = snapshot(folder)
        outcome = _try(case, folder, alone)
        done = outcome.end in ('right', 'partly')
        told = differences(before, snapshot(folder), case.outputs if done else ())
        if told and outcome.good: return Outcome('changed', f"{'; '.join(told[:5])}\n{outcome.said}")
        return outcome
    finally: shutil.rmtree(folder)


def try_cases(cases, n, folder, *, seed=0, alone=None):
    "Draw n cases of a strategy; all of them with their outcomes."
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded
    found = []
    @seeded(seed)
    @settings(max_examples=n, database=None, phases=[Phase.generate], deadline=None, derandomize=False,
              suppress_health_check=list(HealthCheck))
    @given(cases)
    def one(case): found.append((case, judge(case, folder, alone=alone)))
    one()
    return found

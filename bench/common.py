"What the measurements share: medians, a table, and build/bench.json."
import json
import statistics
import time
from pathlib import Path

BUILD = Path(__file__).parent.parent/'build'


def median_seconds(f, at_least=7, for_seconds=1.):
    "Median wall-clock seconds of a call, over at least 7 calls and one second, after two to warm up."
    for _ in range(2): f()
    times = []
    while len(times) < at_least or sum(times) < for_seconds:
        t = time.perf_counter(); f(); times.append(time.perf_counter() - t)
    return statistics.median(times)


def record(name, **values):
    "Add a measurement to build/bench.json, and print it."
    file = BUILD/'bench.json'
    BUILD.mkdir(exist_ok=True)
    known = json.loads(file.read_text()) if file.exists() else {}
    known[name] = values
    file.write_text(json.dumps(known, indent=1))
    print(f"{name:34}", '   '.join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()), flush=True)

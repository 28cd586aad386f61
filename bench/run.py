"All measurements, one after another: python bench/run.py. Prints a table and writes build/bench.json; about half an hour."
import subprocess
import sys
from pathlib import Path

here = Path(__file__).parent
print('speed: 2 minutes; shipped models: 1 minute; 7 trainings of 3 minutes each; 20 kills: 3 minutes', flush=True)
for script in (['speed.py'], ['alignment.py', '--shipped'], ['alignment.py'], ['kills.py']):
    subprocess.run([sys.executable, here/script[0], *script[1:]], check=True)

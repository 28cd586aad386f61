"""All measurements, one after another: python bench/run.py.

Prints the figures and writes build/bench.json; about half an hour.
"""
import subprocess
import sys
from pathlib import Path

if __name__ == '__main__':
    print('speed: 2 minutes; shipped models: 1; 7 trainings of 3 minutes each; 40 kills: 3', flush=True)
    for words in ('speed.py', 'alignment.py --shipped', 'alignment.py', 'kills.py 40'):
        script, *options = words.split()
        subprocess.run([sys.executable, Path(__file__).parent/script, *options], check=True)

"Small things that cases begin with, made once and then copied: stores, a model, networks."
import functools
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from gpt_kit.gpt.loop import TrainConfig
from gpt_kit.gpt.model import GPT
from gpt_kit.gpt.prepare import prepare_data
from gpt_kit.gpt.train import train_gpt
from gpt_kit.networks import tasks
from gpt_kit.networks.collect import Recipe, collect
from gpt_kit.networks.store import Store
from gpt_kit.networks.weights import as_module
from gpt_kit.run import commands

RECIPE = Recipe(epochs=1, n_saves=3)
FOLDER = None      # set by `prepare`


def prepare(folder, monkeypatch):
    "Make them all: stores `store`, `other` (another seed) and `wide` (another task), model and networks."
    global FOLDER
    for module, name in ((tasks, 'load_digits'), (commands, 'command_parser')):      # once, not by each case
        monkeypatch.setattr(module, name, functools.cache(getattr(module, name)))
    FOLDER, task = Path(folder), tasks.digits((2,))
    FOLDER.mkdir(parents=True)
    torch.manual_seed(0)
    store = collect(task, FOLDER/'store', 5, recipe=RECIPE, progress=False)
    collect(task, FOLDER/'other', 5, recipe=RECIPE, seed=1, progress=False)
    collect(tasks.digits((3,)), FOLDER/'wide', 5, recipe=RECIPE, progress=False)
    data = prepare_data(store, 'test_loss')
    model = GPT(store.layout.layers, width=8, depth=1, heads=2, metric_scale=data.metric_scale)
    train_gpt(model, data, TrainConfig(steps=2, batch=4, warmup=1), FOLDER/'m.safetensors', progress=False)
    words = 'calibrate', str(FOLDER/'m.safetensors'), str(store.path), '--starts', '3'
    assert commands.main(list(words)) == 0
    net = as_module(store.rows([0], [0])[0], store.layout)
    save_file(net.state_dict(), FOLDER/'net.safetensors')
    torch.save(net.state_dict(), FOLDER/'net.pt')
    torch.save(as_module(Store(FOLDER/'wide').rows([0], [0])[0], Store(FOLDER/'wide').layout).state_dict(),
               FOLDER/'wide.pt')
    write_notebook(FOLDER/'n.ipynb', 'steps: int = 3  # how many\nrate: float = .5  # how fast')
    for f in ('store', 'other', 'wide'): assert Store(FOLDER/f).verify().R == 5


def put(folder, *names):
    "Copy some of them into the folder of a case."
    for name in names:
        source = FOLDER/name
        if source.is_dir(): shutil.copytree(source, folder/name)
        else: shutil.copy(source, folder/name)


def contents(path):
    "All that a store holds, as arrays: what a copy must give again."
    s = Store(path)
    runs = np.repeat(np.arange(s.R), s.S)
    rows = s.rows(runs, np.tile(np.arange(s.S), s.R)).numpy()
    return dict(rows=rows, steps=s.steps, seeds=s.seeds, **{m: s.values(m) for m in s.metrics})


@functools.cache
def known(name):
    "The same of one of ours."
    return contents(FOLDER/name)


def same_contents(path, name='store'):
    "Raises AssertionError unless a store holds what one of ours does, bit for bit."
    found, wanted = contents(path), known(name)
    assert list(found) == list(wanted), f"it has {list(found)}"
    for k, v in wanted.items(): assert np.array_equal(found[k], v), f"{k} differ"


def write_notebook(path, parameters=None, *, metadata=None):
    "A notebook with a parameters cell."
    cells = [] if parameters is None else [(parameters, ['parameters'])]
    fresh = dict(cell_type='code', outputs=[], execution_count=None)
    cells = [dict(fresh, id=f'c{i}', metadata=dict(tags=t), source=s) for i, (s, t) in enumerate(cells)]
    spec = dict(kernelspec=dict(name='python3', display_name='Python 3', language='python'))
    metadata = spec if metadata is None else metadata
    book = dict(cells=cells, metadata=metadata, nbformat=4, nbformat_minor=5)
    Path(path).write_text(json.dumps(book))

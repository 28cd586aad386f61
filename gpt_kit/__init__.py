"Networks on request. These names are loaded when they are first used; all others live in the seven rooms."
import sys
from importlib import import_module

__version__ = "0.1.0"

_PLACES = dict(
    UserError='networks.checks', Metric='networks.tasks', Task='networks.tasks', cnn='networks.tasks',
    classification='networks.tasks', digits='networks.tasks', mlp='networks.tasks',
    get_task='networks.registry', Layout='networks.weights', as_module='networks.weights',
    measure='networks.weights', Recipe='networks.collect', collect='networks.collect', Store='networks.store',
    Recorder='outside.imports', GPT='gpt.model',
    TrainConfig='gpt.loop', prepare_data='gpt.prepare', train_gpt='gpt.train', load='gpt.load',
    starts='gpt.evaluate:unseen_starts', prompt_alignment='gpt.evaluate', Explorer='play.widgets',
    record='run.comparison')
__all__ = list(_PLACES)


def __getattr__(name):
    if name not in _PLACES: raise AttributeError(f"module 'gpt_kit' has no attribute {name!r}")
    module, _, own_name = _PLACES[name].partition(':')
    return getattr(import_module(f'gpt_kit.{module}'), own_name or name)


def __dir__(): return [*globals(), *__all__]


# in a notebook no figure has plotly's button that sends it to plotly's service, however it is made
if 'ipykernel' in sys.modules: import_module('gpt_kit.networks.figures')

"""Inputs that make no sense, made up by the thousand, each by a generator that knows the right result.

What is tried ends in that or in one sentence, and nothing else changes."""
from . import commands, folders, models, notebooks, stores, tasks

KINDS = dict(commands=commands.commands, tasks=tasks.tasks, stores=stores.stores, models=models.models,
             folders=folders.folders, notebooks=notebooks.notebooks)

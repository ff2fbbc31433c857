"""From the name of a baseline to the function that runs it."""

import functools

from selfcell.baselines import BASELINES
from selfcell.baselines.base import Baseline
from selfcell.baselines.spaces import answer_by_precomputed
from selfcell.core.errors import InputError

PRECOMPUTED = "obsm:"
"""``obsm:X_scGPT`` is the baseline that takes that embedding."""


def find_baseline(task: str, name: str) -> Baseline:
    """Give the baseline of a task by its name, or by ``obsm:KEY`` for an embedding that the cells bring along.

    Raises
    ------
    InputError
        If there is no such baseline.
    """
    if not name.startswith(PRECOMPUTED):
        return BASELINES[task][name]
    key = name.removeprefix(PRECOMPUTED)
    if not key:
        raise InputError(f"Name the key of obsm with the embedding: {PRECOMPUTED}X_scGPT, for example.")
    return functools.partial(answer_by_precomputed, key=key)


def module_of(task: str, name: str) -> str:
    """Give the module that a baseline is defined in, without importing it."""
    if name.startswith(PRECOMPUTED):
        return answer_by_precomputed.__module__
    return BASELINES[task].entries[name].target.partition(":")[0]

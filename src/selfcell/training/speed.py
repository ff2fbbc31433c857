"""How fast this machine pre-trains, for ``selfcell doctor``."""

import itertools
import time

import torch

from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_counts
from selfcell.training.pretrain import make_task
from selfcell.training.settings import PretrainSettings
from selfcell.training.steps import Steps


def measure_training_speed(*, n_genes: int, minibatch_size: int, seconds: float) -> float:
    """Measure cells per second of whole optimizer steps on simulated cells, on the CPU.

    Parameters
    ----------
    n_genes
        Genes of the simulated cells, a tenth of them expressed in each.
    minibatch_size
        Cells per step.
    seconds
        How long to measure; at least two steps are made.
    """
    counts = simulate_counts(n_cells=4 * minibatch_size, n_genes=n_genes, density=0.1, seed=0)
    names = tuple(f"gene{place}" for place in range(n_genes))
    settings = PretrainSettings()
    minibatches = itertools.cycle(list(cell_loader(counts, minibatch_size=minibatch_size)))
    with torch.random.fork_rng():
        step = Steps(make_task(settings, GeneTable(names, names)), settings.training, "cpu")
        step(next(minibatches))
        started = time.perf_counter()
        n_steps = 0
        while n_steps < 2 or time.perf_counter() - started < seconds:
            step(next(minibatches))
            n_steps += 1
    return n_steps * minibatch_size / (time.perf_counter() - started)

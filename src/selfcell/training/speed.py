"""How fast this machine pre-trains, for ``selfcell doctor``."""

import time

import torch

from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.data.simulate import simulate_counts
from selfcell.network.compute import set_compute
from selfcell.training.fit import how_to_compute
from selfcell.training.pretrain import make_task
from selfcell.training.settings import PretrainSettings


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
    task = make_task(settings, GeneTable(names, names)).train()
    set_compute(task, how_to_compute(settings.training, "cpu"))
    optimizer = torch.optim.AdamW(task.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)
    minibatches = list(cell_loader(counts, minibatch_size=minibatch_size))

    def step(place: int) -> None:
        optimizer.zero_grad()
        task.compute_loss(minibatches[place % len(minibatches)], generator=generator).total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()

    with torch.random.fork_rng():
        step(0)
        started = time.perf_counter()
        n_steps = 0
        while n_steps < 2 or time.perf_counter() - started < seconds:
            step(n_steps)
            n_steps += 1
    return n_steps * minibatch_size / (time.perf_counter() - started)

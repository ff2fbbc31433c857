"""How fast a pre-training step is with losses that need every entry: block by block, beside dense, each in a process.

    python benchmarks/likelihoods.py --rounds 2

Whole optimizer steps of the masked autoencoder with a random mask, as in ``speed.py``, whose simulated cells they take.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from speed import N_GENES, Clock, peak_memory, run_alone, simulated

from selfcell.core.config import build
from selfcell.core.memory import keep_freed_memory
from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.network.compute import Compute, quick_float32, set_compute
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.training.pretrain import make_task
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import PretrainSettings

WARM_UP, STEPS = 1, 5
ARMS = ("exact", "float32", "bfloat16")
LOSSES: dict[str, dict[str, str]] = {
    "squared_error_softplus": {"output": "softplus"},
    "poisson": {"likelihood": "poisson"},
    "negative_binomial": {"likelihood": "negative_binomial"},
    "zero_inflated_negative_binomial": {"likelihood": "zero_inflated_negative_binomial"},
}


class Step(pl.LightningModule):
    """A step with one of the losses."""

    def __init__(self, loss: str, compute: Compute) -> None:
        super().__init__()
        self.settings = build(
            PretrainSettings,
            {
                "network": PAPER_NETWORK,
                "pretext": {"name": "masked_autoencoder", **LOSSES[loss]},
            },
        )
        names = tuple(f"gene{place}" for place in range(N_GENES))
        self.task = make_task(self.settings, GeneTable(names, names), None)
        set_compute(self.task, compute)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> torch.Tensor:
        """Take the loss."""
        return self.task.compute_loss(minibatch, generator=torch.Generator().manual_seed(batch_idx)).total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give AdamW."""
        return make_optimizer(self.parameters(), self.settings.training)


def measure(arm: str, loss: str, size: int, cells: Path, queue: Any) -> None:
    """Train some steps and tell cells per second (of the median step) and the peak memory."""
    before = peak_memory()
    minibatches = list(cell_loader(sp.load_npz(cells), minibatch_size=size))
    compute = Compute(sparse=arm != "exact", dtype=torch.bfloat16 if arm == "bfloat16" else torch.float32)
    module, clock = Step(loss, compute), Clock()
    if arm != "exact":
        keep_freed_memory()
    steps = [minibatches[place % 2] for place in range(WARM_UP + STEPS + 1)]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=1.0,
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    with quick_float32(exact=arm == "exact"):
        trainer.fit(module, torch.utils.data.DataLoader(steps, batch_size=None))
    seconds = statistics.median(np.diff(clock.times)[WARM_UP:])
    queue.put({"cells_per_second": size / seconds, "peak_mb": peak_memory(), "libraries_mb": before})


def main() -> None:
    """Measure all arms, those of one loss back to back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/likelihoods.csv"))
    arguments, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        cells = Path(folder) / "cells.npz"
        sp.save_npz(cells, simulated(2 * arguments.size), compressed=False)
        for turn, loss, arm in itertools.product(range(arguments.rounds), arguments.losses, ARMS):
            found = run_alone(measure, arm, loss, arguments.size, cells, ours=True)
            place = {"round": turn, "minibatch": arguments.size, "threads": torch.get_num_threads()}
            rows.append({**place, "loss": loss, "arm": arm, **found})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).round(1).to_csv(arguments.out, index=False)
    mean = pd.DataFrame(rows).groupby(["loss", "arm"])[["cells_per_second", "peak_mb"]].mean().unstack()
    speed = mean["cells_per_second"]
    print(speed.round(0), speed.div(speed["exact"], axis=0).round(1), mean["peak_mb"].round(0), sep="\n\n")


if __name__ == "__main__":
    main()

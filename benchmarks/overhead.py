"""What the trainer costs beside a bare loop over the same steps.

    python benchmarks/overhead.py --sizes 256 1024 --rounds 3

Both arms train the masked autoencoder with the same cells, masks, loader, optimizer and clipping, in one process and
in turns. A loader notes the time, and the time of the processor, whenever a minibatch is asked for; so a step is timed
from one minibatch to the next, in the same way in both. The first step, with which a training begins, is left out.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from speed import N_GENES, simulated

from selfcell.core.config import build
from selfcell.core.seeds import derive_seed
from selfcell.data.genes import GeneTable
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.network.compute import set_compute
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.pretext.base import PretextTask
from selfcell.training.fit import fit, how_to_compute
from selfcell.training.pretrain import make_task
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import PretrainSettings


class NotedLoader(CellLoader):
    """Notes when each minibatch was asked for, by the wall and by the processor, in seconds."""

    wall: list[float]
    processor: list[float]

    @classmethod
    def of(cls, loader: CellLoader) -> "NotedLoader":
        """Make one of the cells of another."""
        made = cls(loader.rows, loader.schedule)
        made.wall, made.processor = [], []
        return made

    def __iter__(self) -> Iterator[CellMinibatch]:
        for minibatch in super().__iter__():
            yield minibatch
            self.wall.append(time.perf_counter())
            self.processor.append(time.process_time())


def bare(task: PretextTask, settings: PretrainSettings, loader: CellLoader) -> None:
    """Train an epoch without a trainer."""
    training = settings.training
    set_compute(task, how_to_compute(training, "cpu"))
    optimizer = make_optimizer(task.parameters(), training)
    task.train()
    for step, minibatch in enumerate(loader):
        torch.default_generator.manual_seed(derive_seed(training.seed, "dropout", step))
        generator = torch.Generator().manual_seed(derive_seed(training.seed, "masks", step))
        loss = task.compute_loss(minibatch, generator=generator).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), training.gradient_clip)
        optimizer.step()


def under_trainer(task: PretextTask, settings: PretrainSettings, loader: CellLoader) -> None:
    """Train an epoch as the package does."""
    with tempfile.TemporaryDirectory() as folder:
        fit(task, settings.training, train=loader, validation=None, out=Path(folder), title="", show_progress=False)


ARMS = {"bare": bare, "trainer": under_trainer}


def measure(size: int, n_steps: int, counts: Any) -> list[dict[str, Any]]:
    """Time the steps of both arms once, on the same weights."""
    settings = build(
        PretrainSettings,
        {
            "network": PAPER_NETWORK,
            "training": {"max_epochs": 1, "patience": 0, "minibatch_size": size},
        },
    )
    names = tuple(f"gene{place}" for place in range(N_GENES))
    rows = []
    for arm, train in ARMS.items():
        loader = NotedLoader.of(cell_loader(counts[: size * n_steps], minibatch_size=size))
        train(make_task(settings, GeneTable(names, names)), settings, loader)
        rows += [
            {"minibatch": size, "arm": arm, "step": step, "wall": wall, "processor": processor}
            for step, (wall, processor) in enumerate(zip(*map(_gaps, (loader.wall, loader.processor)), strict=True))
        ]
    return rows


def _gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(times)][1:]


def main() -> None:
    """Measure in turns, and print the share that the trainer adds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/results/overhead.csv"))
    arguments = parser.parse_args()
    counts, rows = simulated(max(arguments.sizes) * arguments.steps), []
    for turn in range(arguments.rounds):
        for size in arguments.sizes:
            rows += [{"round": turn, **row} for row in measure(size, arguments.steps, counts)]
    table = pd.DataFrame(rows)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    table.round(5).to_csv(arguments.out, index=False)
    for size, of_size in table.groupby("minibatch"):
        for clock in ("wall", "processor"):
            steps = {arm: statistics.median(of_size.loc[of_size["arm"] == arm, clock]) for arm in ARMS}
            print(
                f"minibatch {size}, {clock}: bare {1000 * steps['bare']:.1f} ms, trainer "
                f"{1000 * steps['trainer']:.1f} ms, {100 * (steps['trainer'] / steps['bare'] - 1):+.1f} %"
            )


if __name__ == "__main__":
    main()

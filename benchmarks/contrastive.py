"""How fast a contrastive step is, beside a plain dense one of the same task, each in a process of its own.

    python benchmarks/contrastive.py --sizes 1024 --rounds 2

The plain steps are written as the paper's authors run theirs, under Lightning: dense float32, negative binomial noise
by ``torch.distributions``, dropout as the mask of genes, torch's default AdamW for BYOL and LARS for Barlow Twins. In
BYOL a coin for the whole minibatch says whether a view gets noise, and another whether it gets dropout, each with a
probability of 0.3; here three of every ten views get each. Heads have the paper's sizes. ``preset`` is the package's
preset for the same task, whose coins are one a cell, ``default`` the task as it is without one. All arms begin from
the same sparse minibatches of simulated cells and end at updated weights. As steps of one arm differ, times are
means.
"""

import argparse
import copy
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import scipy.sparse as sp
import torch
from speed import N_GENES, peak_memory, run_alone, simulated
from torch import Tensor, nn
from torch.nn import functional

from selfcell.core.config import build
from selfcell.core.memory import keep_freed_memory
from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.network.compute import Compute, quick_float32, set_compute
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.pretext.base import TargetNetworkTask
from selfcell.training.lars import Lars
from selfcell.training.presets import preset
from selfcell.training.pretrain import make_task
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import PretrainSettings

WARM_UP, STEPS = 2, 10
ARMS = ("plain", "preset-float32", "preset-bfloat16", "default-float32", "default-bfloat16", "plain")
"""The plain one first and last: the pace of a machine may move meanwhile."""
PRESETS = {"byol": "paper-byol", "barlow_twins": "paper-barlow-twins"}
_NOISY_VIEWS = {0, 3, 7, 10, 13, 17}
_MASKED_VIEWS = {1, 4, 7, 11, 14, 17}


def plain_encoder() -> nn.Sequential:
    """Give the paper's encoder, without dropout as in its contrastive trainings."""
    blocks: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise([N_GENES, 512, 512, 256, 256]):
        blocks += [nn.Linear(n_in, n_out), nn.SELU()]
    return nn.Sequential(*blocks, nn.Linear(256, 64))


def plain_noise(expression: Tensor) -> Tensor:
    """Add negative binomial noise as the authors draw it."""
    noise = torch.distributions.NegativeBinomial(total_count=10, probs=torch.rand_like(expression)).sample()
    noise = torch.log1p(noise / noise.sum(dim=1, keepdim=True) * 10_000)
    return torch.clamp(expression + noise * 0.2, min=0)


class PlainByol(pl.LightningModule):
    """The paper's BYOL."""

    def __init__(self) -> None:
        super().__init__()
        self.online = nn.Sequential(plain_encoder(), self._head(64))
        self.predictor = self._head(256)
        self.target = copy.deepcopy(self.online).requires_grad_(requires_grad=False)
        self.n_views = 0

    @staticmethod
    def _head(n_in: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(n_in, 4096), nn.BatchNorm1d(4096), nn.ReLU(), nn.Linear(4096, 256))

    def _view(self, expression: Tensor) -> Tensor:
        place = self.n_views % 20
        self.n_views += 1
        expression = plain_noise(expression) if place in _NOISY_VIEWS else expression
        return functional.dropout(expression, 0.1) if place in _MASKED_VIEWS else expression

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Predict each view's target from the other."""
        expression = minibatch.expression()
        first, second = self._view(expression), self._view(expression)
        predictions = self.predictor(self.online(first)), self.predictor(self.online(second))
        with torch.no_grad():
            targets = self.target(second), self.target(first)
        losses = [
            2 - 2 * functional.cosine_similarity(each, target)
            for each, target in zip(predictions, targets, strict=True)
        ]
        return (losses[0] + losses[1]).mean()

    def on_before_zero_grad(self, _: torch.optim.Optimizer) -> None:
        """Move the target network."""
        for mine, theirs in zip(self.target.parameters(), self.online.parameters(), strict=True):
            mine.data = 0.99 * mine.data + 0.01 * theirs.data

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give AdamW."""
        trained = [*self.online.parameters(), *self.predictor.parameters()]
        return torch.optim.AdamW(trained, lr=0.01, weight_decay=1e-5)


class PlainBarlowTwins(pl.LightningModule):
    """The paper's Barlow Twins."""

    def __init__(self) -> None:
        super().__init__()
        sizes, blocks = [64, 256, 256, 512], list[nn.Module]()
        for n_in, n_out in itertools.pairwise(sizes):
            blocks += [nn.Linear(n_in, n_out, bias=False), nn.BatchNorm1d(n_out), nn.ReLU()]
        self.network = nn.Sequential(plain_encoder(), *blocks, nn.Linear(512, 512, bias=False))
        self.standardize = nn.BatchNorm1d(512, affine=False)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Bring the correlation between a noisy view and the cells themselves to the identity."""
        expression = minibatch.expression()
        first = self.network(functional.dropout(plain_noise(expression), 0.1))
        second = self.network(expression)
        correlation = self.standardize(first).T @ self.standardize(second) / len(expression)
        diagonal = correlation.diagonal()
        others = correlation - torch.diag(diagonal)
        return (diagonal - 1).square().sum() + 0.0051 * others.square().sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give LARS, which leaves biases and norms to plain steps."""
        weights = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        biases = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        return Lars([{"params": weights, "weight_decay": 1e-5}, {"params": biases, "adapt": False}], lr=0.8)


class OurStep(pl.LightningModule):
    """A step of ours."""

    def __init__(self, settings: PretrainSettings, dtype: torch.dtype) -> None:
        super().__init__()
        self.settings = settings
        names = tuple(f"gene{place}" for place in range(N_GENES))
        self.task = make_task(settings, GeneTable(names, names))
        set_compute(self.task, Compute(dtype=dtype))

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> Tensor:
        """Take the loss."""
        generator = torch.Generator().manual_seed(batch_idx)
        return self.task.compute_loss(minibatch, generator=generator).total

    def optimizer_step(self, *arguments: Any, **keywords: Any) -> None:
        """Make a step, and let a target network follow."""
        super().optimizer_step(*arguments, **keywords)
        if isinstance(self.task, TargetNetworkTask):
            self.task.update_target(progress=0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give the optimizer of the settings."""
        return make_optimizer(self.parameters(), self.settings.training)


class Clock(pl.Callback):
    """Keeps the time of every step, of the wall and of the processors."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the times."""
        self.times.append((time.perf_counter(), time.process_time()))


def measure(task: str, arm: str, size: int, cells: Path, queue: Any) -> None:
    """Train some steps and tell cells per second, seconds of processors a step, and the peak memory."""
    before = peak_memory()
    torch.manual_seed(0)
    minibatches = list(cell_loader(sp.load_npz(cells), minibatch_size=size))
    kind, _, dtype = arm.partition("-")
    table = preset(PRESETS[task]) if kind == "preset" else {"network": PAPER_NETWORK, "pretext": {"name": task}}
    settings = build(PretrainSettings, table)
    if kind == "plain":
        module: pl.LightningModule = PlainByol() if task == "byol" else PlainBarlowTwins()
        clip = 0.0 if task == "barlow_twins" else 1.0
    else:
        module, clip = OurStep(settings, getattr(torch, dtype)), settings.training.gradient_clip
        keep_freed_memory()
    clock = Clock()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        gradient_clip_val=clip,
        callbacks=[clock],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    loader = torch.utils.data.DataLoader([minibatches[place % 2] for place in range(WARM_UP + STEPS)], batch_size=None)
    with quick_float32(exact=kind == "plain"):
        trainer.fit(module, loader)
    wall, processors = (
        (last - first) / STEPS for first, last in zip(clock.times[WARM_UP - 1], clock.times[-1], strict=True)
    )
    queue.put(
        {
            "cells_per_second": size / wall,
            "processor_seconds": processors,
            "peak_mb": peak_memory(),
            "libraries_mb": before,
        }
    )


def main() -> None:
    """Measure all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--tasks", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--arms", nargs="+", help="these alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/contrastive.csv"))
    arguments = parser.parse_args()
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            sp.save_npz(Path(folder) / f"{size}.npz", simulated(2 * size), compressed=False)
        for turn, size, task in itertools.product(range(arguments.rounds), arguments.sizes, arguments.tasks):
            for arm in [arm for arm in ARMS if not arguments.arms or arm in arguments.arms]:
                found = run_alone(measure, task, arm, size, Path(folder) / f"{size}.npz", ours=arm != "plain")
                rows.append({"round": turn, "minibatch": size, "task": task, "arm": arm, **found})
                print(rows[-1], flush=True)
                pd.DataFrame(rows).round(2).to_csv(arguments.out, index=False)
    columns = ["cells_per_second", "processor_seconds", "peak_mb"]
    mean = pd.DataFrame(rows).groupby(["task", "minibatch", "arm"])[columns].mean().unstack()
    speed = mean["cells_per_second"]
    print(speed.round(0), (speed.div(speed["plain"], axis=0)).round(1), mean["processor_seconds"].round(2), sep="\n\n")
    print(mean["peak_mb"].round(0))


if __name__ == "__main__":
    main()

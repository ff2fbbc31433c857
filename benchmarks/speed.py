"""How fast a pre-training step is, beside the plain dense step of the paper, each in a process of its own.

    python benchmarks/speed.py --sizes 1024 4096 --rounds 2

The plain step is written as the paper's authors run theirs, under Lightning: dense float32, a mask tensor of full size,
a sigmoid at the end, torch's default AdamW, clipping. ``released`` adds what their released code does on every step
besides: explained variances and mean squared error by torchmetrics, and a garbage collection. All arms begin from the
same sparse minibatches of simulated cells and end at updated weights.

With programmes, the plain step draws them once a minibatch, as the released code does; ours does so in the arms
that end in ``-minibatch``, and else for each cell.
"""

import argparse
import gc
import itertools
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from torch import nn
from torchmetrics import ExplainedVariance, MeanSquaredError

from selfcell.core.config import build
from selfcell.core.memory import keep_freed_memory
from selfcell.data.genes import GeneTable
from selfcell.data.loader import cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.compute import Compute, quick_float32, set_compute
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.training.pretrain import make_task
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import PretrainSettings

N_GENES, N_VALUES = 19_331, 1_830
N_PROGRAMS, PROGRAM_SIZE = 700, 200
WARM_UP, STEPS = 2, 6
SPINS = os.environ["GOMP_SPINCOUNT"]
ARMS = {
    "random": ("plain", "released", "exact", "float32", "bfloat16", "plain"),
    "programs": (
        "plain",
        "released",
        "exact",
        "float32",
        "float32-minibatch",
        "bfloat16",
        "bfloat16-minibatch",
        "plain",
    ),
}
"""The plain one first and last: the pace of a machine may move meanwhile."""


def simulated(n_cells: int) -> sp.csr_matrix:
    """Give counts whose genes are detected as unevenly as in real cells."""
    rng = np.random.default_rng(0)
    rate = np.sort(rng.beta(0.25, 2.3, N_GENES))[::-1]
    rate = rng.permutation(np.minimum(rate * N_VALUES / rate.sum(), 0.98))
    blocks = []
    for start in range(0, n_cells, 512):
        block = sp.csr_matrix(
            (rng.random((min(512, n_cells - start), N_GENES), dtype=np.float32) < rate).astype(np.float32)
        )
        block.data = rng.geometric(0.4, len(block.data)).astype(np.float32)
        blocks.append(block)
    return sp.vstack(blocks, format="csr")


def programs() -> GenePrograms:
    """Give random gene programmes."""
    rng = np.random.default_rng(1)
    genes = tuple(np.sort(rng.choice(N_GENES, PROGRAM_SIZE, replace=False)) for _ in range(N_PROGRAMS))
    return GenePrograms(tuple(f"P{place}" for place in range(N_PROGRAMS)), genes, N_GENES)


class PlainStep(pl.LightningModule):
    """The paper's masked autoencoder."""

    def __init__(self, mask: str, *, released: bool = False) -> None:
        super().__init__()
        sizes = [N_GENES, 512, 512, 256, 256, 64, 256, 256, 512, 512]
        blocks: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            last = n_out == 64
            blocks += [nn.Linear(n_in, n_out)] if last else [nn.Linear(n_in, n_out), nn.SELU(), nn.Dropout(0.1)]
        self.network = nn.Sequential(*blocks, nn.Linear(512, N_GENES), nn.Sigmoid())
        member = np.zeros((N_PROGRAMS, N_GENES), dtype=np.float32)
        for place, genes in enumerate(programs().genes):
            member[place, genes] = 1
        self.member = torch.from_numpy(member) if mask == "programs" else None
        weighing = ("uniform_average", "variance_weighted")
        scores = [*(ExplainedVariance(multioutput=name) for name in weighing), MeanSquaredError()] if released else []
        self.scores = nn.ModuleList(scores)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> torch.Tensor:
        """Make the cells dense, hide, predict."""
        expression = minibatch.expression()
        if self.member is None:
            mask = torch.bernoulli(torch.full_like(expression, 0.5))
        else:
            # As the paper's code does, drawn once for the minibatch.
            chosen = torch.randperm(N_PROGRAMS)[: N_PROGRAMS // 4]
            mask = (self.member[chosen].sum(dim=0) > 0).float().expand_as(expression).clone()
        predicted = self.network(expression * (1 - mask))
        loss = (nn.functional.mse_loss(predicted, expression, reduction="none") * mask).mean()
        if self.scores:
            for score in self.scores:
                score(predicted.detach(), expression)
            gc.collect()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.01)


class OurStep(pl.LightningModule):
    """A step of ours."""

    def __init__(self, mask: str, compute: Compute, *, mask_per: str = "cell") -> None:
        super().__init__()
        pretext = {"name": "masked_autoencoder", "mask": mask, "mask_per": mask_per, "programs": None}
        self.settings = build(PretrainSettings, {"network": PAPER_NETWORK, "pretext": pretext})
        names = tuple(f"gene{place}" for place in range(N_GENES))
        self.task = make_task(self.settings, GeneTable(names, names), programs() if mask == "programs" else None)
        set_compute(self.task, compute)

    def training_step(self, minibatch: CellMinibatch, batch_idx: int) -> torch.Tensor:
        """Take the loss."""
        generator = torch.Generator().manual_seed(batch_idx)
        return self.task.compute_loss(minibatch, generator=generator).total

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Give AdamW."""
        return make_optimizer(self.parameters(), self.settings.training)


class Clock(pl.Callback):
    """Keeps the time of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())


def measure(arm: str, mask: str, size: int, cells: Path, queue: Any) -> None:
    """Train some steps and tell cells per second (of the median step) and the peak memory."""
    before = peak_memory()
    minibatches = list(cell_loader(sp.load_npz(cells), minibatch_size=size))
    name, _, per = arm.partition("-")
    if name in {"plain", "released"}:
        module: pl.LightningModule = PlainStep(mask, released=name == "released")
    else:
        compute = Compute(sparse=name != "exact", dtype=torch.bfloat16 if name == "bfloat16" else torch.float32)
        module = OurStep(mask, compute, mask_per=per or "cell")
    if name in {"float32", "bfloat16"}:
        keep_freed_memory()
    clock = Clock()
    steps = [minibatches[place % 2] for place in range(WARM_UP + STEPS + 1)]
    quiet = {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
    }
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, callbacks=[clock], **quiet)
    loader = torch.utils.data.DataLoader(steps, batch_size=None)
    with quick_float32(exact=name not in {"float32", "bfloat16"}):
        trainer.fit(module, loader)
    seconds = statistics.median(np.diff(clock.times)[WARM_UP:])
    queue.put({"cells_per_second": size / seconds, "peak_mb": peak_memory(), "libraries_mb": before})


def peak_memory() -> float:
    """Give the largest memory that this process held, in MB; the kernel's own figure begins with that of its parent."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_alone(measured: Callable[..., None], *arguments: Any, ours: bool) -> Any:
    """Run an arm in a process of its own, and give what it tells.

    What selfcell sets in the environment for its compiled loops is left out where another's code is measured.
    """
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    os.environ.pop("GOMP_SPINCOUNT", None)
    if ours:
        os.environ["GOMP_SPINCOUNT"] = SPINS
    process = context.Process(target=measured, args=(*arguments, queue))
    process.start()
    while process.is_alive() and queue.empty():
        time.sleep(0.1)
    if queue.empty():
        raise SystemExit(f"The process of {arguments} ended with {process.exitcode}.")
    found = queue.get()
    process.join()
    return found


def main() -> None:
    """Measure all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--masks", nargs="+", default=list(ARMS))
    parser.add_argument("--arms", nargs="+", help="these alone")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("docs/results/speed.csv"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            sp.save_npz(Path(folder) / f"{size}.npz", simulated(2 * size), compressed=False)
        for turn, size, mask in itertools.product(range(arguments.rounds), arguments.sizes, arguments.masks):
            for arm in [arm for arm in ARMS[mask] if not arguments.arms or arm in arguments.arms]:
                ours = not arm.startswith(("plain", "released"))
                found = run_alone(measure, arm, mask, size, Path(folder) / f"{size}.npz", ours=ours)
                rows.append({"round": turn, "minibatch": size, "mask": mask, "arm": arm, **found})
                print(rows[-1], flush=True)
                pd.DataFrame(rows).round(1).to_csv(arguments.out, index=False)
    mean = pd.DataFrame(rows).groupby(["mask", "minibatch", "arm"])[["cells_per_second", "peak_mb"]].mean().unstack()
    speed = mean["cells_per_second"]
    print(speed.round(0), (speed.div(speed["plain"], axis=0)).round(1), mean["peak_mb"].round(0), sep="\n\n")


if __name__ == "__main__":
    main()

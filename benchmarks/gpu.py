"""How fast one GPU pre-trains: a plain dense step, ours fed from disk, ours on cells held on the GPU.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --cells 60000 --seconds 3 --sizes 8192
    python benchmarks/gpu.py --device cpu --quick

One call makes an atlas of simulated cells in a temporary folder, measures every arm on it, and prints a table. An arm
makes whole optimizer steps: minibatch, loss, gradients, clipping, AdamW. The plain arm is written as the paper's
authors run theirs: dense float32 matrices made on the CPU (here by several threads, ahead), a mask tensor of full size,
a sigmoid, torch's default AdamW. Rows named Lightning are what `selfcell.pretrain` runs, with Lightning and logging,
without validation cells. The atlas has just been written, so it is read from the memory of the system. Arms that would
begin after the time given by --minutes are left out, and named.
"""

import argparse
import collections
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from simulate_atlas import simulate
from torch import Tensor, nn

from selfcell.core.config import build
from selfcell.data.atlas.build import build_atlas
from selfcell.data.loader import CellLoader
from selfcell.data.order import Order
from selfcell.data.programs import GenePrograms
from selfcell.data.resident import ResidentRows
from selfcell.data.schedule import Schedule
from selfcell.data.stream import StreamSource, open_any
from selfcell.network.compute import Compute, set_compute
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.pretext.base import PretextTask, TargetNetworkTask
from selfcell.training.fit import fit, how_to_compute
from selfcell.training.pretrain import make_task
from selfcell.training.schedule import make_optimizer
from selfcell.training.settings import PretrainSettings

ATLAS_CELLS = 20_000_000
N_PROGRAMS, PROGRAM_SIZE = 700, 200
WARM_UP = 3
TASKS: dict[str, dict[str, Any]] = {
    "random": {"name": "masked_autoencoder"},
    "programs": {"name": "masked_autoencoder", "mask": "programs"},
    "byol": {"name": "byol"},
    "barlow_twins": {"name": "barlow_twins"},
}


@dataclass(frozen=True)
class Bench:
    """What is measured on."""

    atlas: Path
    device: torch.device
    seconds: float
    """To measure each arm."""
    n_threads: int
    """That read and, in the plain arm, make cells dense."""
    n_steps: int
    """Of an epoch."""

    @property
    def source(self) -> StreamSource:
        """The cells."""
        return StreamSource(open_any(self.atlas), minibatch_size=1)

    def programs(self) -> GenePrograms:
        """Give random gene programmes."""
        n_genes = self.source.rows.n_genes
        rng = np.random.default_rng(1)
        size = min(PROGRAM_SIZE, n_genes // 4)
        genes = tuple(np.sort(rng.choice(n_genes, size, replace=False)) for _ in range(N_PROGRAMS))
        return GenePrograms(tuple(f"P{place}" for place in range(N_PROGRAMS)), genes, n_genes)

    def wait(self) -> None:
        """Let the GPU finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class LongEpoch:
    """The order of an atlas again and again, so that an epoch is as long as one of many more cells."""

    def __init__(self, order: Order, *, n_cells: int) -> None:
        self.order = order
        self.n_cells = n_cells

    def group(self, epoch: int, place: int) -> np.ndarray:
        """Give a group; those beyond the last are of another pass."""
        return self.order.group(epoch, place)


class PlainStep(nn.Module):
    """The paper's masked autoencoder, on dense cells."""

    def __init__(self, bench: Bench, mask: str) -> None:
        super().__init__()
        n_genes = bench.source.rows.n_genes
        sizes = [n_genes, 512, 512, 256, 256, 64, 256, 256, 512, 512]
        blocks: list[nn.Module] = []
        for n_in, n_out in itertools.pairwise(sizes):
            blocks += [nn.Linear(n_in, n_out), *([] if n_out == 64 else [nn.SELU(), nn.Dropout(0.1)])]
        self.network = nn.Sequential(*blocks, nn.Linear(512, n_genes), nn.Sigmoid())
        member = torch.zeros(N_PROGRAMS, n_genes)
        for place, genes in enumerate(bench.programs().genes):
            member[place, genes] = 1
        self.register_buffer("member", member if mask == "programs" else None)

    def forward(self, expression: Tensor) -> Tensor:
        """Hide, predict, compare."""
        if self.member is None:
            mask = torch.bernoulli(torch.full_like(expression, 0.5))
        else:
            # As the paper's code does, drawn once for the minibatch.
            chosen = torch.randperm(N_PROGRAMS, device=expression.device)[: N_PROGRAMS // 4]
            mask = (self.member[chosen].sum(dim=0) > 0).float().expand_as(expression).clone()
        predicted = self.network(expression * (1 - mask))
        return (nn.functional.mse_loss(predicted, expression, reduction="none") * mask).mean()


class OurStep(nn.Module):
    """A pretext task."""

    def __init__(self, bench: Bench, task: str, compute: Compute) -> None:
        super().__init__()
        settings = build(PretrainSettings, {"network": PAPER_NETWORK, "pretext": TASKS[task]})
        programs = bench.programs() if task == "programs" else None
        self.task: PretextTask = make_task(settings, open_any(bench.atlas).genes, programs)
        set_compute(self.task, compute)
        self.generator = torch.Generator(device=bench.device).manual_seed(0)

    def forward(self, minibatch: Any) -> Tensor:
        """Take the loss."""
        return self.task.compute_loss(minibatch, generator=self.generator).total


class Pace:
    """Makes optimizer steps for a while, and keeps the time, also that in the loader."""

    def __init__(self, bench: Bench, step: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.bench = bench
        self.step = step
        self.optimizer = optimizer

    def one(self, minibatch: Any) -> int:
        """Make a step; gives the cells."""
        self.optimizer.zero_grad()
        moved = minibatch.to(self.bench.device, non_blocking=True)
        self.step(moved).backward()
        nn.utils.clip_grad_norm_(self.step.parameters(), 1.0)
        self.optimizer.step()
        if isinstance(getattr(self.step, "task", None), TargetNetworkTask):
            self.step.task.update_target(progress=0.0)
        return len(minibatch) if isinstance(minibatch, Tensor) else minibatch.n_cells

    def measure(self, minibatches: Iterator[Any]) -> dict[str, float]:
        """Give cells per second, the share of the time in which the loader was asked, and the peak memory."""
        if self.bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM_UP):
            self.one(next(minibatches))
        self.bench.wait()
        n_cells, waited, started = 0, 0.0, time.perf_counter()
        while time.perf_counter() - started < self.bench.seconds:
            asked = time.perf_counter()
            minibatch = next(minibatches)
            waited += time.perf_counter() - asked
            n_cells += self.one(minibatch)
        self.bench.wait()
        seconds = time.perf_counter() - started
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.bench.device.type == "cuda" else float("nan")
        return {"cells_per_second": n_cells / seconds, "in_loader": waited / seconds, "peak_gb": peak}


class Arms:
    """All that is measured, on one atlas.

    Parameters
    ----------
    bench
        What is measured on.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        on_gpu = bench.device.type == "cuda"
        training = build(PretrainSettings, {}).training
        self.compute = how_to_compute(training, "cuda") if on_gpu else Compute(sparse=False, in_blocks=True)
        source = bench.source
        started = time.perf_counter()
        self.resident = ResidentRows(
            source.rows,
            source.order(source.everything({})),
            device=bench.device,
            room=0,
            n_threads=bench.n_threads,
        )
        self.resident.load()
        per_cell = self.resident.size.n_bytes / len(source.rows)
        print(
            f"{len(source.rows):,} cells loaded onto {bench.device} in {time.perf_counter() - started:.1f} s, "
            f"{per_cell:,.0f} bytes a cell: {per_cell * ATLAS_CELLS / 1e9:.0f} GB for {ATLAS_CELLS:,}"
        )

    def run(self, arm: str, task: str, size: int) -> dict[str, float]:
        """Measure one arm."""
        bench = self.bench
        torch.manual_seed(0)
        if arm == "plain":
            plain = PlainStep(bench, task).to(bench.device)
            optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
            return Pace(bench, plain, optimizer).measure(self._dense(size))
        eager = Compute(sparse=False, in_blocks=True, dtype=self.compute.dtype)
        ours = OurStep(bench, task, eager if arm == "resident, eager" else self.compute).to(bench.device).train()
        optimizer = make_optimizer(ours.task.parameters(), build(PretrainSettings, {}).training)
        return Pace(bench, ours, optimizer).measure(itertools.chain.from_iterable(self._epochs(arm, size)))

    def under_lightning(self, arm: str, size: int) -> dict[str, float]:
        """Pre-train for two epochs of many steps, and give the pace of the second."""
        training = {"max_epochs": 2, "minibatch_size": size, "patience": 0, "checkpoint_minutes": 0}
        device = {"cuda": "gpu"}.get(self.bench.device.type, "cpu")
        settings = build(
            PretrainSettings,
            {"network": PAPER_NETWORK, "training": {**training, "device": device}},
        )
        task = make_task(settings, open_any(self.bench.atlas).genes)
        loader = self._loader(arm, size, packed=True)
        with tempfile.TemporaryDirectory() as folder:
            options: dict[str, Any] = {"title": arm, "show_progress": False}
            fit(task, settings.training, train=loader, validation=None, out=Path(folder), **options)
            log = pd.read_csv(Path(folder) / "log.csv")
        pace = float(log["cells_per_second"].iloc[-1])
        return {"cells_per_second": pace, "in_loader": float("nan"), "peak_gb": float("nan")}

    def _epochs(self, arm: str, size: int, *, packed: bool = True) -> Iterator[CellLoader]:
        while True:
            yield self._loader(arm, size, packed=packed)

    def _loader(self, arm: str, size: int, *, packed: bool) -> CellLoader:
        source, from_disk = self.bench.source, arm in {"streamed", "plain"}
        order = source.order(source.everything({}), shuffle_seed=0)
        return CellLoader(
            source.rows if from_disk else self.resident,
            Schedule(LongEpoch(order, n_cells=self.bench.n_steps * size), size),
            n_threads=self.bench.n_threads if from_disk else 0,
            pin_memory=self.bench.device.type == "cuda" and packed,
            packed=packed,
        )

    def _dense(self, size: int) -> Iterator[Tensor]:
        on_gpu = self.bench.device.type == "cuda"
        minibatches = itertools.chain.from_iterable(self._epochs("plain", size, packed=False))

        def made(minibatch: Any) -> Tensor:
            dense = minibatch.expression()
            return dense.pin_memory() if on_gpu else dense

        with ThreadPoolExecutor(self.bench.n_threads) as pool:
            waiting = collections.deque(pool.submit(made, next(minibatches)) for _ in range(self.bench.n_threads))
            while True:
                yield waiting.popleft().result()
                waiting.append(pool.submit(made, next(minibatches)))


def plan(sizes: list[int]) -> list[tuple[str, str, int]]:
    """List the arms, the first size foremost."""
    arms = ("resident", "streamed", "plain")
    listed = [(arm, task, size) for size in sizes for task in ("random", "programs") for arm in arms]
    once = [("resident, eager", "random", sizes[0])]
    once += [(arm, task, sizes[0]) for task in ("byol", "barlow_twins") for arm in ("resident", "streamed")]
    once += [(f"{arm}, Lightning", "random", sizes[0]) for arm in ("resident", "streamed")]
    return [*listed[:6], *once, *listed[6:]]


def measure_all(arms: Arms, sizes: list[int], *, stop_at: float, out: Path) -> pd.DataFrame:
    """Measure what there is time for; the table is written after each arm."""
    rows: list[dict[str, Any]] = []
    for arm, task, size in plan(sizes):
        about = {"arm": arm, "task": task, "minibatch": size}
        if time.monotonic() > stop_at:
            print(f"left out, no time: {about}")
            continue
        try:
            if arm.endswith(", Lightning"):
                found = arms.under_lightning(arm.partition(",")[0], size)
            else:
                found = arms.run(arm, task, size)
        except torch.OutOfMemoryError:
            print(f"left out, no memory: {about}")
            continue
        finally:
            if arms.bench.device.type == "cuda":
                torch.cuda.empty_cache()
        seconds = ATLAS_CELLS / found["cells_per_second"]
        rows.append({**about, **found, "seconds_for_20_million": seconds})
        print({name: round(it, 2) if isinstance(it, float) else it for name, it in rows[-1].items()}, flush=True)
        pd.DataFrame(rows).round(4).to_csv(out, index=False)
    return pd.DataFrame(rows)


def make_atlas(folder: Path, *, n_cells: int, n_genes: int) -> Path:
    """Simulate cells with a tenth of the genes each, and build an atlas of them."""
    started = time.perf_counter()
    paths = simulate(folder / "sources", n_cells=n_cells, n_genes=n_genes, nonzeros=n_genes / 10.5, compact=True)
    build_atlas(paths, folder / "atlas", codec="none")
    print(f"atlas of {n_cells:,} cells x {n_genes:,} genes made in {time.perf_counter() - started:.0f} s")
    return folder / "atlas"


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--cells", type=int, default=140_000)
    parser.add_argument("--genes", type=int, default=19_331)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8_192, 32_768, 1_024], help="cells of a minibatch")
    parser.add_argument("--seconds", type=float, default=5.0, help="to measure each arm")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no further arm begins")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1), help="that read and make dense")
    parser.add_argument("--quick", action="store_true", help="a few small cells, to try the script")
    parser.add_argument("--out", type=Path, default=Path("gpu.csv"))
    parser.add_argument("--steps", type=int, default=400, help="of an epoch under Lightning")
    found = parser.parse_args(given)
    if found.quick:
        found.cells, found.genes, found.sizes, found.seconds, found.steps = 1_500, 400, [256, 64], 0.05, 4
    return found


def main(given: list[str] | None = None) -> pd.DataFrame:
    """Measure all arms."""
    stop_at, found = time.monotonic(), arguments(given)
    stop_at += 60 * found.minutes
    if found.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA GPU. To try the script without one: --device cpu --quick")
    name = torch.cuda.get_device_name() if found.device == "cuda" else "CPU"
    print(f"{name}, torch {torch.__version__}, {found.threads} threads")
    with tempfile.TemporaryDirectory() as folder:
        atlas = make_atlas(Path(folder), n_cells=found.cells, n_genes=found.genes)
        bench = Bench(atlas, torch.device(found.device), found.seconds, found.threads, found.steps)
        table = measure_all(Arms(bench), found.sizes, stop_at=stop_at, out=found.out)
    print(table.round(2).to_string(index=False))
    return table


if __name__ == "__main__":
    main()

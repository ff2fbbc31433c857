"""How speed and memory of a pre-training step grow with genes, non-zeros, minibatch, width and threads.

python benchmarks/growth.py
python benchmarks/growth.py --factor genes --arm plain bfloat16 --rounds 2

One factor is moved at a time from a base: 19,331 genes, 1,830 non-zeros a cell, minibatches of 1,024, the paper's
network, two threads. Arms are whole optimizer steps on the same simulated cells, each in a process of its own: the
plain dense step and ours of benchmarks/speed.py, and SCVI as scvi-tools trains it, another model with a loader of its
own, in an environment that is made on first use. Linux only. Safe to stop and start again: rows that are in the table
already are not measured again, but for those that failed; --tables-only draws the figure and prints the table
again.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import platformdirs
import scipy.sparse as sp
import torch
from arms import as_markdown
from loaders import run_watched
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from simulated_counts import simulated_counts
from step_timing import StepRequest

from selfcell.core.atomic import atomic_path
from selfcell.network.compute import best_dtype

HERE = Path(__file__).parent
ARMS = {
    "plain": "plain, dense",
    "float32": "selfcell, float32",
    "bfloat16": "selfcell, bfloat16",
    "scvi": "SCVI (scvi-tools)",
}
SCVI_TOOLS = "scvi-tools==1.4.2"
SPINS = os.environ["GOMP_SPINCOUNT"]
TO_START = 120.0
"""Seconds that a process may take beside its steps."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Where to measure."""

    factor: str = "base"
    """What differs from the base: a name of ``FACTORS``."""
    genes: int = 19_331
    nonzeros: int = 1_830
    """Mean number of genes that a cell has."""
    minibatch: int = 1_024
    width: float = 1.0
    """Factor on all hidden sizes of the network."""
    threads: int = 2


BASE = Point()
FACTORS: dict[str, str] = {
    "genes": "genes",
    "nonzeros": "non-zeros a cell",
    "minibatch": "cells in a minibatch",
    "width": "width of the network",
    "threads": "threads",
}


def points() -> Iterator[Point]:
    """Give the base, and the points that differ from it in one factor."""
    yield BASE
    for genes in (2_000, 5_000, 10_000, 36_000, 60_000):
        # Few genes cannot be non-zero as often as many: a quarter of them at most.
        yield dataclasses.replace(BASE, factor="genes", genes=genes, nonzeros=min(BASE.nonzeros, genes // 4))
    for nonzeros in (500, 1_000, 3_500, 6_000):
        yield dataclasses.replace(BASE, factor="nonzeros", nonzeros=nonzeros)
    for minibatch in (128, 512, 4_096, 8_192):
        yield dataclasses.replace(BASE, factor="minibatch", minibatch=minibatch)
    for width in (0.5, 2.0, 4.0):
        yield dataclasses.replace(BASE, factor="width", width=width)
    yield dataclasses.replace(BASE, factor="threads", threads=1)


def scvi_python(cache: Path) -> str:
    """Give the interpreter of an environment with scvi-tools, made where it is not there yet."""
    folder, version = cache / "scvi", torch.__version__.split("+")[0]
    python, made = folder / "bin" / "python", folder / f"{SCVI_TOOLS}-torch-{version}"
    if not made.exists():
        print(f"Installing {SCVI_TOOLS} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", SCVI_TOOLS, f"torch=={version}"], check=True)
        made.touch()
    return str(python)


class Growth:
    """The rows measured so far, and the means to measure more."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.file: Path = given.out / "growth.csv"
        self.rows = pd.read_csv(self.file).to_dict("records") if self.file.exists() else []

    def run(self) -> None:
        """Measure what is not there yet, all arms of a point in turn, so that a slow minute meets all of them."""
        chosen = [point for point in points() if not self.given.factor or point.factor in {"base", *self.given.factor}]
        for turn in range(self.given.rounds):
            for point in chosen:
                left = [arm for arm in self.given.arm if not self._is_done(turn, point, arm)]
                if left:
                    self._measure_point(turn, point, left if turn % 2 == 0 else left[::-1])

    def _is_done(self, turn: int, point: Point, arm: str) -> bool:
        return any(_is_of(row, turn, point, arm) and not row["status"].startswith("failed") for row in self.rows)

    def _measure_point(self, turn: int, point: Point, arms: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            cells = Path(folder) / "cells.npz"
            counts = simulated_counts(n_cells=2 * point.minibatch, n_genes=point.genes, nonzeros=point.nonzeros)
            sp.save_npz(cells, counts, compressed=False)
            for arm in arms:
                self._keep(turn, point, arm, self._measure(point, arm, cells))

    def _measure(self, point: Point, arm: str, cells: Path) -> dict[str, Any]:
        if arm == "bfloat16" and best_dtype("cpu") != torch.bfloat16:
            return {"status": "not run: this processor does not multiply bfloat16"}
        request = StepRequest(
            arm=arm,
            cells=str(cells),
            minibatch=point.minibatch,
            width=point.width,
            threads=point.threads,
            seconds=self.given.seconds,
            most_seconds=self.given.limit / 3,
            memory_gb=self.given.memory_gb,
        )
        python = scvi_python(self.given.cache) if arm == "scvi" else sys.executable
        script = HERE / ("growth_scvi.py" if arm == "scvi" else "growth_steps.py")
        threads = [f"{name}_NUM_THREADS={point.threads}" for name in ("OMP", "MKL", "NUMBA")]
        # What selfcell sets for its own loops is left out where another's code is measured.
        spins = [f"GOMP_SPINCOUNT={SPINS}"] if arm in {"float32", "bfloat16"} else []
        command = [
            "env",
            "--unset=GOMP_SPINCOUNT",
            *threads,
            *spins,
            python,
            str(script),
            json.dumps(dataclasses.asdict(request)),
        ]
        outcome, _, _ = run_watched(command, limit=TO_START + self.given.limit)
        return outcome

    def _keep(self, turn: int, point: Point, arm: str, outcome: dict[str, Any]) -> None:
        row = {"round": turn, **dataclasses.asdict(point), "arm": arm, **outcome}
        self.rows = [known for known in self.rows if not _is_of(known, turn, point, arm)] + [row]
        print(row, file=sys.stderr, flush=True)
        with atomic_path(self.file) as temporary:
            pd.DataFrame(self.rows).round({"cells_per_second": 1, "loaded_mb": 0, "peak_mb": 0}).to_csv(
                temporary, index=False
            )


def _is_of(row: dict[str, Any], turn: int, point: Point, arm: str) -> bool:
    wanted = {"round": turn, **dataclasses.asdict(point), "arm": arm}
    return all(row[name] == value for name, value in wanted.items())


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Give the median over rounds of every point and arm; the base stands under every factor."""
    names = [field.name for field in dataclasses.fields(Point)]
    good = rows[rows["status"] == "ok"]
    found = good.groupby([*names, "arm"], sort=False)[["cells_per_second", "peak_mb"]].median().reset_index()
    base = found[found["factor"] == "base"]
    parts = []
    for factor in FACTORS:
        part = pd.concat([found[found["factor"] == factor], base]).assign(factor=factor)
        parts.append(part.assign(value=part[factor]).sort_values("value", kind="stable"))
    return pd.concat(parts, ignore_index=True)


def as_table(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Put a row a point together: cells per second, how many times the plain step, and peak memory in GB."""
    lines = []
    for (factor, value), group in found.groupby(["factor", "value"], sort=False):
        of_arm = group.set_index("arm")
        line = {"factor": FACTORS[factor], "value": f"{value:,g}"}
        for arm, title in ARMS.items():
            line[title] = _shown(of_arm, arm) or _reason(rows, factor, value, arm)
        lines.append(line)
    return pd.DataFrame(lines)


def _shown(of_arm: pd.DataFrame, arm: str) -> str:
    if arm not in of_arm.index:
        return ""
    speed, peak = of_arm.loc[arm, "cells_per_second"], of_arm.loc[arm, "peak_mb"] / 1024
    is_compared = arm != "plain" and "plain" in of_arm.index
    ratio = f" ({speed / of_arm.loc['plain', 'cells_per_second']:.1f}x)" if is_compared else ""
    return f"{speed:,.0f}{ratio}, {peak:.1f} GB"


def _reason(rows: pd.DataFrame, factor: str, value: float, arm: str) -> str:
    mine = rows[rows["factor"].isin([factor, "base"]) & (rows[factor] == value) & (rows["arm"] == arm)]
    return str(mine["status"].iloc[-1]) if len(mine) else ""


def draw(found: pd.DataFrame, path: Path) -> None:
    """Draw cells per second and peak memory against each factor, a line an arm."""
    figure, panels = plt.subplots(2, len(FACTORS), figsize=(12.5, 5.6), sharey="row", layout="constrained")
    for column, (factor, title) in enumerate(FACTORS.items()):
        for arm, group in found[found["factor"] == factor].groupby("arm", sort=False):
            look = {"marker": "o", "markersize": 4, "linewidth": 1.2, "color": f"C{list(ARMS).index(arm)}"}
            panels[0][column].plot(group["value"], group["cells_per_second"], label=ARMS[arm], **look)
            panels[1][column].plot(group["value"], group["peak_mb"] / 1024, **look)
        panels[1][column].set_xlabel(title)
        for panel in panels[:, column]:
            panel.set_xscale("log")
            panel.set_yscale("log")
            values = sorted(set(found.loc[found["factor"] == factor, "value"]))
            panel.set_xticks(values, [f"{value:,g}" for value in values], fontsize=7, rotation=45)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.yaxis.set_minor_locator(NullLocator())
            panel.grid(color="0.9")
            panel.set_axisbelow(True)
    panels[0][0].set_ylabel("cells per second")
    panels[1][0].set_ylabel("peak memory, GB")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=len(ARMS), frameon=False)
    figure.savefig(path, dpi=110)


def report(out: Path) -> None:
    """Draw the figure, and print a table for people."""
    rows = pd.read_csv(out / "growth.csv")
    found = medians(rows)
    draw(found, out / "growth.png")
    print(as_markdown(as_table(found, rows)))


def main() -> None:
    """Measure and report."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of table and figure")
    parser.add_argument("--factor", nargs="+", choices=list(FACTORS), help="these only, and the base")
    parser.add_argument("--arm", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="time steps for so long, and three at least")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that an arm may take at a point")
    parser.add_argument("--memory-gb", type=float, default=round(0.85 * memory_gb), help="that a process may take")
    cache = platformdirs.user_cache_path("selfcell") / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="folder for the environment of scvi-tools")
    parser.add_argument("--tables-only", action="store_true")
    given = parser.parse_args()
    if not given.tables_only:
        Growth(given).run()
    report(given.out)


if __name__ == "__main__":
    main()

"""Time loaders of minibatches side by side: cells per second, memory, warm and cold page cache, building.

python benchmarks/loaders.py --work work/loaders --annbatch-python PATH --peers-python PATH

The two interpreters are of virtual environments (annbatch needs Python 3.12 and its own AnnData):

  annbatch  python3.12 -m pip install 'annbatch[zarrs]==0.3.1'
  peers     python3.11 -m pip install scDataset==0.3.0 anndata==0.12.19 torch scipy h5py

Every loader runs in a process of its own and in every round, so that a slow minute meets all of them. What a loader
delivers is read: the values, and a gene in every cache line; a value in every page of dense cells. Opening and a
warm-up are not timed, and a loader is stopped after whole fetches only. Peak memory is the high-water mark of the whole
process, with all its threads and libraries. Linux only. Safe to stop and start again: finished runs are kept;
--tables-only makes table and figure again.
"""

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from arms import as_markdown
from loader_arms import ARMS, Task
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator
from simulate_atlas import simulate

from selfcell.core.atomic import atomic_path, write_json, write_text

HERE = Path(__file__).parent
KEYS = ["arm", "minibatch_size", "cold"]
WHOLE = ["cells_per_second", "lowest", "highest", "rounds", "peak_mb", "opened_mb", "read_from_disk_mb"]
COLUMNS = ["arm", "loader", "layout", "minibatch_size", "cache", *WHOLE, "cores", "in_page_cache", "note"]


@dataclasses.dataclass(frozen=True)
class Target:
    """A ratio to reach, at the first minibatch size."""

    what: str
    ours: str
    against: str
    at_least: float
    cold: bool = False


TARGETS = (
    Target("sparse, against annbatch", "selfcell_sparse", "annbatch_sparse", 4),
    Target("sparse, against annbatch 512 x 32", "selfcell_sparse", "annbatch_sparse_512", 4),
    Target("sparse, against scDataset", "selfcell_sparse", "scdataset_sparse", 8),
    Target("sparse, against AnnLoader as it comes (dense)", "selfcell_sparse", "annloader_dense", 30),
    Target("sparse, against AnnLoader, not converted", "selfcell_sparse", "annloader_sparse", 30),
    Target("dense, against annbatch", "selfcell_dense", "annbatch_dense", 4),
    Target("dense, against annbatch 512 x 32", "selfcell_dense", "annbatch_dense_512", 4),
    Target("dense, against annbatch, buffer reused", "selfcell_dense", "annbatch_dense_buffer", 4),
    Target("sparse, against a CSR in memory", "selfcell_sparse", "in_memory_sparse", 0.7),
    Target("sparse, cold, against a plain read", "selfcell_sparse", "raw_read", 0.6, cold=True),
)
PEAK_MB = 600
BUILD_RATIO, BUILD_PEAK_MB = 0.5, 2048


def _tree_mb(root: int) -> float:
    """Sum the resident memory of a process and all its descendants; shared pages count for each."""
    parents, resident = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(folder.name)] = int(status["PPid"])
        resident[int(folder.name)] = int(status.get("VmRSS", "0 kB").split()[0]) / 1024

    def belongs(process: int) -> bool:
        return process == root or (process in parents and belongs(parents[process]))

    return sum(size for process, size in resident.items() if belongs(process))


def run_watched(command: list[str], *, limit: float) -> tuple[dict[str, Any], float, float]:
    """Run a process, for ``limit`` seconds at most.

    Returns
    -------
    The JSON of its last line, seconds, and the peak of its and its children's memory in MB.
    """
    started, peak = time.perf_counter(), 0.0
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError as error:
        return {"status": f"not installed: there is no {error.filename}"}, 0.0, 0.0
    printed: list[str] = []
    reader = threading.Thread(target=lambda: printed.extend(process.communicate()))
    reader.start()
    while reader.is_alive():
        peak = max(peak, _tree_mb(process.pid))
        if time.perf_counter() - started > limit:
            process.kill()
            reader.join()
            return {"status": f"stopped after {limit:.0f} s"}, limit, peak
        reader.join(timeout=0.1)
    seconds = time.perf_counter() - started
    lines = printed[0].strip().splitlines()
    if process.returncode or not lines:
        print(printed[1], file=sys.stderr)
        # Errors of the command line come in a frame.
        why = [said for line in printed[1].splitlines() if (said := line.strip(" ─│╭╮╰╯"))]
        return {"status": f"failed: {(why or ['it printed nothing'])[-1]}"}, seconds, peak
    try:
        return json.loads(lines[-1]), seconds, peak
    except json.JSONDecodeError:
        return {"status": "ok"}, seconds, peak


class Comparison:
    """The sources, what is built from them, and the runs."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.work: Path = given.work.resolve()
        self.source = self.work / "sources" / "source_000.h5ad"
        self.atlas, self.collection = self.work / "atlas", self.work / "collection.zarr"
        self.runs_file, self.builds_file = self.work / "runs.jsonl", self.work / "builds.json"
        self.interpreters = {
            "selfcell": sys.executable,
            "annbatch": given.annbatch_python or "python3.12",
            "peers": given.peers_python or sys.executable,
        }

    def prepare(self) -> None:
        """Simulate the source and build from it, each once."""
        if not self.source.exists():
            half = self.work / "sources.partial"
            shutil.rmtree(half, ignore_errors=True)
            g = self.given
            simulate(
                half, n_cells=g.cells, n_genes=g.genes, nonzeros=g.nonzeros, n_types=g.types, cells_per_file=g.cells
            )
            half.replace(self.source.parent)
        builds = json.loads(self.builds_file.read_text()) if self.builds_file.exists() else {}
        for name, folder, command in (
            ("selfcell", self.atlas, self._build_atlas()),
            ("annbatch", self.collection, self._build_collection()),
        ):
            if builds.get(name, {}).get("status") == "ok":
                continue
            shutil.rmtree(folder, ignore_errors=True)
            print(f"Building with {name}", file=sys.stderr)
            subprocess.run(["cat", str(self.source)], stdout=subprocess.DEVNULL, check=True)
            outcome, seconds, peak = run_watched(command, limit=self.given.build_limit)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            # Seconds of the whole process, interpreter and imports included, for both.
            peak = max(peak, outcome.get("peak_mb", 0.0))
            took = {"seconds": seconds, "peak_mb": peak, "bytes_per_cell": size / self.given.cells}
            builds[name] = outcome | took
            write_json(self.builds_file, builds)

    def _build_atlas(self) -> list[str]:
        start = "from selfcell.cli.app import main; main()"
        options = ["atlas", "build", str(self.source), "--out", str(self.atlas), *self.given.build_option]
        return [sys.executable, "-c", start, *options]

    def _build_collection(self) -> list[str]:
        build = {
            "source": str(self.source),
            "collection": str(self.collection),
            "dataset_size": self.given.annbatch_dataset_size,
        }
        return [self.interpreters["annbatch"], str(HERE / "loader_arms.py"), json.dumps({"build": build})]

    def tasks(self) -> Iterator[tuple[int, Task]]:
        """List all runs, round by round."""
        g = self.given
        chosen = [arm for arm in ARMS.values() if not g.arm or arm.name in g.arm]
        for one in range(g.rounds):
            for minibatch_size in g.minibatch_size:
                for cold in (False, True):
                    for arm in chosen:
                        if ("cold" if cold else "warm") not in g.cache or (cold and not arm.cold):
                            continue
                        if arm.layout == "bytes" and minibatch_size != g.minibatch_size[0]:
                            continue
                        yield (
                            one,
                            Task(
                                arm=arm.name,
                                minibatch_size=minibatch_size,
                                cold=cold,
                                seed=1000 * one,
                                n_cells=g.cells,
                                n_genes=g.genes,
                                paths={
                                    "source": str(self.source),
                                    "atlas": str(self.atlas),
                                    "collection": str(self.collection),
                                },
                                warm_up_cells=g.warm_up_cells,
                                timed_cells=g.timed_cells,
                                timed_seconds=g.timed_seconds,
                                max_seconds=g.max_seconds,
                                threads=g.threads,
                            ),
                        )

    def run(self) -> None:
        """Do the runs that are not done yet."""
        done = {(row["round"], *(row[key] for key in KEYS)) for row in self._rows() if row["status"] == "ok"}
        for one, task in self.tasks():
            if (one, *(getattr(task, key) for key in KEYS)) in done:
                continue
            interpreter = self.interpreters[ARMS[task.arm].interpreter]
            request = json.dumps({"task": dataclasses.asdict(task)})
            command = [interpreter, str(HERE / "loader_arms.py"), request]
            # Opening, warm-up and the timed part.
            outcome, _, tree_mb = run_watched(command, limit=180 + 2 * self.given.max_seconds)
            row = {"round": one} | {key: getattr(task, key) for key in KEYS} | outcome
            if row["status"] == "ok":
                row["peak_mb"] = max(row["peak_mb"], tree_mb)
            with self.runs_file.open("a") as file:
                file.write(json.dumps(row) + "\n")
            _say(row)

    def _rows(self) -> list[dict[str, Any]]:
        if not self.runs_file.exists():
            return []
        return [json.loads(line) for line in self.runs_file.read_text().splitlines()]

    def runs(self) -> pd.DataFrame:
        """Give all runs, the last where one was tried again."""
        return pd.DataFrame(self._rows()).drop_duplicates(["round", *KEYS], keep="last")

    def builds(self) -> dict[str, dict[str, Any]]:
        """Give what building took."""
        return json.loads(self.builds_file.read_text()) if self.builds_file.exists() else {}


def _say(row: dict[str, Any]) -> None:
    what = f"round {row['round']} {row['arm']} {row['minibatch_size']} {'cold' if row['cold'] else 'warm'}:"
    if row["status"] != "ok":
        print(what, row["status"], file=sys.stderr)
        return
    print(
        f"{what} {row['cells_per_second']:.0f} cells/s ({row['seconds']:.1f} s), {row['peak_mb']:.0f} MB, "
        f"{row['cores']:.1f} cores, {row['read_from_disk_mb']:.0f} MB from disk, {row['in_page_cache']:.0%} in cache "
        f"before, {row['mean_counts']:.0f} counts a cell",
        file=sys.stderr,
    )


def _spread(values: pd.Series) -> str:
    return f"{values.median():,.0f} ({values.min():,.0f} to {values.max():,.0f})"


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Reduce rounds to medians and ranges, in the order of the arms; an arm that could not run says why."""
    rows = []
    for arm in ARMS.values():
        of_arm = runs[runs["arm"] == arm.name]
        for (minibatch_size, cold), group in of_arm.groupby(["minibatch_size", "cold"], sort=False):
            row = {
                "arm": arm.name,
                "loader": arm.title,
                "layout": arm.layout,
                "minibatch_size": minibatch_size,
                "cache": "cold" if cold else "warm",
            }
            good = group[group["status"] == "ok"]
            if good.empty:
                rows.append(row | {"note": group["status"].iloc[-1]})
                continue
            speed = good["cells_per_second"]
            row |= {"cells_per_second": round(speed.median())}
            row |= {"lowest": round(speed.min()), "highest": round(speed.max()), "rounds": len(good)}
            row |= {"peak_mb": round(good["peak_mb"].median()), "opened_mb": round(good["opened_mb"].median())}
            row |= {"cores": round(good["cores"].median(), 2)}
            row |= {"in_page_cache": round(good["in_page_cache"].median(), 3)}
            row |= {"read_from_disk_mb": round(good["read_from_disk_mb"].median())}
            rows.append(row | {"note": ""})
    return _arranged(pd.DataFrame(rows))


def _arranged(table: pd.DataFrame) -> pd.DataFrame:
    return table.reindex(columns=COLUMNS).astype(dict.fromkeys(["minibatch_size", *WHOLE], "Int64"))


def _speeds(runs: pd.DataFrame, arm: str, minibatch_size: int, *, cold: bool) -> pd.Series:
    if runs[runs["arm"] == arm].empty:
        return pd.Series(dtype=float)
    chosen = runs[
        (runs["arm"] == arm)
        & (runs["cold"] == cold)
        & (runs["status"] == "ok")
        & ((runs["minibatch_size"] == minibatch_size) | (ARMS[arm].layout == "bytes"))
    ]
    return chosen.set_index("round")["cells_per_second"] if len(chosen) else pd.Series(dtype=float)


def _verdict(reached: float, wanted: str, *, met: bool) -> str:
    return "not measured" if np.isnan(reached) else f"{'met' if met else 'NOT MET'} ({wanted})"


def targets(runs: pd.DataFrame, builds: dict[str, dict[str, Any]], minibatch_size: int) -> pd.DataFrame:
    """Compare within rounds; give the median of the ratios."""
    rows = []
    for target in TARGETS:
        ours = _speeds(runs, target.ours, minibatch_size, cold=target.cold)
        peer = _speeds(runs, target.against, minibatch_size, cold=target.cold)
        ratio = (ours / peer).dropna()
        reached = ratio.median() if len(ratio) else float("nan")
        rows.append(
            {
                "target": target.what,
                "ours": _spread(ours) if len(ours) else "",
                "theirs": _spread(peer) if len(peer) else "",
                "ratio": f"{reached:.2f} ({ratio.min():.2f} to {ratio.max():.2f})" if len(ratio) else "",
                "verdict": _verdict(reached, f"at least {target.at_least:g}", met=reached >= target.at_least),
            }
        )
    own = runs[(runs["arm"] == "selfcell_sparse") & (runs["status"] == "ok")]
    peak = own["peak_mb"].max() if "peak_mb" in own and len(own) else float("nan")
    rows.append(
        {
            "target": "peak memory, sparse, MB",
            "ours": "" if np.isnan(peak) else f"{peak:.0f}",
            "verdict": _verdict(peak, f"below {PEAK_MB}", met=peak < PEAK_MB),
        }
    )
    return pd.DataFrame([*rows, *_building(builds)]).fillna("")


def _building(builds: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    took = {name: built for name, built in builds.items() if built["status"] == "ok"}
    ours, theirs = took.get("selfcell"), took.get("annbatch")
    shown = {name: f"{built['seconds']:.0f} s, {built['peak_mb']:.0f} MB" for name, built in took.items()}
    ratio = theirs["seconds"] / ours["seconds"] if ours and theirs else float("nan")
    peak = ours["peak_mb"] if ours else float("nan")
    common = {"ours": shown.get("selfcell", ""), "theirs": shown.get("annbatch", "")}
    return [
        common
        | {
            "target": "building, speed against annbatch's builder",
            "ratio": "" if np.isnan(ratio) else f"{ratio:.2f}",
            "verdict": _verdict(ratio, f"at least {BUILD_RATIO:g}", met=ratio >= BUILD_RATIO),
        },
        common
        | {
            "target": "building, memory, MB",
            "verdict": _verdict(peak, f"at most {BUILD_PEAK_MB}", met=peak <= BUILD_PEAK_MB),
        },
    ]


def checks(table: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Say what makes a figure doubtful."""
    doubts = [f"{row.arm}: {row.note}" for row in table.itertuples() if row.note]
    good = runs[runs["status"] == "ok"]
    if good.empty:
        return sorted(set(doubts))
    usual = good["mean_counts"].median()
    for row in good.itertuples():
        name = f"{row.arm}, {row.minibatch_size}, round {row.round}"
        if abs(row.mean_counts / usual - 1) > 0.05:
            doubts.append(f"{name}: cells had {row.mean_counts:.0f} counts on average, others {usual:.0f}")
        if row.cold and row.in_page_cache > 0.02:
            doubts.append(f"{name}: not cold, {row.in_page_cache:.0%} of the files stayed in the page cache")
        if not row.cold and row.in_page_cache < 0.98:
            doubts.append(f"{name}: not warm, only {row.in_page_cache:.0%} of the files in the page cache")
    return sorted(set(doubts))


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw cells per second of each arm: warm filled, cold hollow, ranges as lines."""
    measured = table[table["note"] == ""]
    layouts = [name for name in ("sparse", "dense") if (measured["layout"] == name).any()]
    height = 0.32 * max((measured[measured["layout"] == name]["arm"].nunique() for name in layouts), default=1) + 1.3
    figure, panels = plt.subplots(1, len(layouts) or 1, figsize=(10.5, height), layout="constrained", squeeze=False)
    for panel, layout in zip(panels[0], layouts, strict=False):
        shown = measured[measured["layout"].isin([layout, *(["bytes"] if layout == "sparse" else [])])]
        names = list(dict.fromkeys(shown["arm"]))
        for row in shown.itertuples():
            color = f"C{list(dict.fromkeys(measured['minibatch_size'])).index(row.minibatch_size)}"
            level = names.index(row.arm) + (0.15 if row.cache == "cold" else -0.15)
            panel.plot([row.lowest, row.highest], [level, level], color=color, linewidth=1.2)
            fill = "white" if row.cache == "cold" else color
            known = f"{row.minibatch_size} cells, {row.cache}"
            label = known if known not in panel.get_legend_handles_labels()[1] and row.layout != "bytes" else None
            panel.plot(row.cells_per_second, level, "o", color=color, markerfacecolor=fill, markersize=5, label=label)
        titles = [shown[shown["arm"] == name]["loader"].iloc[0] for name in names]
        panel.set(title=layout, xlabel="cells per second", yticks=range(len(names)), yticklabels=titles)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(axis="x", color="0.9")
        panel.set_axisbelow(True)
        panel.invert_yaxis()
    if layouts:
        panels[0][0].legend(fontsize="small", loc="best")
    figure.savefig(path, dpi=110)


def _build_row(name: str, built: dict[str, Any], n_cells: int) -> dict[str, Any]:
    row = {"arm": f"{name}_build", "loader": f"{name}, building", "layout": "build", "cache": "warm"}
    if built["status"] != "ok":
        return row | {"note": built["status"]}
    speed = round(n_cells / built["seconds"])
    note = f"{built['bytes_per_cell']:.0f} bytes a cell"
    return row | {"cells_per_second": speed, "peak_mb": round(built["peak_mb"]), "note": note}


def report(comparison: Comparison, out: Path) -> None:
    """Write table and figure, print both tables and what is doubtful."""
    runs, builds = comparison.runs(), comparison.builds()
    table = summary(runs)
    verdicts = targets(runs, builds, comparison.given.minibatch_size[0])
    out.mkdir(parents=True, exist_ok=True)
    built = _arranged(pd.DataFrame([_build_row(name, row, comparison.given.cells) for name, row in builds.items()]))
    with atomic_path(out / "loaders.csv") as temporary:
        pd.concat([table, built], ignore_index=True).to_csv(temporary, index=False)
    if table["cells_per_second"].notna().any():
        draw(table, out / "loaders.png")
    doubts = checks(table, runs) + [f"{name}: {row['status']}" for name, row in builds.items() if row["status"] != "ok"]
    shown = table.drop(columns="arm").astype(object)
    parts = [
        as_markdown(shown.where(shown.notna(), "").astype(str)),
        as_markdown(verdicts),
        "\n".join(f"- {doubt}" for doubt in doubts),
    ]
    text = "\n\n".join(part for part in parts if part)
    write_text(comparison.work / "table.md", text + "\n")
    print(text)


def main() -> None:
    """Prepare, time, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for files and runs; some 35 KB a cell")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of loaders.csv and loaders.png")
    parser.add_argument("--annbatch-python", help="interpreter that has annbatch")
    parser.add_argument("--peers-python", help="interpreter that has scDataset, anndata and torch")
    parser.add_argument("--cells", type=int, default=300_000)
    parser.add_argument("--genes", type=int, default=19_331)
    parser.add_argument("--nonzeros", type=float, default=1_600, help="mean number of genes a cell has")
    parser.add_argument("--types", type=int, default=30)
    parser.add_argument("--minibatch-size", type=int, nargs="+", default=[4096, 128], help="targets are at the first")
    parser.add_argument("--cache", nargs="+", choices=["warm", "cold"], default=["warm", "cold"])
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="this one only; may be given again")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up-cells", type=int, default=20_000, help="not timed")
    parser.add_argument("--timed-cells", type=int, default=60_000, help="time at least so many cells")
    parser.add_argument("--timed-seconds", type=float, default=5.0, help="and at least so long; cold at most one epoch")
    parser.add_argument("--max-seconds", type=float, default=60.0, help="but no longer than this")
    parser.add_argument("--build-limit", type=float, default=3600, help="seconds to build")
    parser.add_argument("--threads", type=int, default=1, help="of selfcell's loader")
    parser.add_argument("--build-option", action="append", default=[], help="option of `selfcell atlas build`")
    parser.add_argument("--annbatch-dataset-size", default="20GB", help="memory of annbatch's builder; its default")
    parser.add_argument("--tables-only", action="store_true")
    given = parser.parse_args()
    comparison = Comparison(given)
    if not given.tables_only:
        given.work.mkdir(parents=True, exist_ok=True)
        comparison.prepare()
        comparison.run()
    report(comparison, given.out)


if __name__ == "__main__":
    main()

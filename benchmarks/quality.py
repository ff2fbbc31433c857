"""What an encoder is worth after how many seconds: the plain dense computation against the quick one, on real cells.

python benchmarks/quality.py
python benchmarks/quality.py --dataset liu_covid_pbmc --seeds 1 --epochs 2 --out work/quality

Both arms train the masked autoencoder with the settings of benchmarks/pretext_tasks.py and the same seeds; only
training.exact differs. At several epochs training stops, and goes on as a resumed run does, to the same weights. The
seconds are those of log.csv, so what happens in between is not counted. The weights of each stop are judged alike for
both arms: the loss of validation cells, densely, with masks that are the same for all; and macro F1 of zero-shot
annotation of donors held out, as `selfcell evaluate` has it, with all other donors as reference. The quick arm goes on
past the epochs of the dense one until it has taken as many seconds. Each run is in a process of its own, after a short
one that is not counted. Safe to stop and start again: runs that are in the table already are not made again;
--tables-only draws the figure and prints the table again.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import torch
from arms import Arm, as_markdown, cells_of, settings_of
from matplotlib.ticker import EngFormatter, LogLocator, NullLocator

from selfcell.benchmark.intervals import CONFIDENCE
from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace
from selfcell.core.atomic import atomic_path
from selfcell.core.seeds import derive_seed
from selfcell.core.words import counted
from selfcell.data.dataset_table import DATASETS
from selfcell.data.loader import cell_loader
from selfcell.data.source import Cells, obs_column
from selfcell.data.splits import split_from_json
from selfcell.network.compute import Compute, set_compute
from selfcell.training.pretrain import make_task, pretrain
from selfcell.training.run_folder import TrainedModel
from selfcell.training.settings import PretrainSettings

TITLES = {"exact": "plain, dense", "quick": "selfcell"}
MEASURES = {"validation_loss": "validation loss", "macro_f1": "zero-shot macro F1"}
EPOCHS = {"liu_covid_pbmc": 14, "pancreas_4_studies": 14}
"""That the dense arm trains."""
STOPS = (1, 2, 3, 4, 6, 8, 10, 14, 20, 28, 40, 56, 80, 112, 160)
"""Epochs after which the weights are judged."""
CELLS_TO_JUDGE = 1024
SHARES = (0.25, 0.5, 1.0)
"""Of the seconds that the dense arm takes in all: when to compare."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training to be judged as it goes."""

    dataset: str
    arm: str
    seed: int
    epochs: int
    """Train so long at least."""
    seconds: float
    """And until it has taken so long."""

    def settings(self, epochs: int) -> PretrainSettings:
        """Give the settings of the run up to an epoch."""
        training = {"exact": self.arm == "exact", "max_epochs": epochs}
        return settings_of(self.dataset, Arm(self.arm, {"name": "masked_autoencoder"}, training), self.seed)

    def stops(self) -> Iterator[int]:
        """Give the epochs to stop after."""
        yield from (epoch for epoch in STOPS if epoch < self.epochs)
        yield self.epochs
        yield from (epoch for epoch in STOPS if epoch > self.epochs)


def validation_loss(model: TrainedModel, settings: PretrainSettings, cells: Cells) -> float:
    """Compute the loss of masked entries densely, with masks that depend on the place of the cells alone."""
    task = make_task(settings, model.genes)
    encoder = {f"encoder.{name}": tensor for name, tensor in model.encoder.state_dict().items()}
    task.load_state_dict({**encoder, **model.head_state})
    set_compute(task.eval(), Compute(sparse=False))
    losses, sizes = [], []
    with torch.inference_mode():
        for place, minibatch in enumerate(cell_loader(cells.counts, minibatch_size=CELLS_TO_JUDGE)):
            generator = torch.Generator().manual_seed(derive_seed(0, "masks to judge by", place))
            losses.append(float(task.compute_loss(minibatch, generator=generator).total))
            sizes.append(minibatch.n_cells)
    return float(np.average(losses, weights=sizes))


def zero_shot(model: TrainedModel, dataset: str) -> float:
    """Give macro F1 on the donors that the run held out, with all others as reference."""
    info = DATASETS[dataset]
    plan = StudyPlan(
        label_key=str(info.label_key),
        donor_key=info.donor_key,
        seeds=(0,),
        budgets=(LabelBudget(),),
        regimes=("zero_shot",),
        baselines=(),
        maps=False,
        examined=False,
    )
    scores = Study(plan, cells_of(dataset), [model]).run(Workplace(jobs=1, show_progress=False)).scores
    return float(scores.loc[scores["metric"] == "macro_f1", "value"].iloc[0])


def train_and_judge(run: Run) -> list[dict[str, Any]]:
    """Train in turns, and judge the weights after each."""
    cells, rows = cells_of(run.dataset), []
    donors = obs_column(cells.obs, str(DATASETS[run.dataset].donor_key), role="donor")
    with tempfile.TemporaryDirectory() as folder:
        # Reading compiled loops and the like is not to count.
        warm_up = cells.subset(np.arange(0, len(cells), 8))
        pretrain(warm_up, run.settings(1), out=Path(folder) / "warm-up", show_progress=False)
        out = Path(folder) / "run"
        for epoch in run.stops():
            model = pretrain(cells, run.settings(epoch), out=out, resume=out.exists(), show_progress=False)
            watched = cells.subset(split_from_json(model.split or {}, len(cells), donors).validation)
            seconds = float(pd.read_csv(out / "log.csv")["seconds"].sum())
            loss = validation_loss(model, run.settings(epoch), watched)
            found = {"validation_loss": loss, "macro_f1": zero_shot(model, run.dataset)}
            rows.append({"dataset": run.dataset, "arm": run.arm, "seed": run.seed, "epoch": epoch, "seconds": seconds})
            rows[-1] |= found
            print(rows[-1], file=sys.stderr, flush=True)
            if epoch >= run.epochs and seconds >= run.seconds:
                break
    return rows


def measure(given: argparse.Namespace) -> None:
    """Make the runs that are not in the table yet, the arms of a seed one after the other, alone on the machine."""
    path = given.out / "quality.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for dataset in given.dataset:
        epochs = given.epochs or EPOCHS[dataset]
        for seed in range(given.seeds):
            for arm in TITLES:
                if any((row["dataset"], row["seed"], row["arm"]) == (dataset, seed, arm) for row in rows):
                    continue
                before = [row["seconds"] for row in rows if (row["dataset"], row["seed"]) == (dataset, seed)]
                run = Run(dataset, arm, seed, epochs, seconds=max(before, default=0.0))
                context = multiprocessing.get_context("spawn")
                with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
                    rows += pool.submit(train_and_judge, run).result()
                with atomic_path(path) as temporary:
                    pd.DataFrame(rows).round({"seconds": 2, "validation_loss": 6, "macro_f1": 5}).to_csv(
                        temporary, index=False
                    )


def last_common_epoch(rows: pd.DataFrame) -> int:
    """Give the epochs that the dense arm trained in all."""
    return int(rows.loc[rows["arm"] == "exact", "epoch"].max())


def at_epoch(rows: pd.DataFrame, epoch: int) -> pd.DataFrame:
    """Give what each arm and seed had after an epoch."""
    return rows[rows["epoch"] == epoch].set_index(["arm", "seed"])[[*MEASURES, "seconds"]]


def after_seconds(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Give what each arm and seed had in hand after a share of the seconds that the dense one of the seed took."""
    whole = rows[rows["arm"] == "exact"].groupby("seed")["seconds"].max()
    in_time = rows[rows["seconds"] <= share * rows["seed"].map(whole)]
    return in_time.sort_values("epoch").groupby(["arm", "seed"])[[*MEASURES, "seconds"]].last()


def paired(found: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Give a measure by seed and arm, of the seeds that both arms have."""
    return found[measure].unstack("arm").reindex(columns=list(TITLES)).dropna()


def difference(by_arm: pd.DataFrame) -> str:
    """Give the mean over seeds of the quick arm minus the dense one, with Student's interval of the paired values."""
    values = (by_arm["quick"] - by_arm["exact"]).to_numpy()
    if len(values) < 2:
        return "".join(f"{value:+.4f}" for value in values)
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():+.4f} [{values.mean() - half:+.4f}, {values.mean() + half:+.4f}]"


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Put a row together for each data set, moment and measure, of the seeds that both arms have by then."""
    lines = []
    for dataset, rows in table.groupby("dataset", sort=False):
        epoch = last_common_epoch(rows)
        whole = rows[rows["arm"] == "exact"].groupby("seed")["seconds"].max().mean()
        moments = {f"after {counted(epoch, 'epoch')}": at_epoch(rows, epoch)}
        moments |= {f"after {share * whole:.0f} s": after_seconds(rows, share) for share in SHARES}
        for moment, found in moments.items():
            for measure, title in {**MEASURES, "seconds": "seconds of training"}.items():
                by_arm = paired(found, measure)
                if by_arm.empty:
                    continue
                digits = 0 if measure == "seconds" else 4
                line = {"data set": dataset, "when": moment, "measure": title, "seeds": len(by_arm)}
                line |= {TITLES[arm]: f"{mean:.{digits}f}" for arm, mean in by_arm.mean().items()}
                lines.append(line | {"selfcell minus plain": difference(by_arm) if digits else ""})
    return pd.DataFrame(lines)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw loss and macro F1 against seconds of training, a line a seed; a dot where both had as many epochs."""
    datasets = list(dict.fromkeys(table["dataset"]))
    size = (9, 3.1 * len(datasets) + 0.4)
    figure, panels = plt.subplots(len(datasets), 2, figsize=size, squeeze=False, layout="constrained")
    for pair, dataset in zip(panels, datasets, strict=True):
        of_dataset = table[table["dataset"] == dataset]
        epoch = last_common_epoch(of_dataset)
        for panel, (measure, title) in zip(pair, MEASURES.items(), strict=True):
            for place, (arm, name) in enumerate(TITLES.items()):
                for seed, run in of_dataset[of_dataset["arm"] == arm].groupby("seed"):
                    label = name if seed == 0 else None
                    panel.plot(run["seconds"], run[measure], color=f"C{place}", linewidth=0.9, label=label)
                    end = run[run["epoch"] == epoch]
                    panel.plot(end["seconds"], end[measure], "o", color=f"C{place}", markersize=4)
            panel.set(title=dataset, xlabel="seconds of training", ylabel=title)
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.grid(color="0.9")
            panel.set_axisbelow(True)
    handles = panels[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(TITLES), frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, judge, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of table and figure")
    parser.add_argument("--dataset", nargs="+", choices=list(EPOCHS), default=list(EPOCHS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, help="of the dense arm, instead of those that the data set has by default"
    )
    parser.add_argument("--tables-only", action="store_true")
    given = parser.parse_args()
    if not given.tables_only:
        measure(given)
    table = pd.read_csv(given.out / "quality.csv")
    draw(table, given.out / "quality.png")
    print(as_markdown(summary(table)))


if __name__ == "__main__":
    main()

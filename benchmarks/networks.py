"""Choose the default network: every regime with several networks, on validation donors inside the training donors.

    python benchmarks/networks.py --dataset liu_covid_pbmc --out docs/results/networks_liu_covid_pbmc.csv

The donors that the results page judges on (``data.test_fraction``) have no part in it.
"""

import argparse
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arms import WEIGHTS

from selfcell.benchmark.study import Study
from selfcell.benchmark.study_plan import LabelBudget, StudyPlan
from selfcell.benchmark.trials import Workplace
from selfcell.core.config import build
from selfcell.data.dataset_table import DATASETS
from selfcell.data.datasets import load
from selfcell.data.source import Cells, obs_column, open_cells
from selfcell.data.splits import Split, split_cells
from selfcell.downstream.cell_type import CellTypeSettings
from selfcell.network.encoder import PAPER_NETWORK
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

N_SEEDS = 2
VARIANTS: dict[str, dict[str, Any]] = {
    "512-512-256-256-64 (paper)": {"network": PAPER_NETWORK},
    "512-64": {"network": {"hidden_sizes": [512]}},
    "512-64, no dropout": {"network": {"hidden_sizes": [512], "dropout": 0.0}},
    "512-64, a quarter hidden": {"network": {"hidden_sizes": [512]}, "pretext": {"mask_fraction": 0.25}},
    "1024-64": {"network": {"hidden_sizes": [1024]}},
    "512-128": {"network": {"hidden_sizes": [512], "n_latent": 128}},
}


@dataclass(frozen=True)
class Scale:
    """How much of everything a data set takes."""

    validation_fraction: float
    epochs: int
    minibatch_size: int
    budgets: tuple[LabelBudget, ...]


SCALES = {
    "liu_covid_pbmc": Scale(0.1, 10, 256, (LabelBudget(2, 40), LabelBudget(None, 8))),
    "pancreas_4_studies": Scale(0.2, 40, 64, (LabelBudget(2, 60), LabelBudget(None, 30))),
}


def main() -> None:
    """Run all variants on one data set and write their scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(SCALES), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    cells, tables = open_cells(load(given.dataset)), []
    for name in given.only:
        tables += [scores_of(given.dataset, cells, name, seed) for seed in range(N_SEEDS)]
        written = pd.concat(tables).groupby(["network", "budget", "method"], sort=False)["value"].mean().reset_index()
        written.to_csv(given.out, index=False, float_format="%.4f")
        print(written[written["network"] == name].to_string(index=False))


def scores_of(dataset: str, cells: Cells, name: str, seed: int) -> pd.DataFrame:
    """Pre-train one variant with one seed, and give the macro F1 of every regime on validation donors."""
    info, scale = DATASETS[dataset], SCALES[dataset]
    data = {"donor_key": info.donor_key, "test_fraction": 0.3, "validation_fraction": scale.validation_fraction}
    training = {"max_epochs": scale.epochs, "minibatch_size": scale.minibatch_size, "seed": seed, "patience": 0}
    settings = build(PretrainSettings, {"data": data, "training": training, **VARIANTS[name]})
    donors = obs_column(cells.obs, str(info.donor_key), role="donor")
    split = split_cells(len(cells), donors, validation_fraction=scale.validation_fraction, test_fraction=0.3, seed=0)
    inside = Split(split.train, np.array([], dtype=np.int64), split.validation, unit=str(info.donor_key))
    plan = StudyPlan(
        label_key=info.label_key,
        donor_key=info.donor_key,
        seeds=tuple(range(N_SEEDS)),
        budgets=scale.budgets,
        baselines=("pca_knn",),
        maps=False,
        examined=False,
        settings=build(CellTypeSettings, {**WEIGHTS, "training": {"minibatch_size": scale.minibatch_size}}),
    )
    with tempfile.TemporaryDirectory() as folder:
        model = pretrain(cells, settings, out=Path(folder) / "run", show_progress=False)
        scores = Study(plan, cells, [model], split=inside).run(Workplace(show_progress=False)).scores
    return scores[scores["metric"] == "macro_f1"].assign(network=name)


if __name__ == "__main__":
    main()

"""Judge encoders on real data: every task, regime and baseline, over seeds of pre-training and of fine-tuning.

Run it again and it goes on with what is missing: pre-trainings resume from their checkpoints, and finished studies are
not run twice.

    python benchmarks/real_data.py --out real            # all studies, hours on two cores
    python benchmarks/real_data.py --out real --only types_liu proteins_liu
    python benchmarks/real_data.py --out real --tables   # docs/results/ from what is finished
"""

import argparse
import json
import logging
import time
from pathlib import Path

import pandas as pd
from real.corpora import CORPORA
from real.page import write_page
from real.studies import RealStudy, real_studies

from selfcell.benchmark.results import read_results
from selfcell.benchmark.statistics import ScoreStack
from selfcell.downstream.confidence_scores import confidence_scores

DOCS = Path(__file__).parent.parent / "docs" / "results"
KEPT_METRICS = {
    "cell_type": ("macro_f1", "micro_f1", "balanced_accuracy", "macro_f1_ontology"),
    "cross_modality": ("pearson_per_cell", "pearson_per_feature", "pearson_flattened", "spearman_per_cell", "mse"),
    "integration": ("total", "bio_conservation", "batch_correction"),
    "reconstruction": (
        "explained_variance_weighted",
        "pearson_per_cell",
        "mse",
        "hidden_mse",
        "hidden_pearson_per_cell",
    ),
}
"""The scores of the table of each task; all others are in the folders."""


def main() -> None:
    """Run the studies that are asked for, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--only", nargs="+", choices=list(real_studies()), default=list(real_studies()))
    parser.add_argument("--pretraining-seeds", type=int, default=3)
    parser.add_argument("--finetuning-seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, help="processes; the number of cores, but four at most, if left out")
    parser.add_argument("--tables", action="store_true", help="write the tables of finished studies, and run none")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not given.tables:
        for name in given.only:
            run(real_studies()[name], given)
    write_tables(given.out)


def run(study: RealStudy, given: argparse.Namespace) -> None:
    """Run a study, unless it is there already."""
    out = given.out / "studies" / study.name
    if (out / "study.json").exists():
        return
    started = time.perf_counter()
    corpus = CORPORA[study.corpus]
    models = corpus.models(given.out / "runs", n_seeds=given.pretraining_seeds, network={})
    results = study.make(models, n_seeds=given.finetuning_seeds).run(jobs=given.jobs)
    results.about.update(title=study.title, corpus=study.corpus)
    results.write(out)
    logging.info("%s: %.0f s", study.name, time.perf_counter() - started)


def write_tables(out: Path) -> None:
    """Write one table a task: mean and interval of each method in each study, and seconds and memory."""
    rows = []
    for name, study in real_studies().items():
        folder = out / "studies" / name
        if not (folder / "study.json").exists():
            continue
        results = read_results(folder)
        about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        for metric in KEPT_METRICS[about["task"]]:
            if metric not in set(results.scores["metric"]):
                continue
            stack = ScoreStack(results.scores, results.resamples, metric)
            for method in stack.methods:
                for budget in (budget for budget in stack.budgets if stack.has(method, budget)):
                    estimate = stack.estimate(method, budget)
                    trials = results.scores.query("method == @method and budget == @budget and metric == @metric")
                    against = stack.has("from_scratch", budget) and method == "fine_tuned"
                    difference = stack.compare(method, "from_scratch", budget).difference if against else None
                    rows.append(
                        {
                            "task": about["task"],
                            "study": name,
                            "title": study.title,
                            "budget": budget,
                            "method": method,
                            "metric": metric,
                            "mean": estimate.mean,
                            "low": estimate.low,
                            "high": estimate.high,
                            "n_pairs_of_seeds": len(estimate.by_seed),
                            "n_cells": int(trials["n_cells"].iloc[0]),
                            "n_units": int(trials["n_units"].iloc[0]),
                            "against_scratch": None if difference is None else difference.mean,
                            "against_scratch_low": None if difference is None else difference.low,
                            "against_scratch_high": None if difference is None else difference.high,
                            "seconds": trials["seconds"].median(),
                            "peak_memory_mb": trials["peak_memory_mb"].max(),
                        }
                    )
    DOCS.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(DOCS / "real_data.csv", index=False, float_format="%.4g")
    tables = _details(out)
    confidence = confidence_scores_by_study(tables["confidence"])
    confidence.to_csv(DOCS / "confidence.csv", index=False, float_format="%.4g")
    tables["unseen_types"].to_csv(DOCS / "unseen_types.csv", index=False, float_format="%.4g")
    write_page(DOCS.parent / "results.md", pd.read_csv(DOCS / "real_data.csv"), confidence)


def _details(out: Path) -> dict[str, pd.DataFrame]:
    """Put together what the studies of cell types have found of confidence."""
    tables: dict[str, list[pd.DataFrame]] = {"confidence": [], "unseen_types": []}
    for name, study in real_studies().items():
        folder = out / "studies" / name
        if (folder / "confidence.csv.gz").exists():
            details = read_results(folder).details
            for key, parts in tables.items():
                parts.append(details[key].assign(study=name, title=study.title))
    return {key: pd.concat(parts, ignore_index=True) for key, parts in tables.items()}


def confidence_scores_by_study(cells: pd.DataFrame) -> pd.DataFrame:
    """Summarize how far confidence can be trusted in each study."""
    return pd.concat(
        [confidence_scores(of).assign(title=title) for title, of in cells.groupby("title", sort=False)],
        ignore_index=True,
    )


if __name__ == "__main__":
    main()

"""Judge encoders on real data: every task, regime and baseline, over seeds of pre-training and of fine-tuning.

Run it again and it goes on with what is missing: pre-trainings resume from their checkpoints, and trials that are
done are kept.

    python benchmarks/real_data.py --out real            # all studies, hours on two cores
    python benchmarks/real_data.py --out real --only types_liu proteins_liu
    python benchmarks/real_data.py --out real --tables   # docs/results/ from what is finished; other studies stay
"""

import argparse
import logging
import time
from pathlib import Path

from real.corpora import CORPORA
from real.studies import RealStudy, real_studies
from real.tables import write_tables

from selfcell.benchmark.outcome_store import OutcomeStore
from selfcell.benchmark.trials import Workplace


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
    results = study.make(models, n_seeds=given.finetuning_seeds).run(
        Workplace(jobs=given.jobs), store=OutcomeStore(given.out / "trials")
    )
    results.about.update(title=study.title, corpus=study.corpus)
    results.write(out)
    logging.info("%s: %.0f s", study.name, time.perf_counter() - started)


if __name__ == "__main__":
    main()

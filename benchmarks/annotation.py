"""How long the search for neighbors takes, and what is lost where it is not exact.

    python benchmarks/annotation.py
    python benchmarks/annotation.py --sizes 1000 --out work/annotation.csv

Simulated embeddings of 64 dimensions, 30 types. `round`: the cells of a type spread alike in all 64 directions, the
hardest case for a graph. `flat`: they spread in 12 directions, which are bent into the 64 by a network of random
weights. Arms: `exact` and `graph`, both by `find_neighbors`, and scikit-learn's exact search. Time is that of one call
in a fresh process: index, search, and for the graph the import of pynndescent (its compiled code, and ours, was on disk
already). Processor seconds tell what other work on the machine hides.
`recall` is the share of the five nearest cells that were found, `agreement` the share of cells that the vote gives the
same label as after an exact search, `accuracy` the share that it gives the right one; all three of the first 5,000
query cells. Safe to stop and start again: rows that are in the table already are not measured again.
"""

import argparse
import concurrent.futures
import itertools
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from arms import as_markdown
from sklearn.neighbors import NearestNeighbors

from selfcell.core.atomic import atomic_path
from selfcell.downstream.neighbors import N_NEIGHBORS, Neighbors, count_votes, find_neighbors

N_LATENT, N_DIRECTIONS, N_TYPES = 64, 12, 30
N_JUDGED = 5_000
ARMS = ("exact", "graph", "scikit-learn")


def simulated_embedding(shape: str, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Give cells and the type of each."""
    rng = np.random.default_rng(0)
    n_directions = N_LATENT if shape == "round" else N_DIRECTIONS
    code = rng.integers(N_TYPES, size=n_cells)
    # Types apart as far as cells of one type are.
    cells = rng.normal(size=(N_TYPES, n_directions))[code] + rng.normal(size=(n_cells, n_directions))
    if shape == "flat":
        first, second = (rng.normal(size=(n, N_LATENT)) / np.sqrt(n) for n in (N_DIRECTIONS, N_LATENT))
        cells = np.tanh(cells @ first) @ second
    return cells.astype(np.float32), code


def search(arm: str, reference: np.ndarray, query: np.ndarray) -> Neighbors:
    """Find neighbors in one way."""
    if arm == "scikit-learn":
        index = NearestNeighbors(n_neighbors=N_NEIGHBORS, algorithm="brute").fit(reference)
        distances, indices = index.kneighbors(query)
        return Neighbors(indices, distances)
    return find_neighbors(reference, query, n_neighbors=N_NEIGHBORS, exact=arm == "exact")


def measure(shape: str, arm: str, n_reference: int, n_query: int) -> dict[str, Any]:
    """Give the time of an arm and how good its neighbors are."""
    cells, code = simulated_embedding(shape, n_reference + n_query)
    reference, query, known = cells[:n_reference], cells[n_reference:], code[:n_reference]
    started, worked = time.perf_counter(), time.process_time()
    found = search(arm, reference, query)
    seconds, processor_seconds = time.perf_counter() - started, time.process_time() - worked
    found = Neighbors(*(part[:N_JUDGED] for part in found))
    exact = find_neighbors(reference, query[:N_JUDGED], n_neighbors=N_NEIGHBORS, exact=True)
    hits = [len(np.intersect1d(ours, true)) for ours, true in zip(found.indices, exact.indices, strict=True)]
    label, true_label = (count_votes(neighbors, known, weights="uniform").label_code for neighbors in (found, exact))
    return {
        "seconds": round(seconds, 2),
        "processor_seconds": round(processor_seconds, 2),
        "recall": round(float(np.mean(hits)) / N_NEIGHBORS, 4),
        "agreement": round(float((label == true_label).mean()), 4),
        "accuracy": round(float((label == code[n_reference:][:N_JUDGED]).mean()), 4),
    }


def run(given: argparse.Namespace) -> pd.DataFrame:
    """Measure what is not in the table yet."""
    rows = pd.read_csv(given.out).to_dict("records") if given.out.exists() else []
    for shape, n_reference, n_query, arm in itertools.product(given.shapes, given.sizes, given.sizes, given.arms):
        row = {"shape": shape, "reference": n_reference, "query": n_query, "arm": arm}
        if any(row.items() <= known.items() for known in rows):
            continue
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append({**row, **pool.submit(measure, shape, arm, n_reference, n_query).result()})
        with atomic_path(given.out) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/annotation.csv"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000], help="cells of either side")
    parser.add_argument("--shapes", nargs="+", default=["round", "flat"], choices=["round", "flat"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    print(as_markdown(run(parser.parse_args())))


if __name__ == "__main__":
    main()

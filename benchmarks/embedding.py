"""How fast cells are embedded and annotated by their neighbors, beside plain dense torch.

python benchmarks/embedding.py
python benchmarks/embedding.py --cells 5000 --reference 1000 --out work/embedding.csv

Embedding: the paper's encoder on simulated cells, 19,331 genes and 1,830 non-zeros each, from a sparse matrix of counts
to an array of embeddings. The plain arm makes minibatches dense, normalizes them and runs them through the encoder's
layers. selfcell runs `embed_counts`, in float32 as `selfcell embed` does and, where the processor has it, in bfloat16.
Neighbors: the vote that `selfcell annotate` takes, against distances and the smallest five of them by torch, in blocks.
Each arm of each round is in a process of its own. Safe to stop and start again: rows that are in the table already are
not measured again.
"""

import argparse
import concurrent.futures
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from arms import as_markdown
from simulated_counts import simulated_counts

from selfcell.core.atomic import atomic_path
from selfcell.data.counts import TARGET_TOTAL
from selfcell.downstream.embed import CELLS_AT_ONCE, embed_counts
from selfcell.downstream.neighbors import N_NEIGHBORS, vote_of_neighbors
from selfcell.network.compute import Compute, best_dtype, set_compute
from selfcell.network.encoder import PAPER_NETWORK, EncoderSettings, MlpEncoder

N_GENES, N_VALUES, N_CLASSES = 19_331, 1_830, 30
QUERIES_AT_ONCE = 1_024
WARM_UP = 256
"""Cells that are run untimed before."""


def plain_embedding(encoder: MlpEncoder, counts: sp.csr_matrix) -> np.ndarray:
    """Embed cells made dense, by plain torch."""
    parts = []
    with torch.inference_mode():
        for start in range(0, counts.shape[0], CELLS_AT_ONCE):
            cells = torch.from_numpy(counts[start : start + CELLS_AT_ONCE].toarray())
            expression = torch.log1p(cells * (TARGET_TOTAL / cells.sum(dim=1, keepdim=True)))
            parts.append(encoder.layers(expression).numpy())
    return np.concatenate(parts)


def plain_vote(reference: np.ndarray, code: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Give each query cell the label that most of its nearest cells bear, by plain torch."""
    cells, codes, parts = torch.from_numpy(reference), torch.from_numpy(code), []
    for part in torch.from_numpy(query).split(QUERIES_AT_ONCE):
        nearest = torch.cdist(part, cells).topk(N_NEIGHBORS, largest=False).indices
        parts.append(codes[nearest].mode(dim=1).values.numpy())
    return np.concatenate(parts)


def _encoder(arm: str) -> MlpEncoder:
    torch.manual_seed(0)
    encoder = MlpEncoder(EncoderSettings(**PAPER_NETWORK), n_genes=N_GENES).eval()
    set_compute(encoder, Compute(dtype=torch.bfloat16 if arm == "bfloat16" else torch.float32))
    return encoder


def _timed(work: Callable[[Any], Any], warm_up: Any, given: Any) -> float:
    work(warm_up)
    started = time.perf_counter()
    work(given)
    return time.perf_counter() - started


def measure(part: str, arm: str, n_cells: int, n_reference: int) -> float:
    """Give the seconds that an arm takes."""
    if part == "embedding":
        counts, encoder = simulated_counts(n_cells=n_cells, n_genes=N_GENES, nonzeros=N_VALUES), _encoder(arm)
        embed = plain_embedding if arm == "plain" else embed_counts
        return _timed(lambda cells: embed(encoder, cells), counts[:WARM_UP], counts)
    rng = np.random.default_rng(0)
    # Types apart as far as cells of one type are.
    center, code = rng.normal(size=(N_CLASSES, 64)), rng.integers(N_CLASSES, size=n_reference + n_cells)
    cells = (center[code] + rng.normal(size=(len(code), 64))).astype(np.float32)
    known, query = (cells[:n_reference], code[:n_reference]), cells[n_reference:]
    vote = plain_vote if arm == "plain" else vote_of_neighbors
    return _timed(lambda part_of_query: vote(*known, part_of_query), query[:WARM_UP], query)


def run(given: argparse.Namespace) -> pd.DataFrame:
    """Measure what is not in the table yet."""
    quick = ["float32", *(["bfloat16"] if best_dtype("cpu") == torch.bfloat16 else [])]
    arms = [("embedding", arm) for arm in ["plain", *quick]] + [("neighbors", arm) for arm in ("plain", "float32")]
    rows = pd.read_csv(given.out).to_dict("records") if given.out.exists() else []
    for turn in range(given.rounds):
        for part, arm in arms:
            row = {"round": turn, "part": part, "arm": arm, "cells": given.cells}
            row["reference"] = given.reference if part == "neighbors" else 0
            if any(row.items() <= known.items() for known in rows):
                continue
            with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                seconds = pool.submit(measure, part, arm, given.cells, given.reference).result()
            rows.append({**row, "seconds": round(seconds, 3), "cells_per_second": round(given.cells / seconds)})
            with atomic_path(given.out) as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
    return pd.DataFrame(rows)


def as_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Give cells per second of each arm, the median of the rounds, and how many times the plain one's."""
    speed = rows.groupby(["part", "arm"], sort=False)["cells_per_second"].median()
    lines = []
    for (part, arm), value in speed.items():
        lines.append({"what": part, "arm": arm, "cells/s": f"{value:,.0f}"})
        lines[-1]["against plain"] = f"{value / speed[part, 'plain']:.1f}"
    return pd.DataFrame(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results/embedding.csv"))
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--reference", type=int, default=20_000, help="labelled cells to look for neighbors among")
    parser.add_argument("--rounds", type=int, default=2)
    print(as_markdown(as_table(run(parser.parse_args()))))


if __name__ == "__main__":
    main()

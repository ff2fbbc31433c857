"""Memory and speed of the loader on atlases of different sizes; and of what a billion cells would add to it.

python benchmarks/scale.py work/small/atlas work/big/atlas --out docs/results/scale.csv

Each atlas is streamed in a process of its own: an epoch of minibatches, or as long as --seconds says. Peak memory is
the high-water mark of the process; what libraries take is that of the same process before the atlas is opened. The
billion is an index of as many shards as they would make, of the size of the first atlas's, whose order is computed but
whose cells are not there.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from selfcell.core.atomic import atomic_path
from selfcell.data.atlas.index import AtlasIndex, parse_index, read_index
from selfcell.data.order import BlockOrder
from selfcell.data.schedule import Position, Schedule
from selfcell.data.stream import BLOCK_SIZE, BUFFER_SIZE, stream_cells
from selfcell.data.subset import CellSubset

BILLION = 10**9


def memory_mb(name: str) -> float:
    """Give resident memory (``VmRSS``) or its high-water mark (``VmHWM``) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def stream(path: Path, *, minibatch_size: int, seconds: float) -> dict[str, Any]:
    """Stream an atlas for some time after a warm-up."""
    before = memory_mb("VmRSS")
    loader = stream_cells(path, minibatch_size=minibatch_size)
    opened = memory_mb("VmRSS")
    seen, started = 0, time.perf_counter()
    for place, minibatch in enumerate(loader):
        if place == 5:
            seen, started = 0, time.perf_counter()
        seen += minibatch.n_cells
        if time.perf_counter() - started > seconds:
            break
    index = read_index(path)
    return {
        "cells": index.n_cells,
        "shards": len(index.shards),
        "minibatch": minibatch_size,
        "streamed": seen,
        "cells_per_second": round(seen / (time.perf_counter() - started)),
        "libraries_mb": round(before),
        "opened_mb": round(opened),
        "peak_mb": round(memory_mb("VmHWM")),
    }


def plan_a_billion(path: Path, *, minibatch_size: int) -> dict[str, Any]:
    """Open an index of a billion cells, and plan the first minibatches of an epoch."""
    before, small = memory_mb("VmRSS"), read_index(path)
    n_shards = -(-BILLION // small.shards[0].n_cells)
    named = [small.shards[0].model_copy(update={"name": f"{place:06d}.zarr"}) for place in range(n_shards)]
    text = AtlasIndex(**{**dict(small), "shards": tuple(named)}).model_dump_json()
    del named, small
    started = time.perf_counter()
    index = parse_index(text, place="atlas.json")
    seconds = time.perf_counter() - started
    boundaries = np.concatenate([[0], np.cumsum([shard.n_cells for shard in index.shards])])
    n_cells = int(boundaries[-1])
    subset = CellSubset(n_cells, np.full(-(-n_cells // 8), 255, dtype=np.uint8))
    order = BlockOrder(boundaries, subset, shuffle_seed=0, block_size=BLOCK_SIZE, buffer_size=BUFFER_SIZE)
    cuts = Schedule(order, minibatch_size).cuts(Position())
    started = time.perf_counter()
    planned = sum(len(next(cuts).rows) for _ in range(200))
    return {
        "cells": n_cells,
        "shards": n_shards,
        "index_mb": round(len(text) / 1e6, 1),
        "seconds_to_open": round(seconds, 1),
        "cells_planned_per_second": round(planned / (time.perf_counter() - started)),
        "libraries_mb": round(before),
        "peak_mb": round(memory_mb("VmHWM")),
        "subset_mb": round(n_cells / 8 / 1e6),
    }


def main() -> None:
    """Measure each in a process of its own, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas", nargs="+", type=Path)
    parser.add_argument("--minibatch-size", type=int, nargs="+", default=[4096, 128])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, help="also write the table here, as CSV")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task == "stream":
        size = given.minibatch_size[0]
        print(json.dumps(stream(given.atlas[0], minibatch_size=size, seconds=given.seconds)))
        return
    if given.task == "plan":
        print(json.dumps(plan_a_billion(given.atlas[0], minibatch_size=given.minibatch_size[0])))
        return
    rows = []
    for task, atlas, size in [
        *(("stream", atlas, size) for size in given.minibatch_size for atlas in given.atlas),
        ("plan", given.atlas[0], given.minibatch_size[0]),
    ]:
        options = ["--task", task, "--minibatch-size", str(size), "--seconds", str(given.seconds)]
        command = [sys.executable, __file__, str(atlas), *options]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({"task": task, **json.loads(done.stdout.splitlines()[-1])})
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    if given.out:
        with atomic_path(given.out) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)


if __name__ == "__main__":
    main()

"""Trainings that tell which cells they saw and what weights they came to; run by torchrun, as a script, in several."""

import contextlib
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from selfcell.core.config import build
from selfcell.data.atlas.build import build_atlas
from selfcell.data.simulate import simulate_cells
from selfcell.pretext import PRETEXT_TASKS
from selfcell.training.module import ObjectiveModule
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

SETTINGS: dict[str, Any] = {
    "data": {"donor_key": "donor", "block_size": 8, "buffer_size": 40},
    "network": {"hidden_sizes": [32], "n_latent": 8, "dropout": 0.0},
    "pretext": {"name": "masked_autoencoder", "mask": "none"},
    "training": {"max_epochs": 3, "minibatch_size": 50, "device": "cpu", "patience": 0, "gradient_clip": 0.5},
}
# In bfloat16 the numbers of two processes are those of one to a hundredth only.
SETTINGS["training"]["precision"] = "float32"
TASKS = [name for name in PRETEXT_TASKS if name != "masked_autoencoder"]


class Broken(Exception):  # noqa: N818 - nothing is wrong
    """The training was broken off on purpose."""


@dataclass
class Record:
    """What a process saw."""

    cells: list[tuple[int, str]] = field(default_factory=list)
    """Epoch and checksum of each training cell, in order."""
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    """After the last step."""


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return {name: values | sections.get(name, {}) for name, values in SETTINGS.items()}


def of_task(name: str, n_processes: int) -> dict[str, Any]:
    """Settings for any task but the masked autoencoder."""
    given = changed(training={"devices": n_processes, "max_epochs": 1, "minibatch_size": 32})
    small = {"queue_size": 64, "n_prototypes": 64, "projector_sizes": [10, 6]}
    fields = PRETEXT_TASKS[name].Settings.model_fields
    return {**given, "pretext": {"name": name, **{field: size for field, size in small.items() if field in fields}}}


def checksums(minibatch: Any) -> list[str]:
    found = []
    for start, stop in itertools.pairwise(minibatch.cell_offsets.tolist()):
        parts = minibatch.gene_index[start:stop], minibatch.values[start:stop]
        found.append(hashlib.sha256(b"".join(part.cpu().numpy().tobytes() for part in parts)).hexdigest())
    return found


@contextlib.contextmanager
def recorded(*, break_at: int | None = None) -> Iterator[Record]:
    """Record the trainings of a block; break them off before a step of the optimizer."""
    record, step = Record(), ObjectiveModule.training_step

    def training_step(self: Any, minibatch: Any, batch_idx: int) -> Any:
        if self.global_step == break_at:
            raise Broken
        record.cells += [(self.current_epoch, cell) for cell in checksums(minibatch)]
        return step(self, minibatch, batch_idx)

    def on_train_end(self: Any) -> None:
        record.parameters = {name: value.detach().clone() for name, value in self.objective.named_parameters()}

    with (
        mock.patch.object(ObjectiveModule, "training_step", training_step),
        mock.patch.object(ObjectiveModule, "on_train_end", on_train_end),
    ):
        yield record


def train(cells: Any, settings: dict[str, Any], out: Path, **options: Any) -> Record:
    """Train, and give the record."""
    with recorded() as record:
        pretrain(cells, build(PretrainSettings, settings), out=out, **{"show_progress": False, **options})
    return record


def break_off(cells: Any, settings: dict[str, Any], out: Path, *, at: int) -> Record:
    """Train up to a step of the optimizer, and leave it there."""
    with recorded(break_at=at) as record, contextlib.suppress(Broken):
        pretrain(cells, build(PretrainSettings, settings), out=out, show_progress=False)
        raise AssertionError(f"the training has no step {at}")
    return record


def write_sources(folder: Path) -> Any:
    """Write some cells as a file and as an atlas, and give them."""
    adata = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    adata.write_h5ad(folder / "cells.h5ad")
    build_atlas([folder / "cells.h5ad"], folder / "atlas", shard_cells=70)
    return adata


def main() -> None:
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.set_num_threads(1)
    two = changed(training={"devices": 2})
    found = {
        "plain": train(folder / "cells.h5ad", two, folder / "two" / "plain"),
        "atlas": train(folder / "atlas", two, folder / "two" / "atlas"),
        "resumed": train(folder / "cells.h5ad", two, folder / "broken", resume=True),
        **{name: train(folder / "cells.h5ad", of_task(name, 2), folder / "two" / name) for name in TASKS},
    }
    torch.save({name: record.parameters for name, record in found.items()}, folder / f"{rank}.pt")
    (folder / f"{rank}.json").write_text(json.dumps({name: record.cells for name, record in found.items()}))


if __name__ == "__main__":
    main()

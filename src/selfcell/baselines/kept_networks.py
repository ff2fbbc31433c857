"""Networks of scvi-tools on disk: what several targets of a benchmark would train alike is trained once."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata

from selfcell.baselines.base import ComparedCells
from selfcell.core.atomic import atomic_path, write_json
from selfcell.core.digest import digest_of
from selfcell.core.reading import read_json

_FILE = "model.pt"
"""As scvi-tools names it."""


def trained_or_kept(
    model_class: Any,
    adata: anndata.AnnData,
    *,
    compared: ComparedCells,
    identity: str,
    train: Callable[[], Any],
) -> Any:
    """Give a trained network: from the folder of the comparison where it is there, or trained, and kept there.

    What the training took is added to ``compared.seconds_saved`` where it is not paid again.

    Parameters
    ----------
    model_class
        Of scvi-tools, such as ``scvi.model.SCVI``.
    adata
        All that the network learns from: its counts and every column of its ``obs`` are a part of what it is found by.
    compared
        The comparison; where its ``kept_in`` is None, nothing is kept.
    identity
        What else determines the network: seed, code, versions.
    train
        Trains it.
    """
    if compared.kept_in is None:
        return train()
    columns = [digest_of(adata.obs[name]) for name in sorted(adata.obs)]
    folder = compared.kept_in / digest_of([model_class.__name__, identity, digest_of(adata.X), *columns])[:16]
    if (folder / _FILE).exists():
        compared.seconds_saved += read_json(folder / "seconds.json")
        return model_class.load(folder, adata=adata, accelerator="cpu")
    model, seconds = compared.timed(train)
    write_json(folder / "seconds.json", seconds)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        model.save(temporary, overwrite=True)
        with atomic_path(folder / _FILE, durable=True) as moved:
            (Path(temporary) / _FILE).replace(moved)
    return model

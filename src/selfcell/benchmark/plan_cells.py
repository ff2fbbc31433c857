"""The cells of a benchmark's plan, read when they are asked for."""

import dataclasses
import fnmatch
import functools
import logging
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp

from selfcell.benchmark.fingerprints import CONTENTS, Fingerprint, columns_of_data, contents, read_beside_counts
from selfcell.benchmark.plan import CellsSettings, Plan
from selfcell.benchmark.query import with_labels_mapped
from selfcell.benchmark.trials import unsaid
from selfcell.core.digest import digest_of
from selfcell.core.errors import InputError, did_you_mean, speaking_of
from selfcell.core.seeds import numpy_rng
from selfcell.data import datasets
from selfcell.data.atlas.index import is_atlas
from selfcell.data.dataset_table import DATASETS
from selfcell.data.label_maps import read_label_map
from selfcell.data.source import Cells, open_cells, read_adata
from selfcell.data.stream import open_any
from selfcell.training.settings import DataSettings

logger = logging.getLogger(__name__)

_HELD = 4
"""Sets of cells that are kept in memory."""


class PlanCells:
    """Cells by their name in the plan.

    Parameters
    ----------
    plan
        The plan.
    folder
        What files in it are relative to.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._settings = plan.cells
        self._folder = folder
        self._read = functools.lru_cache(maxsize=_HELD)(self._read_anew)
        self._fingerprints: dict[str, Fingerprint] = {}
        self._unmapped: dict[str, Fingerprint] = {}
        self._of_corpora: dict[tuple[str, str], str] = {}
        self._were_read: set[str] = set()

    def __getitem__(self, name: str) -> Cells:
        """Read and check the cells of a name.

        Raises
        ------
        InputError
            If they cannot be found, read or prepared as the plan says.
        """
        return self._read(name)

    def corpus(self, name: str) -> Cells | Path:
        """Give what is pre-trained on: cells in memory, or the path of an atlas, which is streamed.

        Raises
        ------
        InputError
            As for cells; and if those of an atlas are to be prepared, which they cannot.
        """
        settings = self._settings[name]
        if not isinstance(settings.source, str) or not is_atlas(self._folder / settings.source):
            return self[name]
        given = settings.model_dump(exclude={"source", "label", "donor", "batch"}, exclude_defaults=True)
        if given:
            raise InputError(
                f"[cells.{name}] is an atlas, which is streamed as it is: leave {', '.join(given)} out. Cells are "
                "chosen by the corpus: settings = { data = { where = ... } }."
            )
        return self._folder / settings.source

    def fingerprint(self, name: str) -> Fingerprint:
        """Hash counts and all else that the plan reads of cells; of an atlas, what it was built from.

        Labels are hashed as they are in the file: what a map makes of them is the plan's, and may be mended.
        """
        if name not in self._fingerprints:
            cells = self.corpus(name)
            if isinstance(cells, Path):
                self._fingerprints[name] = {"atlas": open_any(cells).fingerprint()}
            else:
                parts = contents(cells) | read_beside_counts(self._plan, name, cells)
                self._fingerprints[name] = parts | self._unmapped.get(name, {})
        return self._fingerprints[name]

    def fingerprint_of_before(self, name: str) -> str:
        """Give the one hash that ``cells.json`` had of cells before it told what they are made of."""
        cells, settings = self.corpus(name), self._settings[name]
        if isinstance(cells, Path):
            return open_any(cells).fingerprint()
        named = [key for key in (settings.label, settings.donor, settings.batch) if key is not None]
        return digest_of(np.array([cells.fingerprint(), *(digest_of(cells.obs[key]) for key in named)]))

    def fingerprint_of_corpus(self, name: str, data: DataSettings) -> str:
        """Hash what pre-training with some settings reads of cells: no labels, unless they say so."""
        key = (name, data.model_dump_json())
        if key not in self._of_corpora:
            self._of_corpora[key] = self._read_by_pretraining(name, data)
        return self._of_corpora[key]

    def _read_by_pretraining(self, name: str, data: DataSettings) -> str:
        cells, known = self.corpus(name), self.fingerprint(name)
        if isinstance(cells, Path):
            return known["atlas"]
        columns = sorted(columns_of_data(data, cells))
        return digest_of(
            np.array([*(known[part] for part in CONTENTS), *(digest_of(cells.obs[one]) for one in columns)])
        )

    def some(self, name: str, n_cells: int | None) -> Cells:
        """Give cells of a name, drawn at random if fewer are asked for than there are."""
        cells = self[name]
        if n_cells is None or n_cells >= len(cells):
            return cells
        return cells.subset(np.sort(numpy_rng(0, "cells of a target").choice(len(cells), n_cells, replace=False)))

    def _read_anew(self, name: str) -> Cells:
        """Read cells; what is to be said of them is said the first time."""
        if name in self._were_read:
            with unsaid():
                return self._prepared(name)
        self._were_read.add(name)
        return self._prepared(name)

    def _prepared(self, name: str) -> Cells:
        settings = self._settings[name]
        with speaking_of(f"[cells.{name}]"):
            sources = (settings.source,) if isinstance(settings.source, str) else settings.source
            parts = [self._part(source, settings) for source in sources]
            cells = parts[0] if len(parts) == 1 else _together(parts, sources)
            if settings.where is not None:
                cells = cells.where(settings.where)
            if settings.label_map is not None:
                self._unmapped[name] = (
                    {f"obs[{settings.label!r}]": digest_of(cells.obs[settings.label])}
                    if settings.label in cells.obs
                    else {}
                )
                cells = with_labels_mapped(cells, settings.label, read_label_map(self._folder / settings.label_map))
            for role in ("label", "donor", "batch"):
                key = getattr(settings, role)
                if key is not None and key not in cells.obs:
                    raise InputError(f"There is no column {key!r} in obs. {did_you_mean(key, list(cells.obs))}")
        return dataclasses.replace(cells, origin=name)

    def _part(self, source: str, settings: CellsSettings) -> Cells:
        adata = self._adata(source)
        if settings.genes_with is not None:
            adata = _with_genes(adata, settings.genes_with)
        cells = open_cells(adata, layer=settings.layer, scale=settings.scale, gene_column=settings.gene_column)
        cells = dataclasses.replace(cells, origin=source)
        if settings.genes_of is not None:
            # What else was measured need not be alike in data sets that are put together.
            cells = dataclasses.replace(cells, obsm={}).aligned_to(self[settings.genes_of].genes)
        return cells

    def _adata(self, source: str) -> anndata.AnnData:
        if source in DATASETS:
            return datasets.load(source)
        path = self._folder / source
        if not path.exists() and not path.suffix:
            raise InputError(
                f"{source!r} is neither a data set by name nor a file beside the plan. "
                f"{did_you_mean(source, list(DATASETS))}"
            )
        return read_adata(path)


def _with_genes(adata: anndata.AnnData, pattern: str) -> anndata.AnnData:
    columns = fnmatch.filter(map(str, adata.var.columns), pattern)
    if not columns:
        raise InputError(f"genes_with: no column of var is named {pattern!r}. It has {', '.join(adata.var.columns)}.")
    return adata[:, adata.var[columns].astype(bool).all(axis=1)].copy()


def _together(parts: list[Cells], sources: tuple[str, ...]) -> Cells:
    """Put cells on the same genes one behind the other, each named after its source."""
    if any(part.genes != parts[0].genes for part in parts):
        raise InputError("Several sources have different genes: name cells whose genes they are put on (genes_of).")
    made = []
    for part, source in zip(parts, sources, strict=True):
        obs = part.obs[[]].assign(source=source)
        obs.index = f"{source} " + part.obs.index.astype(str)
        made.append(anndata.AnnData(sp.csr_matrix(part.counts), obs=obs))
    joined = anndata.concat(made)
    joined.var_names = list(parts[0].genes.names)
    return dataclasses.replace(open_cells(joined), genes=parts[0].genes)

"""What the CELLxGENE schema says of cells in columns of its own: types, donors, tissues, whether they are elsewhere."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from selfcell.core.errors import InputError
from selfcell.data.atlas.census import PRIMARY_COLUMN
from selfcell.data.cell_ontology import load_cell_ontology
from selfcell.data.source import Cells
from selfcell.data.streamed import StreamedCells

logger = logging.getLogger(__name__)

DONOR_COLUMN = "donor_id"
LABEL_COLUMN = "cell_type"
TERM_COLUMN = "cell_type_ontology_term_id"
WHAT_CELLS_ARE = ("organism", "tissue", "disease", "assay")
"""Columns that a model's card tells of the cells it was trained on."""
_MOST_NAMES = 20
_FEWEST_DONORS = 3
"""To learn from, to watch the loss on, to judge on."""
_MOST_OF_FEW = 50


def label_column(cells: Cells, label_key: str | None) -> str | None:
    """Give the column of types: the one that is named, else ``cell_type`` where it is there; None if it is not.

    That it is taken without being named is logged.

    Parameters
    ----------
    cells
        Cells of which a task needs the types.
    label_key
        What the user has named.
    """
    if label_key is not None or LABEL_COLUMN not in cells.obs:
        return label_key
    logger.info("Types are those of obs[%r], as no column is named. Another: --label COLUMN (label_key).", LABEL_COLUMN)
    return LABEL_COLUMN


def needed_label_column(cells: Cells, label_key: str | None) -> str:
    """Give the column of types as :func:`label_column`, where nothing can be done without.

    Raises
    ------
    InputError
        If none is named, and there is no ``cell_type``.
    """
    found = label_column(cells, label_key)
    if found is None:
        there = ", ".join(map(str, cells.obs.columns)) or "nothing"
        raise InputError(
            f"The column of obs with the types of {cells.origin} must be named, --label COLUMN (label_key), as there "
            f"is no obs[{LABEL_COLUMN!r}]. In obs there is {there}."
        )
    return found


def donor_column(cells: Cells | StreamedCells, donor_key: str | None) -> str | None:
    """Give the column of donors: the one that is named, else ``donor_id`` where it is there and of use; None if none.

    Which one is taken without being named is logged, and so is why ``donor_id`` is not.

    Parameters
    ----------
    cells
        In memory or on disk.
    donor_key
        What the user has named; an empty text for none, even where there is a ``donor_id``.
    """
    if donor_key is not None:
        return donor_key or None
    sizes = _sizes(cells, DONOR_COLUMN)
    if sizes is None:
        return None
    n_donors, n_missing = len(sizes), len(cells) - int(sizes.sum())
    fault = None
    if n_missing:
        fault = f"{n_missing:,} cells have no value there"
    elif n_donors < _FEWEST_DONORS:
        fault = f"it has {n_donors} donor{'' if n_donors == 1 else 's'}, and a split takes {_FEWEST_DONORS}"
    elif n_donors > max(len(cells) // 2, _MOST_OF_FEW):
        fault = f"it has {n_donors:,} values for {len(cells):,} cells"
    if fault is not None:
        logger.info("obs[%r] is not taken for the donors, as %s.", DONOR_COLUMN, fault)
        return None
    logger.info(
        "Donors are those of obs[%r], as no column is named. Another: --donor COLUMN (donor_key); none: --donor ''.",
        DONOR_COLUMN,
    )
    return DONOR_COLUMN


def ontology_terms(obs: pd.DataFrame, label_key: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Give what the Cell Ontology calls each type: its own name or, if that is not known, its most frequent known id.

    Parameters
    ----------
    obs
        Of the cells, perhaps with the schema's column of ids, :data:`TERM_COLUMN`.
    label_key
        The column of types.
    classes
        The types.

    Returns
    -------
    A name or id for each type; nothing where the ontology lacks one, which is logged if it knows most of them.
    """
    knows = load_cell_ontology().knows
    named: dict[str, str] = {}
    if TERM_COLUMN in obs and not all(map(knows, classes)):
        # Names of cells may be there twice.
        found = pd.DataFrame({key: obs[key].astype(str).to_numpy() for key in (label_key, TERM_COLUMN)})
        found = found[found[TERM_COLUMN].isin([term for term in found[TERM_COLUMN].unique() if knows(term)])]
        named = found.groupby(label_key)[TERM_COLUMN].agg(lambda of_type: of_type.mode()[0]).to_dict()
    strange = [name for name in classes if not knows(name) and name not in named]
    if strange and len(strange) <= len(classes) / 2:
        logger.info(
            "Scores by the Cell Ontology are left out: it does not know %s of the %s types (%s).",
            len(strange),
            len(classes),
            ", ".join(strange[:5]),
        )
    return () if strange else tuple(name if knows(name) else named[name] for name in classes)


def warn_of_copies(cells: Cells | StreamedCells) -> None:
    """Warn where some cells are primary data and some are not: those are in another data set, maybe here, too."""
    sizes = _sizes(cells, PRIMARY_COLUMN, of="false")
    n_copies = 0 if sizes is None else int(sizes.sum())
    if 0 < n_copies < len(cells):
        logger.warning(
            "%s of %s cells are not primary data (obs[%r] is False): they are in another data set too, and if that one "
            "is here as well, they count twice and may be both learned from and judged on. Leave them out: pretrain "
            "--where %s, or adata[adata.obs[%r]].",
            f"{n_copies:,}",
            f"{len(cells):,}",
            PRIMARY_COLUMN,
            PRIMARY_COLUMN,
            PRIMARY_COLUMN,
        )


def composition(cells: Cells | StreamedCells) -> dict[str, dict[str, int]]:
    """Count the cells of each organism, tissue, disease and assay, where the columns of :data:`WHAT_CELLS_ARE` name it.

    Returns
    -------
    Cells by name, by column; the largest twenty of each.
    """
    counted = {key: found for key in WHAT_CELLS_ARE if (found := _counted(cells, key))}
    return {
        key: dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_MOST_NAMES])
        for key, sizes in counted.items()
    }


def _sizes(cells: Cells | StreamedCells, key: str, *, of: str | None = None) -> np.ndarray | None:
    """Give how many cells have each value of a column, or one value in small letters; None without the column."""
    counted = _counted(cells, key)
    if counted is None:
        return None
    return np.array([size for name, size in counted.items() if of is None or name.lower() == of], dtype=np.int64)


def _counted(cells: Cells | StreamedCells, key: str) -> dict[str, int] | None:
    """Count the cells by their value in a column, which must not be missing; None without the column."""
    obs: Any = cells.obs
    if key not in obs.columns:
        return None
    if isinstance(cells, Cells):
        found = obs[key].value_counts()
        return {str(name): int(size) for name, size in zip(found.index, found, strict=True) if size}
    column, _ = cells.count_values(key)
    return {str(name): int(size) for name, size in zip(column.names, column.sizes, strict=True) if size}

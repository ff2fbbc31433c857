"""Scores of cell types that know which type is a kind of which. No torch here, as in ``metrics``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Real

from selfcell.core.digest import digest_of
from selfcell.core.errors import InputError
from selfcell.data.cell_ontology import CellOntology, load_cell_ontology

ONTOLOGY_METRICS = ("exact", "descendant", "ancestor", "unrelated", "mean_hops", "mean_hops_to_common")


def digest_of_terms(terms: Sequence[str]) -> str:
    """Hash which types the Cell Ontology takes terms for, and what it says these are kinds of."""
    ontology = load_cell_ontology()
    lines = [" < ".join([term, *sorted(ontology.ancestors(term))]) for term in ontology.resolve(terms)]
    return digest_of(np.array(lines, dtype=object))


def kinds_of_classes(
    classes: Sequence[str], *, ontology: CellOntology | None = None
) -> Bool[np.ndarray, "n_classes n_classes"]:
    """Say of each pair (first, second) whether the second class is the first or a kind of it.

    Parameters
    ----------
    classes
        Ids or labels, as :meth:`~selfcell.data.cell_ontology.CellOntology.resolve` takes them.
    ontology
        Where to look them up; by default the one that the package carries.

    Raises
    ------
    InputError
        If classes are not in the ontology; all of them are listed.
    """
    ontology = load_cell_ontology() if ontology is None else ontology
    ids = ontology.resolve(classes)
    lines = [ontology.hops_to_ancestors(cell_type) for cell_type in ids]
    kinds = np.array([[first in line for line in lines] for first in ids], dtype=bool)
    return kinds.reshape(len(ids), len(ids))


def corrected_predictions(
    truth: Int[np.ndarray, " n_cells"],
    predicted: Int[np.ndarray, " n_cells"],
    *,
    classes: Sequence[str],
    ontology: CellOntology | None = None,
) -> Int[np.ndarray, " n_cells"]:
    """Count finer predictions as right: one that is a kind of the true type becomes the true type.

    The rule is that of :cite:t:`fischer2024`: an author who wrote "T cell" did not say that the cell is no CD4-positive
    one. A prediction coarser than the truth stays wrong. The result goes into
    :func:`~selfcell.downstream.metrics.confusion_matrix` as predictions do.

    Parameters
    ----------
    truth, predicted
        Type of each cell, as a position in ``classes``.
    classes, ontology
        As in :func:`kinds_of_classes`. Two classes that are the same type in the ontology count as one.

    Raises
    ------
    InputError
        If classes are not in the ontology, or a position is none of them.
    """
    for what, codes in (("truth", truth), ("predicted", predicted)):
        if codes.size and not (codes.min() >= 0 and codes.max() < len(classes)):
            raise InputError(
                f"{what} must hold positions among the {len(classes):,} classes, 0 to {len(classes) - 1:,}, but goes "
                f"from {codes.min()} to {codes.max()}. Leave out cells without a type."
            )
    kinds = kinds_of_classes(classes, ontology=ontology)
    return np.where(kinds[truth, predicted], truth, predicted)


def corrected_confusion(
    confusion: Real[np.ndarray, "*studies n_classes n_classes"],
    *,
    classes: Sequence[str],
    ontology: CellOntology | None = None,
) -> Real[np.ndarray, "*studies n_classes n_classes"]:
    """Correct counts of cells by (true class, predicted class) as :func:`corrected_predictions` corrects predictions.

    Parameters
    ----------
    confusion
        One matrix of counts, or a stack of them.
    classes, ontology
        As in :func:`kinds_of_classes`.
    """
    _check_size(confusion, classes)
    kinds = kinds_of_classes(classes, ontology=ontology)
    right = np.where(kinds, confusion, 0).sum(axis=-1)
    corrected: np.ndarray = np.where(kinds, 0, confusion)
    corrected += right[..., None] * np.eye(len(classes), dtype=confusion.dtype)
    return corrected


def ontology_scores(
    confusion: Real[np.ndarray, "n_classes n_classes"],
    *,
    classes: Sequence[str],
    ontology: CellOntology | None = None,
) -> dict[str, float]:
    """Say how far predictions are from the truth in the ontology.

    Parameters
    ----------
    confusion
        Cells by (true class, predicted class), not corrected.
    classes, ontology
        As in :func:`kinds_of_classes`.

    Returns
    -------
    Every score of :data:`ONTOLOGY_METRICS`. ``exact``, ``descendant`` (finer than the truth), ``ancestor`` (coarser:
    not wrong, but it says less) and ``unrelated`` (neither) are shares of the cells and add to 1. The other two are
    steps along the ontology, averaged over the cells: ``mean_hops`` from the true type up to the lowest common
    ancestor and down to the predicted one, ``mean_hops_to_common`` the steps up alone. The lowest common ancestor is
    the one with the shortest way over it, among equals the one nearest to the truth.

    Raises
    ------
    InputError
        If classes are not in the ontology, have no ancestor in common, or there are no cells.
    """
    _check_size(confusion, classes)
    n_cells = confusion.sum()
    if n_cells == 0:
        raise InputError("There are no cells to score: all counts are zero.")
    kinds = kinds_of_classes(classes, ontology=ontology)
    hops, hops_to_common = hops_between_classes(classes, ontology=ontology)
    shares = {
        "exact": kinds & kinds.T,
        "descendant": kinds & ~kinds.T,
        "ancestor": ~kinds & kinds.T,
        "unrelated": ~kinds & ~kinds.T,
    }
    scores = {name: float(confusion[among].sum() / n_cells) for name, among in shares.items()}
    scores["mean_hops"] = float((confusion * hops).sum() / n_cells)
    scores["mean_hops_to_common"] = float((confusion * hops_to_common).sum() / n_cells)
    return scores


def hops_between_classes(
    classes: Sequence[str], *, ontology: CellOntology | None = None
) -> tuple[Int[np.ndarray, "n_classes n_classes"], Int[np.ndarray, "n_classes n_classes"]]:
    """Count the steps between each pair (first, second) of classes over their lowest common ancestor.

    Parameters
    ----------
    classes, ontology
        As in :func:`kinds_of_classes`.

    Returns
    -------
    Steps of the whole way, and of its part from the first class up to the ancestor.

    Raises
    ------
    InputError
        If two classes have no ancestor in common.
    """
    ontology = load_cell_ontology() if ontology is None else ontology
    ids = ontology.resolve(classes)
    below: dict[str, list[tuple[int, int]]] = {}
    for at, cell_type in enumerate(ids):
        for ancestor, steps in ontology.hops_to_ancestors(cell_type).items():
            below.setdefault(ancestor, []).append((at, steps))
    # Farther than any way there is. The steps of the whole way and of its first part are digits of one number.
    far = 2 * len(ontology) + 1
    nearest = np.full((len(ids), len(ids)), far * far, dtype=np.int64)
    for members in below.values():
        at, steps = np.array(members).T
        pairs = np.ix_(at, at)
        nearest[pairs] = np.minimum(nearest[pairs], (steps[:, None] + steps) * far + steps[:, None])
    hops, hops_to_common = np.divmod(nearest, far)
    if len(apart := np.argwhere(hops >= far)):
        first, second = (classes[at] for at in apart[0])
        raise InputError(f"{first!r} and {second!r} have no ancestor in common: take types of one ontology.")
    return hops, hops_to_common


def _check_size(confusion: np.ndarray, classes: Sequence[str]) -> None:
    if confusion.shape[-1] != len(classes):
        raise InputError(
            f"The confusion matrix has {confusion.shape[-1]:,} classes, but {len(classes):,} are named: give the "
            "names in the order of its rows."
        )

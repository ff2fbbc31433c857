"""Labelled cells in an embedding: what others are by them, how sure that is, and what is like none of them."""

import logging
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from selfcell.core.seeds import numpy_rng
from selfcell.downstream.calibration import calibrated_probability, fit_temperature, logits_of_shares
from selfcell.downstream.conformal import PredictionSets, fit_prediction_sets
from selfcell.downstream.logistic_regression import log_probability_by_probe
from selfcell.downstream.neighbors import N_NEIGHBORS, Weights, class_shares, count_votes, find_neighbors
from selfcell.downstream.type_classifier import ClassWeights
from selfcell.downstream.unknown import call_unknown, share_farther

logger = logging.getLogger(__name__)

N_FOLDS = 5
N_ASKED = 20_000
"""Reference cells at most that are asked about, as if they were a query, to learn how far answers can be trusted."""
FEW_ASKED = 50
"""With fewer, a warning is logged."""
ALPHA = 0.05

By: TypeAlias = Literal["knn", "logistic"]
"""How labelled cells name others: the nearest vote (the regime zero_shot), or a logistic regression (probe)."""


class Naming(NamedTuple):
    """How labelled cells name others."""

    n_classes: int
    by: By = "knn"
    n_neighbors: int = N_NEIGHBORS
    """Labelled cells that vote, and to which distances are taken."""
    weights: Weights = "uniform"
    """Of votes; see :func:`selfcell.downstream.neighbors.vote_of_neighbors`."""
    class_weights: ClassWeights = "root"
    """Of a regression."""

    def ask(
        self,
        embedding: Float[np.ndarray, "n_cells n_latent"],
        label_code: Int[np.ndarray, " n_cells"],
        query: Float[np.ndarray, "n_query n_latent"],
    ) -> "Named":
        """Name query cells by labelled ones."""
        neighbors = find_neighbors(embedding, query, n_neighbors=self.n_neighbors)
        distance = neighbors.distances.mean(axis=1)
        if self.by == "logistic":
            logits = log_probability_by_probe(
                embedding, label_code, query, n_classes=self.n_classes, class_weights=self.class_weights
            )
            return Named(logits.argmax(axis=1), logits, distance)
        shares = class_shares(neighbors, label_code, n_classes=self.n_classes, weights=self.weights)
        logits = logits_of_shares(shares, n_votes=neighbors.indices.shape[1])
        return Named(count_votes(neighbors, label_code, weights=self.weights).label_code, logits, distance)


class Named(NamedTuple):
    """What labelled cells call others, before it is calibrated."""

    label_code: Int[np.ndarray, " n_query"]
    logits: Float[np.ndarray, "n_query n_classes"]
    """Logarithms of probabilities: of a regression, or of shares of votes, one vote being split among all labels."""
    distance: Float[np.ndarray, " n_query"]
    """Mean distance to the neighbors."""


class Assigned(NamedTuple):
    """What a reference says of query cells."""

    label_code: np.ndarray
    """The label that most neighbors bear, or that the regression finds most probable."""
    confidence: np.ndarray
    """Calibrated probability of that label."""
    uncalibrated: np.ndarray
    """The same as it is: by votes its share of them, one vote being split among all labels beforehand."""
    distance: np.ndarray
    """Mean distance to the neighbors."""
    share_farther: np.ndarray
    """Share of the reference cells given that label that lie as far from others, or farther; small is unfamiliar."""
    is_unknown: np.ndarray
    """Whether the cell is like none of the reference; see ``UNKNOWN_RULE`` of :mod:`selfcell.downstream.unknown`."""
    sets: Bool[np.ndarray, "n_query n_classes"]
    """Labels of the prediction set of each cell."""


@dataclass(frozen=True)
class LabelledReference:
    """A reference that has been asked about its own cells, each time without their donors.

    Made by :func:`calibrated_reference`.
    """

    embedding: Float[np.ndarray, "n_cells n_latent"]
    label_code: Int[np.ndarray, " n_cells"]
    naming: Naming
    alpha: float
    temperature: float
    sets: PredictionSets
    asked_code: Int[np.ndarray, " n_asked"]
    """Label that each cell was given that was asked about."""
    asked_distance: Float[np.ndarray, " n_asked"]
    """Its mean distance to its neighbors."""

    def assign(self, query: Float[np.ndarray, "n_query n_latent"]) -> Assigned:
        """Give each query cell a label, with how sure it is."""
        named = self.naming.ask(self.embedding, self.label_code, query)
        probability = calibrated_probability(named.logits, temperature=self.temperature)
        sets = self.sets.predict(probability)
        share = share_farther(self.asked_distance, self.asked_code, named.distance, named.label_code)
        place = np.arange(len(query)), named.label_code
        unknown = call_unknown(sets, share, alpha=self.alpha)
        uncalibrated = np.exp(named.logits[place])
        return Assigned(named.label_code, probability[place], uncalibrated, named.distance, share, unknown, sets)


def calibrated_reference(
    embedding: Float[np.ndarray, "n_cells n_latent"],
    label_code: Int[np.ndarray, " n_cells"],
    naming: Naming,
    *,
    donor_code: Int[np.ndarray, " n_cells"] | None,
    alpha: float = ALPHA,
) -> LabelledReference:
    """Ask a reference about its own cells, fold by fold of donors, to learn how far its answers can be trusted.

    From the answers come a temperature that calibrates probabilities or shares of votes, prediction sets, and how far
    cells of each type lie from those of other donors. Cells of a type that no other fold has are left out. Without
    donors the folds are of cells, which overstates what can be said of cells of new donors.

    Parameters
    ----------
    embedding
        Of the reference cells.
    label_code
        Their types, from 0 up to below ``naming.n_classes``.
    naming
        How they name others.
    donor_code
        Their donors.
    alpha
        Share of known cells that may be called unknown, for each of the two reasons.
    """
    rng = numpy_rng(0, "calibration of a reference")
    fold = _folds(len(embedding), donor_code, rng)
    if not _some_are_known(label_code, fold):
        logger.warning(
            "Every type is of the donors of one fold, so that no other donor tells how sure to be. Confidence is that "
            "on new cells of the same donors, which is too high for others."
        )
        fold, donor_code = _folds(len(embedding), None, rng), None
    asked = np.sort(rng.permutation(len(embedding))[:N_ASKED])
    logits, distance = np.empty((len(asked), naming.n_classes)), np.empty(len(asked))
    given = np.empty(len(asked), dtype=np.int64)
    known = np.zeros(len(asked), dtype=bool)
    for one in np.unique(fold):
        rest, here = fold != one, fold[asked] == one
        # That a small reference has fewer neighbors is said of it, not of each fold.
        of_fold = naming._replace(n_neighbors=min(naming.n_neighbors, int(rest.sum())))
        named = of_fold.ask(embedding[rest], label_code[rest], embedding[asked[here]])
        given[here], logits[here], distance[here] = named
        known[here] = np.isin(label_code[asked[here]], np.unique(label_code[rest]))
    if known.sum() < FEW_ASKED:
        logger.warning("Only %s cells of the reference tell how sure to be: confidence is a rough guess.", known.sum())
    truth = label_code[asked]
    donors = None if donor_code is None else donor_code[asked][known]
    temperature = fit_temperature(logits[known], truth[known], donor_code=donors)
    probability = calibrated_probability(logits[known], temperature=temperature)
    return LabelledReference(
        embedding=embedding,
        label_code=label_code,
        naming=naming,
        alpha=alpha,
        temperature=temperature,
        sets=fit_prediction_sets(probability, truth[known], alpha=alpha),
        asked_code=given[known],
        asked_distance=distance[known],
    )


def _some_are_known(label_code: np.ndarray, fold: np.ndarray) -> bool:
    """Tell whether cells of some type are in more than one fold."""
    pairs = np.unique(np.stack([label_code, fold]), axis=1)
    return len(pairs[0]) > len(np.unique(label_code))


def _folds(n_cells: int, donor_code: np.ndarray | None, rng: np.random.Generator) -> Int[np.ndarray, " n_cells"]:
    """Give the fold of each cell; all cells of a donor are in one."""
    if donor_code is None or len(np.unique(donor_code)) < 2:
        return rng.permutation(n_cells) % N_FOLDS
    donors, place = np.unique(donor_code, return_inverse=True)
    folds: np.ndarray = (rng.permutation(len(donors)) % N_FOLDS)[place]
    return folds

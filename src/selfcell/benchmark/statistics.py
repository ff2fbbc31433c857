"""Means, intervals and verdicts, from the confusion table alone.

Cells of one donor are not independent, and three seeds are too few for a bootstrap over seeds. So the variance of a
mean over seeds is put together from two parts: the variance between seeds, divided by their number, and the variance
over test donors, from a bootstrap that draws whole donors anew and recomputes macro F1. The interval is Student's, with
the degrees of freedom of Welch and Satterthwaite. Differences are taken within each seed and each draw of donors.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from selfcell.downstream.metrics import macro_f1

N_RESAMPLES = 2_000
CONFIDENCE = 0.95

Verdict = Literal["helps", "no evidence", "hurts"]

VERDICT_RULE = (
    "Helps or better (hurts or worse): the 95 % interval of the difference in macro F1 lies above (below) zero and "
    "every seed agrees in sign. No evidence, no clear difference: anything else. The interval takes in the spread over "
    "seeds and over test donors, paired: both sides are judged on the same seeds and donors."
)


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]

    def __str__(self) -> str:
        low, high = (f"{bound:.3f}".replace("0.", ".", 1) for bound in (self.low, self.high))
        return f"{self.mean:.3f} [{low}, {high}]"


@dataclass(frozen=True)
class Comparison:
    """One method against another at one label budget."""

    method: str
    against: str
    budget: str
    difference: Estimate

    @property
    def verdict(self) -> Verdict:
        """The verdict by :data:`VERDICT_RULE`."""
        if len(self.difference.by_seed) < 2:
            return "no evidence"
        if self.difference.low > 0 and min(self.difference.by_seed) > 0:
            return "helps"
        if self.difference.high < 0 and max(self.difference.by_seed) < 0:
            return "hurts"
        return "no evidence"

    @property
    def finding(self) -> str:
        """The verdict in the words that fit: pre-training helps or hurts, a method is better or worse than another."""
        if len(self.difference.by_seed) < 2:
            return "no verdict from a single seed"
        if self.against == "from_scratch":
            return self.verdict
        return {"helps": "better", "hurts": "worse", "no evidence": "no clear difference"}[self.verdict]


class ConfusionStack:
    """Confusion matrices by method, budget, seed and test donor, as arrays.

    Parameters
    ----------
    confusion
        The table of a results folder.
    """

    def __init__(self, confusion: pd.DataFrame) -> None:
        self.classes = tuple(sorted(set(confusion["truth"]) | set(confusion["predicted"])))
        self.donors = tuple(sorted(set(confusion["donor"])))
        self.budgets = tuple(dict.fromkeys(confusion["budget"]))
        self.methods = tuple(dict.fromkeys(confusion["method"]))
        self._parts = dict(list(confusion.groupby(["method", "budget"], sort=False)))

    def matrices(self, method: str, budget: str) -> Float[np.ndarray, "n_seeds n_donors n_classes n_classes"]:
        """Give cells by seed, donor, true class and predicted class."""
        part = self._parts[method, budget]
        seeds = sorted(set(part["finetune_seed"]))
        shape = (len(seeds), len(self.donors), len(self.classes), len(self.classes))
        positions = (
            pd.Categorical(part["finetune_seed"], categories=seeds).codes,
            pd.Categorical(part["donor"], categories=list(self.donors)).codes,
            pd.Categorical(part["truth"], categories=list(self.classes)).codes,
            pd.Categorical(part["predicted"], categories=list(self.classes)).codes,
        )
        matrices = np.zeros(shape)
        np.add.at(matrices, positions, part["n_cells"].to_numpy(dtype=float))
        return matrices

    def has(self, method: str, budget: str) -> bool:
        """Tell whether a method was run at a budget."""
        return (method, budget) in self._parts

    def estimate(self, method: str, budget: str) -> Estimate:
        """Estimate the macro F1 of one method."""
        return _estimate(self.matrices(method, budget))

    def compare(self, method: str, against: str, budget: str) -> Comparison:
        """Compare two methods on the same seeds and donors."""
        difference = _estimate(self.matrices(method, budget), self.matrices(against, budget))
        return Comparison(method, against, budget, difference)


QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("fine_tuned", "from_scratch", "Does pre-training help a network that is then trained with labels?"),
    ("zero_shot", "pca_knn", "Is the frozen embedding a better space than PCA?"),
    ("probe", "logistic_regression", "Does a probe on the frozen embedding beat logistic regression on the genes?"),
    ("fine_tuned", "logistic_regression", "Does the fine-tuned network beat logistic regression on the genes?"),
    ("zero_shot", "untrained_encoder", "Did pre-training teach the encoder anything?"),
)
"""What a study answers: (method, against, question)."""


def answer_questions(stack: ConfusionStack) -> list[tuple[str, list[Comparison]]]:
    """Answer every question of :data:`QUESTIONS` that was studied, at every label budget."""
    answers = []
    for method, against, question in QUESTIONS:
        budgets = [budget for budget in stack.budgets if stack.has(method, budget) and stack.has(against, budget)]
        if budgets:
            answers.append((question, [stack.compare(method, against, budget) for budget in budgets]))
    return answers


def summarize(stack: ConfusionStack) -> dict[tuple[str, str], Estimate]:
    """Estimate macro F1 for every method and budget that was run."""
    return {
        (method, budget): stack.estimate(method, budget)
        for method in stack.methods
        for budget in stack.budgets
        if stack.has(method, budget)
    }


def _estimate(
    matrices: Float[np.ndarray, "n_seeds n_donors n_classes n_classes"],
    against: Float[np.ndarray, "n_seeds n_donors n_classes n_classes"] | None = None,
) -> Estimate:
    """Estimate a mean over seeds, or a difference of two, by the rule at the head of this file."""
    n_seeds, n_donors = matrices.shape[:2]
    # The same draws every time and for both sides: an interval is a function of the table.
    rng = np.random.default_rng(0)
    donor_weight = rng.multinomial(n_donors, np.full(n_donors, 1 / n_donors), size=N_RESAMPLES).astype(float)
    by_seed, resampled = _scores(matrices, donor_weight)
    if against is not None:
        by_seed_against, resampled_against = _scores(against, donor_weight)
        by_seed, resampled = by_seed - by_seed_against, resampled - resampled_against
    over_seeds = by_seed.var(ddof=1) / n_seeds if n_seeds > 1 else 0.0
    # The bootstrap's variance is too small by (n - 1) / n.
    over_donors = resampled.var() * n_donors / (n_donors - 1) if n_donors > 1 else 0.0
    variance = over_seeds + over_donors
    degrees = variance**2 / (
        over_seeds**2 / max(n_seeds - 1, 1) + over_donors**2 / max(n_donors - 1, 1) + np.finfo(float).tiny
    )
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, max(degrees, 1.0)) * np.sqrt(variance)
    mean = float(by_seed.mean())
    return Estimate(mean, mean - float(half), mean + float(half), tuple(map(float, by_seed)))


def _scores(matrices: np.ndarray, donor_weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the macro F1 of each seed over all donors, and of each resample of donors the mean over seeds."""
    resampled = np.stack([macro_f1(np.tensordot(donor_weight, of_seed, axes=1)) for of_seed in matrices], axis=1)
    return macro_f1(matrices.sum(axis=1)), resampled.mean(axis=1)

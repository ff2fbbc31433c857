"""Means, intervals and verdicts, from the tables of a study alone.

Cells of one donor are not independent, and three seeds are too few for a bootstrap over seeds. So the variance of a
mean over seeds is put together from parts: the variance between seeds, divided by their number, and the variance over
test donors, from a bootstrap that draws whole donors anew and recomputes the score. Where every pre-training is
fine-tuned with every seed, pre-trainings and fine-tunings each give a part: the variance of the means over the other,
divided by their number, which counts what is left of each pair twice, on the safe side. The interval is Student's, with
the degrees of freedom of Welch and Satterthwaite. Differences are taken within each pair of seeds and each draw of
donors.
"""

import abc
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from selfcell.core.errors import InputError, did_you_mean
from selfcell.downstream.metrics import macro_f1, per_class
from selfcell.downstream.resampling import draw_units

N_RESAMPLES = 2_000
CONFIDENCE = 0.95
_LEAST_DEGREES = 2
"""Of freedom, where seeds alone vary: from two seeds that happen to agree no certainty follows."""
_SHARES = frozenset(
    {"macro_f1", "micro_f1", "balanced_accuracy", "macro_f1_ontology", "micro_f1_ontology"}
    | {"total", "bio_conservation", "batch_correction", "all_total"}
)
"""Scores between 0 and 1."""

Verdict = Literal["helps", "no evidence", "hurts"]

VERDICT_RULE = (
    "Helps or better (hurts or worse): the 95 % interval of the difference lies above (below) zero and "
    "every seed agrees in sign. No evidence, no clear difference: anything else. "
)
OVER_DONORS = "Intervals take in the spread over seeds and over test donors, paired: both sides have the same of both."
OVER_SEEDS = (
    "Intervals take in the spread over seeds alone, paired: they say nothing of other donors, over whom this score "
    "cannot be resampled."
)


class Estimate(NamedTuple):
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    """NaN where nothing was varied that an interval could be made of."""
    high: float
    by_seed: tuple[float, ...]

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.mean:.3f}"
        low, high = (re.sub(r"^(-?)0\.", r"\1.", f"{bound:.3f}") for bound in (self.low, self.high))
        return f"{self.mean:.3f} [{low}, {high}]"

    def with_sign(self) -> str:
        """Write it as a difference, with signs."""
        return f"{self.mean:+.3f}" + ("" if np.isnan(self.low) else f" [{self.low:+.3f}, {self.high:+.3f}]")


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
        if np.isnan(self.difference.low):
            return "no verdict, since seeds are too few or do not vary it"
        if self.against == "from_scratch":
            return self.verdict
        return {"helps": "better", "hurts": "worse", "no evidence": "no clear difference"}[self.verdict]


class Draws(NamedTuple):
    """The score of one method at one budget: of each pair of seeds, and of each draw of test donors."""

    seeds: tuple[tuple[int, int], ...]
    """Seeds of pre-training and of fine-tuning."""
    by_seed: Float[np.ndarray, " n_seeds"]
    """Over all test cells."""
    resampled: Float[np.ndarray, " n_draws"]
    """Mean over seeds; empty where the score has no meaning on a draw of donors."""
    n_units: int
    """Test donors."""


class Stack(abc.ABC):
    """The scores of a study by method, budget, seeds and draw of test donors, whatever they were made of."""

    budgets: tuple[str, ...]
    methods: tuple[str, ...]
    bounds: tuple[float, float]
    """What the score can be at least and at most."""

    @abc.abstractmethod
    def draws(self, method: str, budget: str) -> Draws:
        """Give the scores of a method at a budget."""

    @abc.abstractmethod
    def has(self, method: str, budget: str) -> bool:
        """Tell whether a method was run at a budget."""

    def estimate(self, method: str, budget: str) -> Estimate:
        """Estimate the score of one method."""
        return _within(_estimate(self.draws(method, budget)), self.bounds)

    def compare(self, method: str, against: str, budget: str) -> Comparison:
        """Compare two methods on the same seeds and donors."""
        one, other = self.draws(method, budget), self.draws(against, budget)
        pairs = [pair for pair in one.seeds if pair in other.seeds]
        if not pairs:
            raise InputError(f"{method} and {against} were run with different seeds, so they cannot be compared.")
        difference = Draws(
            tuple(pairs),
            np.array([one.by_seed[one.seeds.index(pair)] - other.by_seed[other.seeds.index(pair)] for pair in pairs]),
            one.resampled - other.resampled if len(one.resampled) == len(other.resampled) else np.empty(0),
            one.n_units,
        )
        return Comparison(method, against, budget, _estimate(difference))


class ConfusionStack(Stack):
    """Macro F1 from confusion matrices by method, budget, seeds and test donor.

    Parameters
    ----------
    confusion
        The table of a results folder.
    """

    bounds = (0.0, 1.0)

    def __init__(self, confusion: pd.DataFrame) -> None:
        self.classes = tuple(sorted(set(confusion["truth"]) | set(confusion["predicted"])))
        self.donors = tuple(sorted(set(confusion["donor"])))
        self.budgets = tuple(dict.fromkeys(confusion["budget"]))
        self.methods = tuple(dict.fromkeys(confusion["method"]))
        self._parts = dict(list(confusion.groupby(["method", "budget"], sort=False)))

    def matrices(self, method: str, budget: str) -> Float[np.ndarray, "n_seeds n_donors n_classes n_classes"]:
        """Give cells by pair of seeds, donor, true class and predicted class."""
        part = self._parts[method, budget]
        seeds = _seed_pairs(part)
        shape = (len(seeds), len(self.donors), len(self.classes), len(self.classes))
        place_of = {pair: place for place, pair in enumerate(seeds)}
        positions = (
            np.array([place_of[pair] for pair in _pairs(part)]),
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

    def draws(self, method: str, budget: str) -> Draws:
        """Give the macro F1 of each pair of seeds, and of each draw of donors."""
        matrices = self.matrices(method, budget)
        weight = draw_units(len(self.donors), n_draws=N_RESAMPLES)
        resampled = np.stack([macro_f1(np.tensordot(weight, of_seed, axes=1)) for of_seed in matrices], axis=1)
        seeds = _seed_pairs(self._parts[method, budget])
        return Draws(seeds, macro_f1(matrices.sum(axis=1)), resampled.mean(axis=1), len(self.donors))

    def estimate_classes(self, method: str, budget: str) -> dict[str, Estimate]:
        """Estimate the F1 of each class that test cells are of, over seeds and over the donors that have it.

        A class of a single donor has no interval: how donors differ cannot be told.
        """
        matrices = self.matrices(method, budget)
        weight = draw_units(len(self.donors), n_draws=N_RESAMPLES)
        by_seed = per_class(matrices.sum(axis=1))
        of_draws = [per_class(np.tensordot(weight, of_seed, axes=1)) for of_seed in matrices]
        # A draw without donors that have the class says nothing of it, though others may be taken for it.
        resampled = np.mean([np.where(scores.n_cells > 0, scores.f1, np.nan) for scores in of_draws], axis=0)
        n_donors = (matrices[0].sum(axis=2) > 0).sum(axis=0)
        seeds = _seed_pairs(self._parts[method, budget])
        estimates = {}
        for place in np.flatnonzero(n_donors):
            draws = Draws(seeds, by_seed.f1[:, place], resampled[:, place], int(n_donors[place]))
            estimate = _within(_estimate(draws), self.bounds)
            if n_donors[place] == 1:
                estimate = estimate._replace(low=np.nan, high=np.nan)
            estimates[self.classes[place]] = estimate
        return estimates


class ScoreStack(Stack):
    """One score of any task, from its rows and their draws.

    Parameters
    ----------
    scores, resamples
        The tables of a results folder.
    metric
        The score.
    """

    def __init__(self, scores: pd.DataFrame, resamples: pd.DataFrame, metric: str) -> None:
        rows = scores[(scores["metric"] == metric) & scores["value"].notna()]
        if rows.empty:
            raise InputError(f"There is no score {metric!r}. {did_you_mean(metric, sorted(set(scores['metric'])))}")
        self.metric = metric
        self.bounds = _bounds_of(metric)
        self.budgets = tuple(dict.fromkeys(rows["budget"]))
        self.methods = tuple(dict.fromkeys(rows["method"]))
        self._parts = dict(list(rows.groupby(["method", "budget"], sort=False)))
        of_metric = resamples[resamples["metric"] == metric]
        self._resampled = of_metric.set_index("trial_id").drop(columns="metric")

    def has(self, method: str, budget: str) -> bool:
        """Tell whether a method was run at a budget."""
        return (method, budget) in self._parts

    def draws(self, method: str, budget: str) -> Draws:
        """Give the score of each pair of seeds, and of each draw of donors."""
        part = self._parts[method, budget].sort_values(["pretrain_seed", "finetune_seed"])
        known = part["trial_id"].isin(self._resampled.index).all()
        resampled = self._resampled.loc[part["trial_id"]].to_numpy(dtype=float).mean(axis=0) if known else np.empty(0)
        n_units = int(part["n_units"].iloc[0])
        return Draws(_pairs(part), part["value"].to_numpy(dtype=float), resampled, n_units)


def _pairs(table: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    return tuple(zip(table["pretrain_seed"].astype(int), table["finetune_seed"].astype(int), strict=True))


def _seed_pairs(table: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(set(_pairs(table))))


QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("fine_tuned", "from_scratch", "Does pre-training help a network that is then trained for the task?"),
    ("zero_shot", "pca_knn", "Is the frozen embedding a better space than PCA?"),
    ("probe", "logistic_regression", "Does a probe on the frozen embedding beat logistic regression on the genes?"),
    ("fine_tuned", "logistic_regression", "Does the fine-tuned network beat logistic regression on the genes?"),
    ("zero_shot", "pca", "Does the network as pre-training left it do better than PCA?"),
    ("fine_tuned", "pca", "Does the fine-tuned network do better than PCA?"),
    ("zero_shot", "gene_means", "Does the decoder as pre-training left it tell cells apart at all?"),
    ("probe", "gene_ridge", "Does a probe on the frozen embedding beat ridge regression on the genes?"),
    ("fine_tuned", "gene_ridge", "Does the fine-tuned network beat ridge regression on the genes?"),
    ("fine_tuned", "harmony", "Does the fine-tuned encoder integrate better than Harmony, which sees all cells?"),
    ("fine_tuned", "scvi", "Does the fine-tuned encoder integrate better than scVI?"),
    ("zero_shot", "scvi", "Is the frozen embedding a better space than that of scVI?"),
    ("fine_tuned", "scanvi", "Does the fine-tuned network beat scANVI?"),
    ("zero_shot", "untrained_encoder", "Did pre-training teach the encoder anything?"),
)
"""What a study answers: (method, against, question)."""


def answer_questions(stack: Stack) -> list[tuple[str, list[Comparison]]]:
    """Answer every question of :data:`QUESTIONS` that was studied, at every label budget."""
    answers = []
    for method, against, question in QUESTIONS:
        budgets = [budget for budget in stack.budgets if stack.has(method, budget) and stack.has(against, budget)]
        if budgets:
            answers.append((question, [stack.compare(method, against, budget) for budget in budgets]))
    return answers


def summarize(stack: Stack) -> dict[tuple[str, str], Estimate]:
    """Estimate the score of every method and budget that was run."""
    return {
        (method, budget): stack.estimate(method, budget)
        for method in stack.methods
        for budget in stack.budgets
        if stack.has(method, budget)
    }


def _bounds_of(metric: str) -> tuple[float, float]:
    if "pearson" in metric or "spearman" in metric:
        return -1.0, 1.0
    if "mse" in metric:
        return 0.0, np.inf
    if "explained_variance" in metric:
        return -np.inf, 1.0
    return (0.0, 1.0) if metric in _SHARES else (-np.inf, np.inf)


def _within(estimate: Estimate, bounds: tuple[float, float]) -> Estimate:
    """Cut off of an interval what the score cannot be."""
    return estimate._replace(low=max(estimate.low, bounds[0]), high=min(estimate.high, bounds[1]))


def _estimate(draws: Draws) -> Estimate:
    """Estimate a mean over seeds, or a difference of two, by the rule at the head of this file."""
    parts = _variances_over_seeds(draws)
    mean, by_seed = float(draws.by_seed.mean()), tuple(map(float, draws.by_seed))
    # Draws on which the score has no meaning say nothing.
    if draws.n_units > 1 and np.isfinite(draws.resampled).any():
        # The bootstrap's variance is too small by (n - 1) / n.
        parts.append((float(np.nanvar(draws.resampled)) * draws.n_units / (draws.n_units - 1), draws.n_units - 1))
    elif not any(part for part, _ in parts) or max(degrees for _, degrees in parts) < _LEAST_DEGREES:
        # Only seeds could vary, and none of them matters, or two agree by chance: that is no certainty.
        return Estimate(mean, np.nan, np.nan, by_seed)
    variance = sum(part for part, _ in parts)
    uncertainty = sum(part**2 / degrees for part, degrees in parts) + np.finfo(float).tiny
    half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, max(variance**2 / uncertainty, 1.0)) * np.sqrt(variance)
    return Estimate(mean, mean - float(half), mean + float(half), by_seed)


def _variances_over_seeds(draws: Draws) -> list[tuple[float, int]]:
    """Give the parts of the variance of the mean that come from seeds, each with its degrees of freedom."""
    pretraining, finetuning = (np.array(seeds) for seeds in zip(*draws.seeds, strict=True))
    n_seeds = len(draws.by_seed)
    if n_seeds == 1:
        return []
    if len(np.unique(pretraining)) * len(np.unique(finetuning)) != n_seeds:
        # Each fine-tuning has a pre-training of its own, or several share one: a pre-training is what is independent,
        # and one variance takes in both. A single one that all share cannot vary.
        levels = np.unique(pretraining)
        values = draws.by_seed
        if 1 < len(levels) < n_seeds:
            values = np.array([draws.by_seed[pretraining == level].mean() for level in levels])
        return [(values.var(ddof=1) / len(values), len(values) - 1)]
    parts = []
    for factor in (pretraining, finetuning):
        levels = np.unique(factor)
        if len(levels) > 1:
            means = np.array([draws.by_seed[factor == level].mean() for level in levels])
            parts.append((float(means.var(ddof=1)) / len(levels), len(levels) - 1))
    return parts

"""Methods compared on the same seeds and test donors, from the tables of a study alone, and what follows."""

import abc
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from jaxtyping import Float

from selfcell.benchmark.intervals import N_RESAMPLES, Draws, Estimate, estimate_of
from selfcell.benchmark.score_bounds import bounds_of, within
from selfcell.core.errors import InputError, did_you_mean
from selfcell.downstream.metrics import macro_f1, per_class
from selfcell.downstream.resampling import draw_units

Seeds: TypeAlias = tuple[tuple[int, int], ...]
"""Pairs of a seed of pre-training and one of fine-tuning."""
Verdict = Literal["helps", "no evidence", "hurts"]

TOO_FEW_SEEDS = "no verdict (too few seeds)"
"""What is found where there is an interval, and fewer seeds of a kind than a verdict takes."""
LEAST_SEEDS = 3
"""Values of each kind of seed that varies, of pre-training and of fine-tuning, that a verdict needs: from two that
agree by chance, twice as many would be wrong as are promised."""
VERDICT_RULE = (
    "Helps or better (hurts or worse): the 95 % interval of the difference lies above (below) zero, from three seeds "
    "on of each kind that varies (pre-training, fine-tuning). No evidence, no clear difference: anything else. Each "
    "comparison is judged alone: where many are made and nothing has an effect, about one in twenty is called clear "
    "all the same. "
)
SPREADS = {
    "donors": "Intervals take in the spread over seeds and over test donors, paired: both sides have the same of both.",
    "blocks": (
        "Intervals take in the spread over seeds and over 50 random blocks of the test cells, paired. No donors are "
        "named, so they say nothing of other donors, over whom scores vary more as a rule."
    ),
    "seeds": (
        "Intervals take in the spread over seeds alone, paired: they say nothing of other donors, over whom this score "
        "cannot be resampled, or of whom there is one."
    ),
}
"""What intervals take in, by what is resampled beside seeds."""


def spread_of(draws: Draws, *, has_donors: bool) -> str:
    """Give what an interval of a score takes in, one of :data:`SPREADS`; ``has_donors``: whether donors are named."""
    if draws.n_units < 2 or not np.isfinite(draws.resampled).any():
        return "seeds"
    return "donors" if has_donors else "blocks"


@dataclass(frozen=True)
class Comparison:
    """One method against another at one label budget."""

    method: str
    against: str
    budget: str
    difference: Estimate
    n_run: int = 0
    """Pairs of seeds that were run, those that share a computation too."""

    @property
    def can_decide(self) -> bool:
        """Whether there may be a verdict: there is an interval, and seeds of each kind that varies are enough."""
        levels = len(self.difference.by_seed) if self.difference.levels is None else self.difference.levels
        return levels >= LEAST_SEEDS and not np.isnan(self.difference.low)

    @property
    def detectable(self) -> float:
        """The difference of which there would have been a verdict with a probability of 0.8; NaN if of none."""
        return self.difference.detectable if self.can_decide else float("nan")

    @property
    def verdict(self) -> Verdict:
        """The verdict by :data:`VERDICT_RULE`."""
        if not self.can_decide:
            return "no evidence"
        if self.difference.low > 0:
            return "helps"
        if self.difference.high < 0:
            return "hurts"
        return "no evidence"

    @property
    def n_agree(self) -> int:
        """Pairs of seeds of which the difference has the sign of the mean; no part of a verdict."""
        return int(np.count_nonzero(np.sign(self.difference.by_seed) == np.sign(self.difference.mean)))

    @property
    def finding(self) -> str:
        """The verdict in the words that fit: pre-training helps or hurts, a method is better or worse than another."""
        if not self.can_decide:
            if max(self.n_run, len(self.difference.by_seed)) == 1:
                return "no verdict from a single seed"
            if len(set(self.difference.by_seed)) == 1:
                return "no verdict: seeds do not vary it"
            return TOO_FEW_SEEDS
        if self.against == "from_scratch":
            return self.verdict
        return {"helps": "better", "hurts": "worse", "no evidence": "no clear difference"}[self.verdict]


class Stack(abc.ABC):
    """The scores of a study by method, budget, seeds and draw of test donors, whatever they were made of."""

    budgets: tuple[str, ...]
    methods: tuple[str, ...]
    bounds: tuple[float, float]
    """What the score can be at least and at most."""

    @abc.abstractmethod
    def draws(self, method: str, budget: str, *, among: Seeds | None = None) -> Draws:
        """Give the scores of a method at a budget, of all pairs of seeds or of some."""

    @abc.abstractmethod
    def has(self, method: str, budget: str) -> bool:
        """Tell whether a method was run at a budget."""

    @abc.abstractmethod
    def judged_on(self, method: str, budget: str) -> frozenset[str]:
        """Give the hashes of the cells that a method was judged on; none where they are not known."""

    def are_of_other_cells(self, method: str, against: str, budget: str) -> bool:
        """Tell whether two methods are known to be judged on different cells, so that their scores are no pairs."""
        if not (self.has(method, budget) and self.has(against, budget)):
            return False
        one, other = self.judged_on(method, budget), self.judged_on(against, budget)
        return bool(one) and bool(other) and one != other

    def estimate(self, method: str, budget: str) -> Estimate:
        """Estimate the score of one method."""
        return within(estimate_of(self.draws(method, budget).without_copies()), self.bounds)

    def can_compare(self, method: str, against: str, budget: str) -> bool:
        """Tell whether two methods were run at a budget, on the same test cells, with a pair of seeds in common."""
        if not (self.has(method, budget) and self.has(against, budget)):
            return False
        if self.are_of_other_cells(method, against, budget):
            return False
        return not set(self.draws(method, budget).seeds).isdisjoint(self.draws(against, budget).seeds)

    def compare(self, method: str, against: str, budget: str) -> Comparison:
        """Compare two methods on the same seeds and donors.

        Raises
        ------
        InputError
            If they have no pair of seeds in common, or were judged on different cells.
        """
        if self.are_of_other_cells(method, against, budget):
            raise InputError(f"{method} and {against} were judged on different cells, so they cannot be compared.")
        one, other = self.draws(method, budget), self.draws(against, budget)
        pairs = [pair for pair in one.seeds if pair in other.seeds]
        if not pairs:
            raise InputError(f"{method} and {against} were run with different seeds, so they cannot be compared.")
        if len(pairs) < max(len(one.seeds), len(other.seeds)):
            # Some trials failed: both sides are to be of the same ones.
            one, other = (self.draws(side, budget, among=tuple(pairs)) for side in (method, against))
        places = [(one.seeds.index(pair), other.seeds.index(pair)) for pair in pairs]
        difference = Draws(
            tuple(pairs),
            np.array([one.by_seed[first] - other.by_seed[second] for first, second in places]),
            one.resampled - other.resampled if len(one.resampled) == len(other.resampled) else np.empty(0),
            one.n_units,
            tuple(f"{one.works[first]} {other.works[second]}" for first, second in places) if one.works else (),
        )
        least, most = self.bounds
        found = within(estimate_of(difference.without_copies()), (least - most, most - least))
        return Comparison(method, against, budget, found, len(pairs))


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

    def judged_on(self, method: str, budget: str) -> frozenset[str]:  # noqa: ARG002 - matrices do not tell
        """Give nothing: a table of confusion is of one study, whose methods are judged on the same cells."""
        return frozenset()

    def draws(self, method: str, budget: str, *, among: Seeds | None = None) -> Draws:
        """Give the macro F1 of each pair of seeds, and of each draw of donors."""
        everyone = _seed_pairs(self._parts[method, budget])
        seeds = everyone if among is None else tuple(pair for pair in everyone if pair in among)
        matrices = self.matrices(method, budget)[[everyone.index(pair) for pair in seeds]]
        weight = draw_units(len(self.donors), n_draws=N_RESAMPLES)
        resampled = np.stack([macro_f1(np.tensordot(weight, of_seed, axes=1)) for of_seed in matrices], axis=1)
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
            found = within(estimate_of(draws), self.bounds)
            alone = n_donors[place] == 1
            estimates[self.classes[place]] = found._replace(low=np.nan, high=np.nan) if alone else found
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
        if scores["value"].isna().all():
            raise InputError("All trials failed: the column error of the scores says why.")
        if rows.empty:
            raise InputError(f"There is no score {metric!r}. {did_you_mean(metric, sorted(set(scores['metric'])))}")
        self.metric = metric
        self.bounds = bounds_of(metric)
        self.budgets = tuple(dict.fromkeys(rows["budget"]))
        self.methods = tuple(dict.fromkeys(rows["method"]))
        self._parts = dict(list(rows.groupby(["method", "budget"], sort=False)))
        of_metric = resamples[resamples["metric"] == metric]
        self._resampled = of_metric.set_index("trial_id").drop(columns="metric")

    def has(self, method: str, budget: str) -> bool:
        """Tell whether a method was run at a budget."""
        return (method, budget) in self._parts

    def judged_on(self, method: str, budget: str) -> frozenset[str]:
        """Give the hashes of the cells that a method was judged on; none in tables of before they were kept."""
        part = self._parts[method, budget]
        return frozenset(part["test_cells"].dropna().astype(str)) if "test_cells" in part else frozenset()

    def draws(self, method: str, budget: str, *, among: Seeds | None = None) -> Draws:
        """Give the score of each pair of seeds, and of each draw of donors."""
        part = self._parts[method, budget].sort_values(["pretrain_seed", "finetune_seed"])
        if among is not None:
            part = part[[pair in among for pair in _pairs(part)]]
        known = part["trial_id"].isin(self._resampled.index).all()
        resampled = self._resampled.loc[part["trial_id"]].to_numpy(dtype=float).mean(axis=0) if known else np.empty(0)
        works = tuple(part["work_id"].astype(str)) if "work_id" in part else ()
        n_units = int(part["n_units"].iloc[0])
        return Draws(_pairs(part), part["value"].to_numpy(dtype=float), resampled, n_units, works)


def _pairs(table: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    return tuple(zip(table["pretrain_seed"].astype(int), table["finetune_seed"].astype(int), strict=True))


def _seed_pairs(table: pd.DataFrame) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(set(_pairs(table))))


QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("fine_tuned", "from_scratch", "Does pre-training help a network that is then trained for the task?"),
    ("zero_shot", "pca_knn", "Is the frozen embedding a better space than PCA?"),
    ("probe", "logistic_regression", "Does a probe on the frozen embedding beat logistic regression on the genes?"),
    ("fine_tuned", "logistic_regression", "Does the fine-tuned network beat logistic regression on the genes?"),
    (
        "fine_tuned",
        "hvg_logistic_regression",
        "Does the fine-tuned network beat logistic regression on highly variable genes?",
    ),
    ("zero_shot", "pca", "Does the network as pre-training left it do better than PCA?"),
    ("fine_tuned", "pca", "Does the fine-tuned network do better than PCA?"),
    ("zero_shot", "gene_means", "Does the decoder as pre-training left it tell cells apart at all?"),
    ("probe", "gene_ridge", "Does a probe on the frozen embedding beat ridge regression on the genes?"),
    ("fine_tuned", "gene_ridge", "Does the fine-tuned network beat ridge regression on the genes?"),
    ("fine_tuned", "totalvi", "Does the fine-tuned network beat totalVI?"),
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
        budgets = [budget for budget in stack.budgets if stack.can_compare(method, against, budget)]
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

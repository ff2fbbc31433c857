"""The scores that a model's card shows: those of a folder which ``selfcell evaluate`` wrote."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfcell.benchmark.results import StudyResults, read_results
from selfcell.benchmark.statistics import SPREADS, VERDICT_RULE, answer_questions, summarize
from selfcell.core.errors import InputError
from selfcell.core.words import counted
from selfcell.reporting.html import caveats, headline, second_opinion, spread_over, stack_of, verdict_sentences
from selfcell.reporting.names import budget_word, method_name, metric_name
from selfcell.training.run_folder import TrainedModel


@dataclass(frozen=True)
class CardScores:
    """A table of scores, and what follows from it."""

    headline: str
    what: str
    """Which score of which cells, and how the intervals are meant."""
    budgets: tuple[str, ...]
    rows: list[tuple[str, list[str]]]
    """Each method with its score at each budget, as ``0.766 [.728, .804]``."""
    sentences: list[str]


def read_scores(folder: Path, model: TrainedModel) -> CardScores:
    """Read the scores of a model, without the names of donors that they may hold.

    Raises
    ------
    InputError
        If it is no folder of results, or they are of other models.
    """
    results = read_results(folder)
    about = results.about
    if not _is_of(about, model) or about["n_genes"] != len(model.genes):
        raise InputError(
            f"{folder} has results of another model than {model.name}. Give those that `selfcell evaluate` wrote of "
            "this one, and again if an earlier version wrote them; a fine-tuned model has none."
        )
    stack = stack_of(results)
    task = str(about["task"])
    estimates, answers = summarize(stack), answer_questions(stack)
    return CardScores(
        headline=headline(answers, task=task, n_pretrainings=len(set(about["pretrain_seeds"]))),
        what=_what(results, budget_word(task)),
        budgets=stack.budgets,
        rows=[
            (
                method_name(method),
                [str(estimates[method, budget]) if (method, budget) in estimates else "" for budget in stack.budgets],
            )
            for method in stack.methods
        ],
        sentences=[*verdict_sentences(answers, task=task), *second_opinion(results), *_caveats(results)],
    )


def _is_of(about: dict[str, Any], model: TrainedModel) -> bool:
    """Tell whether results are of a model: by its weights and how they are used."""
    if "weights" in about:
        network = model.encoder.settings.model_dump(mode="json")
        return (model.weights_digest, network) in zip(about["weights"], about.get("networks", []), strict=False)
    # Earlier versions kept the account of the training alone, which an imported checkpoint has not.
    fit = model.manifest.get("fit")
    return fit is not None and fit in about.get("pretraining", [])


def _what(results: StudyResults, known: str) -> str:
    about: dict[str, Any] = results.about
    test = about["split"]["test"]
    of_donors = f" of {counted(test['n_donors'], 'donor')}" if test["n_donors"] else ""
    seen: dict[bool | None, str] = {
        True: ", of which pre-training has seen some without labels",
        False: ", never seen before",
    }
    return (
        f"{metric_name(str(about['headline_metric']))} on {test['n_cells']:,} test cells{of_donors} of "
        f"{about['dataset']}{seen.get(about.get('has_seen'), '')}, by what is {known}: mean "
        f"over {counted(about['n_seeds'], 'seed')} [95 % interval]. {VERDICT_RULE}"
        f"{SPREADS[spread_over(results)]}"
    )


def _caveats(results: StudyResults) -> list[str]:
    """Give what a reader must know, with words of our own for the sentence that lists donors."""
    naming = results.about.get("seen_note")
    if not naming:
        return caveats(results)
    unnamed = (
        "Pre-training was given some of the test cells, or others of their donors, though not their labels: expect "
        "less on others."
        if results.about.get("has_seen")
        else "Whether pre-training was given the test cells, or others of their donors, is not known."
    )
    return [unnamed if caveat == naming else caveat for caveat in caveats(results)]

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from selfcell.benchmark.intervals import Estimate
from selfcell.benchmark.statistics import (
    Comparison,
    ConfusionStack,
    ScoreStack,
    answer_questions,
    summarize,
)
from selfcell.core.errors import InputError


def confusion_of(truth, predictions, donors, budget="all donors"):
    """The table of several methods: {method: [predictions of seed 0, of seed 1, ...]}."""
    tables = []
    for method, by_seed in predictions.items():
        for seed, predicted in enumerate(by_seed):
            table = pd.DataFrame({"donor": donors, "truth": truth, "predicted": predicted}).value_counts()
            tables.append(
                table.rename("n_cells")
                .reset_index()
                .assign(method=method, budget=budget, pretrain_seed=seed, finetune_seed=seed, trial_id="x")
            )
    return pd.concat(tables, ignore_index=True)


def noisy(truth, share_right, rng):
    wrong = rng.choice(["a", "b", "c"], size=len(truth))
    return np.where(rng.random(len(truth)) < share_right, truth, wrong)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_the_mean_is_the_mean_of_the_seeds_macro_f1(seed):
    rng = np.random.default_rng(seed)
    truth, donors = rng.choice(["a", "b", "c"], size=80), rng.choice(["d1", "d2", "d3"], size=80)
    predictions = [noisy(truth, 0.7, rng) for _ in range(3)]
    estimate = ConfusionStack(confusion_of(truth, {"m": predictions}, donors)).estimate("m", "all donors")
    expected = [f1_score(truth, one, labels=np.unique(truth), average="macro", zero_division=0) for one in predictions]
    assert estimate.by_seed == pytest.approx(expected)
    assert estimate.mean == pytest.approx(np.mean(expected))
    assert estimate.low <= estimate.high


def test_the_interval_agrees_with_the_written_out_rule():
    rng = np.random.default_rng(0)
    donors = np.repeat([f"d{n}" for n in range(8)], 40)
    truth = rng.choice(["a", "b", "c"], size=len(donors))
    predictions = [noisy(truth, share, rng) for share in (0.6, 0.7, 0.8)]
    estimate = ConfusionStack(confusion_of(truth, {"m": predictions}, donors)).estimate("m", "all donors")
    resampled = []
    for _ in range(1500):
        drawn = rng.choice(np.unique(donors), size=8)
        rows = np.concatenate([np.flatnonzero(donors == donor) for donor in drawn])
        resampled.append(np.mean([f1_score(truth[rows], one[rows], average="macro") for one in predictions]))
    over_donors = np.var(resampled) * 8 / 7
    over_seeds = np.var([f1_score(truth, one, average="macro") for one in predictions], ddof=1) / 3
    degrees = (over_seeds + over_donors) ** 2 / (over_seeds**2 / 2 + over_donors**2 / 7)
    half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(over_seeds + over_donors)
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.05)
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.05)


def test_seeds_that_differ_widen_the_interval_as_students_t_does():
    """With the same errors in every donor there is no spread over donors, and the rule is the t interval over seeds."""
    donors = np.repeat(["d0", "d1", "d2", "d3"], 30)
    truth = np.tile(np.repeat(["a", "b", "c"], 10), 4)
    predictions = []
    for n_wrong in (1, 3, 5):
        one = np.repeat(["a", "b", "c"], 10)
        one[:n_wrong] = "b"
        predictions.append(np.tile(one, 4))
    estimate = ConfusionStack(confusion_of(truth, {"m": predictions}, donors)).estimate("m", "all donors")
    low, high = scipy.stats.t.interval(0.95, 2, loc=estimate.mean, scale=scipy.stats.sem(estimate.by_seed))
    assert (estimate.low, estimate.high) == pytest.approx((low, 1.0)) and high > 1


def test_an_effect_is_found_and_its_sign_is_right():
    rng = np.random.default_rng(1)
    donors = np.repeat([f"d{n}" for n in range(12)], 60)
    truth = rng.choice(["a", "b", "c"], size=len(donors))
    good, bad = [noisy(truth, 0.9, rng) for _ in range(3)], [noisy(truth, 0.6, rng) for _ in range(3)]
    stack = ConfusionStack(confusion_of(truth, {"fine_tuned": good, "from_scratch": bad}, donors))
    assert stack.compare("fine_tuned", "from_scratch", "all donors").verdict == "helps"
    assert stack.compare("from_scratch", "fine_tuned", "all donors").verdict == "hurts"


def test_without_an_effect_verdicts_are_rare():
    rng = np.random.default_rng(2)
    donors = np.repeat([f"d{n}" for n in range(12)], 30)
    wrong = 0
    for _ in range(60):
        shares = rng.normal(0.7, 0.03, size=6)
        truth = rng.choice(["a", "b", "c"], size=len(donors))
        first, second = ([noisy(truth, share, rng) for share in half] for half in (shares[:3], shares[3:]))
        stack = ConfusionStack(confusion_of(truth, {"fine_tuned": first, "from_scratch": second}, donors))
        wrong += stack.compare("fine_tuned", "from_scratch", "all donors").verdict != "no evidence"
    # 5 % expected at most: more than 8 of 60 has a probability under 0.3 %.
    assert wrong <= 8


def test_methods_are_compared_on_the_same_draws():
    """Two methods that fail on the same hard donors differ surely, though each alone is uncertain."""
    rng = np.random.default_rng(3)
    donors = np.repeat([f"d{n}" for n in range(10)], 60)
    hard = np.isin(donors, ["d0", "d1", "d2", "d3"])
    truth = rng.choice(["a", "b", "c"], size=len(donors))
    low = np.where(hard, noisy(truth, 0.1, rng), noisy(truth, 0.9, rng))
    high = np.where(rng.random(len(donors)) < 0.25, truth, low)
    stack = ConfusionStack(confusion_of(truth, {"fine_tuned": [high] * 2, "from_scratch": [low] * 2}, donors))
    alone = stack.estimate("fine_tuned", "all donors")
    difference = stack.compare("fine_tuned", "from_scratch", "all donors").difference
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)


@pytest.mark.parametrize(
    ("low", "high", "by_seed", "verdict"),
    [
        (0.01, 0.05, (0.02, 0.03, 0.04), "helps"),
        (0.01, 0.05, (-0.01, 0.05, 0.05), "helps"),
        (-0.05, -0.01, (-0.02, -0.03, -0.04), "hurts"),
        (-0.01, 0.05, (0.02, 0.03, 0.01), "no evidence"),
        (0.01, 0.05, (0.02, 0.03), "no evidence"),
        (0.01, 0.05, (0.03,), "no evidence"),
    ],
)
def test_the_verdict_follows_its_rule(low, high, by_seed, verdict):
    comparison = Comparison("fine_tuned", "from_scratch", "all donors", Estimate(np.mean(by_seed), low, high, by_seed))
    assert comparison.verdict == verdict


def test_pairs_of_seeds_that_agree_are_counted_and_are_no_part_of_the_verdict():
    estimate = Estimate(0.03, 0.01, 0.05, (0.05, 0.05, -0.01))
    comparison = Comparison("fine_tuned", "from_scratch", "b", estimate)
    assert comparison.n_agree == 2 and comparison.verdict == "helps"
    two = Comparison("fine_tuned", "from_scratch", "b", estimate._replace(by_seed=(0.02, 0.04)))
    assert two.finding == "no verdict (too few seeds)"
    once = estimate._replace(by_seed=(0.02,), low=np.nan, high=np.nan)
    assert Comparison("zero_shot", "pca_knn", "b", once, 1).finding == "no verdict from a single seed"
    assert Comparison("zero_shot", "pca_knn", "b", once, 3).finding == "no verdict: seeds do not vary it"


def test_words_fit_the_question():
    estimate = Estimate(0.03, 0.01, 0.05, (0.02, 0.03, 0.04))
    assert Comparison("fine_tuned", "from_scratch", "b", estimate).finding == "helps"
    assert Comparison("zero_shot", "pca_knn", "b", estimate).finding == "better"


def test_only_questions_that_were_studied_are_answered():
    truth = np.array(["a", "b"] * 20)
    table = confusion_of(truth, {"zero_shot": [truth], "pca_knn": [truth]}, np.array(["d1", "d2"] * 20))
    stack = ConfusionStack(table)
    answers = answer_questions(stack)
    assert [question for question, _ in answers] == ["Is the frozen embedding a better space than PCA?"]
    assert set(summarize(stack)) == {("zero_shot", "all donors"), ("pca_knn", "all donors")}


def score_tables(values, resampled=None, n_units=6):
    """Tables of one metric: {(method, pretrain seed, finetune seed): value}."""
    rows = [
        {"trial_id": f"{method}{first}{second}", "method": method, "budget": "all donors", "metric": "score",
         "pretrain_seed": first, "finetune_seed": second, "value": value, "n_units": n_units}
        for (method, first, second), value in values.items()
    ]  # fmt: skip
    draws = resampled or {}
    resamples = pd.DataFrame(
        [{"trial_id": name, "metric": "score", **dict(enumerate(of))} for name, of in draws.items()]
    )
    return pd.DataFrame(rows), resamples if len(resamples) else pd.DataFrame({"trial_id": [], "metric": []})


def test_crossed_seeds_give_a_part_of_the_variance_each():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(3, 4))
    values = {("m", first, second): table[first, second] for first in range(3) for second in range(4)}
    estimate = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
    first, second = table.mean(axis=1).var(ddof=1) / 3, table.mean(axis=0).var(ddof=1) / 4
    degrees = (first + second) ** 2 / (first**2 / 2 + second**2 / 3)
    half = scipy.stats.t.ppf(0.975, degrees) * np.sqrt(first + second)
    assert estimate.mean == pytest.approx(table.mean())
    assert estimate.high - estimate.mean == pytest.approx(half)


def test_intervals_of_crossed_seeds_cover_the_mean():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        table = rng.normal(size=(3, 1)) + 0.5 * rng.normal(size=(1, 3)) + 0.3 * rng.normal(size=(3, 3))
        values = {("m", first, second): table[first, second] for first in range(3) for second in range(3)}
        estimate = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
        covered += estimate.low <= 0 <= estimate.high
    assert covered / 400 > 0.93


@pytest.mark.parametrize(("n_models", "n_seeds"), [(3, 4), (3, 6), (4, 6)])
def test_pretrainings_that_several_seeds_share_are_counted_once(n_models, n_seeds):
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        pretraining = rng.normal(size=n_models)
        values = {
            ("m", seed % n_models, seed): pretraining[seed % n_models] + 0.3 * rng.normal() for seed in range(n_seeds)
        }
        estimate = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
        covered += estimate.low <= 0 <= estimate.high
    assert covered / 400 > 0.92


def test_where_nothing_was_varied_there_is_no_interval_and_no_verdict():
    values = {(method, 0, seed): value for method, value in (("a", 0.5001), ("b", 0.5)) for seed in range(3)}
    stack = ScoreStack(*score_tables(values), "score")
    comparison = stack.compare("a", "b", "all donors")
    assert str(stack.estimate("a", "all donors")) == "0.500" and comparison.difference.with_sign() == "+0.000"
    assert comparison.verdict == "no evidence"
    assert comparison.finding == "no verdict: seeds do not vary it"


def test_a_draw_on_which_a_score_has_no_meaning_is_left_out():
    draws = np.random.default_rng(3).normal(size=400)
    cut = np.append(draws, np.nan)
    whole, holey = (
        ScoreStack(*score_tables({("a", 0, 0): 0.0}, {"a00": of}), "score").estimate("a", "all donors")
        for of in (draws, cut)
    )
    assert whole == holey and whole.high > 0


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(0.5, 0.4, 0.625, ()), "0.500 [.400, .625]"),
        (Estimate(12.0, 10.5, 20.25, ()), "12.000 [10.500, 20.250]"),
        (Estimate(-1515.2, -1520.3, -0.1, ()), "-1515.200 [-1520.300, -.100]"),
    ],
)
def test_bounds_are_written_as_they_are(estimate, text):
    assert str(estimate) == text


def test_a_class_is_judged_by_the_donors_that_have_it():
    donors = np.repeat([f"d{n}" for n in range(10)], 20)
    truth = np.full(200, "a", dtype=object)
    truth[:5], truth[20:25], truth[40:45] = "b", "b", "c"
    predicted = truth.copy()
    # Every donor has a false positive of b, and one of those that have it a miss.
    predicted[np.arange(10) * 20 + 10] = "b"
    predicted[0] = "a"
    stack = ConfusionStack(confusion_of(truth, {"m": [predicted]}, donors))
    stack.bounds = (-np.inf, np.inf)
    classes = stack.estimate_classes("m", "all donors")
    f1 = f1_score(truth, predicted, average=None, labels=["a", "b", "c"])
    assert [classes[name].mean for name in "abc"] == pytest.approx(f1)
    # Two donors tell of b: one degree of freedom, and draws without either are left out.
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(4_000):
        rows = np.concatenate([np.flatnonzero(donors == f"d{n}") for n in rng.integers(10, size=10)])
        if (truth[rows] == "b").any():
            drawn.append(f1_score(truth[rows] == "b", predicted[rows] == "b"))
    half = scipy.stats.t.ppf(0.975, 1) * np.sqrt(np.var(drawn) * 2)
    assert classes["b"].high - classes["b"].mean == pytest.approx(half, rel=0.1)
    assert np.isnan(classes["c"].low)


def test_scores_without_draws_of_donors_vary_over_seeds_alone():
    values = {("m", seed, seed): value for seed, value in enumerate((0.1, 0.2, 0.6))}
    estimate = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
    half = scipy.stats.t.ppf(0.975, 2) * np.std([0.1, 0.2, 0.6], ddof=1) / np.sqrt(3)
    assert estimate.high - estimate.mean == pytest.approx(half)


def test_draws_of_donors_add_their_variance_and_pair_two_methods():
    rng = np.random.default_rng(2)
    common = rng.normal(size=400)
    draws = {"a00": common + 1, "b00": common}
    values = {("a", 0, 0): 1.0, ("b", 0, 0): 0.0}
    stack = ScoreStack(*score_tables(values, draws), "score")
    alone, difference = stack.estimate("a", "all donors"), stack.compare("a", "b", "all donors").difference
    assert alone.high - alone.mean == pytest.approx(scipy.stats.t.ppf(0.975, 5) * np.sqrt(common.var() * 6 / 5))
    assert difference.mean == 1 and difference.high - difference.low < 1e-9


def test_an_unknown_score_is_refused():
    tables = score_tables({("m", 0, 0): 1.0})
    with pytest.raises(InputError, match=r"There is no score 'scor'. Did you mean 'score'"):
        ScoreStack(*tables, "scor")


def test_methods_that_share_no_seeds_are_not_compared():
    stack = ScoreStack(*score_tables({("a", 0, 0): 1.0, ("b", 1, 1): 1.0}), "score")
    assert not stack.can_compare("a", "b", "all donors") and not stack.can_compare("a", "c", "all donors")
    with pytest.raises(InputError, match="a and b were run with different seeds"):
        stack.compare("a", "b", "all donors")


def test_one_computation_that_stands_under_several_seeds_counts_once():
    rng = np.random.default_rng(4)
    of_encoder, draws = rng.normal(0.6, 0.05, size=3), rng.normal(size=400)
    values = {("a", first, second): of_encoder[first] for first in range(3) for second in range(3)}
    values |= {("b", first, second): 0.5 for first in range(3) for second in range(3)}
    resampled = {f"{name}{first}{second}": draws * (1 + (name == "a")) for name, first, second in values}
    scores, resamples = score_tables(values, resampled)
    work = np.where(scores["method"] == "a", "a" + scores["pretrain_seed"].astype(str), "b")
    stack = ScoreStack(scores.assign(work_id=work), resamples, "score")
    copied = ScoreStack(scores, resamples, "score")
    estimate, difference = stack.estimate("a", "all donors"), stack.compare("a", "b", "all donors").difference
    assert estimate.by_seed == tuple(of_encoder) and len(stack.estimate("b", "all donors").by_seed) == 1
    assert difference.by_seed == pytest.approx(of_encoder - 0.5)
    # The variance of the mean is that of three encoders either way.
    assert estimate[:3] == pytest.approx(copied.estimate("a", "all donors")[:3])
    alone = scores[scores["pretrain_seed"] == 0]
    found = ScoreStack(alone.assign(work_id=alone["method"]), resamples, "score").compare("a", "b", "all donors")
    assert found.finding == "no verdict: seeds do not vary it"


def test_a_trial_that_failed_takes_no_source_of_spread_away():
    rng = np.random.default_rng(5)
    table = rng.normal(0, 0.01, size=(3, 1)) + rng.normal(0, 0.3, size=(1, 3)) + rng.normal(0, 0.01, size=(3, 3))
    values = {("m", first, second): table[first, second] for first in range(3) for second in range(3)}
    whole = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
    del values["m", 1, 2]
    holey = ScoreStack(*score_tables(values), "score").estimate("m", "all donors")
    assert holey.standard_error == pytest.approx(whole.standard_error, rel=0.1)


def test_two_seeds_that_agree_are_no_certainty_unless_donors_vary_too():
    values = {("a", 0, 0): 0.51, ("a", 1, 1): 0.5101, ("b", 0, 0): 0.5, ("b", 1, 1): 0.5}
    comparison = ScoreStack(*score_tables(values), "score").compare("a", "b", "all donors")
    assert np.isnan(comparison.difference.low) and comparison.verdict == "no evidence"
    assert comparison.finding == "no verdict (too few seeds)"
    rng = np.random.default_rng(0)
    draws = {name: rng.normal(size=400) for name in ("a00", "a11", "b00", "b11")}
    assert ScoreStack(*score_tables(values, draws), "score").compare("a", "b", "all donors").difference.high > 0


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [("macro_f1", 0.0, 1.0), ("hidden_mse", 0.0, None), ("pearson_per_cell", -1.0, 1.0), ("likelihood", None, None)],
)
def test_intervals_end_where_a_score_does(metric, low, high):
    values = {("a", seed, seed): value for seed, value in enumerate((0.1, 0.9, 0.5))}
    scores, resamples = score_tables(values)
    estimate = ScoreStack(scores.assign(metric=metric), resamples, metric).estimate("a", "all donors")
    whole = scipy.stats.t.interval(0.95, 2, loc=0.5, scale=scipy.stats.sem([0.1, 0.9, 0.5]))
    expected = [max(whole[0], -np.inf if low is None else low), min(whole[1], np.inf if high is None else high)]
    assert [estimate.low, estimate.high] == pytest.approx(expected)

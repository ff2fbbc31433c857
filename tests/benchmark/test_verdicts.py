"""Verdicts of a whole benchmark, against scipy and by simulation."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from selfcell.benchmark.intervals import Draws, estimate_of
from selfcell.benchmark.ranks import rank_methods
from selfcell.benchmark.statistics import Comparison
from selfcell.benchmark.verdicts import COLUMNS, holm, over_targets, verdicts

SEEDS = tuple((one, other) for one in range(3) for other in range(3))


def tables_of(effect, *, targets=("a", "b"), n_draws=200, failed=()):
    """Scores and draws of two methods at some targets; fine-tuning is better by an effect."""
    rng = np.random.default_rng(0)
    scores, resamples = [], []
    for target in targets:
        of_donors = rng.normal(0, 0.05, n_draws)
        for pair in SEEDS:
            for method in ("fine_tuned", "from_scratch"):
                value = 0.6 + effect * (method == "fine_tuned") + rng.normal(0, 0.005)
                trial = f"{target} {method} {pair}"
                row = {"target": target, "corpus": "c", "encoder": "e", "method": method, "budget": "all donors"}
                row |= {"metric": "macro_f1", "pretrain_seed": pair[0], "finetune_seed": pair[1], "trial_id": trial}
                fails = (method, *pair) in failed
                told = {"n_units": 10, "n_labelled_donors": None if target == "b" else 8.0}
                scores.append({**row, **told, "value": np.nan if fails else value})
                if not fails:
                    draws = value + of_donors + rng.normal(0, 0.002, n_draws)
                    told = {name: row[name] for name in ("target", "corpus", "encoder", "trial_id", "metric")}
                    resamples.append({**told, **dict(enumerate(draws))})
    return pd.DataFrame(scores), pd.DataFrame(resamples), dict.fromkeys(targets, "macro_f1")


def test_an_effect_is_found_at_every_target_with_its_size():
    table = verdicts(*tables_of(0.1))
    assert list(table) == list(COLUMNS) and list(table["target"]) == ["a", "b"]
    assert set(table["verdict"]) == {"helps"} and (table["p_holm"] < 0.001).all()
    assert table["difference"].to_numpy() == pytest.approx(0.1, abs=0.01)
    assert list(table["spread"]) == ["donors", "blocks"] and set(table["n_agree"]) == {9}
    assert (table["detectable"] < 0.02).all() and (table["effect_size"] > 5).all() and set(table["n_pairs"]) == {9}


def test_without_an_effect_there_is_no_evidence_and_the_power_is_told():
    table = verdicts(*tables_of(0.0))
    assert set(table["verdict"]) == {"no evidence"}
    assert ((table["low"] < 0) & (table["high"] > 0)).all() and (table["detectable"] > 0.002).all()


def test_what_failed_is_left_out_on_both_sides():
    complete = verdicts(*tables_of(0.1, targets=("a",)))
    table = verdicts(*tables_of(0.1, targets=("a",), failed={("fine_tuned", 0, 1), ("from_scratch", 2, 2)}))
    assert table["n_pairs"].tolist() == [7] and complete["n_pairs"].tolist() == [9]
    assert table["difference"].item() == pytest.approx(complete["difference"].item(), abs=0.01)


def simulated_benchmark(effect, *, n_targets, n_donors=12, n_draws=150, seed=0):
    """Targets at which pre-training has an effect, plus what pre-trainings, fine-tunings and donors do to it."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n_donors, np.full(n_donors, 1 / n_donors), n_draws) / n_donors
    scores, resamples = [], []
    for place in range(n_targets):
        of_pretraining, of_finetuning = rng.normal(0, 0.01, 3), rng.normal(0, 0.005, 3)
        of_donors = rng.normal(0, 0.02, n_donors)
        common = 0.6 + rng.normal(0, 0.05, n_donors)
        for first, second in SEEDS:
            scratch = common + rng.normal(0, 0.005)
            tuned = common + effect + of_donors + of_pretraining[first] + of_finetuning[second] + rng.normal(0, 0.003)
            for method, by_donor in (("fine_tuned", tuned), ("from_scratch", scratch)):
                which = {"target": f"t{place}", "corpus": "c", "encoder": "e", "metric": "macro_f1"}
                which["trial_id"] = f"{place} {method} {first} {second}"
                scores.append({
                    **which, "method": method, "budget": "all donors", "value": by_donor.mean(), "n_units": n_donors,
                    "n_labelled_donors": 9,
                    "pretrain_seed": first, "finetune_seed": second,
                })  # fmt: skip
                resamples.append({**which, **dict(enumerate(weights @ by_donor))})
    headlines = {f"t{place}": "macro_f1" for place in range(n_targets)}
    return verdicts(pd.DataFrame(scores), pd.DataFrame(resamples), headlines)


def test_without_an_effect_the_whole_chain_finds_one_seldom():
    table = simulated_benchmark(0.0, n_targets=300)
    wrong = (table["verdict"] != "no evidence").mean()
    # 5 % are promised at most; more than 8 % of 300 has a probability under 1 %.
    assert wrong <= 0.08 and (table["p_value"] < 0.05).mean() <= 0.08
    families = [table["p_value"].to_numpy()[start : start + 10] for start in range(0, 300, 10)]
    assert np.mean([holm(family).min() < 0.05 for family in families]) <= 0.2


def test_an_effect_is_within_the_intervals_of_the_whole_chain_as_often_as_is_said():
    table = simulated_benchmark(0.03, n_targets=300, seed=1)
    covered = ((table["low"] < 0.03) & (table["high"] > 0.03)).mean()
    assert covered >= 0.92
    assert (table["verdict"] == "hurts").sum() == 0 and (table["verdict"] == "helps").mean() > 0.3


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_the_written_out_procedure(p_values):
    corrected = holm(np.array(p_values))
    for alpha in (0.01, 0.05, 0.3):
        rejected = set()
        for step, place in enumerate(np.argsort(p_values, kind="stable")):
            if p_values[place] * (len(p_values) - step) > alpha:
                break
            rejected.add(place)
        assert set(np.flatnonzero(corrected <= alpha)) == rejected


def test_holm_leaves_out_what_has_no_p():
    assert holm(np.array([0.04, np.nan, 0.01])).tolist() == pytest.approx([0.04, np.nan, 0.02], nan_ok=True)
    assert len(holm(np.array([]))) == 0 and np.isnan(holm(np.array([np.nan]))).all()


def test_p_agrees_with_the_interval_and_with_scipys_t():
    rng = np.random.default_rng(1)
    for _ in range(50):
        values = rng.normal(0.02, 0.02, 5)
        draws = Draws(tuple((seed, seed) for seed in range(5)), values, np.empty(0), 1)
        found = estimate_of(draws)
        assert found.p_value == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue)
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_the_difference_that_could_be_seen_is_seen_with_the_power_that_is_said():
    rng = np.random.default_rng(2)
    n_seeds, spread = 12, 0.02
    effect = estimate_of(_seeds(np.tile([-1.0, 1.0], 6) * spread * np.sqrt(11 / 12))).detectable
    found = [estimate_of(_seeds(effect + rng.normal(0, spread, n_seeds))) for _ in range(1500)]
    assert np.mean([one.low > 0 for one in found]) == pytest.approx(0.8, abs=0.05)


def crossed(rng, shape, effect, *, n_donors=12):
    """Fine-tuning against training from scratch, with an effect, where pre-trainings, fine-tunings and donors vary."""
    of_seeds = rng.normal(0, 0.01, (shape[0], 1)) + rng.normal(0, 0.005, (1, shape[1])) + rng.normal(0, 0.01, shape)
    of_donors = rng.normal(0, 0.02, n_donors)
    weights = rng.multinomial(n_donors, np.full(n_donors, 1 / n_donors), 200) / n_donors
    values = effect + of_seeds.ravel() + of_donors.mean()
    draws = Draws(tuple(np.ndindex(*shape)), values, values.mean() + weights @ of_donors - of_donors.mean(), n_donors)
    return Comparison("fine_tuned", "from_scratch", "all donors", estimate_of(draws))


@pytest.mark.parametrize("shape", [(3, 3), (5, 5)])
def test_verdicts_come_with_the_power_that_is_said_however_many_seeds_there_are(shape):
    rng = np.random.default_rng(4)
    none = [crossed(rng, shape, 0.0) for _ in range(600)]
    # 5 % are promised; more than 7.5 % of 600 has a probability under 1 %.
    assert np.mean([one.verdict != "no evidence" for one in none]) <= 0.075
    effect = float(np.median([one.difference.detectable for one in none]))
    verdicts = [crossed(rng, shape, effect).verdict for _ in range(600)]
    assert np.mean([verdict == "helps" for verdict in verdicts]) == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (2, 3), (5, 2), (2, 5)])
def test_two_seeds_of_a_kind_that_varies_give_no_verdict_however_many_pairs(shape):
    rng = np.random.default_rng(6)
    for _ in range(20):
        comparison = crossed(rng, shape, 0.2)
        assert comparison.difference.levels == 2 and comparison.verdict == "no evidence"
        assert comparison.finding == "no verdict (too few seeds)"
        assert np.isnan(comparison.detectable)


def test_two_levels_that_agree_would_be_called_clear_too_often():
    """Why there is no verdict: with two fine-tunings, which alone vary, intervals lie off zero twice as often."""
    wrong = {}
    for shape in ((3, 2), (3, 3)):
        rng = np.random.default_rng(7)
        off = []
        for _ in range(1_000):
            of_donors = rng.normal(0, 1, 12)
            weights = rng.multinomial(12, np.full(12, 1 / 12), 100) / 12
            values = np.tile(rng.normal(0, 1, shape[1]), shape[0]) + of_donors.mean()
            draws = values.mean() + weights @ of_donors - of_donors.mean()
            found = estimate_of(Draws(tuple(np.ndindex(*shape)), values, draws, 12))
            off.append(found.low > 0 or found.high < 0)
        wrong[shape] = np.mean(off)
    assert wrong[3, 2] > 0.085 > wrong[3, 3]


def test_a_pretraining_that_several_seeds_share_weighs_in_the_variance_as_in_the_mean():
    rng = np.random.default_rng(8)
    pairs = ((0, 0), (1, 1), (0, 2))
    of_pretraining = rng.normal(size=(4_000, 2))
    values = of_pretraining[:, [0, 1, 0]]
    found = [estimate_of(Draws(pairs, row, np.array([0.0, 1e-9]), 3)) for row in values]
    told = np.mean([one.standard_error**2 for one in found])
    assert told == pytest.approx(values.mean(axis=1).var(), rel=0.1) and found[0].levels == 2


def test_of_three_pretrainings_or_more_without_an_effect_few_are_called_clear():
    rng = np.random.default_rng(5)
    for n_seeds, spread_over_donors in itertools.product((3, 5), (0.0, 0.3, 1.0, 3.0)):
        wrong = 0
        for _ in range(500):
            of_donors = rng.normal(0, spread_over_donors, 12)
            weights = rng.multinomial(12, np.full(12, 1 / 12), 200) / 12
            values = rng.normal(0, np.sqrt(n_seeds / 12), n_seeds) + of_donors.mean()
            draws = values.mean() + weights @ of_donors - of_donors.mean()
            pairs = tuple((seed, seed) for seed in range(n_seeds))
            found = estimate_of(Draws(pairs, values, draws, 12))
            wrong += Comparison("fine_tuned", "from_scratch", "b", found).verdict != "no evidence"
        # 5 % are promised, and three seeds that vary as donors do come to 8 %.
        assert wrong / 500 <= 0.11


def _seeds(values):
    return Draws(tuple((seed, seed) for seed in range(len(values))), values, np.empty(0), 1)


def test_over_targets_is_wilcoxons_test():
    differences = [0.03, -0.01, 0.02, 0.05, 0.04, 0.01]
    table = pd.DataFrame({"target": list("abcdef"), "question": "q", "metric": "f1", "difference": differences})
    summary = over_targets(table).iloc[0]
    assert summary["p_value"] == pytest.approx(scipy.stats.wilcoxon(differences).pvalue)
    assert summary["n_targets"] == 6 and summary["n_above"] == 5 and summary["p_holm"] == summary["p_value"]
    assert np.isnan(over_targets(table[:4])["p_value"].item())
    # Differences in scores of two kinds are not of one size.
    mixed = over_targets(table.assign(metric=["f1"] * 4 + ["correlation"] * 2))
    assert list(mixed["n_targets"]) == [4, 2] and mixed["p_value"].isna().all()


def test_ranks_are_those_of_friedmans_test_and_nemenyis_difference():
    rng = np.random.default_rng(3)
    scores = pd.DataFrame(rng.normal(size=(8, 4)) + np.array([0.0, 2.0, 0.5, 0.0]), columns=list("wxyz"))
    ranking = rank_methods(scores)
    assert ranking.mean_rank.index[0] == "x" and ranking.mean_rank.sum() == pytest.approx(1 + 2 + 3 + 4)
    assert ranking.p_value == pytest.approx(scipy.stats.friedmanchisquare(*scores.to_numpy().T).pvalue)
    # Demsar's table: q at 0.05 for four methods is 2.569.
    assert ranking.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 8)), abs=0.01)

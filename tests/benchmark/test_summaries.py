import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.benchmark.saturation import enough_from
from selfcell.benchmark.statistics import ScoreStack
from selfcell.benchmark.summaries import between, estimates
from selfcell.core.errors import InputError

HEADLINES = {"types": "macro_f1"}


@pytest.fixture
def tables(rng):
    rows, draws = [], []
    for corpus in ("large", "small"):
        for encoder, shift in (("masked", 0.0), ("byol", 0.05)):
            for method in ("zero_shot", "pca_knn"):
                for first, second in ((0, 0), (0, 1), (1, 0), (1, 1)):
                    # What does not depend on the encoder bears one id in all studies.
                    one = f"t{method}{first}{second}" + ("" if method == "pca_knn" else encoder + corpus)
                    which = {"target": "types", "corpus": corpus, "encoder": encoder, "trial_id": one}
                    value = 0.6 + shift * (method == "zero_shot") + 0.01 * rng.normal()
                    facts = {
                        "budget": "all donors", "metric": "macro_f1", "value": value, "pretrain_seed": first,
                        "finetune_seed": second, "n_units": 9, "n_labelled_cells": 50, "n_cells": 70, "seconds": 1.5,
                        "peak_memory_mb": 100.0 + second,
                    }  # fmt: skip
                    rows.append({**which, "method": method, **facts})
                    draws.append({**which, "metric": "macro_f1", **dict(enumerate(value + 0.01 * rng.normal(size=50)))})
    return pd.DataFrame(rows), pd.DataFrame(draws)


def test_means_are_those_of_each_study(tables):
    scores, draws = tables
    found = estimates(*tables, HEADLINES)
    assert len(found) == 2 * 2 * 2 and set(found["peak_memory_mb"]) == {101.0}
    row = found.query("corpus == 'small' and encoder == 'byol' and method == 'zero_shot'").iloc[0]
    of_study = "corpus == 'small' and encoder == 'byol'"
    keys = ["target", "corpus", "encoder"]
    stack = ScoreStack(scores.query(of_study), draws.query(of_study).drop(columns=keys), "macro_f1")
    expected = stack.estimate("zero_shot", "all donors")
    assert (row["mean"], row["low"], row["high"]) == (expected.mean, expected.low, expected.high)


def test_the_spread_over_seeds_stands_beside_the_mean_each_computation_counted_once(tables):
    scores, draws = tables
    of_one = (scores["corpus"] == "small") & (scores["encoder"] == "byol") & (scores["method"] == "zero_shot")
    which = "corpus == 'small' and encoder == 'byol' and method == 'zero_shot'"
    found = estimates(scores, draws, HEADLINES).query(which).iloc[0]
    assert found["sd"] == pytest.approx(scores.loc[of_one, "value"].std(ddof=1))
    # Nothing depends on the seed of fine-tuning: two computations, each written down for two pairs of seeds.
    scores["value"] = scores["value"].mask(of_one, scores["pretrain_seed"] / 10)
    scores["work_id"] = scores["trial_id"].mask(of_one, "w" + scores["pretrain_seed"].astype(str))
    assert estimates(scores, draws, HEADLINES).query(which)["sd"].iloc[0] == pytest.approx(0.1 / np.sqrt(2))
    alone = scores["pretrain_seed"].eq(0) & scores["finetune_seed"].eq(0)
    assert estimates(scores[alone], draws, HEADLINES)["sd"].isna().all()


def test_encoders_are_compared_pair_by_pair_with_the_first(tables):
    scores, draws = tables
    found = between("encoder", *tables, HEADLINES)
    assert set(found["encoder"]) == {"byol"} and set(found["against"]) == {"masked"}
    assert set(found["method"]) == {"zero_shot"} and len(found) == 2
    values = scores.query("method == 'zero_shot' and corpus == 'large'").set_index("encoder")["value"]
    by_seed = values["byol"].to_numpy() - values["masked"].to_numpy()
    row = found[found["corpus"] == "large"].iloc[0]
    assert row["difference"] == pytest.approx(by_seed.mean())
    assert row["low"] < row["difference"] < row["high"] and row["p_holm"] >= row["p_value"]
    of_corpora = between("corpus", *tables, HEADLINES)
    assert set(of_corpora["corpus"]) == {"small"} and set(of_corpora["against"]) == {"large"} and len(of_corpora) == 2
    by_size = between(
        "corpus",
        *tables,
        HEADLINES,
        sizes={
            (name, encoder): size for name, size in (("large", 10), ("small", 20)) for encoder in ("masked", "byol")
        },
    )
    assert set(by_size["corpus"]) == {"large"} and set(by_size["against"]) == {"small"}
    alone = scores["encoder"] == "masked", draws["encoder"] == "masked"
    assert between("encoder", scores[alone[0]], draws[alone[1]], HEADLINES).empty


def test_what_is_compared_is_compared_without_types_of_few_test_cells_too(tables):
    scores, draws = tables
    assert between("encoder", scores, draws, HEADLINES)["frequent_difference"].isna().all()
    # Without rare types the second encoder is better by a tenth more.
    more = 0.1 * (scores["encoder"] == "byol")
    frequent = scores.assign(metric="macro_f1_frequent", value=scores["value"] + more)
    of_draws = draws.assign(metric="macro_f1_frequent")
    of_draws[list(range(50))] += 0.1 * (draws["encoder"] == "byol").to_numpy()[:, None]
    found = between("encoder", pd.concat([scores, frequent]), pd.concat([draws, of_draws]), HEADLINES)
    assert (found["metric"] == "macro_f1").all() and len(found) == 2
    for name in ("difference", "low", "high"):
        np.testing.assert_allclose(found[f"frequent_{name}"], found[name] + 0.1)


@given(st.lists(st.tuples(st.integers(1, 10**7), st.floats(-0.1, 0.1)), min_size=1, unique_by=lambda pair: pair[0]))
def test_enough_is_where_nothing_larger_leaves_room_for_a_gain(pairs):
    sizes, gains = [size for size, _ in pairs], [gain for _, gain in pairs]
    found = enough_from(sizes, gains, margin=0.01)
    larger = {size: all(gain < 0.01 for other, gain in pairs if other >= size) for size in sizes}
    expected = [size for size, is_enough in larger.items() if is_enough]
    assert found == (min(expected) if expected else None)


def test_what_is_not_known_is_not_enough():
    assert enough_from([10, 20], [np.nan, 0.0]) == 20
    assert enough_from([10, 20], [0.0, np.nan]) is None


def test_what_was_judged_on_different_cells_is_not_compared_which_is_said(tables, caplog):
    scores, draws = tables
    scores["test_cells"] = np.where((scores["corpus"] == "small") & (scores["encoder"] == "byol"), "cb", "ca")
    found = between("corpus", scores, draws, HEADLINES)
    assert found["encoder"].tolist() == ["masked"] and set(between("encoder", scores, draws, HEADLINES)["corpus"]) == {
        "large"
    }
    assert "types: small and large were judged on different cells" in caplog.text
    both = scores[(scores["encoder"] == "byol") & (scores["method"] == "zero_shot")]
    stack = ScoreStack(both.assign(method=both["corpus"]), draws, "macro_f1")
    with pytest.raises(InputError, match="small and large were judged on different cells"):
        stack.compare("small", "large", "all donors")
    # Tables of before say nothing of it.
    scores["test_cells"] = scores["test_cells"].where(scores["corpus"] == "small")
    assert len(between("corpus", scores, draws, HEADLINES)) == 2


def test_encoders_without_a_seed_in_common_are_not_compared_and_end_nothing(tables):
    scores, draws = tables
    scores.loc[scores["encoder"] == "byol", "pretrain_seed"] += 5
    assert between("encoder", scores, draws, HEADLINES).empty
    assert len(estimates(scores, draws, HEADLINES)) == 8

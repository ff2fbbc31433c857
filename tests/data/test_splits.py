import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.splits import PARTS, split_cells, split_from_json, split_of_donors, with_all_training_donors


@given(
    st.lists(st.integers(0, 7), min_size=20, max_size=120),
    st.floats(0.01, 0.5),
    st.floats(0.0, 0.45),
    st.integers(0, 50),
)
def test_no_donor_is_on_two_sides(codes, validation_fraction, test_fraction, seed):
    donors = pd.Series([f"donor {code}" for code in codes], name="donor")
    n_parts = 1 + (validation_fraction > 0) + (test_fraction > 0)
    if donors.nunique() < n_parts:
        with pytest.raises(InputError, match="needs at least"):
            split_cells(
                len(codes), donors, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed
            )
        return
    split = split_cells(
        len(codes), donors, validation_fraction=validation_fraction, test_fraction=test_fraction, seed=seed
    )
    parts = [set(donors.iloc[getattr(split, part)]) for part in PARTS]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert sorted(np.concatenate([getattr(split, part) for part in PARTS])) == list(range(len(codes)))
    assert len(split.train) and len(split.validation)
    assert bool(len(split.test)) == (test_fraction > 0)


@given(st.integers(10, 200), st.integers(0, 20))
def test_a_split_by_cell_has_the_shares_asked_for(n_cells, seed):
    split = split_cells(n_cells, None, validation_fraction=0.2, test_fraction=0.3, seed=seed)
    assert abs(len(split.validation) - 0.2 * n_cells) <= 1 and abs(len(split.test) - 0.3 * n_cells) <= 1
    assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(n_cells))


def test_a_split_is_a_function_of_its_seed(adata):
    first, again, other = (
        split_cells(300, adata.obs["donor"].astype(str), validation_fraction=0.2, test_fraction=0.2, seed=seed)
        for seed in (1, 1, 3)
    )
    assert first.donors == again.donors != other.donors


@pytest.mark.parametrize("by_donor", [True, False])
def test_a_split_survives_a_round_trip_through_json(adata, by_donor, tmp_path):
    donors = adata.obs["donor"].astype(str) if by_donor else None
    split = split_cells(300, donors, validation_fraction=0.2, test_fraction=0.2, seed=0)
    split.write(tmp_path / "split.json")
    again = split_from_json(json.loads((tmp_path / "split.json").read_text()), 300, donors)
    assert all((getattr(split, part) == getattr(again, part)).all() for part in PARTS)


def test_a_single_donor_is_refused():
    donors = pd.Series(["a"] * 10, name="Donor")
    with pytest.raises(
        InputError, match=r"into 2 parts by donor needs at least 2 donors, but obs\['Donor'\] has only 1 \(a\)"
    ):
        split_cells(10, donors, validation_fraction=0.1, seed=0)


def test_shares_that_leave_nothing_to_train_on_are_refused():
    with pytest.raises(InputError, match=r"Holding out 0\.5 for validation and 0\.6 for test leaves no cells"):
        split_cells(100, None, validation_fraction=0.5, test_fraction=0.6, seed=0)


@pytest.mark.parametrize(("n_cells", "share"), [(6, 0.45), (10, 0.475), (100, 0.495)])
def test_shares_that_round_to_all_cells_are_refused(n_cells, share):
    with pytest.raises(InputError, match="leaves none to train on"):
        split_cells(n_cells, None, validation_fraction=share, test_fraction=share, seed=0)


def test_too_few_cells_are_refused():
    with pytest.raises(InputError, match="3 cells are too few to split into 2 parts"):
        split_cells(3, None, validation_fraction=0.1, seed=0)


def test_smaller_shares_of_donors_are_parts_of_larger_ones(adata, tmp_path):
    donors = pd.Series([f"d{place % 20}" for place in range(300)], name="donor")
    how = {"validation_fraction": 0.1, "test_fraction": 0.2, "seed": 3}
    whole = split_cells(300, donors, **how)
    kept = set(whole.donors["train"])
    for share in (0.6, 0.3, 0.01):
        split = split_cells(300, donors, train_donor_fraction=share, **how)
        assert set(split.donors["train"]) < kept and len(split.donors["train"]) == max(1, round(share * 14))
        assert (split.donors["test"], split.donors["validation"]) == (whole.donors["test"], whole.donors["validation"])
        assert set(split.donors["train"]) | set(split.donors["left_out"]) == set(whole.donors["train"])
        split.write(tmp_path / "split.json")
        saved = json.loads((tmp_path / "split.json").read_text())
        assert (split_from_json(saved, 300, donors).train == split.train).all()
        assert (split_from_json(with_all_training_donors(saved), 300, donors).train == whole.train).all()
        kept = set(split.donors["train"])
    with pytest.raises(InputError, match=r"train_donor_fraction=0\.5 is a share of donors, so their column is needed"):
        split_cells(300, None, train_donor_fraction=0.5, **how)


def test_a_donor_in_two_parts_is_refused():
    with pytest.raises(InputError, match="Donor 'a' is in two parts"):
        split_of_donors(pd.Series(["a", "b"], name="d"), train=["a"], validation=["b"], test=["a"])


def test_a_split_of_other_cells_is_refused():
    saved = split_cells(50, None, validation_fraction=0.2, seed=0).to_json()
    with pytest.raises(InputError, match="The saved split is of other cells"):
        split_from_json(saved, 10, None)

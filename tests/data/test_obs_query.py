"""Tests of queries over obs columns, and of what is said of those that cannot be used."""

import pandas as pd
import pytest

from selfcell.core.errors import InputError
from selfcell.data.obs_query import named_columns, no_cells_message, query_mask

OBS = pd.DataFrame(
    {
        "type": pd.Categorical(["B", "T", None, "B"]),
        "age": [1.0, None, 3.0, 4.0],
        "good": pd.array([True, False, None, True], dtype="boolean"),
    }
)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("type == 'B'", [0, 3]),
        ("age > 2", [2, 3]),
        ("good", [0, 3]),
        ("good == True and age < 2", [0]),
        ("not good", [1]),
        ("good != True", [1]),
        ("type == type", [0, 1, 3]),
    ],
)
def test_cells_are_chosen_as_pandas_does_and_missing_truth_is_never_true(query, kept):
    assert query_mask(OBS, query).nonzero()[0].tolist() == kept


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("typ == 'B'", "names 'typ', but there is no such column .* Did you mean 'type'"),
        ("type == B", "names 'B', but .*values stand in quotes"),
        ("type = 'B'", "sets a value: two values are compared by =="),
        ("type == 'B", "cannot be understood"),
        ("age + 1", "must be true or false for each cell, but gives float64 values"),
        ("1 == 1", "but gives one value"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(query, message):
    with pytest.raises(InputError, match=message):
        query_mask(OBS, query)


def test_columns_beyond_those_read_are_known_to_the_message():
    with pytest.raises(InputError, match="Did you mean 'tissue'"):
        query_mask(pd.DataFrame(), "tisue == 'lung'", columns=["tissue", "donor"])


def test_a_query_that_holds_for_no_cell_is_told_the_values():
    many = pd.DataFrame({"name": [f"n{place:02}" for place in range(20)]})
    assert no_cells_message("q", [OBS, OBS]).endswith(
        "none of the 8 cells: type is B, T; age goes from 1 to 4; good is False, True."
    )
    assert no_cells_message("q", [many]).endswith("n10, n11 and others.")
    assert no_cells_message("q", [OBS.iloc[2:3][["type"]]]).endswith("type has no values.")


def test_the_columns_that_a_query_names_are_told_from_its_values():
    columns = ["lung", "tissue", "n genes", "is_primary", "a"]
    assert named_columns("tissue == 'lung' and `n genes` > 5 and not is_primary", columns) == [
        "tissue", "n genes", "is_primary"
    ]  # fmt: skip

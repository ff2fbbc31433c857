"""Tests of the obs columns of an atlas: one set for inputs that differ."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from selfcell.core.errors import InputError
from selfcell.data.atlas.index import CategoryColumn, ObsColumn, ValueColumn
from selfcell.data.atlas.inputs import CellInput, open_input
from selfcell.data.atlas.obs import ObsPlan, plan_obs

_SPEC = importlib.util.spec_from_file_location("input_files", Path(__file__).with_name("input_files.py"))
files = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(files)


class _Maker:
    """Write and open one input for each table of columns."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack

    def __call__(self, *tables: dict[str, Any]) -> list[CellInput]:
        return [self._open(number, table) for number, table in enumerate(tables)]

    def _open(self, number: int, table: dict[str, Any]) -> CellInput:
        n_cells = len(next(iter(table.values())))
        cells = files.make_cells(np.ones((n_cells, 2), dtype=np.int64))
        cells.obs = pd.DataFrame(table, index=[f"{number}-{cell}" for cell in range(n_cells)])
        path = self._folder / f"{number}.h5ad"
        cells.write_h5ad(path)
        return self._stack.enter_context(open_input(path, scratch=self._folder / "scratch", memory_bytes=10**7))


@pytest.fixture
def make(tmp_path: Path) -> Iterator[_Maker]:
    with ExitStack() as stack:
        yield _Maker(tmp_path, stack)


def _plan(inputs: list[CellInput], **options: Any) -> tuple[ObsPlan, list[dict[str, Any]]]:
    given: dict[str, Any] = {"keep": None, "rename": {}, "strict": False} | options
    plan, reports = plan_obs(inputs, **given)
    json.dumps(reports)
    return plan, reports


def _categories(*names: str) -> ObsColumn:
    return CategoryColumn(categories=names)


def test_categories_are_united_and_missing_values_stay_missing(make: _Maker) -> None:
    inputs = make(
        {"type": pd.Categorical(["T", "B", None], categories=["unused", "B", "T"]), "age": [1, 2, 3]},
        {"type": ["NK", "T", "NK"], "age": [0.5, np.nan, 2]},
    )
    plan, reports = _plan(inputs)
    assert plan.columns == {"type": _categories("B", "T", "NK"), "age": ValueColumn(kind="number")}
    frames = [plan.frame(source) for source in inputs]
    assert [list(frame["type"].cat.codes) for frame in frames] == [[1, 0, -1], [2, 1, 2]]
    assert [list(frame["type"].cat.categories) for frame in frames] == [["B", "T", "NK"]] * 2
    assert [frame["age"].dtype for frame in frames] == [np.float64] * 2
    assert list(frames[1].index) == ["1-0", "1-1", "1-2"]
    assert reports[0] == {"columns": {"type": "type", "age": "age"}, "filled": {}, "made_names": {}, "left_out": []}


def test_columns_are_renamed_where_they_are(make: _Maker) -> None:
    inputs = make({"cell_type": ["T"]}, {"CellType": ["B"]}, {"annotation": ["T"]})
    plan, reports = _plan(inputs, rename={"CellType": "cell_type", "annotation": "cell_type"})
    assert plan.columns == {"cell_type": _categories("T", "B")}
    assert [plan.frame(source)["cell_type"].tolist() for source in inputs] == [["T"], ["B"], ["T"]]
    assert [report["columns"]["cell_type"] for report in reports] == ["cell_type", "CellType", "annotation"]


def test_two_columns_of_one_name_are_refused(make: _Maker) -> None:
    inputs = make({"a": ["T"], "b": ["B"]})
    with pytest.raises(InputError, match=r"0\.h5ad has both 'a' and 'b' in obs, and both would be 'c'"):
        _plan(inputs, rename={"a": "c", "b": "c"})
    with pytest.raises(InputError, match="both would be 'b'"):
        _plan(inputs, rename={"a": "b"})
    with pytest.raises(InputError, match=r"No input has a column 'A' in obs to be renamed\. Did you mean 'a'"):
        _plan(inputs, rename={"A": "c"})


def test_a_missing_column_is_filled_aloud_or_refused(make: _Maker, caplog: pytest.LogCaptureFixture) -> None:
    inputs = make({"type": ["T"], "age": [1.0], "good": [True]}, {"other": ["x", "y"]})
    plan, reports = _plan(inputs, keep=["type", "age", "good"])
    assert plan.columns["good"] == ValueColumn(kind="bool")
    assert plan.columns["type"] == _categories("T", "unknown")
    frame = plan.frame(inputs[1])
    assert frame["type"].tolist() == ["unknown", "unknown"]
    assert frame["age"].isna().all() and frame["good"].isna().all()
    assert plan.frame(inputs[0])["good"].tolist() == [True]
    assert reports[1]["filled"] == {"type": "unknown", "age": "NaN", "good": "no value"}
    assert reports[1]["left_out"] == ["other"]
    assert "1.h5ad lacks columns of obs, which are filled: type (unknown), age (NaN)" in caplog.text
    with pytest.raises(InputError, match=r"1 of 2 inputs have no column 'type' in obs; the first is .*1\.h5ad"):
        _plan(inputs, keep=["type"], strict=True)
    with pytest.raises(InputError, match=r"No input has a column 'typ' in obs\. Did you mean 'type'"):
        _plan(inputs, keep=["typ"])


def test_columns_of_two_kinds_become_names(make: _Maker, caplog: pytest.LogCaptureFixture) -> None:
    inputs = make({"cluster": [1.0, np.nan, 10.0]}, {"cluster": ["10", "a", "1"]}, {"cluster": [True, False, True]})
    plan, reports = _plan(inputs)
    assert plan.columns["cluster"] == _categories("1", "10", "a", "True", "False")
    assert plan.frame(inputs[0])["cluster"].tolist() == ["1", np.nan, "10"]
    assert [report["made_names"] for report in reports] == [{"cluster": "number"}, {}, {"cluster": "bool"}]
    assert "cluster (was number)" in caplog.text
    with pytest.raises(InputError, match=r"of different kinds: number in .*0\.h5ad; category in"):
        _plan(inputs, strict=True)


def test_too_many_names_are_strings(make: _Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcell.data.atlas.obs.MOST_CATEGORIES", 2)
    inputs = make({"barcode": ["a", "b"]}, {"barcode": pd.Categorical(["c", None])})
    plan, _ = _plan(inputs)
    assert plan.columns["barcode"] == ValueColumn(kind="string")
    assert [plan.frame(source)["barcode"].tolist() for source in inputs] == [["a", "b"], ["c", ""]]


def test_truth_values_stay_what_they_are(make: _Maker) -> None:
    inputs = make({"good": [True, False]})
    plan, _ = _plan(inputs)
    assert plan.columns["good"] == ValueColumn(kind="bool")
    assert plan.frame(inputs[0])["good"].tolist() == [True, False]


def test_the_words_true_and_false_beside_truth_values_are_such(make: _Maker) -> None:
    inputs = make({"good": [True, False]}, {"good": pd.Categorical(["False", None])})
    plan, _ = _plan(inputs)
    assert plan.columns["good"] == ValueColumn(kind="bool")
    assert plan.frame(inputs[1])["good"].tolist() == [False, pd.NA]
    assert _plan(inputs[1:])[0].columns["good"] == _categories("False")
    again, _ = _plan(inputs[1:], previous={"good": ValueColumn(kind="bool")})
    assert again.frame(inputs[1])["good"].tolist() == [False, pd.NA]


def test_a_column_tells_the_file_of_each_cell(make: _Maker) -> None:
    inputs = make({"type": ["B"]}, {"type": ["T", "T"]})
    plan, reports = _plan(inputs, source_key="file")
    assert plan.columns["file"] == _categories("0", "1")
    assert plan.frame(inputs[1])["file"].tolist() == ["1", "1"] and reports[1]["filled"] == {}
    later, _ = _plan(inputs[1:], previous={"file": _categories("0", "1")}, source_key="file")
    assert later.frame(inputs[1])["file"].tolist() == [str(inputs[1].path)] * 2
    with pytest.raises(InputError, match="has a column 'type' in obs already"):
        _plan(inputs, source_key="type")


def test_an_append_keeps_the_old_columns(make: _Maker) -> None:
    previous = {"type": _categories("B", "T"), "age": ValueColumn(kind="number"), "sex": _categories("f", "m")}
    inputs = make({"type": ["NK", "B"], "new": [1, 2]})
    plan, reports = _plan(inputs, previous=previous)
    assert plan.columns == {
        "type": _categories("B", "T", "NK"),
        "age": ValueColumn(kind="number"),
        "sex": _categories("f", "m", "unknown"),
    }
    assert list(plan.frame(inputs[0])["type"].cat.codes) == [2, 0]
    assert reports[0]["left_out"] == ["new"]


def test_an_append_may_lack_numbers_truth_values_and_what_was_renamed(make: _Maker) -> None:
    previous = {"sure": ValueColumn(kind="bool"), "age": ValueColumn(kind="number"), "type": _categories("B")}
    inputs = make({"type": ["T"]}, {"old": ["NK"]})
    plan, _ = _plan(inputs, previous=previous, rename={"old": "type", "older": "type"})
    frames = [plan.frame(source) for source in inputs]
    assert all(frame[["sure", "age"]].isna().all(axis=None) for frame in frames)
    assert [frame["type"].tolist() for frame in frames] == [["T"], ["NK"]]


@pytest.mark.parametrize(("kind", "held"), [("number", "numbers"), ("bool", "truth values")])
def test_an_append_of_another_kind_is_refused(kind: str, held: str, make: _Maker) -> None:
    with pytest.raises(InputError, match=rf"obs\['type'\] of the atlas holds {held}, but .* inputs holds names"):
        _plan(make({"type": ["NK"]}), previous={"type": ValueColumn(kind=kind)})


def test_an_append_of_too_many_names_is_refused(make: _Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcell.data.atlas.obs.MOST_CATEGORIES", 2)
    inputs = make({"type": ["a", "b"]})
    with pytest.raises(InputError, match="would have 3 categories, more than 2"):
        _plan(inputs, previous={"type": _categories("c")})
    plan, _ = _plan(inputs, previous={"type": ValueColumn(kind="string")})
    assert plan.columns == {"type": ValueColumn(kind="string")}


def test_a_value_that_was_not_planned_is_refused(make: _Maker) -> None:
    plan = ObsPlan({"type": _categories("a")}, {})
    with pytest.raises(InputError, match=r"0\.h5ad, obs\['type'\] has a value that was not there before: 'b'"):
        plan.frame(make({"type": ["a", "b"]})[0])

import numpy as np
import pandas as pd
import pytest

from selfcell.core.config import build
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.downstream.base import Columns, EncodedCells
from selfcell.downstream.cell_type import CellTypeSettings, CellTypeTask
from selfcell.downstream.confidence import UNSEEN_COLUMNS, Reference, leave_types_out
from selfcell.downstream.confidence_scores import CONFIDENCE_COLUMNS, confidence_scores
from selfcell.downstream.labelled_reference import Naming
from selfcell.downstream.reliability import expected_calibration_error

CLASSES = ("far", "near", "other near")
CENTERS = np.array([[30.0, 0, 0], [0, 0, 0], [0, 1.5, 0]])
"""One type that cannot be missed, and two that are hard to tell apart."""


def cloud(n_cells, *, seed):
    rng = np.random.default_rng(seed)
    code = rng.integers(0, 3, size=n_cells)
    return (CENTERS[code] + rng.normal(size=(n_cells, 3))).astype(np.float32), code, rng.integers(0, 6, size=n_cells)


@pytest.fixture(scope="module")
def unseen():
    reference, code, donor = cloud(1_200, seed=0)
    query, query_code, _ = cloud(600, seed=1)
    table = leave_types_out(Reference(reference, code, donor, Naming(3)), query, query_code, CLASSES)
    return table.set_index("class")


def test_a_type_far_from_all_others_is_noticed_and_one_amid_them_is_not(unseen):
    assert unseen.loc["far", "auroc_familiarity"] > 0.99 and unseen.loc["far", "called_unknown"] > 0.99
    assert unseen.loc["near", "auroc_distance"] < 0.8 and unseen.loc["near", "called_unknown"] < 0.5


def test_known_cells_are_called_unknown_no_more_often_than_was_promised(unseen):
    assert unseen["known_called_unknown"].max() < 0.12


def test_every_type_with_enough_cells_has_a_row():
    reference, code, donor = cloud(300, seed=0)
    query, query_code, _ = cloud(200, seed=1)
    kept = np.r_[np.flatnonzero(query_code != 1), np.flatnonzero(query_code == 1)[:29]]
    given = Reference(reference, code, donor, Naming(3))
    table = leave_types_out(given, query[kept], query_code[kept], CLASSES)
    assert list(table["class"]) == ["far", "other near"] and tuple(table.columns) == UNSEEN_COLUMNS


def test_with_two_types_none_can_be_left_out():
    reference, code, donor = cloud(300, seed=0)
    two = np.flatnonzero(code < 2)
    given = Reference(reference[two], code[two], donor[two], Naming(3))
    assert leave_types_out(given, reference[two], code[two], CLASSES).empty


@pytest.fixture
def adata():
    return simulate_cells(n_cells=800, n_genes=60, n_types=3, n_donors=8, seed=0)


@pytest.fixture
def examine(adata, model):
    cells = open_cells(adata)
    encoded = EncodedCells.of(model, cells)
    donors = cells.obs["donor"]
    names = sorted(set(donors))
    test = donors.isin(names[:3]).to_numpy()
    split = Split(np.flatnonzero(~test), np.array([], dtype=np.int64), np.flatnonzero(test), unit="donor")
    settings = build(CellTypeSettings, {"training": {"max_epochs": 5, "minibatch_size": 64, "device": "cpu"}})

    def run(regimes=("zero_shot", "probe", "fine_tuned"), *, donors=donors, cells=cells):
        task = CellTypeTask.of(settings, cells, Columns("cell_type", "donor", None))
        return task.examine(encoded, split, donors=donors, regimes=regimes), split

    return run


def test_every_test_cell_is_asked_about_once_a_method(examine, adata):
    tables, split = examine()
    cells = tables["confidence"]
    assert tuple(cells.columns) == CONFIDENCE_COLUMNS
    for method in ("zero_shot", "probe", "fine_tuned"):
        of_method = cells[cells["method"] == method]
        assert (of_method["truth"].to_numpy() == adata.obs["cell_type"].to_numpy()[split.test]).all()
        assert (of_method["donor"].to_numpy() == adata.obs["donor"].to_numpy()[split.test]).all()
        assert of_method[["confidence", "uncalibrated"]].to_numpy().min() > 0
        assert ((of_method["n_in_set"] == 0) <= of_method["is_unknown"]).all()
        assert not of_method["truth_in_set"][of_method["n_in_set"] == 0].any()


@pytest.mark.parametrize(
    ("regimes", "tables"),
    [
        (("zero_shot",), {"confidence", "unseen_types"}),
        (("fine_tuned",), {"confidence"}),
        (("probe",), {"confidence"}),
        ((), set()),
    ],
)
def test_what_is_not_compared_is_not_examined(regimes, tables, examine):
    assert set(examine(regimes)[0]) == tables


def test_without_donors_it_is_examined_all_the_same(examine):
    tables, _ = examine(donors=None)
    assert tables["confidence"]["confidence"].between(0, 1).all()


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_what_is_examined_is_what_is_scored(adata, model, class_weights):
    """The types that confidence is told of are those of the regime, whatever its settings."""
    cells = open_cells(adata)
    settings = build(CellTypeSettings, {"class_weights": class_weights})
    task = CellTypeTask.of(settings, cells, Columns("cell_type", "donor", None))
    split = Split(np.arange(300), np.array([], dtype=np.int64), np.arange(300, 800), unit="cell")
    encoded = EncodedCells.of(model, cells)
    told = task.examine(encoded, split, donors=None, regimes=["zero_shot", "probe"])["confidence"]
    for regime in ("zero_shot", "probe"):
        expected = task.predict(encoded, split, regime=regime, seed=0)
        assert list(told.loc[told["method"] == regime, "predicted"]) == [task.classes[code] for code in expected]


def test_a_single_labelled_donor_is_examined_cell_by_cell(examine, adata):
    donors = open_cells(adata).obs["donor"].astype(str).map(lambda _: "one")
    assert set(examine(donors=donors)[0]["confidence"]["method"]) == {"zero_shot", "probe", "fine_tuned"}


def test_too_few_cells_to_calibrate_a_classifier_on_are_told(examine, monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setattr("selfcell.downstream.cell_type.N_TO_CALIBRATE", 1_000)
    assert set(examine()[0]["confidence"]["method"]) == {"zero_shot", "probe"}
    assert "Too few labelled cells to calibrate a classifier on" in caplog.text


def test_types_that_no_labelled_cell_has_are_in_no_set(adata, model):
    cells = open_cells(adata)
    labels = cells.obs["cell_type"].astype(str)
    train = np.flatnonzero(labels.to_numpy() != "type 0")[:400]
    test = np.setdiff1d(np.flatnonzero(labels.to_numpy() != "type 0"), train)
    task = CellTypeTask.of(CellTypeSettings(), cells, Columns("cell_type", "donor", None))
    split = Split(train, np.array([], dtype=np.int64), test, unit="cell")
    tables = task.examine(EncodedCells.of(model, cells), split, donors=None, regimes=["zero_shot"])
    said = tables["confidence"]
    assert (said["truth"].to_numpy() == labels.to_numpy()[test]).all()
    assert (said["truth"] == said["predicted"]).mean() > 0.6
    assert said["n_in_set"].max() <= 2 and said["uncalibrated"].max() <= 1


def test_the_truth_of_test_cells_changes_nothing_that_is_said_of_them(examine, adata):
    (tables, split) = examine()
    other = adata.copy()
    rng = np.random.default_rng(0)
    labels = other.obs["cell_type"].to_numpy(dtype=object)
    labels[split.test] = rng.permutation(labels[split.test])
    other.obs["cell_type"] = labels
    spoiled, _ = examine(cells=open_cells(other))
    said = ["predicted", "confidence", "uncalibrated", "n_in_set", "is_unknown"]
    pd.testing.assert_frame_equal(tables["confidence"][said], spoiled["confidence"][said])


def test_scores_are_those_of_their_parts():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, size=500)
    right = rng.random(500) < confidence
    cells = pd.DataFrame(
        {
            "method": "zero_shot",
            "truth": "B",
            "predicted": np.where(right, "B", "T"),
            "confidence": confidence,
            "uncalibrated": confidence**2,
            "n_in_set": 2,
            "truth_in_set": True,
            "is_unknown": confidence < 0.4,
        }
    )
    scores = confidence_scores(cells).iloc[0]
    assert scores["ece"] == expected_calibration_error(confidence, right) < 0.1 < scores["ece_uncalibrated"]
    assert scores["called_unknown"] == (confidence < 0.4).mean() and scores["coverage"] == 1
    assert scores["errors_if_not_unknown"] == pytest.approx((~right[confidence >= 0.4]).mean())
    assert scores["area_under_risk_coverage"] < 1 - scores["accuracy"]

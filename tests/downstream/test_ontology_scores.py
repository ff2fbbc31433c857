import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from selfcell.core.errors import InputError
from selfcell.data.cell_ontology import CellOntology, OntologyTerm, load_cell_ontology
from selfcell.downstream.metrics import classification_scores, confusion_matrix
from selfcell.downstream.ontology_scores import (
    ONTOLOGY_METRICS,
    corrected_confusion,
    corrected_predictions,
    hops_between_classes,
    kinds_of_classes,
    ontology_scores,
)

CLASSES = ("T cell", "CD4-positive, alpha-beta T cell", "CD8-positive, alpha-beta T cell", "monocyte", "leukocyte")
T_CELL, CD4, CD8, MONOCYTE, LEUKOCYTE = range(5)
REAL = load_cell_ontology()
SOME_CLASSES = st.lists(st.sampled_from(list(REAL)), min_size=1, max_size=8)


def test_each_class_is_a_kind_of_itself_and_of_what_is_above_it():
    expected = [
        [True, True, True, False, False],
        [False, True, False, False, False],
        [False, False, True, False, False],
        [False, False, False, True, False],
        [True, True, True, True, True],
    ]
    assert kinds_of_classes(CLASSES).tolist() == expected
    assert kinds_of_classes([str(cell_type) for cell_type in REAL.resolve(CLASSES)]).tolist() == expected


def test_a_finer_prediction_is_right_and_a_coarser_one_is_wrong():
    truth = np.array([T_CELL, T_CELL, T_CELL, CD4, CD4, CD4, MONOCYTE, LEUKOCYTE])
    predicted = np.array([T_CELL, CD8, LEUKOCYTE, T_CELL, CD4, CD8, CD4, MONOCYTE])
    corrected = corrected_predictions(truth, predicted, classes=CLASSES)
    assert corrected.tolist() == [T_CELL, T_CELL, LEUKOCYTE, T_CELL, CD4, CD8, CD4, LEUKOCYTE]
    scores = classification_scores(confusion_matrix(truth, corrected, n_classes=5))
    assert scores["micro_f1"] == 4 / 8
    assert scores["macro_f1"] == pytest.approx(f1_score(truth, corrected, labels=[0, 1, 3, 4], average="macro"))


@given(SOME_CLASSES, st.integers(0, 50), st.integers(0, 10_000))
def test_the_correction_is_that_of_a_loop_over_cells(classes, n_cells, seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(len(classes), size=(2, n_cells))
    expected = [
        t if classes[p] == classes[t] or classes[p] in REAL.descendants(classes[t]) else p
        for t, p in zip(truth, predicted, strict=True)
    ]
    corrected = corrected_predictions(truth, predicted, classes=classes)
    assert corrected.tolist() == expected
    n_classes = len(classes)
    counted = confusion_matrix(truth, predicted, n_classes=n_classes)
    again = confusion_matrix(truth, corrected, n_classes=n_classes)
    assert (corrected_confusion(counted, classes=classes) == again).all()
    assert (corrected_confusion(np.stack([counted, again]), classes=classes) == again).all()


def test_scores_of_a_case_written_out():
    truth = np.array([T_CELL, T_CELL, CD4, CD4, MONOCYTE])
    predicted = np.array([T_CELL, CD8, T_CELL, CD8, CD4])
    scores = ontology_scores(confusion_matrix(truth, predicted, n_classes=5), classes=CLASSES)
    assert tuple(scores) == ONTOLOGY_METRICS
    assert [scores[name] for name in ONTOLOGY_METRICS[:4]] == [1 / 5, 1 / 5, 1 / 5, 2 / 5]


# cell - blood - T - CD4 - memory
#             \- B    \- CD8
#  \- tissue - mast (also blood)
TERMS = [
    ("CL:0000000", "cell", ""),
    ("CL:0000001", "blood", "CL:0000000"),
    ("CL:0000002", "tissue", "CL:0000000"),
    ("CL:0000003", "T", "CL:0000001"),
    ("CL:0000004", "B", "CL:0000001"),
    ("CL:0000005", "CD4", "CL:0000003"),
    ("CL:0000006", "CD8", "CL:0000003"),
    ("CL:0000007", "memory", "CL:0000005"),
    ("CL:0000008", "mast", "CL:0000002 CL:0000001"),
    ("CL:0000009", "stone", ""),
]
SMALL = CellOntology(
    [OntologyTerm(id=term_id, label=label, parents=tuple(parents.split())) for term_id, label, parents in TERMS],
    version="small",
)


@pytest.mark.parametrize(
    ("first", "second", "hops", "hops_to_common"),
    [
        ("T", "T", 0, 0),
        ("T", "memory", 2, 0),
        ("memory", "T", 2, 2),
        ("memory", "CD8", 3, 2),
        ("CD8", "memory", 3, 1),
        ("B", "memory", 4, 1),
        ("mast", "B", 2, 1),
        ("mast", "tissue", 1, 1),
        ("tissue", "B", 3, 1),
    ],
)
def test_steps_go_over_the_lowest_common_ancestor(first, second, hops, hops_to_common):
    between, to_common = hops_between_classes((first, second), ontology=SMALL)
    assert (between[0, 1], to_common[0, 1]) == (hops, hops_to_common)
    assert between[1, 0] == hops and to_common[1, 0] == hops - hops_to_common


def test_mean_steps_weigh_cells_alike():
    confusion = np.array([[2, 1, 0], [0, 0, 3], [0, 0, 0]])
    scores = ontology_scores(confusion, classes=("memory", "CD8", "B"), ontology=SMALL)
    assert scores["mean_hops"] == (2 * 0 + 1 * 3 + 3 * 3) / 6
    assert scores["mean_hops_to_common"] == (1 * 2 + 3 * 2) / 6


@given(SOME_CLASSES)
def test_steps_are_those_of_a_search_over_all_common_ancestors(classes):
    hops, hops_to_common = hops_between_classes(classes)
    for i, first in enumerate(classes):
        for j, second in enumerate(classes):
            up, down = REAL.hops_to_ancestors(first), REAL.hops_to_ancestors(second)
            best = min((up[common] + down[common], up[common]) for common in up.keys() & down.keys())
            assert (hops[i, j], hops_to_common[i, j]) == best
    assert (hops == hops.T).all()


@given(SOME_CLASSES, st.integers(0, 10_000))
def test_shares_add_to_one_and_agree_with_the_correction(classes, seed):
    confusion = np.random.default_rng(seed).integers(0, 9, size=(len(classes), len(classes))) + np.eye(len(classes))
    scores = ontology_scores(confusion, classes=classes)
    assert sum(scores[name] for name in ONTOLOGY_METRICS[:4]) == pytest.approx(1)
    right = np.trace(corrected_confusion(confusion, classes=classes)) / confusion.sum()
    assert scores["exact"] + scores["descendant"] == pytest.approx(right)


def test_two_names_of_one_type_count_as_one():
    classes = ("T cell", "CL:0000084", "T-lymphocyte")
    truth, predicted = np.array([0, 1, 2]), np.array([1, 2, 0])
    assert (corrected_predictions(truth, predicted, classes=classes) == truth).all()
    assert ontology_scores(confusion_matrix(truth, predicted, n_classes=3), classes=classes)["exact"] == 1


def test_classes_that_are_not_in_the_ontology_are_listed():
    with pytest.raises(InputError, match=r"2 of 3 names are not in the Cell Ontology of .*: '0'; 'CD4 T'"):
        corrected_predictions(np.array([0]), np.array([1]), classes=("0", "CD4 T", "T cell"))


@pytest.mark.parametrize("what", ["truth", "predicted"])
def test_positions_that_are_no_class_are_refused(what):
    arrays = {"truth": np.array([0, 1]), "predicted": np.array([0, 1])} | {what: np.array([-1, 1])}
    with pytest.raises(
        InputError, match=rf"{what} must hold positions among the 2 classes, 0 to 1, but goes from -1 to 1"
    ):
        corrected_predictions(arrays["truth"], arrays["predicted"], classes=("T cell", "monocyte"))


def test_a_matrix_of_other_classes_is_refused():
    with pytest.raises(InputError, match="has 3 classes, but 2 are named: give the names"):
        corrected_confusion(np.eye(3, dtype=int), classes=("T cell", "monocyte"))
    with pytest.raises(InputError, match="has 3 classes, but 2 are named"):
        ontology_scores(np.eye(3, dtype=int), classes=("T cell", "monocyte"))


def test_no_cells_have_no_scores():
    with pytest.raises(InputError, match="There are no cells to score"):
        ontology_scores(np.zeros((2, 2), dtype=int), classes=("T cell", "monocyte"))


def test_types_without_a_common_ancestor_are_refused():
    with pytest.raises(InputError, match="'T' and 'stone' have no ancestor in common"):
        hops_between_classes(("T", "stone"), ontology=SMALL)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.downstream.labelled_reference import Naming, calibrated_reference
from selfcell.downstream.rejection import auroc_of_unseen
from selfcell.downstream.unknown import call_unknown, share_farther


def simulated_types(n_cells, *, seed=0, n_types=4, shift=0.0, n_donors=1):
    """Embeddings of types of unequal width, types and donors; each donor's cells are moved by ``shift``."""
    rng = np.random.default_rng(seed)
    center = 12 * np.random.default_rng(99).normal(size=(n_types, 6))
    code, donor = rng.integers(n_types, size=n_cells), rng.integers(n_donors, size=n_cells)
    moved = shift * rng.normal(size=(n_donors, 6))
    return center[code] + (1 + code[:, None]) * rng.normal(size=(n_cells, 6)) + moved[donor], code, donor


def ask(reference, code, query, *, donor_code=None, n_classes=4):
    return calibrated_reference(reference, code, Naming(n_classes), donor_code=donor_code).assign(query)


def test_the_share_is_nearly_uniform_for_cells_like_the_reference_in_every_type():
    cells, code, _ = simulated_types(6_000)
    asked = ask(cells[:3_000], code[:3_000], cells[3_000:])
    for of_type in range(4):
        chosen = asked.share_farther[asked.label_code == of_type]
        for alpha in (0.05, 0.2, 0.5):
            assert (chosen < alpha).mean() == pytest.approx(alpha, abs=0.1)


def test_the_share_keeps_its_promise_where_types_are_taken_for_each_other():
    rng = np.random.default_rng(0)
    code = rng.integers(2, size=8_000)
    cells = rng.normal(size=(8_000, 4)) * np.where(code, 3.0, 1.0)[:, None]
    asked = ask(cells[:4_000], code[:4_000], cells[4_000:], n_classes=2)
    assert (asked.label_code != code[4_000:]).mean() > 0.05
    assert (asked.share_farther < 0.05).mean() < 0.06


def test_cells_of_a_type_that_the_reference_lacks_are_told_from_known_ones():
    cells, code, _ = simulated_types(4_000)
    reference = np.flatnonzero(code[:2_000] != 3)
    true_code = code[2_000:]
    asked = ask(cells[reference], code[reference], cells[2_000:])
    assert auroc_of_unseen(asked.distance, true_code == 3) > 0.95
    unknown = call_unknown(np.ones((2_000, 4), dtype=bool), asked.share_farther, alpha=0.05)
    assert unknown[true_code == 3].mean() > 0.9
    assert unknown[true_code != 3].mean() < 0.08


def test_with_donors_cells_of_a_new_donor_are_not_called_unfamiliar_too_often():
    cells, code, donor = simulated_types(6_000, n_donors=12, shift=1.0)
    new = donor >= 9
    known = cells[~new], code[~new], cells[new]
    with_donors = ask(*known, donor_code=donor[~new]).share_farther
    without = ask(*known).share_farther
    assert (without < 0.1).mean() > (with_donors < 0.1).mean()
    assert (with_donors < 0.1).mean() == pytest.approx(0.1, abs=0.07)


def test_types_that_one_fold_alone_has_are_asked_about_cell_by_cell(caplog):
    cells, code, _ = simulated_types(300, n_types=3)
    asked = ask(cells[:200], code[:200], cells[200:], donor_code=code[:200], n_classes=3)
    assert "Every type is of the donors of one fold" in caplog.text
    assert asked.confidence[asked.label_code == code[200:]].mean() > 0.5


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 10_000))
def test_the_share_is_a_plain_count(n_reference, n_query, seed):
    rng = np.random.default_rng(seed)
    # Whole numbers: many distances are equal.
    near, far = rng.integers(6, size=n_reference) * 1.0, rng.integers(6, size=n_query) * 1.0
    reference_code, predicted_code = rng.integers(3, size=n_reference), rng.integers(3, size=n_query)
    share = share_farther(near, reference_code, far, predicted_code)
    for cell in range(n_query):
        of_type = near[reference_code == predicted_code[cell]]
        assert share[cell] == pytest.approx((1 + (of_type >= far[cell]).sum()) / (1 + len(of_type)))


def test_a_cell_is_unknown_if_its_set_is_empty_or_it_lies_too_far():
    sets = np.array([[True, False], [False, False], [True, True], [False, False]])
    assert call_unknown(sets, np.array([0.5, 0.5, 0.01, 0.01]), alpha=0.05).tolist() == [False, True, True, True]
    assert call_unknown(sets[:1], np.array([0.05]), alpha=0.05).tolist() == [False]


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match="alpha must lie between 0 and 1, both excluded, but is 1"):
        call_unknown(np.ones((1, 2), dtype=bool), np.array([0.5]), alpha=1.0)

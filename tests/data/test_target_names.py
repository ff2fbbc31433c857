import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.target_names import align_targets
from selfcell.data.targets import Targets


def of(*names):
    return Targets(np.arange(2.0 * len(names), dtype=np.float32).reshape(2, -1), names, "protein_counts", "obsm['p']")


def matched(query, names):
    columns = align_targets(of(*query), names).column_of_name
    return {name: query[column] for name, column in zip(names, columns, strict=True) if column >= 0}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("HLA.DR", "HLA-DR"),
        ("CD8a", "CD8A"),
        ("CD45_RA", "CD45RA"),
        ("PD1", "PD-1"),
        ("chr1_100_200", "chr1:100-200"),
        ("chr1-100-200", "chr1:100-200"),
        ("X:5-9", "chrX:5-9"),
        ("chr1_KI270706v1_random_3_9", "chr1_KI270706v1_random:3-9"),
        ("4.1BB", "4-1BB"),
    ],
)
def test_names_match_however_they_are_spelled(theirs, ours):
    assert matched([theirs, "CD3", "other"], ["CD3", ours, "more"]) == {"CD3": "CD3", ours: theirs}


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (["ADT_CD3", "ADT_CD4", "ADT_HLA-DR"], ["HLA.DR", "CD4", "CD3"]),
        (["CD3_TotalSeqB", "CD4_TotalSeqB", "HLA-DR_TotalSeqB"], ["cd3", "cd4", "hla-dr"]),
        (["CD3", "CD4", "HLADR"], ["anti-CD3-A0034", "anti-CD4-A0034", "anti-HLA-DR-A0034"]),
        (["adt:CD3", "adt:CD4", "adt:CD8"], ["CD3_prot", "CD4_prot", "CD8_prot"]),
    ],
)
def test_what_all_names_of_a_side_share_does_not_count(query, names):
    assert align_targets(of(*query), names).missing == ()


def test_an_exact_name_goes_before_one_spelled_alike():
    assert matched(["cd3", "CD3", "CD4"], ["CD3", "CD4"]) == {"CD3": "CD3", "CD4": "CD4"}


def test_numbers_that_a_separator_parts_are_not_joined():
    assert matched(["CD31", "CD4", "CD5"], ["CD3-1", "CD4", "CD5"]) == {"CD4": "CD4", "CD5": "CD5"}


def test_names_that_spelling_makes_the_same_match_neither():
    assert matched(["CD-3", "CD.3", "CD4", "CD5"], ["CD3", "CD4", "CD5"]) == {"CD4": "CD4", "CD5": "CD5"}


def test_the_shared_targets_come_in_the_models_order(caplog):
    query = of("CD3", "HLA.DR", "CD8a")
    with caplog.at_level(logging.INFO, logger="selfcell"):
        alignment = align_targets(query, ("CD8A", "CD19", "CD3", "HLA-DR"))
    assert alignment.missing == ("CD19",) and alignment.respelled == (("CD8A", "CD8a"), ("HLA-DR", "HLA.DR"))
    assert alignment.shared.tolist() == [0, 2, 3]
    shared = alignment.apply(query)
    assert shared.names == ("CD8a", "CD3", "HLA.DR") and (shared.matrix == query.matrix[:, [2, 0, 1]]).all()
    assert "2 targets of obsm['p'] are spelled differently: CD8a for CD8A, HLA.DR for HLA-DR." in caplog.text
    assert "1 of the model's 4 targets are not in obsm['p'] and are not scored: CD19." in caplog.text


@given(st.permutations(list(range(12))))
def test_any_order_is_put_right(order):
    names = [f"CD{number}" for number in range(12)]
    query = [names[position].lower() for position in order]
    assert align_targets(of(*query), names).column_of_name.tolist() == np.argsort(order).tolist()


def test_namings_that_have_nothing_in_common_are_refused_with_examples():
    message = (
        r"Only 1 of the model's 3 targets are among the 2 of obsm\['p'\]\. The model's are named such as CD3, CD4, "
        r"CD5; those of the cells such as ENSG01, CD3\. Rename"
    )
    with pytest.raises(InputError, match=message):
        align_targets(of("ENSG01", "CD3"), ["CD3", "CD4", "CD5"])


def test_a_model_of_one_target_needs_but_that_one():
    assert matched(["CD3", "CD4"], ["CD3"]) == {"CD3": "CD3"}

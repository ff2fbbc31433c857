import gzip
import importlib.resources
import logging
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data import datasets
from selfcell.data.cell_ontology import CellOntology, OntologyTerm, load_cell_ontology

CELL, T_CELL, LYMPHOCYTE, MONOCYTE = "CL:0000000", "CL:0000084", "CL:0000542", "CL:0000576"
CD4, CD8 = "CL:0000624", "CL:0000625"
REAL = load_cell_ontology()
ANY_TYPE = st.sampled_from(list(REAL))


def steps_up(start):
    """Find the fewest steps to each ancestor by walking level by level."""
    steps, waiting = {start: 0}, deque([start])
    while waiting:
        here = waiting.popleft()
        for parent in REAL.parents(here):
            if parent not in steps:
                steps[parent] = steps[here] + 1
                waiting.append(parent)
    return steps


def test_the_table_is_the_release_that_it_says():
    assert REAL.version == "2026-03-26"
    assert len(REAL) == 3316
    assert [cell_type for cell_type in REAL if not REAL.parents(cell_type)] == [CELL]


def test_the_table_is_small_and_names_its_licence():
    folder = importlib.resources.files("selfcell.data").joinpath("ontology")
    packed = folder.joinpath("cell_ontology.csv.gz").read_bytes()
    assert len(packed) < 200_000
    assert "CC BY 4.0" in gzip.decompress(packed).decode().splitlines()[0]
    assert "Attribution 4.0" in folder.joinpath("README.md").read_text()


def test_it_is_read_once():
    assert load_cell_ontology() is REAL


def test_well_known_types_are_kinds_of_what_they_are():
    assert REAL.is_a(CD4, T_CELL) and REAL.is_a(T_CELL, LYMPHOCYTE) and REAL.is_a(CD8, LYMPHOCYTE)
    assert not REAL.is_a(T_CELL, CD4) and not REAL.is_a(CD4, CD8) and not REAL.is_a(MONOCYTE, T_CELL)
    assert REAL.is_a(T_CELL, T_CELL)
    assert T_CELL not in REAL.ancestors(T_CELL) and T_CELL not in REAL.descendants(T_CELL)
    assert {CD4, CD8} <= REAL.descendants(T_CELL)
    assert REAL.parents(T_CELL) == (LYMPHOCYTE,)
    assert REAL.label(CD4) == "CD4-positive, alpha-beta T cell"


def test_every_type_is_a_cell():
    assert REAL.descendants(CELL) == set(REAL) - {CELL}


def test_ancestors_and_steps_are_those_of_a_search():
    for cell_type in REAL:
        assert dict(REAL.hops_to_ancestors(cell_type)) == steps_up(cell_type)
        assert REAL.ancestors(cell_type) == steps_up(cell_type).keys() - {cell_type}


@given(ANY_TYPE, st.data())
def test_a_kind_of_a_kind_is_a_kind(cell_type, data):
    above = data.draw(st.sampled_from(sorted(REAL.hops_to_ancestors(cell_type))))
    higher = data.draw(st.sampled_from(sorted(REAL.hops_to_ancestors(above))))
    assert REAL.is_a(cell_type, higher)
    assert REAL.ancestors(above) <= REAL.ancestors(cell_type)
    assert REAL.descendants(cell_type) <= REAL.descendants(above)


@given(ANY_TYPE, st.data())
def test_no_two_types_are_kinds_of_each_other(cell_type, data):
    for above in REAL.ancestors(cell_type):
        assert not REAL.is_a(above, cell_type)
    other = data.draw(ANY_TYPE)
    assert (REAL.is_a(cell_type, other) and REAL.is_a(other, cell_type)) == (cell_type == other)


@given(ANY_TYPE, ANY_TYPE)
def test_descendants_turn_ancestors_round(first, second):
    assert (first in REAL.descendants(second)) == (second in REAL.ancestors(first))


@given(ANY_TYPE, st.sampled_from([str.upper, str.lower, str.title, lambda name: f"  {name.replace(' ', '  ')} "]))
def test_a_label_leads_to_its_id_whatever_its_case(cell_type, write):
    assert REAL.id_of(write(REAL.label(cell_type))) == cell_type


def test_ids_labels_synonyms_and_former_labels_resolve_side_by_side():
    names = ["CL:0000084", "cl_0000084", "T cell", "T-lymphocyte", "fibrocyte", "t CELL"]
    assert REAL.resolve(names) == [T_CELL] * 4 + ["CL:0000135", T_CELL]
    assert REAL.label("CL:0000135") == "circulating fibrocyte"
    assert REAL.resolve([]) == []


def test_an_obsolete_id_is_replaced_and_a_log_line_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="selfcell"):
        assert REAL.resolve(["CL:0000003", "native cell", "T cell"]) == [CELL, CELL, T_CELL]
    message = (
        "Obsolete in the Cell Ontology and replaced: CL:0000003 by CL:0000000 (cell); native cell by CL:0000000 (cell)."
    )
    assert caplog.messages == [message]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="selfcell"):
        REAL.resolve(["T cell"])
    assert caplog.messages == []


def test_all_names_that_are_unknown_are_listed_with_the_nearest():
    names = ["T cell", "T celll", "xyzzy", "CL:9999999", "CL:0000009"]
    with pytest.raises(InputError) as caught:
        REAL.resolve(names)
    assert str(caught.value) == (
        "4 of 5 names are not in the Cell Ontology of 2026-03-26: 'T celll' (did you mean 'T cell', CL:0000084?); "
        "'xyzzy'; 'CL:9999999' (an id of another release?); 'CL:0000009' (obsolete, replaced by nothing). "
        "Give ids (CL:0000084) or labels of the ontology, and leave out cells without a type."
    )


def test_one_unknown_name_of_several_is_counted():
    with pytest.raises(InputError, match=r"^1 of 2 names is not in .*: 'xyzzy'\. Give ids"):
        REAL.resolve(["T cell", "xyzzy"])


def test_a_long_list_of_unknown_names_is_cut():
    with pytest.raises(InputError, match=r"30 of 30 names .*'zz0'; .*'zz19'; and 10 more\. Give ids"):
        REAL.resolve([f"zz{number}" for number in range(30)])


def test_what_takes_an_id_takes_no_label_and_no_obsolete_id():
    with pytest.raises(InputError, match=r"A name is not in .*: 'T cell' \(did you mean 'CL:0000084'\?\)\. Give an id"):
        REAL.ancestors("T cell")
    with pytest.raises(InputError, match=r"'CL:0000003' \(obsolete, replaced by CL:0000000\)\. Give an id"):
        REAL.is_a(T_CELL, "CL:0000003")
    with pytest.raises(InputError, match=r"'CL:12'.*\. Give an id"):
        REAL.label("CL:12")


def test_it_can_be_asked_whether_a_name_is_known():
    assert REAL.knows("T cell") and REAL.knows("CL:0000084") and REAL.knows("CL:0000003")
    assert not REAL.knows("CL:0000009") and not REAL.knows("unknown") and not REAL.knows("")


def test_a_synonym_of_two_types_is_none_and_a_label_goes_first():
    ontology = CellOntology(
        [
            OntologyTerm(id="CL:0000001", label="cell"),
            OntologyTerm(id="CL:0000002", label="a", parents=("CL:0000001",), synonyms=("both", "B", "own")),
            OntologyTerm(id="CL:0000003", label="b", parents=("CL:0000001",), synonyms=("both",)),
            OntologyTerm(id="CL:0000004", label="own", is_obsolete=True, replaced_by="CL:0000003"),
        ],
        version="0",
    )
    assert ontology.resolve(["b", "own", "CL:0000004"]) == ["CL:0000003", "CL:0000002", "CL:0000003"]
    assert not ontology.knows("both")
    with pytest.raises(InputError, match=r"'Both' \(the name of 'a', CL:0000002 and 'b', CL:0000003\)\. Give ids"):
        ontology.resolve(["Both"])


def test_an_ontology_that_goes_round_in_circles_is_refused():
    terms = [
        OntologyTerm(id="CL:0000001", label="a", parents=("CL:0000002",)),
        OntologyTerm(id="CL:0000002", label="b", parents=("CL:0000001",)),
    ]
    with pytest.raises(InputError, match=r"its own ancestor: CL:000000[12], CL:000000[12], CL:000000[12]\."):
        CellOntology(terms, version="0")


def test_a_parent_that_is_no_cell_type_is_refused():
    with pytest.raises(InputError, match="CL:0000001 names CL:0000002, which is not a cell type"):
        CellOntology([OntologyTerm(id="CL:0000001", label="a", parents=("CL:0000002",))], version="0")


@pytest.mark.network
def test_labels_and_ids_of_a_real_data_set_agree():
    obs = datasets.load("pancreas_4_studies").obs
    pairs = obs[["cell_type", "cell_type_ontology_term_id"]].drop_duplicates()
    assert len(pairs) == 9
    assert REAL.resolve(pairs["cell_type"]) == list(pairs["cell_type_ontology_term_id"])
    assert REAL.resolve(pairs["cell_type_ontology_term_id"]) == list(pairs["cell_type_ontology_term_id"])
    assert [REAL.label(cell_type) for cell_type in pairs["cell_type_ontology_term_id"]] == list(pairs["cell_type"])

"""Tests of an atlas's genes: one vocabulary for inputs that name theirs differently."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.atlas.gene_aliases import GeneAliases, load_aliases
from selfcell.data.atlas.index import AtlasIndex
from selfcell.data.atlas.vocabulary import (
    GeneMatch,
    InputGenes,
    learn_aliases,
    make_vocabulary,
    match_to_vocabulary,
    read_vocabulary,
)
from selfcell.data.genes import GeneTable

TP53, ACTB, CD3E = "ENSG00000141510", "ENSG00000075624", "ENSG00000198851"
ALIASES = GeneAliases.of(
    [("TP53", TP53), ("ACTB", ACTB), ("CD3E", CD3E), ("TWIN", "ENSG00000000001"), ("TWIN", "ENSG00000000002")],
    [("P53", TP53), ("TP53", CD3E), ("LFS", TP53), ("LFS", ACTB)],
)


def _symbols(*names: str) -> InputGenes:
    return InputGenes.from_var(pd.DataFrame(index=list(names)))


def _match(genes: InputGenes, vocabulary: GeneTable, **options: object) -> GeneMatch:
    return match_to_vocabulary(genes, vocabulary, allow_low_overlap=True, **options)


def test_genes_are_read_each_for_itself() -> None:
    var = pd.DataFrame(
        {"gene_ids": ["", f"{ACTB}.3", "x", ""], "feature_name": ["TP53", "beta", "", CD3E]},
        index=[f"{TP53}.17", "ACTB", "ENSA", CD3E],
    )
    genes = InputGenes.from_var(var)
    assert genes.ids == (TP53, ACTB, "ENSA", CD3E)
    assert genes.symbols == ("TP53", "ACTB", "ENSA", "")
    assert genes.names == ("TP53", "ACTB", "ENSA", CD3E)


def test_an_alias_stands_for_one_gene_or_for_none() -> None:
    assert ALIASES.find("P53") == (TP53, "alias")
    assert ALIASES.find("TP53") == (TP53, "table")
    assert ALIASES.find("LFS") is None
    assert ALIASES.find("TWIN") is None
    assert ALIASES.ambiguous == {"LFS", "TWIN"}


def test_union_and_intersection_keep_the_order_of_first_appearance() -> None:
    inputs = [_symbols("B", "A", "B", "C"), _symbols("D", "C", "B")]
    assert make_vocabulary(inputs, "union").ids == ("B", "A", "C", "D")
    assert make_vocabulary(inputs, "intersection").ids == ("B", "C")
    with pytest.raises(InputError, match=r"No gene is in all of the 2 inputs; they begin A; B\."):
        make_vocabulary([_symbols("A"), _symbols("B")], "intersection")


def test_symbols_and_ids_meet_by_the_table() -> None:
    inputs = [_symbols("P53", "ACTB"), InputGenes((CD3E, TP53, ACTB), ("", "", ""))]
    vocabulary = make_vocabulary(inputs, "intersection", aliases=ALIASES)
    assert vocabulary == GeneTable((TP53, ACTB), ("P53", "ACTB"))
    assert make_vocabulary(inputs, "union").ids == ("P53", "ACTB", CD3E, TP53, ACTB)
    match = _match(inputs[0], vocabulary, aliases=ALIASES)
    assert match.column_of_input.tolist() == [0, 1]
    by_symbols = GeneTable(("TP53", "ACTB"), ("TP53", "ACTB"))
    match = _match(inputs[1], by_symbols, aliases=ALIASES)
    assert (match.column_of_input.tolist(), match.report["n_by_table"]) == ([-1, 0, 1], 2)


def test_symbols_and_ids_meet_by_what_a_third_input_says() -> None:
    inputs = [_symbols("NEW1"), InputGenes((TP53,), ("",)), InputGenes((TP53,), ("NEW1",))]
    vocabulary = make_vocabulary(inputs, "intersection")
    assert vocabulary == GeneTable((TP53,), ("NEW1",))
    learned = learn_aliases(inputs)
    assert [_match(genes, vocabulary, aliases=learned).column_of_input.tolist() for genes in inputs] == [[0], [0], [0]]


def test_two_ids_beside_one_symbol_are_two_genes() -> None:
    twins = InputGenes(("ENSG00000000001", "ENSG00000000002"), ("TWIN", "TWIN"))
    vocabulary = make_vocabulary([twins])
    assert vocabulary.ids == twins.ids
    assert _match(twins, GeneTable(twins.ids[:1], ("TWIN",))).column_of_input.tolist() == [0, -1]
    named = _match(_symbols("TWIN"), vocabulary)
    assert (named.column_of_input.tolist(), named.report["n_ambiguous"]) == ([-1], 1)


def test_the_report_counts_what_matched_and_how() -> None:
    vocabulary = GeneTable((TP53, ACTB, "NOVEL"), ("TP53", "", "NOVEL"))
    genes = InputGenes(
        (TP53, "NOVEL", "NOVEL", "ACTB", "P53", "LFS", "else", ""),
        ("", "NOVEL", "NOVEL", "ACTB", "P53", "LFS", "else", ""),
    )
    match = match_to_vocabulary(genes, vocabulary, aliases=ALIASES)
    # The alias gives way to the column that has the gene's own id.
    assert match.column_of_input.tolist() == [0, 2, 2, 1, -1, -1, -1, -1]
    assert match.report == {
        "n_genes": 8,
        "n_matched": 4,
        "n_by_id": 1,
        "n_by_symbol": 2,
        "n_by_table": 1,
        "n_by_alias": 0,
        "n_ambiguous": 2,
        "n_summed": 1,
        "share_of_genes": 0.5,
        "share_of_vocabulary": 1.0,
        "unmatched": ["P53", "LFS", "else", ""],
    }
    json.dumps(match.report)
    assert _match(_symbols("P53"), vocabulary, aliases=ALIASES).report["n_by_alias"] == 1


def test_every_gene_of_an_input_has_a_place_in_the_union() -> None:
    inputs = [
        _symbols("TP53", "LFS", "TWIN", "P53"),
        InputGenes(("ENSG00000000001", "ENSG00000000002", TP53), ("TWIN", "TWIN", "")),
    ]
    learned = learn_aliases(inputs, ALIASES)
    vocabulary = make_vocabulary(inputs, "union", aliases=learned)
    for genes in inputs:
        columns = _match(genes, vocabulary, aliases=learned).column_of_input
        assert (columns[np.array(genes.names) != "P53"] >= 0).all()


@settings(deadline=None)
@given(data=st.data())
def test_apply_sums_as_a_dense_product_does(data: st.DataObject) -> None:
    n_cells, n_columns, n_genes = (data.draw(st.integers(1, 8)) for _ in range(3))
    random = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    counts = random.poisson(0.5, (n_cells, n_columns)).astype(np.uint32) * 70_000
    columns = random.integers(-1, n_genes, n_columns)
    kept = columns[columns >= 0]
    match = GeneMatch(columns, {"n_summed": len(kept) - len(np.unique(kept))})
    expected = np.zeros((n_cells, n_genes), dtype=np.int64)
    for column, gene in enumerate(columns):
        if gene >= 0:
            expected[:, gene] += counts[:, column]
    applied = match.apply(sp.csr_matrix(counts), n_genes)
    assert applied.dtype == np.uint32
    assert applied.has_canonical_format
    np.testing.assert_array_equal(applied.toarray(), expected)


def test_a_sum_too_large_to_be_stored_is_refused() -> None:
    match = GeneMatch(np.array([0, 0]), {"n_summed": 1})
    with pytest.raises(InputError, match="add up to more than 4,294,967,295"):
        match.apply(sp.csr_matrix(np.array([[2**32 - 1, 1]], dtype=np.uint32)), 1)


def test_a_poor_match_is_refused_with_its_cause(caplog: pytest.LogCaptureFixture) -> None:
    human = GeneTable(tuple(f"ENSG{n:011d}" for n in range(30)), tuple(f"GENE{n}" for n in range(30)))
    mouse = InputGenes.from_var(pd.DataFrame(index=[f"ENSMUSG{n:011d}" for n in range(30)]))
    with pytest.raises(InputError, match=r"Only 0 of the 30 genes of a.h5ad .*looks like mouse, the atlas like human"):
        match_to_vocabulary(mouse, human, origin="a.h5ad")
    by_id = GeneTable(human.ids, ("",) * 30)
    with pytest.raises(InputError, match=r"names its genes by symbols, the atlas by Ensembl ids.*--gene-column"):
        match_to_vocabulary(_symbols(*human.symbols), by_id)
    with pytest.raises(InputError, match=r"Its genes begin q0, q1, q2, the atlas's GENE0.*allow_low_overlap"):
        match_to_vocabulary(_symbols(*(f"q{n}" for n in range(9))), GeneTable(human.symbols, human.symbols))
    assert match_to_vocabulary(mouse, human, allow_low_overlap=True).report["n_matched"] == 0
    assert "Only" not in caplog.text
    assert "0 of the 30 genes" in caplog.text


def test_a_short_list_found_whole_is_no_poor_match() -> None:
    genes = _symbols(*(f"GENE{n}" for n in range(30)))
    assert match_to_vocabulary(genes, GeneTable(("GENE3",), ("GENE3",))).report["n_matched"] == 1


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", f"# mine\nTP53\n\n{ACTB}.2\n", GeneTable(("TP53", ACTB), ("TP53", ""))),
        (
            "a.csv",
            f"id,symbol\n{TP53},TP53\n{ACTB},\n,NOVEL\n",
            GeneTable((TP53, ACTB, "NOVEL"), ("TP53", "", "NOVEL")),
        ),
        ("a.tsv", f"Symbol\tensembl_id\nTP53\t{TP53}.1\n", GeneTable((TP53,), ("TP53",))),
        ("run/genes.csv", f"id,symbol\n{TP53},\nb,B\n", GeneTable((TP53, "b"), ("", "B"))),
    ],
)
def test_vocabularies_are_read(name: str, text: str, expected: GeneTable, tmp_path: Path) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    assert read_vocabulary(path.parent if name.startswith("run") else path) == expected


def test_the_genes_of_an_atlas_are_a_vocabulary(tmp_path: Path) -> None:
    genes = {"id": (TP53, "b"), "symbol": ("TP53", "")}
    AtlasIndex(shuffle_seed=0, genes=genes, obs_columns={}, shards=(), sources=()).write(tmp_path)
    assert read_vocabulary(tmp_path) == GeneTable((TP53, "b"), ("TP53", ""))


def test_unusable_vocabularies_are_refused(tmp_path: Path) -> None:
    texts = {
        "twice.txt": (f"TP53\nACTB\nTP53\n{TP53}.1\n{TP53}.2\n", f"2 genes stand more than once .*: TP53, {TP53}"),
        "none.txt": ("\n", "names no genes"),
        "wide.csv": ("a,b\nc,d\n", "none is named id or symbol"),
    }
    for name, (text, words) in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=words):
            read_vocabulary(tmp_path / name)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(InputError, match="not a text file"):
        read_vocabulary(tmp_path / "binary")
    with pytest.raises(InputError, match="There are no genes at"):
        read_vocabulary(tmp_path)


@pytest.mark.network
def test_the_pinned_table_knows_current_and_former_names() -> None:
    aliases = load_aliases()
    assert len(aliases.symbol_of_id) > 40_000
    assert aliases.find("TP53") == (TP53, "table")
    assert aliases.find("SEPT7") == (aliases.id_of_symbol["SEPTIN7"], "alias")
    assert aliases.symbol_of_id[ACTB] == "ACTB"
    assert aliases.find("H19") is not None
    assert len(aliases.id_of_former) > 40_000


@pytest.mark.network
def test_the_pinned_table_knows_mouse_genes() -> None:
    assert load_aliases("mouse").find("Actb") == ("ENSMUSG00000029580", "table")

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from selfcell.core.errors import InputError
from selfcell.data.genes import GeneTable, align_genes, guess_species, is_ensembl, strip_version

HUMAN = [f"ENSG{n:011d}" for n in range(30)]
SYMBOLS = [f"GENE{n}" for n in range(30)]


def table(ids, symbols=None):
    return GeneTable(tuple(ids), tuple(symbols or [""] * len(ids)))


def counts_of(n_genes, n_cells=4):
    return sp.csr_matrix(np.arange(1, n_cells * n_genes + 1, dtype=np.float32).reshape(n_cells, n_genes))


def test_ensembl_ids_are_told_from_symbols_that_look_like_them():
    given_names = ["ENSG00000141510", "ENSG00000141510.17", "ENSMUSG00000059552", "ENSA", "ENSAP1", "TP53"]
    assert is_ensembl(given_names).tolist() == [True, True, True, False, False, False]


def test_versions_are_stripped_from_ensembl_ids_only():
    assert strip_version("ENSG00000141510.17") == "ENSG00000141510"
    assert strip_version("AL627309.1") == "AL627309.1"
    assert strip_version("ENSG00000182378.15_PAR_Y") == "ENSG00000182378.15_PAR_Y"


def test_ids_and_symbols_are_read_whichever_is_the_index():
    by_symbol = GeneTable.from_var(pd.DataFrame({"gene_ids": HUMAN}, index=SYMBOLS))
    by_id = GeneTable.from_var(pd.DataFrame({"feature_name": SYMBOLS}, index=[f"{name}.3" for name in HUMAN]))
    assert by_symbol == by_id == table(HUMAN, SYMBOLS)


def test_a_gene_column_that_is_not_there_is_refused_with_the_nearest_name():
    var = pd.DataFrame({"gene_name": SYMBOLS}, index=HUMAN)
    with pytest.raises(InputError, match=r"There is no column 'gene_names' in var\. Did you mean 'gene_name'\?"):
        GeneTable.from_var(var, gene_column="gene_names")


def test_names_given_twice_are_refused():
    with pytest.raises(
        InputError, match=r"1 gene names stand more than once in var_names, for example 'A' \(2 times\)"
    ):
        GeneTable.from_var(pd.DataFrame(index=["A", "B", "A"]))


def test_names_that_are_missing_are_refused():
    with pytest.raises(InputError, match=r"1 genes have no name in var\['symbol'\]"):
        GeneTable.from_var(pd.DataFrame({"symbol": ["A", None]}, index=["x", "y"]), gene_column="symbol")


def test_a_table_survives_a_round_trip_through_csv(tmp_path):
    genes = table([*HUMAN, "NA", "nan"], [*SYMBOLS, "NA", ""])
    genes.to_frame().to_csv(tmp_path / "genes.csv", index=False)
    assert GeneTable.from_frame(pd.read_csv(tmp_path / "genes.csv", keep_default_na=False)) == genes


@given(st.permutations(range(12)), st.integers(6, 12))
def test_aligned_counts_are_the_counts_of_the_same_genes(order, n_kept):
    counts = counts_of(n_kept)
    kept = [SYMBOLS[place] for place in order[:n_kept]]
    alignment = align_genes(table(kept), table(SYMBOLS[:12]), counts, allow_low_overlap=True)
    aligned = alignment.apply(counts).toarray()
    for column, name in enumerate(SYMBOLS[:12]):
        expected = counts.toarray()[:, kept.index(name)] if name in kept else np.zeros(4)
        assert (aligned[:, column] == expected).all()
    assert alignment.share_of_genes == n_kept / 12
    assert set(alignment.missing) == set(SYMBOLS[:12]) - set(kept)


def test_genes_are_matched_by_symbol_where_ids_do_not_match():
    alignment = align_genes(table(SYMBOLS, SYMBOLS), table(HUMAN, SYMBOLS), counts_of(30))
    assert alignment.share_of_genes == 1.0


def test_symbols_that_stand_twice_on_either_side_match_nothing():
    counts = sp.csr_matrix(np.array([[90.0, 5.0, 5.0]], dtype=np.float32))
    alignment = align_genes(
        table(HUMAN[:3], ["A", "C", "D"]), table(HUMAN[10:13], ["A", "A", "C"]), counts, allow_low_overlap=True
    )
    assert alignment.column_of_gene.tolist() == [-1, -1, 1]
    assert alignment.share_of_counts == pytest.approx(0.05)


def test_ids_given_twice_are_passed_over_for_the_names():
    var = pd.DataFrame({"gene_ids": [HUMAN[0], HUMAN[0], HUMAN[1]]}, index=["A", "B", "C"])
    assert GeneTable.from_var(var) == table(["A", "B", "C"], ["A", "B", "C"])


def test_overlap_is_weighed_by_expression():
    counts = sp.csr_matrix(np.array([[90.0, 5.0, 5.0]], dtype=np.float32))
    alignment = align_genes(table(["A", "B", "X"]), table(["A", "B"]), counts)
    assert alignment.share_of_counts == pytest.approx(0.95)


def test_under_four_fifths_of_the_genes_there_is_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        align_genes(table(SYMBOLS[:20]), table(SYMBOLS), counts_of(20))
    assert (
        "20 of the encoder's 30 genes (67%) are in the cells, and 100% of the cells' counts lie in them" in caplog.text
    )


def test_under_half_of_the_genes_it_is_refused_unless_told(caplog):
    with pytest.raises(
        InputError,
        match=r"Only 10 of the encoder's 30 genes \(33%\).*only 10 genes, most of them known.*--allow-low-overlap",
    ):
        align_genes(table(SYMBOLS[:10]), table(SYMBOLS), counts_of(10))
    assert align_genes(table(SYMBOLS[:10]), table(SYMBOLS), counts_of(10), allow_low_overlap=True).share_of_genes < 0.5


def test_another_species_is_named():
    human = table(
        [f"{name}1" for name in ("ACTB", "GAPDH", "CDKN", "MSLN") for _ in range(1)] + [f"ABC{n}" for n in range(30)]
    )
    mouse = table([f"Abc{n}" for n in range(30)])
    assert guess_species(human) == "human" and guess_species(mouse) == "mouse"
    with pytest.raises(InputError, match=r"The cells look like mouse, the encoder was trained on human: map the genes"):
        align_genes(mouse, human, counts_of(30))


def test_species_is_read_off_ensembl_ids():
    assert guess_species(table(HUMAN)) == "human"
    assert guess_species(table([f"ENSMUSG{n:011d}" for n in range(30)])) == "mouse"


def test_ensembl_against_symbols_is_named():
    with pytest.raises(
        InputError, match=r"The cells name their genes by Ensembl ids, the encoder by symbols.*--gene-column"
    ):
        align_genes(table(HUMAN), table(SYMBOLS, SYMBOLS), counts_of(30))

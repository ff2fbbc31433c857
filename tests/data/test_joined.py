import dataclasses
import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from selfcell.core.errors import InputError
from selfcell.data.joined import join_cells


def test_cells_of_two_sources_stand_one_behind_the_other(cells):
    first, second = cells.subset(np.arange(3)), cells.subset(np.arange(5, 7))
    joined = join_cells(first, second)
    assert len(joined) == 5
    assert (joined.counts.toarray() == cells.counts[[0, 1, 2, 5, 6]].toarray()).all()
    assert list(joined.obs["donor"]) == list(cells.obs["donor"].iloc[[0, 1, 2, 5, 6]])


def test_other_genes_are_refused(cells):
    genes = dataclasses.replace(cells.genes, ids=tuple(reversed(cells.genes.ids)))
    with pytest.raises(InputError, match="have different genes: align both to an encoder first"):
        join_cells(cells, dataclasses.replace(cells, genes=genes))


def with_proteins(cells, names, *, table=False):
    values = np.arange(len(cells) * len(names), dtype=np.float32).reshape(len(cells), len(names))
    if table:
        return dataclasses.replace(cells, obsm={"protein_counts": pd.DataFrame(values, cells.obs.index, names)}, uns={})
    return dataclasses.replace(cells, obsm={"protein_counts": values}, uns={"protein_names": np.array(names)})


@pytest.mark.parametrize("table", [False, True])
def test_named_columns_are_restricted_to_those_of_both_however_spelled(cells, caplog, table):
    first = with_proteins(cells.subset(np.arange(3)), ["CD3", "HLA-DR", "CD19", "CD4"])
    second = with_proteins(cells.subset(np.arange(2)), ["CD4", "HLA.DR", "CD56", "CD3"], table=table)
    with caplog.at_level(logging.INFO, logger="selfcell"):
        joined = join_cells(first, second)
    assert list(joined.uns["protein_names"]) == ["CD3", "HLA-DR", "CD4"]
    found = joined.obsm["protein_counts"]
    assert (found[:3] == first.obsm["protein_counts"][:, [0, 1, 3]]).all()
    assert (found[3:] == np.asarray(second.obsm["protein_counts"])[:, [3, 1, 0]]).all()
    assert "3 of 4 columns of the one and 4 of the other data set are shared" in caplog.text


def test_columns_with_no_name_in_common_are_left_out_and_it_is_told(cells, caplog):
    first = with_proteins(cells.subset(np.arange(3)), ["chr1:1-5", "chr1:7-9"])
    second = with_proteins(cells.subset(np.arange(2)), ["peak_1", "peak_2"])
    with caplog.at_level(logging.INFO, logger="selfcell"):
        joined = join_cells(first, second)
    assert "protein_counts" not in joined.obsm
    assert "cannot be put together" in caplog.text and "chr1:1-5" in caplog.text and "left out" in caplog.text


def test_what_is_needed_and_cannot_be_put_together_is_refused(cells):
    first = with_proteins(cells.subset(np.arange(3)), ["chr1:1-5", "chr1:7-9"])
    other = with_proteins(cells.subset(np.arange(2)), ["peak_1", "peak_2"])
    unnamed = dataclasses.replace(first, uns={})
    wide = dataclasses.replace(other, uns={}, obsm={"protein_counts": np.ones((2, 3))})
    for second, said in ((other, r"cannot be put together: .*chr1:1-5"), (unnamed, "have no names in")):
        with pytest.raises(InputError, match=said):
            join_cells(first, second, needed=("protein_counts",))
    with pytest.raises(InputError, match=r"has 2 columns in .* and 3 in .*, and no names"):
        join_cells(unnamed, wide, needed=("protein_counts",))


def test_columns_without_names_are_kept_where_they_are_as_many(cells):
    parts = [
        dataclasses.replace(cells.subset(np.arange(n)), obsm={"X_a": np.ones((n, 2)), "X_b": np.ones((n, n))})
        for n in (3, 2)
    ]
    joined = join_cells(*parts)
    assert set(joined.obsm) == {"X_a"} and joined.obsm["X_a"].shape == (5, 2)


def test_sparse_and_dense_columns_become_sparse(cells):
    first = with_proteins(cells.subset(np.arange(3)), ["CD3", "CD4"])
    sparse = dataclasses.replace(first, obsm={"protein_counts": sp.csr_matrix(first.obsm["protein_counts"])})
    assert (join_cells(sparse, first).obsm["protein_counts"].toarray()[3:] == first.obsm["protein_counts"]).all()


def test_names_under_a_key_of_the_users_own_put_columns_together(cells, caplog):
    parts = [
        dataclasses.replace(part, uns={"adt": part.uns["protein_names"]})
        for part in (
            with_proteins(cells.subset(np.arange(3)), ["CD3", "CD4", "CD19"]),
            with_proteins(cells.subset(np.arange(2)), ["CD19", "CD3", "CD4"]),
        )
    ]
    joined = join_cells(*parts, names_keys={"protein_counts": "adt"})
    assert list(joined.uns["adt"]) == ["CD3", "CD4", "CD19"]
    assert (joined.obsm["protein_counts"][3:] == parts[1].obsm["protein_counts"][:, [1, 2, 0]]).all()
    unnamed = dataclasses.replace(parts[1], uns={})
    with caplog.at_level(logging.INFO, logger="selfcell"):
        assert "protein_counts" not in join_cells(parts[0], unnamed, names_keys={"protein_counts": "adt"}).obsm
    assert "have no names in" in caplog.text and "uns['adt']" in caplog.text

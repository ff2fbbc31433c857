"""Tests of streaming: the same cells from memory, from a file and from an atlas."""

import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import selfcell
from selfcell.core.errors import InputError
from selfcell.data.atlas.cells import open_atlas
from selfcell.data.loader import CellLoader
from selfcell.data.order import BlockOrder
from selfcell.data.simulate import simulate_cells
from selfcell.data.splits import split_cells
from selfcell.data.stream import open_any, stream_cells
from selfcell.data.stream_split import split_stream
from selfcell.data.subset import CellSubset

PLACES = ("memory", "file", "atlas")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    tmp_path = tmp_path_factory.mktemp("places")
    adata = simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)
    adata.obs["total"] = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    selfcell.build_atlas([tmp_path / "cells.h5ad"], tmp_path / "atlas", shard_cells=70)
    return {"memory": adata, "file": str(tmp_path / "cells.h5ad"), "atlas": tmp_path / "atlas"}


def stream(places: dict[str, object], place: str, **options: object) -> CellLoader:
    options = {"minibatch_size": 32, "block_size": 8, "buffer_size": 50, **options}
    return stream_cells(places[place], backed=place == "file", **options)  # type: ignore[arg-type]


def seen(loader: CellLoader) -> Counter[bytes]:
    """Count every cell by its counts."""
    return Counter(row.tobytes() for minibatch in loader for row in minibatch.counts().numpy())


def rows_of(counts: sp.csr_matrix) -> Counter[bytes]:
    return Counter(row.tobytes() for row in counts.toarray().astype(np.float32))


@pytest.mark.parametrize("place", PLACES)
def test_every_cell_comes_once_an_epoch_from_wherever(places, adata, place):
    loader = stream(places, place)
    orders = [[minibatch.counts() for minibatch in loader] for _ in range(2)]
    assert not torch.equal(orders[0][0], orders[1][0])
    for order in orders:
        assert rows_of(sp.csr_matrix(torch.cat(order).numpy())) == rows_of(adata.X)
    assert (loader.n_cells, len(loader)) == (300, 10)


@pytest.mark.parametrize("place", PLACES)
def test_cells_are_chosen_by_a_query_and_by_their_values(places, place):
    adata = places["memory"]
    query = "total > 380 and cell_type != 'type 1'"
    chosen = adata[adata.obs.eval(query) & adata.obs["donor"].isin(["donor 1", "donor 3"])]
    loader = stream(places, place, where=query, only={"donor": ["donor 1", "donor 3"]})
    assert 0 < chosen.n_obs < adata.n_obs
    assert seen(loader) == rows_of(chosen.X)


@pytest.mark.parametrize("place", PLACES)
def test_codes_stand_for_the_names_of_each_cell(places, adata, place):
    cells = open_any(places[place], backed=place == "file")
    kind_of = dict(zip((row.tobytes() for row in adata.X.toarray()), adata.obs["cell_type"], strict=True))
    loader = stream_cells(cells, minibatch_size=50, codes=["cell_type"])
    names = np.array(loader.names["cell_type"], dtype=object)
    for minibatch in loader:
        found = names[minibatch.codes["cell_type"].numpy()]
        assert [kind_of[row.tobytes()] for row in minibatch.counts().numpy()] == found.tolist()


@pytest.mark.parametrize("place", PLACES)
def test_without_a_seed_cells_come_in_order(places, place):
    first, second = ([minibatch.counts() for minibatch in stream(places, place, shuffle_seed=None)] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    if place != "atlas":
        assert torch.equal(torch.cat(first), torch.from_numpy(places["memory"].X.toarray()))


@pytest.mark.parametrize("place", ["file", "atlas"])
def test_the_number_of_threads_changes_nothing(places, place):
    orders = [[minibatch.values for minibatch in stream(places, place, n_threads=n)] for n in (1, 2, 4)]
    for other in orders[1:]:
        assert all(torch.equal(a, b) for a, b in zip(orders[0], other, strict=True))


@pytest.mark.parametrize("place", PLACES)
def test_types_can_be_balanced_or_weighted(places, place):
    rare = {"only": {}, "where": "cell_type != 'type 0' or donor == 'donor 1'", "codes": ["cell_type"]}

    def shares(**options):
        loader = stream(places, place, **rare, **options)
        codes = np.concatenate([minibatch.codes["cell_type"].numpy() for _ in range(8) for minibatch in loader])
        return np.bincount(codes) / len(codes)

    assert shares()[0] < 0.2
    assert shares(balance_key="cell_type") == pytest.approx([1 / 3] * 3, abs=0.06)
    assert shares(weights={"cell_type": {"type 0": 0.0}})[0] == 0


@pytest.mark.parametrize("place", ["memory", "atlas"])
def test_weights_of_two_columns_are_multiplied(places, adata, place):
    weights = {"cell_type": {"type 0": 0.25}, "donor": {"donor 1": 0.25}}
    loader = stream(places, place, codes=["cell_type", "donor"], weights=weights)
    obs = adata.obs[["cell_type", "donor"]].astype(str)
    expected = 0.25 ** ((obs["cell_type"] == "type 0").astype(int) + (obs["donor"] == "donor 1"))
    sizes = expected.groupby([obs["cell_type"], obs["donor"]]).sum() / expected.sum()
    drawn = Counter()
    for _ in range(60):
        for minibatch in loader:
            codes = [[loader.names[key][code] for code in minibatch.codes[key]] for key in ("cell_type", "donor")]
            drawn.update(zip(*codes, strict=True))
    found = pd.Series(drawn) / drawn.total()
    pd.testing.assert_series_equal(found.sort_index(), sizes.sort_index(), check_names=False, atol=0.01)


def test_cells_in_order_come_in_groups_of_the_buffer_wherever_they_lie():
    subset = CellSubset.from_masks(10_000, [np.arange(10_000) < 2_000])
    order = BlockOrder(np.array([0, 10_000]), subset, shuffle_seed=None, block_size=50, buffer_size=400)
    sizes = [len(order.group(0, place)) for place in range(order.n_groups)]
    assert max(sizes) == 400 and sum(sizes) == 2_000


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": "cell_typ == 'x'"}, "no such column in obs.*Did you mean 'cell_type'"),
        ({"where": "total > 1e9"}, "selects none of the 300 cells"),
        ({"where": "total + 1"}, "true or false for each cell|cannot be understood"),
        ({"codes": ["celltype"]}, "There is no column 'celltype'.*Did you mean 'cell_type'"),
        ({"only": {"donor": ["donor 9"]}}, "No cell has 'donor 9'"),
        ({"weights": {"donor": {"donor 9": 2.0}}}, "no cell has 'donor 9' there"),
        ({"block_size": -4}, "block_size must be a whole number of 1 or more, but is -4"),
        ({"minibatch_size": 0}, "minibatch_size must be a whole number of 1 or more, but is 0"),
        ({"weights": {"donor": {}}, "balance_key": "donor"}, "contradict each other"),
    ],
)
def test_what_cannot_be_streamed_is_refused_in_words(places, place, options, message):
    with pytest.raises(InputError, match=message):
        stream(places, place, **options)


def test_a_file_with_fractional_values_is_refused_before_anything_is_streamed(adata, tmp_path):
    adata.X = adata.X * 0.5
    adata.write_h5ad(tmp_path / "half.h5ad")
    with pytest.raises(InputError, match="fractional"):
        stream_cells(tmp_path / "half.h5ad", minibatch_size=8, backed=True)


def test_a_cell_without_counts_is_refused_before_anything_is_streamed(adata, tmp_path):
    adata.X = sp.csr_matrix(adata.X.multiply(np.arange(300)[:, None] != 7))
    adata.write_h5ad(tmp_path / "empty.h5ad")
    with pytest.raises(InputError, match=r"'cell7' of .* has no counts"):
        stream_cells(tmp_path / "empty.h5ad", minibatch_size=8, backed=True)


def test_a_file_that_was_read_as_a_stream_leaves_nothing_behind(adata, tmp_path):
    adata.X = sp.csc_matrix(adata.X)
    adata.write_h5ad(tmp_path / "by_genes.h5ad")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = (
        "import tempfile; from pathlib import Path; from selfcell.data.backed import open_backed\n"
        f"cells = open_backed({str(tmp_path / 'by_genes.h5ad')!r})\n"
        "print(len(list(Path(tempfile.gettempdir()).glob('selfcell-*/*'))))"
    )
    environment = os.environ | {"TMPDIR": str(scratch)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 0
    assert not list(scratch.iterdir())


def test_a_plan_is_what_comes(places):
    loader = stream(places, "atlas")
    assert [minibatch.n_cells for minibatch in loader] == [len(rows) for rows in loader.plan()]
    assert sorted(np.concatenate(list(loader.plan(epoch=3)))) == list(range(300))


def test_a_share_of_the_training_donors_is_that_of_cells_in_memory(places, adata):
    how = {"validation_fraction": 0.1, "test_fraction": 0.2, "train_donor_fraction": 0.4, "seed": 1}
    streamed = split_stream(open_atlas(places["atlas"]), "donor", **how)
    in_memory = split_cells(300, adata.obs["donor"].astype(str), **how)
    assert streamed.to_json() == in_memory.to_json() and streamed.to_json()["donors"]["left_out"]
    assert len(streamed.train) == len(in_memory.train)
    with pytest.raises(InputError, match="is a share of donors"):
        split_stream(open_atlas(places["atlas"]), None, **how)


def test_cells_of_a_donor_that_is_not_known_are_warned_of(adata, tmp_path, caplog):
    adata.write_h5ad(tmp_path / "a.h5ad")
    other = adata[:50].copy()
    del other.obs["donor"]
    other.obs_names = [f"other {name}" for name in other.obs_names]
    other.write_h5ad(tmp_path / "b.h5ad")
    selfcell.build_atlas([tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "atlas")
    split_stream(open_atlas(tmp_path / "atlas"), "donor", validation_fraction=0.1, seed=0)
    assert "50 of 350 cells are of donor 'unknown'" in caplog.text

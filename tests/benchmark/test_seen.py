import dataclasses

import numpy as np
import pytest

from selfcell import evaluate, pretrain
from selfcell.benchmark.seen import learned_from, relation_of, what_was_seen
from selfcell.data.simulate import simulate_cells
from selfcell.data.source import open_cells
from selfcell.training.known_cells import FILE

ONE = {"label_key": "cell_type", "n_seeds": 1, "regimes": ("zero_shot",), "baselines": (), "show_progress": False}


@pytest.fixture(scope="module")
def whole():
    return simulate_cells(n_cells=300, n_genes=60, n_types=3, n_donors=5, seed=0)


@pytest.fixture(scope="module")
def split_by_cell(whole, small_settings, tmp_path_factory):
    data = {"validation_fraction": 0.1, "test_fraction": 0.3, "donor_key": None}
    settings = small_settings.model_copy(update={"data": small_settings.data.model_copy(update=data)})
    return pretrain(whole, settings, out=tmp_path_factory.mktemp("by cell") / "run", show_progress=False)


def seen_of(model, adata):
    cells = open_cells(adata).aligned_to(model.genes)
    return what_was_seen([model], cells, np.arange(len(cells)))


def test_a_part_of_the_file_is_known_by_its_cells(whole, split_by_cell):
    learned_from = np.setdiff1d(np.arange(300), split_by_cell.split["positions"]["test"])
    part = whole[[*learned_from[:30], *split_by_cell.split["positions"]["test"][:20]]].copy()
    seen = seen_of(split_by_cell, part)
    assert (seen.n_cells, seen.n_test, seen.any) == (30, 50, True)
    assert (
        "at least 30 of the 50 test cells" in seen.sentence()
        and "Its run has set cells aside: judge on" in seen.sentence()
    )


def test_donors_are_known_by_the_column_of_the_run(whole, model):
    others = simulate_cells(n_cells=40, n_genes=60, n_types=3, n_donors=5, seed=3)
    learned_from = [*model.split["donors"]["train"], *model.split["donors"]["validation"]]
    seen = seen_of(model, others)
    assert seen.n_cells == 0 and set(seen.donors) == set(learned_from) and seen.any
    assert f"cells of {len(learned_from)} test donors" in seen.sentence() and "obs['donor']" in seen.sentence()
    aside = others[others.obs["donor"].isin(model.split["donors"]["test"])].copy()
    assert seen_of(model, aside).any is False and seen_of(model, aside).sentence() is None


def relation(models, cells, rows, *, judged, **kinds):
    told = {"is_query": False, "is_named": False, **kinds}
    seen = what_was_seen(models, cells, judged)
    return relation_of(seen, has_learned=learned_from(models, cells, rows), **told)


def test_the_relation_of_corpus_and_target_follows_from_cells_and_donors_not_from_names_of_files(
    whole, split_by_cell, model, tmp_path
):
    cells = open_cells(whole).aligned_to(split_by_cell.genes)
    parts = split_by_cell.split["positions"]
    learned, aside = np.array(parts["train"]), np.array(parts["test"])
    assert relation([split_by_cell], cells, learned, judged=aside) == "own"
    assert relation([split_by_cell], cells, aside[:20], judged=learned) == "seen"
    assert relation([split_by_cell], cells, aside[:20], judged=aside[20:]) == "transfer"
    assert relation([split_by_cell], cells, learned, judged=aside, is_named=True) == "named"
    assert relation([split_by_cell], cells, learned, judged=aside, is_query=True) == "query"
    # A streamed run has no list of its cells, and donors tell; where these are not known either, nothing does.
    streamed = dataclasses.replace(model, path=tmp_path)
    donors = whole.obs["donor"].to_numpy()
    is_aside = np.isin(donors, model.split["donors"]["test"])
    rows = {"rows": np.flatnonzero(~is_aside), "judged": np.flatnonzero(is_aside)}
    assert relation([streamed], cells, **rows) == "own"
    unnamed = dataclasses.replace(cells, obs=cells.obs.drop(columns="donor"))
    assert relation([streamed], unnamed, **rows) == "unknown"


def test_without_list_and_column_nothing_is_claimed(whole, model, tmp_path):
    unlisted = dataclasses.replace(model, path=tmp_path)
    other = simulate_cells(n_cells=40, n_genes=60, n_types=3, n_donors=5, seed=3)
    other.obs = other.obs.rename(columns={"donor": "patient"})
    seen = seen_of(unlisted, other)
    assert seen.any is None and "is not known" in seen.sentence()
    assert (model.path / FILE).exists() and seen_of(model, other).any is False


def test_test_where_and_query_are_asked_the_same(whole, model, split_by_cell, caplog):
    donor = model.split["donors"]["train"][0]
    evaluate(model, whole, test_where=f"donor == '{donor}'", **ONE)
    assert f"cells of 1 test donor ({donor})" in caplog.text
    caplog.clear()
    rest = simulate_cells(n_cells=80, n_genes=60, n_types=3, n_donors=5, seed=4)
    evaluate(model, rest, query=whole[whole.obs["donor"] == donor].copy(), donor_key="donor", **ONE)
    assert f"cells of 1 test donor ({donor})" in caplog.text
    caplog.clear()
    evaluate(model, rest, query=simulate_cells(n_cells=80, n_genes=60, n_types=3, n_donors=5, seed=5), **ONE)
    assert "Pre-training was given donors of the same names (donor " in caplog.text
    caplog.clear()
    evaluate(split_by_cell, whole, **ONE)
    assert "Pre-training was given" not in caplog.text


def test_where_genes_are_missing_counts_cannot_tell(whole, split_by_cell):
    fewer = whole[:, :50].copy()
    fewer.obs_names = [f"renamed {place}" for place in range(300)]
    assert seen_of(split_by_cell, fewer).any is None
    assert seen_of(split_by_cell, simulate_cells(n_cells=40, n_genes=60, n_types=3, n_donors=5, seed=3)).any is False


def test_cells_that_a_streamed_run_set_aside_one_by_one_are_not_taken_for_those_of_other_cells(
    whole, small_settings, tmp_path, caplog
):
    whole.write_h5ad(tmp_path / "cells.h5ad")
    data = {"validation_fraction": 0.1, "test_fraction": 0.3, "donor_key": None, "backed": True}
    settings = small_settings.model_copy(update={"data": small_settings.data.model_copy(update=data)})
    streamed = pretrain(tmp_path / "cells.h5ad", settings, out=tmp_path / "run", show_progress=False)
    assert "rule" in streamed.split
    assert evaluate(streamed, whole, **ONE)["error"].isna().all()
    assert "Pre-training was given" in caplog.text or "is not known" in caplog.text


def test_cells_that_were_set_aside_one_by_one_are_found_though_others_are_left_out(whole, split_by_cell, caplog):
    some = whole.copy()
    some.obs["cell_type"] = some.obs["cell_type"].astype(object)
    aside = split_by_cell.split["positions"]["test"]
    some.obs.iloc[[aside[0], *np.setdiff1d(np.arange(300), aside)[:4]], some.obs.columns.get_loc("cell_type")] = None
    scores = evaluate(split_by_cell, some[::-1].copy(), **ONE)
    assert set(scores["n_cells"]) == {len(aside) - 1} and "Pre-training was given" not in caplog.text


def test_other_cells_are_split_by_their_donors(split_by_cell):
    other = simulate_cells(n_cells=200, n_genes=60, n_types=3, n_donors=6, seed=9)
    other.obs = other.obs.rename(columns={"donor": "donor_id"})
    assert set(evaluate(split_by_cell, other, **ONE)["split"]) == {"by donor_id"}


def test_cells_set_aside_one_by_one_go_before_a_column_that_is_not_named(whole, split_by_cell):
    named = whole.copy()
    named.obs["donor_id"] = named.obs["donor"]
    assert set(evaluate(split_by_cell, named, **ONE)["split"]) == {"by cell"}

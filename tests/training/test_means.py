"""Means over the cells of an epoch, and the time that cells were waited for."""

import itertools
import logging
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from selfcell.core.config import build
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.training.means import CellMeans
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings
from selfcell.training.waiting import TimedLoader


def test_means_are_over_cells_whatever_the_minibatches():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 300, 1000)
    values = {name: rng.normal(100, 1, 1000).astype(np.float32) for name in ("loss", "spread")}
    means = CellMeans()
    for place, n_cells in enumerate(sizes):
        means.add({name: torch.tensor(of_all[place]) for name, of_all in values.items()}, n_cells=int(n_cells))
    for name, of_all in values.items():
        expected = np.average(of_all.astype(np.float64), weights=sizes)
        assert means.means(lambda it: it)[name] == pytest.approx(expected, rel=1e-12)


def test_a_term_that_some_minibatches_lack_is_a_mean_over_the_others():
    means = CellMeans()
    means.add({"loss": torch.tensor(1.0), "alignment": torch.tensor(4.0)}, n_cells=3)
    means.add({"loss": torch.tensor(5.0)}, n_cells=1)
    assert means.means(lambda it: it) == {"loss": 2.0, "alignment": 4.0}
    means.clear()
    assert means.means(lambda it: it) == {}


def test_means_go_on_from_their_state_exactly():
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))
    whole, first, second = CellMeans(), CellMeans(), CellMeans()
    for place, value in enumerate(values):
        whole.add({"loss": value}, n_cells=7)
        (first if place < 9 else second).add({"loss": value}, n_cells=7)
        if place == 8:
            second.load(first.state(lambda it: it), device=torch.device("cpu"))
    assert second.means(lambda it: it) == whole.means(lambda it: it)


def test_the_sums_of_processes_are_put_together():
    means = CellMeans()
    means.add({"loss": torch.tensor(1.0)}, n_cells=3)
    of_the_other = torch.tensor([[5.0, 1.0]], dtype=torch.float64)
    assert means.means(lambda it: it + of_the_other) == {"loss": 2.0}


def test_the_time_that_minibatches_were_waited_for_is_counted(monkeypatch):
    clock, made = [0.0], CellLoader.__iter__

    def slow(self):
        for minibatch in made(self):
            clock[0] += 2
            yield minibatch

    monkeypatch.setattr(CellLoader, "__iter__", slow)
    monkeypatch.setattr("selfcell.training.waiting.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    loader = TimedLoader(cell_loader(sp.csr_matrix(np.ones((50, 4), dtype=np.float32)), minibatch_size=10))
    for _ in loader:
        clock[0] += 5
    assert len(loader) == 5 and loader.waited == 10 and clock == [35]


def test_a_timed_loader_goes_on_where_its_state_says():
    counts = sp.csr_matrix(np.arange(1, 41, dtype=np.float32).reshape(20, 2))
    loader = TimedLoader(cell_loader(counts, minibatch_size=4, shuffle_seed=0))
    loader.set_epoch(3)
    seen = [minibatch.values for minibatch in loader]
    loader.set_epoch(3)
    # A loop asks for the next minibatch only when it wants it.
    first = list(itertools.islice(iter(loader), 2))
    again = TimedLoader(cell_loader(counts, minibatch_size=4, shuffle_seed=0))
    again.load_state_dict(loader.state_dict())
    rest = [minibatch.values for minibatch in again]
    assert all(torch.equal(one, other) for one, other in zip([it.values for it in first] + rest, seen, strict=True))


def test_the_log_says_how_long_training_waited(adata, tmp_path, monkeypatch):
    made = CellLoader.__iter__

    def slow(self):
        for minibatch in made(self):
            time.sleep(0.1)
            yield minibatch

    settings = {"training": {"max_epochs": 2, "minibatch_size": 64, "device": "cpu"}, "network": {"hidden_sizes": [8]}}
    monkeypatch.setattr(CellLoader, "__iter__", slow)
    pretrain(adata, build(PretrainSettings, settings), out=tmp_path / "run", show_progress=False)
    assert pd.read_csv(tmp_path / "run" / "log.csv")["waiting"].between(0.4, 1).all()


def test_lines_tell_what_is_left_of_a_budget(adata, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("selfcell.training.progress._SECONDS_BETWEEN_LINES", 0.0)
    settings = {
        "training": {"max_epochs": 100_000, "budget": "1s", "minibatch_size": 64, "device": "cpu", "patience": 0},
        "network": {"hidden_sizes": [8]},
    }
    with caplog.at_level(logging.INFO, logger="selfcell"):
        pretrain(adata, build(PretrainSettings, settings), out=tmp_path / "run")
    lines = [message for message in caplog.messages if "cells/s" in message]
    assert lines and all(line.endswith("s of the budget left") and " %, " in line for line in lines)


def test_the_bar_tells_loss_waiting_and_budget(adata, tmp_path, monkeypatch):
    notes = []

    class Bar:
        disable = False

        def __init__(self, **options):
            assert options["total"] is None and options["desc"] == "Pre-training"

        def update(self, n_cells):
            assert n_cells > 0

        def set_postfix_str(self, text, **_):
            notes.append(text)

        def close(self):
            notes.append("closed")

    monkeypatch.setattr("selfcell.training.progress.tqdm", Bar)
    settings = {
        "training": {"max_epochs": 2, "budget": "1h", "minibatch_size": 64, "device": "cpu"},
        "network": {"hidden_sizes": [8]},
    }
    pretrain(adata, build(PretrainSettings, settings), out=tmp_path / "run")
    assert notes[-1] == "closed"
    assert (
        notes[0].startswith("epoch 1, validation loss ")
        and ", data " in notes[0]
        and notes[0].endswith("s in all epochs")
    )

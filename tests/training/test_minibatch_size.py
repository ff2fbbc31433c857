"""How many cells a minibatch has where that is left open, why, and that a resumed run keeps it."""

import logging
import re

import pytest
import torch

from selfcell.core.config import build, read_toml
from selfcell.core.errors import InputError
from selfcell.training import minibatch_size
from selfcell.training.bottleneck import measure_pace
from selfcell.training.minibatch_size import choose_minibatch_size, device_memory
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

SMALL = {"data": {"donor_key": "donor"}, "network": {"hidden_sizes": [16], "n_latent": 8}}
GB = 10**9


def settings_for(**training):
    return build(PretrainSettings, {"training": {"minibatch_size": "auto", "device": "cpu"} | training})


def chosen(n_cells, *, memory_bytes=1000 * GB, n_genes=19_331, **training):
    return choose_minibatch_size(settings_for(**training), n_cells=n_cells, n_genes=n_genes, memory_bytes=memory_bytes)


@pytest.mark.parametrize(
    ("n_cells", "training", "size"),
    [
        (1_000, {}, 64),
        (10_000, {}, 64),
        (60_000, {}, 512),
        (60_000, {"accumulate": 4}, 128),
        (60_000, {"max_epochs": 10}, 64),
        (1_000_000, {"max_epochs": 2}, 256),
        (1_000_000, {"max_epochs": 2, "budget": "2h"}, 8192),
        (20_000_000, {"max_epochs": 3}, 8192),
        (40, {}, 32),
    ],
)
def test_more_cells_and_epochs_get_larger_minibatches(n_cells, training, size):
    assert chosen(n_cells, **training)[0] == size
    if n_cells > 10_000:
        steps = n_cells // (size * training.get("accumulate", 1))
        assert steps >= 100 and ("budget" in training or steps * training.get("max_epochs", 100) >= 4_600)


def test_memory_limits_them():
    sizes = [chosen(20_000_000, memory_bytes=memory * GB)[0] for memory in (2, 4, 16, 64)]
    assert sizes == sorted(sizes) and len(set(sizes)) == 4
    assert all(size & (size - 1) == 0 for size in sizes)
    fewer_genes = chosen(20_000_000, memory_bytes=4 * GB, n_genes=2_000)[0]
    assert fewer_genes > chosen(20_000_000, memory_bytes=4 * GB)[0]
    with pytest.raises(
        InputError, match=r"memory of 0\.1 GB is too little for 19,331 genes and this network\. Take a sma"
    ):
        chosen(1_000, memory_bytes=GB // 10)


@pytest.mark.parametrize(
    ("reason", "arguments"),
    [
        (
            r"60,000 training cells then make 100 steps an epoch or more, and about 5,000 in all at least",
            {"n_cells": 60_000},
        ),
        (r"the least that is taken, as there are 1,000 training cells", {"n_cells": 1_000}),
        (r"20,000,000 training cells make enough steps, and the paper takes no more", {"n_cells": 20_000_000}),
        (
            r"no more than [\d,]+ are sure to fit into 50% of the memory",
            {"n_cells": 20_000_000, "memory_bytes": 4 * GB},
        ),
    ],
)
def test_the_reason_is_given(reason, arguments):

    assert re.fullmatch(reason, chosen(arguments.pop("n_cells"), **arguments)[1])


def test_a_likelihood_of_counts_takes_more_memory():
    settings = settings_for()
    counts = build(
        PretrainSettings, {"pretext": {"likelihood": "negative_binomial"}, "training": {"minibatch_size": "auto"}}
    )
    sizes = [
        choose_minibatch_size(it, n_cells=20_000_000, n_genes=19_331, memory_bytes=8 * GB)[0]
        for it in (settings, counts)
    ]
    assert sizes[0] >= 4 * sizes[1]


def test_processes_share_a_minibatch_evenly():
    assert chosen(20_000_000, devices=3)[0] % 3 == 0


def test_the_memory_of_the_machine_and_of_its_control_group_count(tmp_path, monkeypatch):
    whole = device_memory("cpu")
    assert whole > GB // 2
    (tmp_path / "limit").write_text("123456789\n")
    monkeypatch.setattr(minibatch_size, "_CGROUP_LIMITS", (tmp_path / "limit", tmp_path / "none"))
    assert device_memory("cpu") == 123456789
    (tmp_path / "limit").write_text("max\n")
    assert device_memory("cpu") == whole


def test_what_was_chosen_is_told_stored_and_kept_when_resumed(adata, tmp_path, caplog, monkeypatch):
    settings = {**SMALL, "training": {"minibatch_size": "auto", "device": "cpu", "max_epochs": 2}}
    with caplog.at_level(logging.INFO, logger="selfcell"):
        first = pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    told = "A minibatch has 64 cells (training.minibatch_size=auto): the least that is taken, as there are 234 training"
    assert any(message.startswith(told) for message in caplog.messages)
    assert read_toml(tmp_path / "run" / "config.toml")["training"]["minibatch_size"] == 64
    monkeypatch.setattr(minibatch_size, "SMALLEST", 32)  # as another machine might choose
    more = {**settings, "training": settings["training"] | {"max_epochs": 4}}
    resumed = pretrain(adata, more, out=tmp_path / "run", resume=True, show_progress=False)
    assert resumed.manifest["fit"]["steps"] == 2 * first.manifest["fit"]["steps"] == 16
    given = {**more, "training": more["training"] | {"minibatch_size": 64}}
    whole = pretrain(adata, given, out=tmp_path / "whole", show_progress=False)
    pairs = zip(resumed.encoder.state_dict().values(), whole.encoder.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


def test_the_pace_is_measured_with_what_would_be_chosen(adata):
    settings = build(PretrainSettings, {**SMALL, "training": {"minibatch_size": "auto", "device": "cpu"}})
    assert measure_pace(adata, settings, seconds=0.1).minibatch_size == 64


def test_a_size_left_open_is_not_used_as_one():
    with pytest.raises(ValueError, match=r"training\.minibatch_size=auto must be chosen first"):
        _ = settings_for().training.cells_per_minibatch
    with pytest.raises(InputError, match=r"minibatch_size"):
        settings_for(minibatch_size="many")

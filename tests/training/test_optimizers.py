"""LARS, AdamW and schedules against written-out formulas; the watch over collapse."""

import logging
import math

import pandas as pd
import pytest
import torch
from torch import nn

import selfcell
from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.network.sparse import lay_by_gene
from selfcell.training.adamw import AdamW
from selfcell.training.collapse import COLLAPSED, embedding_spread
from selfcell.training.lars import Lars
from selfcell.training.schedule import learning_rate_factor, make_optimizer
from selfcell.training.settings import TrainingSettings


def test_lars_agrees_with_the_written_out_formula_and_keeps_its_momentum():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, generator=generator, dtype=torch.float64)
    gradients = [
        (torch.randn(4, 3, generator=generator).double(), torch.randn(4, generator=generator).double())
        for _ in range(5)
    ]
    trained = [torch.nn.Parameter(weight.clone()), torch.nn.Parameter(bias.clone())]
    settings = build(
        TrainingSettings,
        {"optimizer": "lars", "learning_rate": 0.2, "bias_learning_rate": 0.05, "weight_decay": 0.01, "momentum": 0.9},
    )
    optimizer = make_optimizer(trained, settings)
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for of_weight, of_bias in gradients:
        trained[0].grad, trained[1].grad = of_weight.clone(), of_bias.clone()
        optimizer.step()
        update = of_weight + 0.01 * weight
        scaled = update * (0.001 * math.sqrt((weight**2).sum()) / math.sqrt((update**2).sum()))
        velocity = [0.9 * velocity[0] + scaled, 0.9 * velocity[1] + of_bias]
        weight, bias = weight - 0.2 * velocity[0], bias - 0.05 * velocity[1]
    torch.testing.assert_close(trained[0].data, weight)
    torch.testing.assert_close(trained[1].data, bias)


def test_lars_moves_weights_of_norm_zero_and_gives_back_the_loss():
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    assert Lars([weight], lr=0.1).step(lambda: 3.0) == 3.0
    torch.testing.assert_close(weight.data, torch.full((2, 2), -0.1))


def test_the_rate_falls_in_steps_of_epochs():
    settings = TrainingSettings(learning_rate_decay=0.9, decay_every_epochs=2)
    factors = [learning_rate_factor(step, settings, steps_per_epoch=10) for step in (0, 19, 20, 39, 40)]
    assert factors == pytest.approx([1, 1, 0.9, 0.9, 0.81])


def test_steps_are_counted_from_the_end_of_the_warm_up():
    settings = TrainingSettings(warmup_epochs=3, learning_rate_decay=0.9, decay_every_epochs=2)
    factors = [learning_rate_factor(step, settings, steps_per_epoch=10) for step in (29, 30, 49, 50)]
    assert factors == pytest.approx([1, 1, 1, 0.9])


def test_the_rate_rises_in_a_line_and_falls_along_a_cosine():
    settings = TrainingSettings(schedule="cosine", warmup_epochs=2, max_epochs=10)
    factors = [learning_rate_factor(step, settings, steps_per_epoch=5) for step in (0, 4, 9, 10, 30, 50)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5005, 0.001])


def test_settings_of_another_optimizer_or_schedule_are_refused():
    for values, message in (
        ({"momentum": 0.5}, r"training\.momentum has a meaning with training\.optimizer=lars only"),
        ({"schedule": "cosine", "learning_rate_decay": 0.5}, "with training.schedule=steps only"),
        ({"warmup_epochs": 5, "max_epochs": 5}, "would never be reached"),
    ):
        with pytest.raises(InputError, match=message):
            build(TrainingSettings, values)


def test_the_spread_is_0_for_the_same_embedding_and_1_for_even_directions():
    generator = torch.Generator().manual_seed(0)
    same = torch.randn(1, 16, generator=generator) * (1 + torch.rand(50, 1, generator=generator))
    assert embedding_spread(same) < 1e-6
    assert embedding_spread(torch.randn(5000, 16, generator=generator)) == pytest.approx(1, abs=0.02)


def test_a_collapsed_embedding_is_warned_about_once(adata, tmp_path, caplog):
    """Without its terms for variance and covariance, VICReg is best served by the same embedding for all."""
    settings = {
        "data": {"donor_key": "donor"},
        "network": {"hidden_sizes": [16], "n_latent": 8, "dropout": 0.0},
        "pretext": {"name": "vicreg", "projector_sizes": [8], "variance_weight": 0, "covariance_weight": 0},
        "training": {"max_epochs": 30, "minibatch_size": 64, "learning_rate": 0.02, "patience": 0, "device": "cpu"},
    }
    with caplog.at_level(logging.WARNING, logger="selfcell"):
        selfcell.pretrain(adata, settings, out=tmp_path / "run", show_progress=False)
    warned = [record.message for record in caplog.records if "The embedding has collapsed" in record.message]
    assert len(warned) == 1


def test_a_spread_embedding_is_not_warned_about(model, caplog):
    log = pd.read_csv(model.path / "log.csv")
    assert (log["train_embedding_spread"] > COLLAPSED).all() and (log["validation_embedding_spread"] > COLLAPSED).all()


def weight_by_gene(steps, *, optimizer_class, by_gene):
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    if by_gene:
        lay_by_gene(layer)
    optimizer = optimizer_class(layer.parameters(), lr=0.1, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        layer(torch.randn(4, 7)).square().sum().backward()
        optimizer.step()
    return layer, optimizer


def test_adamw_moves_weights_that_lie_by_gene_as_torch_moves_others():
    expected, _ = weight_by_gene(5, optimizer_class=torch.optim.AdamW, by_gene=False)
    found, _ = weight_by_gene(5, optimizer_class=AdamW, by_gene=True)
    assert found.weight.T.is_contiguous()
    torch.testing.assert_close(found.weight, expected.weight)
    torch.testing.assert_close(found.bias, expected.bias)


def test_adamw_refuses_a_state_that_lies_otherwise_than_its_weight():
    layer, optimizer = weight_by_gene(1, optimizer_class=AdamW, by_gene=True)
    state = optimizer.state[layer.weight]
    state["exp_avg"] = state["exp_avg"].contiguous()
    with pytest.raises(ValueError, match="lies otherwise in memory"):
        optimizer.step()

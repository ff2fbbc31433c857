"""The masked autoencoder in blocks of genes against the plain dense one in double precision, for every mask."""

import copy

import numpy as np
import pytest
import torch

from selfcell.core.config import build
from selfcell.data.loader import cell_loader
from selfcell.data.programs import GenePrograms
from selfcell.data.simulate import simulate_counts
from selfcell.network import padded
from selfcell.network.block_error import UNSCORED
from selfcell.network.compute import Compute
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
N_GENES = 150

MASKS = [
    {"mask": "none"},
    {"mask": "random", "score_zeros": "drawn"},
    {"mask": "random", "score_zeros": "drawn", "rescale_input": False},
    {"mask": "random", "exact_share": True},
    {"mask": "programs"},
    {"mask": "programs", "mask_per": "minibatch"},
    {"mask": "programs", "mask_per": "minibatch", "rescale_input": False},
    {"mask": "programs", "share_of": "genes", "mask_fraction": 0.3},
    {"mask": "isolated_program"},
    {"mask": "isolated_program", "mask_fraction": 0.4},
    {"mask": "program_to_tf"},
]


def minibatch_of(n_cells=24, device="cpu"):
    counts = simulate_counts(n_cells=n_cells, n_genes=N_GENES, density=0.2, seed=0)
    return next(iter(cell_loader(counts, minibatch_size=n_cells))).to(device)


def task_of(compute=None, device="cpu", **values):
    """Make a task of two layers on each side, with ten factors and fourteen targets of each."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    genes = tuple(np.sort(rng.choice(np.arange(10, N_GENES), 14, replace=False)) for _ in range(10))
    programs = GenePrograms(tuple(f"F{place}" for place in range(10)), genes, N_GENES, np.arange(10))
    encoder = MlpEncoder(EncoderSettings(hidden_sizes=(16, 12), n_latent=8), n_genes=N_GENES)
    encoder.compute = compute or Compute(sparse=False, in_blocks=True)
    settings = build(MaskedAutoencoderSettings, values)
    return MaskedAutoencoder(settings, encoder=encoder, programs=programs).to(device).eval()


def loss_of(task, minibatch, seed=0):
    generator = torch.Generator(device=minibatch.values.device).manual_seed(seed)
    task.zero_grad()
    loss = task.compute_loss(minibatch, generator=generator)
    loss.total.backward()
    return loss, [parameter.grad.cpu().double() for parameter in task.parameters()]


def plain_loss_of(task, minibatch, seed=0):
    task, minibatch = copy.deepcopy(task).double(), copy.copy(minibatch)
    task.encoder.compute = Compute(sparse=False)
    minibatch.values, minibatch.known_library_size = minibatch.values.double(), None
    return loss_of(task, minibatch, seed)


@pytest.fixture(params=[64, 4096])
def genes_at_once(request, monkeypatch):
    monkeypatch.setattr(padded, "GENES_AT_ONCE", request.param)
    return request.param


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("values", MASKS, ids=lambda values: "-".join(map(str, values.values())))
def test_every_mask_gives_the_loss_and_gradients_of_the_dense_path(values, device, genes_at_once):
    if values.get("score_zeros") == "drawn" and genes_at_once < N_GENES:
        pytest.skip("entries are drawn block by block, so that the draws are others")
    task, minibatch = task_of(device=device, **values), minibatch_of(device=device)
    (found, gradients), (expected, in_double) = loss_of(task, minibatch), plain_loss_of(task, minibatch)
    assert found.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert found.terms["masked_fraction"].item() == pytest.approx(expected.terms["masked_fraction"].item(), abs=1e-6)
    torch.testing.assert_close(found.embedding.double(), expected.embedding, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, in_double, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def written_out(task, minibatch, drawn):
    """Give loss and gradients of what was drawn, dense and in double precision."""
    task, n_genes = copy.deepcopy(task).double(), minibatch.n_genes
    task.encoder.compute = Compute(sparse=False)
    expression, truth = minibatch.expression().double(), drawn.truth[:, :n_genes]
    weight = torch.where(expression == 0, drawn.zero_weight, 1.0).double().masked_fill(truth == UNSCORED, 0.0)
    predicted = task.decoder(task.encoder(drawn.visible.values[:, :n_genes].double()))
    loss = (weight * (predicted - expression).square()).sum() / weight.sum()
    return loss, torch.autograd.grad(loss, list(task.parameters())), weight


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rescale_input", [True, False])
def test_random_masks_score_zeros_by_their_probability(rescale_input, device, genes_at_once):
    task, minibatch = task_of(device=device, mask_fraction=0.3, rescale_input=rescale_input), minibatch_of(80, device)
    drawn = task._draw_dense(minibatch, torch.Generator(device=device).manual_seed(0))
    expression, truth = minibatch.expression(), drawn.truth[:, :N_GENES]
    hidden = (truth != UNSCORED) & (expression > 0)
    shown = expression.masked_fill(hidden, 0.0) / (0.7 if rescale_input else 1.0)
    torch.testing.assert_close(drawn.visible.values[:, :N_GENES], shown)
    torch.testing.assert_close(truth[hidden], expression[hidden])
    assert (truth[expression == 0] == 0).all() and (drawn.truth[:, N_GENES:] == UNSCORED).all()
    assert hidden.sum().item() / (expression > 0).sum().item() == pytest.approx(0.3, abs=0.04)
    found, gradients = loss_of(task, minibatch)
    expected, in_double, weight = written_out(task, minibatch, drawn)
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert found.terms["masked_fraction"].item() == pytest.approx(weight.mean().item(), rel=1e-5)
    for one, other in zip(gradients, in_double, strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-6)


def test_drawn_entries_are_hidden_and_scored_alike_in_every_block(monkeypatch):
    monkeypatch.setattr(padded, "GENES_AT_ONCE", 64)
    task, minibatch = task_of(score_zeros="drawn", mask_fraction=0.4, rescale_input=False), minibatch_of(200)
    drawn = task._draw_dense(minibatch, torch.Generator().manual_seed(0))
    scored, expression = drawn.truth[:, :N_GENES] != UNSCORED, minibatch.expression()
    assert torch.equal(drawn.visible.values[:, :N_GENES], expression.masked_fill(scored, 0.0))
    assert scored.float().mean(dim=0).sub(0.4).abs().max() < 0.15
    assert drawn.n_scored == scored.sum() and drawn.masked_fraction.item() == pytest.approx(scored.float().mean())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("values", [{}, {"mask": "programs"}], ids=["random", "programs"])
def test_bfloat16_gives_nearly_the_same_gradients(values, device):
    minibatch = minibatch_of(device=device)
    half = Compute(sparse=False, in_blocks=True, dtype=torch.bfloat16)
    found, gradients = loss_of(task_of(half, device, **values), minibatch)
    expected, in_full = loss_of(task_of(device=device, **values), minibatch)
    assert found.total.item() == pytest.approx(expected.total.item(), rel=0.01)
    for one, other in zip(gradients, in_full, strict=True):
        assert torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


def test_nothing_to_predict_is_a_loss_of_zero():
    found, gradients = loss_of(task_of(score_zeros="drawn", mask_fraction=1e-9), minibatch_of())
    assert found.total == 0 and not any(gradient.any() for gradient in gradients)


def test_what_is_no_squared_error_of_a_linear_layer_is_computed_plainly(monkeypatch):
    monkeypatch.setattr(MaskedAutoencoder, "_loss_in_blocks", lambda *_: pytest.fail("in blocks"))
    for values in ({"output": "softplus"}, {"likelihood": "poisson"}):
        task = task_of(**values)
        assert loss_of(task, minibatch_of())[0].total > 0


def test_the_device_is_not_asked_within_a_step(monkeypatch):
    """Neither numbers nor shapes that depend on numbers are asked for, for which a GPU would be waited for."""
    minibatches = [minibatch_of(), minibatch_of()]
    for values in ({}, {"score_zeros": "drawn"}, {"mask": "programs"}, {"mask": "none"}):
        task = task_of(**values)
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "nonzero", "__bool__", "__float__", "__int__", "cpu", "unique"):
                patch.setattr(torch.Tensor, name, lambda *_, name=name, **__: pytest.fail(f"{name} waits"))
            generator = torch.Generator().manual_seed(0)
            for minibatch in minibatches:
                task.compute_loss(minibatch, generator=generator).total.backward()

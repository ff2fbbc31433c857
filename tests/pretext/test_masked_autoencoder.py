import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfcell.data.loader import cell_loader
from selfcell.pretext.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderSettings
from selfcell.pretext.masks import draw_random_mask


@pytest.mark.parametrize("rescale_input", [True, False])
@pytest.mark.parametrize("mask_fraction", [0.1, 0.5, 0.9])
def test_loss_and_gradients_agree_with_the_written_out_formula_in_float64(encoder, cells, mask_fraction, rescale_input):
    settings = MaskedAutoencoderSettings(mask_fraction=mask_fraction, rescale_input=rescale_input)
    task = MaskedAutoencoder(settings, encoder=encoder).double().eval()
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=16)))
    minibatch.values = minibatch.values.double()

    loss = task.compute_loss(minibatch, generator=torch.Generator().manual_seed(3)).total
    gradients = torch.autograd.grad(loss, list(task.parameters()))

    mask = torch.rand((16, 60), generator=torch.Generator().manual_seed(3)) < mask_fraction
    counts = torch.tensor(cells.counts[:16].toarray(), dtype=torch.float64)
    expression = torch.log1p(counts / counts.sum(dim=1, keepdim=True) * 10_000)
    visible = torch.where(mask, 0.0, expression) / ((1 - mask_fraction) if rescale_input else 1.0)
    predicted = task.decoder(task.encoder(visible))
    expected = sum((predicted[c, g] - expression[c, g]) ** 2 for c, g in mask.nonzero()) / mask.sum()
    torch.testing.assert_close(loss, expected)
    for gradient, by_formula in zip(gradients, torch.autograd.grad(expected, list(task.parameters())), strict=True):
        torch.testing.assert_close(gradient, by_formula)


def test_the_encoder_cannot_see_what_is_hidden(encoder, cells, monkeypatch):
    """Changing hidden entries changes the target alone, never what the encoder is given."""
    seen = []
    task = MaskedAutoencoder(MaskedAutoencoderSettings(), encoder=encoder).eval()
    task.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    mask = draw_random_mask(8, 60, 0.5, generator=torch.Generator().manual_seed(0))
    expression = torch.rand(8, 60)
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=8)))
    for shown in (expression, torch.where(mask, expression + 5, expression)):
        monkeypatch.setattr(type(minibatch), "expression", lambda _, shown=shown: shown)
        task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0))
    assert torch.equal(seen[0], seen[1]) and (seen[0][mask] == 0).all()


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_the_share_of_hidden_entries_is_that_of_independent_coins(mask_fraction, seed):
    n_entries = 100 * 200
    mask = draw_random_mask(100, 200, mask_fraction, generator=torch.Generator().manual_seed(seed))
    assert scipy.stats.binomtest(int(mask.sum()), n_entries, mask_fraction).pvalue > 1e-6


def test_cells_and_genes_are_hidden_independently():
    mask = draw_random_mask(2000, 20, 0.3, generator=torch.Generator().manual_seed(0)).numpy().astype(float)
    correlation = np.corrcoef(mask.T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    spread = mask.sum(axis=1).var()
    assert abs(spread - 20 * 0.3 * 0.7) < 0.5


def test_no_hidden_entry_gives_zero_and_not_nan(encoder, cells):
    settings = MaskedAutoencoderSettings(mask_fraction=1e-9)
    task = MaskedAutoencoder(settings, encoder=encoder)
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=2)))
    assert task.compute_loss(minibatch, generator=torch.Generator().manual_seed(0)).total == 0

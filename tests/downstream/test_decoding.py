import dataclasses

import numpy as np
import pytest
import torch

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.counts import log_normalize
from selfcell.downstream.decoding import (
    decoder_settings,
    expected_counts,
    expected_expression,
    forecast_by_decoder,
    has_decoder,
    load_autoencoder,
    require_decoder,
)
from selfcell.training.pretrain import pretrain
from selfcell.training.settings import PretrainSettings

COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
QUICK = {
    "data": {"donor_key": "donor"},
    "network": {"hidden_sizes": [16], "n_latent": 8},
    "training": {"max_epochs": 1, "minibatch_size": 64, "device": "cpu"},
}


def pretrained(adata, out, **pretext):
    return pretrain(adata, build(PretrainSettings, {**QUICK, "pretext": pretext}), out=out, show_progress=False)


def test_expected_expression_is_what_the_trained_decoder_gives_and_never_negative(model, cells):
    autoencoder = load_autoencoder(model)
    expression = torch.from_numpy(log_normalize(cells.counts).toarray())
    expected = autoencoder.decoder(model.encoder(expression)).clamp(min=0)
    np.testing.assert_allclose(expected_expression(autoencoder, cells.counts), expected, atol=1e-4)
    for name, weight in autoencoder.decoder.state_dict().items():
        assert torch.equal(weight, model.head_state[f"decoder.{name}"])


def test_expected_counts_have_the_expected_expression_at_the_cells_depth(model, cells):
    autoencoder = load_autoencoder(model)
    counts, depth = expected_counts(autoencoder, cells.counts), np.asarray(cells.counts.sum(axis=1))
    expected = expected_expression(autoencoder, cells.counts)
    np.testing.assert_allclose(np.log1p(counts / depth * 10_000), expected, atol=1e-4)


@pytest.mark.parametrize("likelihood", COUNTS)
def test_a_decoder_of_counts_gives_their_mean_and_their_distribution(likelihood, adata, cells, tmp_path):
    model = pretrained(adata, tmp_path / "run", likelihood=likelihood)
    autoencoder = load_autoencoder(model)
    assert decoder_settings(model).likelihood == likelihood
    some = cells.counts[:20]
    depth = np.asarray(some.sum(axis=1, dtype=np.float64)).ravel()
    counts, expression = expected_counts(autoencoder, some), expected_expression(autoencoder, some)
    np.testing.assert_allclose(np.log1p(counts / depth[:, None] * 10_000), expression, rtol=1e-4)
    forecast = forecast_by_decoder(autoencoder, some)
    distribution = forecast.distribution(depth)
    share = 1 if distribution.extra_zero is None else 1 - distribution.extra_zero
    np.testing.assert_allclose(share * distribution.mean, counts, rtol=1e-3)
    minibatch_loss = -distribution.log_probability(some.toarray().astype(np.float64)).mean()
    with torch.inference_mode():
        outputs = autoencoder.decoder(autoencoder.encoder(torch.from_numpy(log_normalize(some).toarray())))
        loss = autoencoder.likelihood(outputs, torch.from_numpy(some.toarray()), torch.from_numpy(depth).float())
    assert minibatch_loss == pytest.approx(float(loss.mean()), rel=1e-4)


def test_a_squared_error_gives_no_distribution(model, cells):
    assert forecast_by_decoder(load_autoencoder(model), cells.counts[:5]).distribution is None


def test_a_softplus_output_is_applied(adata, cells, tmp_path):
    model = pretrained(adata, tmp_path / "run", output="softplus")
    autoencoder = load_autoencoder(model)
    outputs = autoencoder.decoder(model.encoder(torch.from_numpy(log_normalize(cells.counts[:5]).toarray())))
    expected = torch.nn.functional.softplus(outputs)
    np.testing.assert_allclose(expected_expression(autoencoder, cells.counts[:5]), expected, rtol=1e-3, atol=1e-4)


def test_a_contrastive_run_has_no_decoder(adata, tmp_path):
    model = pretrained(adata, tmp_path / "byol", name="byol")
    assert not has_decoder(model) and decoder_settings(model).likelihood == "squared_error"
    with pytest.raises(InputError, match=r"was pre-trained by byol, which leaves no decoder of gene expression\. Do x"):
        require_decoder(model, remedy="Do x.")


def test_a_run_fine_tuned_for_another_task_has_no_decoder(model):
    typed = dataclasses.replace(model, manifest={**model.manifest, "kind": "fine-tuned", "task": "cell_type"})
    with pytest.raises(InputError, match="was fine-tuned for cell_type, which leaves no decoder"):
        require_decoder(typed, remedy="")


def test_damaged_weights_are_told(model, cells):
    autoencoder = load_autoencoder(model)
    autoencoder.decoder[-1].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match="The decoder gives values that are not finite"):
        expected_expression(autoencoder, cells.counts[:3])

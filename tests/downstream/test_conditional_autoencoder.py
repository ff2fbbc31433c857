import numpy as np
import pytest
import torch

from selfcell.data.loader import cell_loader
from selfcell.downstream.alignment import maximum_mean_discrepancy
from selfcell.downstream.conditional_autoencoder import ConditionalAutoencoder
from selfcell.network.compute import Compute, set_compute
from selfcell.network.conditional_decoder import ConditionalDecoder
from selfcell.network.encoder import EncoderSettings, MlpEncoder
from selfcell.network.likelihoods import make_likelihood

LIKELIHOODS = [
    ("squared_error", "identity"),
    ("squared_error", "softplus"),
    ("squared_error", "sigmoid"),
    ("poisson", "identity"),
    ("zero_inflated_negative_binomial", "identity"),
]


def autoencoder_of(name="squared_error", output="identity", *, mmd_weight=0.0):
    torch.manual_seed(0)
    settings = EncoderSettings(hidden_sizes=(16, 12), n_latent=8, dropout=0.0)
    likelihood = make_likelihood(name, n_genes=60, output=output)
    decoder = ConditionalDecoder(settings, n_outputs=60 * likelihood.outputs_per_gene, n_batches=3)
    objective = ConditionalAutoencoder(MlpEncoder(settings, n_genes=60), decoder, likelihood, mmd_weight=mmd_weight)
    with torch.no_grad():
        for parameter in objective.decoder.parameters():
            parameter.normal_(0, 0.2)
    return objective


@pytest.fixture
def minibatch(cells):
    codes = {"batch": np.random.default_rng(0).integers(2, size=len(cells))}
    return next(iter(cell_loader(cells.counts, codes=codes, minibatch_size=20)))


def loss_and_gradients(objective, minibatch, compute):
    set_compute(objective, compute)
    objective.zero_grad()
    loss = objective.compute_loss(minibatch, generator=torch.Generator())
    loss.total.backward()
    return loss.total.detach(), {name: parameter.grad for name, parameter in objective.named_parameters()}


@pytest.mark.parametrize("compute", [Compute(), Compute(sparse=False, in_blocks=True), Compute(sparse=False)])
@pytest.mark.parametrize(("name", "output"), LIKELIHOODS)
def test_every_way_of_computing_agrees_with_the_formula_in_float64(name, output, compute, minibatch):
    objective = autoencoder_of(name, output, mmd_weight=0.7)
    total, gradients = loss_and_gradients(objective, minibatch, compute)
    double = autoencoder_of(name, output).double()
    code = minibatch.codes["batch"]
    expression, counts = minibatch.expression().double(), minibatch.counts().double()
    embedding = double.encoder(expression)
    outputs = double.decoder(embedding, code)
    truth = counts if double.likelihood.of_counts else expression
    expected = double.likelihood(outputs, truth, counts.sum(dim=1)).mean()
    expected = expected + 0.7 * expected.detach() * maximum_mean_discrepancy(embedding, code, n_batches=3)
    expected.backward()
    assert total.item() == pytest.approx(expected.item(), rel=1e-4)
    for key, parameter in double.named_parameters():
        torch.testing.assert_close(gradients[key].double(), parameter.grad, rtol=2e-3, atol=1e-5, msg=key)


def test_the_encoder_is_told_no_batch_and_the_decoder_is(minibatch):
    objective = autoencoder_of()
    code = minibatch.codes["batch"]
    embedding = objective.encoder(minibatch.expression())
    assert (objective.decoder(embedding, code) != objective.decoder(embedding, 1 - code)).any(dim=1).all()
    losses = []
    for codes in (code, 1 - code):
        minibatch.codes = {"batch": codes}
        losses.append(objective.compute_loss(minibatch, generator=torch.Generator()))
    assert losses[0].total != losses[1].total and torch.equal(losses[0].embedding, losses[1].embedding)


def test_the_discrepancy_is_logged_where_it_counts(minibatch):
    plain = autoencoder_of().compute_loss(minibatch, generator=torch.Generator())
    assert set(plain.terms) == {"reconstruction"} and plain.total == plain.terms["reconstruction"]
    aligned = autoencoder_of(mmd_weight=2.0).compute_loss(minibatch, generator=torch.Generator())
    total = aligned.terms["reconstruction"] * (1 + 2 * aligned.terms["discrepancy"])
    torch.testing.assert_close(aligned.total.detach(), total)


def test_frozen_all_of_the_encoder_but_its_last_layer_stays(minibatch):
    objective = autoencoder_of(mmd_weight=1.0)
    objective.freeze_encoder()
    objective.train()
    assert not objective.encoder.training
    objective.compute_loss(minibatch, generator=torch.Generator()).total.backward()
    learning = {name for name, parameter in objective.encoder.named_parameters() if parameter.grad is not None}
    assert learning == {"layers.6.weight", "layers.6.bias"}

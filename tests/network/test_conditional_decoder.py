import pytest
import torch

from selfcell.network.conditional_decoder import ConditionalDecoder
from selfcell.network.encoder import EncoderSettings, mirrored_decoder

SETTINGS = EncoderSettings(hidden_sizes=(16, 12), n_latent=8, dropout=0.0)


def decoder_of(conditioned, seed=0):
    torch.manual_seed(seed)
    return ConditionalDecoder(SETTINGS, n_outputs=30, n_batches=3, conditioned=conditioned)


@pytest.mark.parametrize("conditioned", ["first", "every"])
def test_batches_begin_alike_and_then_differ(conditioned):
    decoder, embedding = decoder_of(conditioned), torch.randn(4, 8)
    code, other = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 1, 0, 2])
    assert torch.equal(decoder(embedding, code), decoder(embedding, other))
    outputs = decoder(embedding, code)
    outputs[:2].square().sum().backward()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter -= 0.1 * parameter.grad
    differs = (decoder(embedding, code) != decoder(embedding, other)).any(dim=1)
    assert differs.tolist() == [True, False, True, True]


def test_a_batch_without_cells_stays_at_what_is_common_to_all():
    decoder = decoder_of("every")
    decoder(torch.randn(4, 8), torch.tensor([0, 1, 1, 0])).square().sum().backward()
    for layer in decoder.layers[::3]:
        assert (layer.weight.grad[:, -3:-1] != 0).any() and not layer.weight.grad[:, -1].any()


def test_the_decoder_agrees_with_its_layers_written_out():
    decoder, embedding, code = decoder_of("every"), torch.randn(5, 8), torch.tensor([2, 0, 1, 1, 2])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(0, 0.3)
    one_hot = torch.eye(3)[code]
    first, second, last = decoder.layers[0], decoder.layers[3], decoder.layers[6]
    hidden = torch.selu(embedding @ first.weight[:, :8].T + one_hot @ first.weight[:, 8:].T + first.bias)
    hidden = torch.selu(hidden @ second.weight[:, :12].T + one_hot @ second.weight[:, 12:].T + second.bias)
    outputs = hidden @ last.weight[:, :16].T + one_hot @ last.weight[:, 16:].T + last.bias
    torch.testing.assert_close(decoder(embedding, code), outputs)


@pytest.mark.parametrize(("conditioned", "told"), [("first", [3, 0, 0]), ("every", [3, 3, 3])])
def test_only_the_layers_that_are_named_are_told(conditioned, told):
    plain = mirrored_decoder(SETTINGS, n_outputs=30)
    widths = [layer.in_features for layer in decoder_of(conditioned).layers[::3]]
    assert [wide - layer.in_features for wide, layer in zip(widths, plain[::3], strict=True)] == told

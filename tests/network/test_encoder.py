import pytest
import torch
from torch import nn

from selfcell.core.config import build
from selfcell.core.errors import InputError
from selfcell.data.loader import cell_loader
from selfcell.network.blockwise import BlockwiseExpression
from selfcell.network.encoder import PAPER_NETWORK, EncoderSettings, MlpEncoder, mirrored_decoder
from selfcell.network.padded import padded_expression


def test_the_papers_network_has_its_sizes():
    settings = EncoderSettings(**PAPER_NETWORK)
    encoder, decoder = MlpEncoder(settings, n_genes=100), mirrored_decoder(settings, n_outputs=100)
    sizes = [(layer.in_features, layer.out_features) for layer in encoder.layers if isinstance(layer, nn.Linear)]
    assert sizes == [(100, 512), (512, 512), (512, 256), (256, 256), (256, 64)]
    sizes = [(layer.in_features, layer.out_features) for layer in decoder if isinstance(layer, nn.Linear)]
    assert sizes == [(64, 256), (256, 256), (256, 512), (512, 512), (512, 100)]
    assert sum(isinstance(layer, nn.SELU) for layer in encoder.layers) == 4
    assert [layer.p for layer in encoder.layers if isinstance(layer, nn.Dropout)] == [0.1] * 4


def test_the_last_layers_are_bare(encoder):
    assert isinstance(encoder.layers[-1], nn.Linear)
    assert isinstance(mirrored_decoder(encoder.settings, n_outputs=60)[-1], nn.Linear)


def test_the_forward_pass_agrees_with_the_written_out_one(encoder):
    encoder = encoder.double().eval()
    hidden = expression = torch.rand(5, 60, dtype=torch.float64)
    linears = [layer for layer in encoder.layers if isinstance(layer, nn.Linear)]
    for linear in linears[:-1]:
        hidden = torch.selu(hidden @ linear.weight.T + linear.bias)
    torch.testing.assert_close(encoder(expression), hidden @ linears[-1].weight.T + linears[-1].bias)


@pytest.mark.parametrize("form", ["dense", "sparse", "blockwise", "padded"])
def test_a_rectified_embedding_is_the_bare_one_without_what_is_negative(encoder, cells, form):
    rectified = MlpEncoder(encoder.settings.model_copy(update={"rectify_embedding": True}), n_genes=60)
    rectified.load_state_dict(encoder.state_dict())
    minibatch = next(iter(cell_loader(cells.counts, minibatch_size=20)))
    given = minibatch.expression() if form == "dense" else minibatch.sparse_expression()
    if form == "blockwise":
        given = BlockwiseExpression(given, torch.empty(0, dtype=torch.long), lambda _: torch.empty(0, 0))
    if form == "padded":
        given = padded_expression(given, dtype=torch.float32)
    bare = encoder.eval()(given)
    assert (bare < 0).any()
    torch.testing.assert_close(rectified.eval()(given), bare.clamp(min=0))


def test_sizes_out_of_range_are_refused():
    with pytest.raises(InputError, match=r"dropout: .*less than 1, but is 1\.5"):
        build(EncoderSettings, {"dropout": 1.5})
    with pytest.raises(InputError, match="hidden_sizes"):
        build(EncoderSettings, {"hidden_sizes": []})
    with pytest.raises(InputError, match=r"hidden_sizes: input should be a list, such as \[64, 32\], but is 64"):
        build(EncoderSettings, {"hidden_sizes": 64})
    with pytest.raises(InputError, match="greater than or equal to 1, but is 0"):
        build(EncoderSettings, {"hidden_sizes": [0]})

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from selfcell.network.compute import Compute, set_compute
from selfcell.network.heads import HeadSizes, projection_head, projection_spread


def kinds(head):
    return [type(layer).__name__ for layer in head]


def test_a_head_is_blocks_and_a_bare_linear():
    head = projection_head([8, 6, 5, 4])
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU"] * 2 + ["Linear"]
    assert [layer.weight.shape for layer in head if isinstance(layer, nn.Linear)] == [(6, 8), (5, 6), (4, 5)]


def test_a_single_layer_is_a_head():
    assert kinds(projection_head([8, 4])) == ["Linear"]


def test_a_linear_has_a_bias_unless_batch_norm_follows():
    head = projection_head([8, 6, 4])
    assert head[0].bias is None and head[-1].bias is not None
    assert projection_head([8, 6, 4], batch_norm=False)[0].bias is not None


def test_a_head_without_batch_norm_may_end_otherwise():
    assert kinds(projection_head([8, 6, 4], batch_norm=False, activation="gelu")) == ["Linear", "GELU", "Linear"]


@pytest.mark.parametrize(
    ("last", "ends_in", "has_bias"),
    [
        ("linear", "Linear", True),
        ("linear_without_bias", "Linear", False),
        ("batch_norm", "BatchNorm1d", False),
        ("batch_norm_without_scale", "BatchNorm1d", False),
    ],
)
def test_a_head_ends_as_it_is_told(last, ends_in, has_bias):
    head = projection_head([8, 6, 4], last=last)
    linear = [layer for layer in head if isinstance(layer, nn.Linear)][-1]
    assert kinds(head)[-1] == ends_in and (linear.bias is not None) == has_bias
    if ends_in == "BatchNorm1d":
        assert head[-1].affine == (last == "batch_norm")


@pytest.mark.parametrize("sizes", [(), (1,), (8, 0)])
def test_sizes_out_of_their_limits_are_refused(sizes):
    with pytest.raises(ValidationError):
        TypeAdapter(HeadSizes).validate_python(sizes)


def test_spread_is_zero_for_one_direction_and_near_one_for_all():
    one = torch.ones(50, 8) * torch.arange(1.0, 51)[:, None]
    every = torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    assert projection_spread(one) < 1e-6
    assert abs(projection_spread(every) - 1) < 0.02
    assert projection_spread(every[:1]) == 0


@pytest.mark.parametrize("last", ["linear", "batch_norm"])
def test_a_head_computes_as_it_is_told_and_gives_its_weights_type(last):
    torch.manual_seed(0)
    head, cells = projection_head([8, 16, 4], last=last), torch.randn(200, 8)
    in_full = head(cells)
    set_compute(nn.ModuleDict({"projector": head}), Compute(dtype=torch.bfloat16))
    in_half = head(cells)
    assert in_half.dtype == torch.float32 and not torch.equal(in_half, in_full)
    torch.testing.assert_close(in_half, in_full, rtol=0.03, atol=0.03)
    in_half.square().sum().backward()
    assert {parameter.grad.dtype for parameter in head.parameters()} == {torch.float32}


def test_in_double_precision_a_head_stays_so_however_it_computes():
    torch.manual_seed(0)
    head, cells = projection_head([8, 16, 4]).double(), torch.randn(20, 8, dtype=torch.float64)
    expected = head(cells)
    set_compute(head, Compute(dtype=torch.bfloat16))
    assert head(cells).dtype == torch.float64 and torch.equal(head(cells), expected)

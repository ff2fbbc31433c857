"""How networks are computed: on the non-zero entries or densely, and in which type."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

_LARGEST_ERROR = 1e-3
"""Of sums of 512 products of standard normal numbers: 1e-4 in float32, 1e-1 in bfloat16."""


@dataclass(frozen=True)
class Compute:
    """How a network is computed. The weights are float32 whatever it says, and so is what comes out."""

    sparse: bool = True
    """On a CPU, let cells without their zeros stay so, and take the loss of a linear decoder from the non-zero entries;
    else everything is made dense."""
    in_blocks: bool = False
    """On a GPU, make cells dense in ``dtype`` and take the loss of a linear decoder in blocks of genes."""
    compiled: bool = False
    """In blocks, compute errors by a compiled kernel."""
    dtype: torch.dtype = torch.float32
    """Of products of matrices: float32, or bfloat16, which is summed in float32."""

    def blocks(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """Give the context in which hidden layers are computed."""
        return torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32)


def best_dtype(device: str) -> torch.dtype:
    """Give bfloat16 where the processor or GPU multiplies matrices of it, else float32."""
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    knows = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if device == "cpu" and knows is not None and knows() else torch.float32


@contextlib.contextmanager
def quick_float32(*, exact: bool = False) -> Iterator[None]:
    """Let products of float32 matrices on a CPU be made by whichever library is quicker, if that is float32 still.

    Torch's setting ``medium`` hands them to oneDNN, which on some processors (AMD's) takes half the time of the library
    it takes otherwise. On some others it would round to bfloat16: there, as a product made for the purpose shows, the
    setting is left alone.

    Parameters
    ----------
    exact
        Leave everything as torch has it.
    """
    before = torch.get_float32_matmul_precision()
    if not exact and before == "highest" and _medium_is_float32():
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _medium_is_float32() -> bool:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=generator) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        error = ((a @ b).double() - a.double() @ b.double()).abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return bool(error < _LARGEST_ERROR)


def set_compute(module: nn.Module, compute: Compute) -> None:
    """Have all encoders in a module computed in one way, those that are copies too."""
    for part in module.modules():
        if isinstance(getattr(part, "compute", None), Compute):
            setattr(part, "compute", compute)  # noqa: B010 - modules keep tensors and modules alone by assignment

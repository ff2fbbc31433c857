"""What compiled loops share: threads, bfloat16, random numbers.

Torch keeps bfloat16, numpy does not know it: such arrays come as their bits, uint16. Loops are marked
``no_type_check``, since what checks types at run time in tests cannot be compiled.
"""

import functools
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, no_type_check

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

FAST: Any = {"contract", "reassoc", "nsz", "arcp"}
_WORTH_THREADS = 2**16
_HALF = 0x7FFF


def in_parts(loop: Callable[..., Any], *arguments: Any, work: np.ndarray, n_threads: int) -> None:
    """Run a loop over stretches that take about equally long, each in a thread of its own.

    Parameters
    ----------
    loop
        A compiled loop, whose last arguments are where its stretch begins and ends.
    arguments
        Its other arguments.
    work
        Work before each item and at the end, ascending: such as where the entries of each cell begin.
    n_threads
        Threads.
    """
    n_items, n_parts = len(work) - 1, n_threads if work[-1] - work[0] >= _WORTH_THREADS else 1
    inner = np.searchsorted(work, np.linspace(work[0], work[-1], n_parts + 1)[1:-1])
    _run([0, *inner.tolist(), n_items], loop, arguments)


def in_equal_parts(
    loop: Callable[..., Any], *arguments: Any, n_items: int, n_threads: int, work_of_item: int = 1
) -> None:
    """Run a loop over items of which each takes as long as another; see :func:`in_parts`."""
    n_parts = n_threads if n_items * work_of_item >= _WORTH_THREADS else 1
    _run([n_items * part // n_parts for part in range(n_parts + 1)], loop, arguments)


def _run(bounds: list[int], loop: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Run a loop over stretches, the first in this thread."""
    first, *others = itertools.pairwise(bounds)
    waiting = [threads(len(others)).submit(loop, *arguments, *ends) for ends in others]
    loop(*arguments, *first)
    for done in waiting:
        done.result()


def as_bits(rows: torch.Tensor) -> np.ndarray:
    """Give rows to a compiled loop: float32 as it is, bfloat16 as its bits."""
    rows = rows.contiguous()
    return rows.view(torch.uint16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


@functools.cache
def threads(n_threads: int) -> ThreadPoolExecutor:
    """Give the threads that loops run in."""
    return ThreadPoolExecutor(n_threads, thread_name_prefix="selfcell-kernel")


@no_type_check
@intrinsic
def widen(typing_context, value):
    """Make a float32 of a float32 or of the bits of a bfloat16."""
    del typing_context
    if value == types.float32:
        return types.float32(types.float32), lambda context, builder, signature, given: given[0]
    bits = ir.IntType(32)

    def shifted(context, builder, signature, given):
        del context, signature
        wide = builder.shl(builder.zext(given[0], bits), ir.Constant(bits, 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), shifted


@no_type_check
@intrinsic
def bits_of(typing_context, value):
    """Give the bits of a float32 as a uint32."""
    del typing_context, value
    return types.uint32(types.float32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.IntType(32)
    )


@no_type_check
@intrinsic
def of_bits(typing_context, value):
    """Give the float32 of which a uint32 has the bits."""
    del typing_context, value
    return types.float32(types.uint32), lambda context, builder, signature, given: builder.bitcast(
        given[0], ir.FloatType()
    )


@no_type_check
@numba.njit(inline="always")
def narrow(value):
    """Round a float32 to the nearest bfloat16, ties to even, and give its bits."""
    bits = bits_of(value)
    return np.uint16((bits + np.uint32(_HALF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


def settle(place: Any, value: Any) -> Any:
    """Give a float32 in the type of the place that it goes to: as it is, or as the bits of a bfloat16."""
    raise NotImplementedError("it is for compiled loops")


@no_type_check
@overload(settle, inline="always")
def _settled(place, value):  # noqa: ARG001 - numba asks for both
    if place == types.float32:
        return lambda place, value: value
    return lambda place, value: narrow(value)


@no_type_check
@numba.njit(inline="always")
def mixed(counter, low, high):
    """Give a random uint32 that is a function of a counter and of a seed of two halves."""
    # Without the casts numba would go on in 64 bits.
    x = np.uint32(np.uint32(counter) + low)
    for _ in range(2):
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        x = np.uint32(np.uint32(x ^ np.uint32(x >> np.uint32(15))) * np.uint32(0x846CA68B))
        x = np.uint32(x ^ np.uint32(x >> np.uint32(16)) ^ high)
    return x

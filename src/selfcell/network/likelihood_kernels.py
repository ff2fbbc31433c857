"""Loops over blocks of genes x cells that turn a decoder's products into the derivatives of a likelihood, in place.

Nine entries in ten are zero, and a zero's likelihood is cheap: those of all cells are taken first, in vector
instructions, and the entries that are not zero then one by one. The gamma functions of the counts come from a table for
each gene, which grows as far as the gene's counts do. Each gene is one thread's, so the numbers are the same with any
number of threads.

All loops have these arguments.

products
    Products of weights with the hidden units of all cells, without bias: outputs of a gene x genes x cells, float32 or
    the bits of bfloat16. Derivatives by the outputs are written there.
bias
    Genes x outputs of a gene.
entries
    The non-zero entries of these genes.
scored
    How much each entry counts.
depth
    Library size of each cell, in 10,000 counts.
log_factorials
    Logarithms of factorials, from that of 0 on.
d_bias
    Derivatives by the bias, as it is laid.
loss
    Of each gene.
log_theta, d_log_theta
    Logarithm of the inverse dispersion of each gene, and derivatives by it; of the negative binomials alone.
start, stop
    The genes to take.
"""

import math
from typing import Any, NamedTuple, no_type_check

import numba
import numpy as np

from selfcell.network.elementary_kernels import (
    ELEMENTARY,
    LOG_2,
    halves_of,
    log1p_of,
    log_of,
    logistic_of,
    softplus_of,
    tail_of,
)
from selfcell.network.kernels import FAST, settle, widen

_LOOP: Any = {"nogil": True, "fastmath": FAST, "cache": True, "error_model": "numpy"}
_TABLED = 1024
_EXPONENTIAL_BELOW = np.float32(-15.0)
_SERIES_FROM = 32.0


class Entries(NamedTuple):
    """The non-zero entries of some genes, sorted by gene."""

    gene_offsets: np.ndarray
    """Where in the next two each gene begins, and at the end where the last one ends."""
    cells: np.ndarray
    truth: np.ndarray
    places: np.ndarray
    """Place of each among the entries sorted by cell."""


class Scored(NamedTuple):
    """How much entries count, the factor of the loss included."""

    mask: np.ndarray
    """Of some genes x cells, 1 for those that count and else 0; of no genes if the next says it."""
    zeros: np.float32
    """Weight of a zero, or of all that count by the mask."""
    entries: np.ndarray
    """Weight of each non-zero entry, sorted by cell; none if the mask says it."""


@no_type_check
@numba.njit(**_LOOP)
def set_apart(gene, row, bias, entries, scored, weight, kept, shown):
    """Weigh the zeros of a gene, and set its other entries apart before they are written over.

    ``weight`` becomes that of each cell, 0 where its entry is set apart: ``kept`` are the outputs of those, ``shown``
    their weights.
    """
    masked = len(scored.mask) > 0
    if masked:
        for cell in range(len(weight)):
            weight[cell] = scored.zeros * np.float32(scored.mask[gene, cell])
    else:
        weight[:] = scored.zeros
    begin = entries.gene_offsets[gene]
    for at in range(begin, entries.gene_offsets[gene + 1]):
        cell, place = entries.cells[at], entries.places[at]
        counts = weight[cell] if masked else scored.entries[place]
        zero = entries.truth[at] == 0
        kept[at - begin] = widen(row[cell]) + bias
        shown[at - begin] = np.float32(0) if zero else counts
        weight[cell] = counts if zero else np.float32(0)


@no_type_check
@numba.njit(**ELEMENTARY)
def _mean_of(output, depth):
    """Give a mean, its logarithm, and the derivative of that by the output.

    Far below zero softplus is exp to all digits, and its logarithm the output itself.
    """
    value, share = softplus_of(output)
    if output < _EXPONENTIAL_BELOW:
        return depth * value, output + log_of(depth), np.float32(1)
    return depth * value, log_of(value) + log_of(depth), share / value


@no_type_check
@numba.njit(**ELEMENTARY)
def _over_of(mean, inverse):
    r"""Give :math:`\log(1 + r)`, it less :math:`r / (1 + r)`, and :math:`1 / (1 + r)`, r being mean over theta."""
    r = mean * inverse
    k, z = halves_of(r)
    tail, rest = tail_of(z), np.float32(1) / (np.float32(1) + r)
    over = k * LOG_2 + (z + z + tail)
    # Without k both are series in z whose first terms cancel on paper.
    less = np.float32(2) * z * z / (np.float32(1) + z) + tail if k == 0 else over - r * rest
    return over, less, rest


@no_type_check
@numba.njit(**_LOOP)
def _log_factorial(count, log_factorials):
    whole = int(count)
    return log_factorials[whole] if whole == count and whole < len(log_factorials) else math.lgamma(count + 1.0)


@no_type_check
@numba.njit(**_LOOP)
def _digamma(x):
    total = 0.0
    while x < _SERIES_FROM:
        total -= 1 / x
        x += 1
    square = 1 / (x * x)
    return total + math.log(x) - 0.5 / x - square * (1 / 12 - square * (1 / 120 - square / 252))


@no_type_check
@numba.njit(**_LOOP)
def _extend(table, filled, count, theta):
    r"""Have a gene's table reach a count x, in as far as it is long, and give how far it reaches.

    It has :math:`\log \Gamma(x + \theta) - \log \Gamma(\theta) - x \log \theta = \sum_{j < x} \log(1 + j / \theta)`,
    and by how much that falls as :math:`\log \theta` grows, :math:`\sum_{j < x} j / (\theta + j)`.
    """
    while filled < min(count, table.shape[1] - 1):
        table[0, filled + 1] = table[0, filled] + math.log1p(filled / theta)
        table[1, filled + 1] = table[1, filled] + filled / (theta + filled)
        filled += 1
    return filled


@no_type_check
@numba.njit(**_LOOP)
def _of_count(table, filled, count, theta, log_factorials):
    """Give what a count adds to the loss whatever its mean, and the derivative of that by log theta."""
    whole = int(count)
    constant = _log_factorial(count, log_factorials)
    if whole == count and whole <= filled:
        return constant - table[0, whole], table[1, whole]
    rising = math.lgamma(count + theta) - math.lgamma(theta) - count * math.log(theta)
    return constant - rising, count - theta * (_digamma(count + theta) - _digamma(theta))


@no_type_check
@numba.njit(**ELEMENTARY)
def _counted(output, count, depth, theta, log_theta):
    """Give the loss of a count less that of :func:`_of_count`, and its derivatives by the output and log theta.

    Theta is in double precision: of what is large for large counts nearly all is taken away again.
    """
    mean, log_mean, by_output = _mean_of(output, depth)
    r = mean / theta
    over, less, rest = _over_of(mean, np.float32(1 / theta))
    per_count = log1p_of(np.float32(1 / r)) - log_theta if r > 1 else np.float64(over - log_mean)
    step = by_output * (mean - count) * rest
    return theta * over + count * per_count, step, theta * less - count * (r / (1 + r))


@no_type_check
@numba.njit(**_LOOP)
def softplus_residuals(
    products,
    bias,
    entries,
    scored,
    depth,  # noqa: ARG001 - of counts alone
    log_factorials,  # noqa: ARG001
    d_bias,
    loss,
    start,
    stop,
):
    """Take the squared error of a softplus."""
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    for gene in range(start, stop):
        row, b = products[0, gene], bias[gene, 0]
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        total, along = np.float32(0), np.float32(0)
        for cell in range(len(row)):
            value, share = softplus_of(widen(row[cell]) + b)
            step = weight[cell] * np.float32(2) * value * share
            total += weight[cell] * value * value
            along += step
            row[cell] = settle(row[cell], step)
        begin = entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell = shown[at - begin], entries.cells[at]
            if w != 0:
                value, share = softplus_of(kept[at - begin])
                error = value - entries.truth[at]
                step = w * np.float32(2) * error * share
                total += w * error * error
                along += step
                row[cell] = settle(row[cell], step)
        loss[gene], d_bias[gene, 0] = total, along


@no_type_check
@numba.njit(**_LOOP)
def poisson_residuals(products, bias, entries, scored, depth, log_factorials, d_bias, loss, start, stop):
    """Take the Poisson likelihood."""
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    for gene in range(start, stop):
        row, b = products[0, gene], bias[gene, 0]
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        of_zeros, along = np.float32(0), np.float32(0)
        for cell in range(len(row)):
            value, share = softplus_of(widen(row[cell]) + b)
            by_mean = weight[cell] * depth[cell]
            of_zeros += by_mean * value
            along += by_mean * share
            row[cell] = settle(row[cell], by_mean * share)
        total, begin = np.float64(of_zeros), entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell, count = shown[at - begin], entries.cells[at], entries.truth[at]
            if w != 0:
                mean, log_mean, by_output = _mean_of(kept[at - begin], depth[cell])
                step = w * by_output * (mean - count)
                total += w * (mean - count * log_mean + _log_factorial(count, log_factorials))
                along += step
                row[cell] = settle(row[cell], step)
        loss[gene], d_bias[gene, 0] = total, along


@no_type_check
@numba.njit(**_LOOP)
def negative_binomial_residuals(
    products, bias, entries, scored, depth, log_factorials, d_bias, loss, log_theta, d_log_theta, start, stop
):
    """Take the negative binomial likelihood."""
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    table = np.zeros((2, _TABLED))
    for gene in range(start, stop):
        row, b, theta, filled = products[0, gene], bias[gene, 0], math.exp(np.float64(log_theta[gene])), 0
        inverse = np.float32(1 / theta)
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        of_zeros, along, spread = np.float32(0), np.float32(0), np.float32(0)
        for cell in range(len(row)):
            value, share = softplus_of(widen(row[cell]) + b)
            over, less, rest = _over_of(depth[cell] * value, inverse)
            step = weight[cell] * depth[cell] * share * rest
            of_zeros += weight[cell] * over
            spread += weight[cell] * less
            along += step
            row[cell] = settle(row[cell], step)
        total, turned, begin = theta * of_zeros, theta * spread, entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell, count = shown[at - begin], entries.cells[at], entries.truth[at]
            if w != 0:
                filled = _extend(table, filled, count, theta)
                constant, fall = _of_count(table, filled, count, theta, log_factorials)
                value, step, turn = _counted(kept[at - begin], count, depth[cell], theta, log_theta[gene])
                total += w * (constant + value)
                turned += w * (fall + turn)
                along += w * step
                row[cell] = settle(row[cell], w * step)
        loss[gene], d_bias[gene, 0], d_log_theta[gene] = total, along, turned


@no_type_check
@numba.njit(**_LOOP)
def zero_inflated_residuals(
    products, bias, entries, scored, depth, log_factorials, d_bias, loss, log_theta, d_log_theta, start, stop
):
    r"""Take the negative binomial likelihood with more zeros.

    With n the loss of a zero by the negative binomial alone and q the logit of the share of other zeros, a zero's loss
    is :math:`\log(1 + e^q) + n - \log(1 + e^{q + n})`, and a count's is more by :math:`\log(1 + e^q)`.
    """
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    table, logits = np.zeros((2, _TABLED)), np.empty(products.shape[2], dtype=np.float32)
    for gene in range(start, stop):
        row, other, b, c = products[0, gene], products[1, gene], bias[gene, 0], bias[gene, 1]
        theta, filled = math.exp(np.float64(log_theta[gene])), 0
        set_apart(gene, other, c, entries, scored, weight, logits, shown)
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        total, turned, along, across = _zero_inflated_zeros(row, other, b, c, weight, depth, theta)
        begin = entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell, count = shown[at - begin], entries.cells[at], entries.truth[at]
            if w != 0:
                filled = _extend(table, filled, count, theta)
                constant, fall = _of_count(table, filled, count, theta, log_factorials)
                value, step, turn = _counted(kept[at - begin], count, depth[cell], theta, log_theta[gene])
                more, share = softplus_of(logits[at - begin])
                total += w * (constant + value + more)
                turned += w * (fall + turn)
                along += w * step
                across += w * share
                row[cell], other[cell] = settle(row[cell], w * step), settle(other[cell], w * share)
        loss[gene], d_bias[gene, 0], d_bias[gene, 1], d_log_theta[gene] = total, along, across, turned


@no_type_check
@numba.njit(**_LOOP)
def _zero_inflated_zeros(row, other, bias, bias_of_logits, weight, depth, exact_theta):
    """Take the zeros of a gene; give their loss and its derivatives by log theta and the two biases."""
    theta, inverse = np.float32(exact_theta), np.float32(1 / exact_theta)
    total, turned = np.float32(0), np.float32(0)
    along, across = np.float32(0), np.float32(0)
    for cell in range(len(row)):
        value, share = softplus_of(widen(row[cell]) + bias)
        over, less, rest = _over_of(depth[cell] * value, inverse)
        logit, counted = widen(other[cell]) + bias_of_logits, theta * over
        beyond, extra, not_extra = logistic_of(logit)
        beyond_both, either, neither = logistic_of(logit + counted)
        # The terms that do not curve, put together so that they cancel on paper.
        straight = np.float32(0) if logit >= 0 else min(counted, -logit)
        by_logit = neither - not_extra if logit >= 0 else extra - either
        step = weight[cell] * neither * depth[cell] * share * rest
        total += weight[cell] * (straight + beyond - beyond_both)
        turned += weight[cell] * neither * theta * less
        along += step
        across += weight[cell] * by_logit
        row[cell] = settle(row[cell], step)
        other[cell] = settle(other[cell], weight[cell] * by_logit)
    return np.float64(total), np.float64(turned), along, across

"""Loops over blocks of genes x cells that turn a decoder's products into the derivatives of a likelihood, in place.

Nine entries in ten are zero, and a zero's likelihood is cheap: those of all cells are taken first, in vector
instructions, and the entries that are not zero then one by one. Each gene is one thread's, so the numbers are the same
with any number of threads.

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
from typing import NamedTuple, no_type_check

import numba
import numpy as np

from selfcell.network.count_kernels import (
    LOOP,
    TABLED,
    extend_table,
    log_factorial,
    mean_of,
    of_count,
    of_mean_and_count,
    over_of,
)
from selfcell.network.elementary_kernels import logistic_of, softplus_of
from selfcell.network.kernels import settle, widen


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
@numba.njit(**LOOP)
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
@numba.njit(**LOOP)
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
@numba.njit(**LOOP)
def sigmoid_residuals(
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
    """Take the squared error of a sigmoid."""
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    for gene in range(start, stop):
        row, b = products[0, gene], bias[gene, 0]
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        total, along = np.float32(0), np.float32(0)
        for cell in range(len(row)):
            _, value, rest = logistic_of(widen(row[cell]) + b)
            step = weight[cell] * np.float32(2) * value * value * rest
            total += weight[cell] * value * value
            along += step
            row[cell] = settle(row[cell], step)
        begin = entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell = shown[at - begin], entries.cells[at]
            if w != 0:
                _, value, rest = logistic_of(kept[at - begin])
                error = value - entries.truth[at]
                step = w * np.float32(2) * error * value * rest
                total += w * error * error
                along += step
                row[cell] = settle(row[cell], step)
        loss[gene], d_bias[gene, 0] = total, along


@no_type_check
@numba.njit(**LOOP)
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
                mean, log_mean, by_output = mean_of(kept[at - begin], depth[cell])
                step = w * by_output * (mean - count)
                total += w * (mean - count * log_mean + log_factorial(count, log_factorials))
                along += step
                row[cell] = settle(row[cell], step)
        loss[gene], d_bias[gene, 0] = total, along


@no_type_check
@numba.njit(**LOOP)
def negative_binomial_residuals(
    products, bias, entries, scored, depth, log_factorials, d_bias, loss, log_theta, d_log_theta, start, stop
):
    """Take the negative binomial likelihood."""
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    table = np.zeros((2, TABLED))
    for gene in range(start, stop):
        row, b, theta, filled = products[0, gene], bias[gene, 0], math.exp(np.float64(log_theta[gene])), 0
        inverse = np.float32(1 / theta)
        set_apart(gene, row, b, entries, scored, weight, kept, shown)
        of_zeros, along, spread = np.float32(0), np.float32(0), np.float32(0)
        for cell in range(len(row)):
            value, share = softplus_of(widen(row[cell]) + b)
            over, less, rest = over_of(depth[cell] * value, inverse)
            step = weight[cell] * depth[cell] * share * rest
            of_zeros += weight[cell] * over
            spread += weight[cell] * less
            along += step
            row[cell] = settle(row[cell], step)
        total, turned, begin = theta * of_zeros, theta * spread, entries.gene_offsets[gene]
        for at in range(begin, entries.gene_offsets[gene + 1]):
            w, cell, count = shown[at - begin], entries.cells[at], entries.truth[at]
            if w != 0:
                filled = extend_table(table, filled, count, theta)
                constant, fall = of_count(table, filled, count, theta, log_factorials)
                value, step, turn = of_mean_and_count(kept[at - begin], count, depth[cell], theta, log_theta[gene])
                total += w * (constant + value)
                turned += w * (fall + turn)
                along += w * step
                row[cell] = settle(row[cell], w * step)
        loss[gene], d_bias[gene, 0], d_log_theta[gene] = total, along, turned


@no_type_check
@numba.njit(**LOOP)
def zero_inflated_residuals(
    products, bias, entries, scored, depth, log_factorials, d_bias, loss, log_theta, d_log_theta, start, stop
):
    r"""Take the negative binomial likelihood with more zeros.

    With n the loss of a zero by the negative binomial alone and q the logit of the share of other zeros, a zero's loss
    is :math:`\log(1 + e^q) + n - \log(1 + e^{q + n})`, and a count's is more by :math:`\log(1 + e^q)`.
    """
    room = np.empty((3, products.shape[2]), dtype=np.float32)
    weight, kept, shown = room[0], room[1], room[2]
    table, logits = np.zeros((2, TABLED)), np.empty(products.shape[2], dtype=np.float32)
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
                filled = extend_table(table, filled, count, theta)
                constant, fall = of_count(table, filled, count, theta, log_factorials)
                value, step, turn = of_mean_and_count(kept[at - begin], count, depth[cell], theta, log_theta[gene])
                more, share = softplus_of(logits[at - begin])
                total += w * (constant + value + more)
                turned += w * (fall + turn)
                along += w * step
                across += w * share
                row[cell], other[cell] = settle(row[cell], w * step), settle(other[cell], w * share)
        loss[gene], d_bias[gene, 0], d_bias[gene, 1], d_log_theta[gene] = total, along, across, turned


@no_type_check
@numba.njit(**LOOP)
def _zero_inflated_zeros(row, other, bias, bias_of_logits, weight, depth, exact_theta):
    """Take the zeros of a gene; give their loss and its derivatives by log theta and the two biases."""
    theta, inverse = np.float32(exact_theta), np.float32(1 / exact_theta)
    total, turned = np.float32(0), np.float32(0)
    along, across = np.float32(0), np.float32(0)
    for cell in range(len(row)):
        value, share = softplus_of(widen(row[cell]) + bias)
        over, less, rest = over_of(depth[cell] * value, inverse)
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

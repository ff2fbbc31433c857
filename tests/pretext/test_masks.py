"""Masks, each against what its name promises."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfcell.data.programs import GenePrograms
from selfcell.pretext.masks import (
    draw_exact_mask,
    draw_isolated_program,
    draw_program_mask,
    draw_program_mask_by_genes,
    draw_program_to_tf,
    draw_random_mask,
)
from selfcell.pretext.membership import ProgramMembership


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_programs(sizes, n_genes, seed=0, regulators=None):
    rng = np.random.default_rng(seed)
    genes = tuple(np.sort(rng.choice(n_genes, size, replace=False)).astype(np.int64) for size in sizes)
    return GenePrograms(tuple(f"program {place}" for place in range(len(sizes))), genes, n_genes, regulators)


@given(st.floats(0.05, 0.95), st.integers(0, 100))
def test_the_share_of_hidden_entries_is_that_of_independent_coins(mask_fraction, seed):
    mask = draw_random_mask(100, 200, mask_fraction, generator=generator(seed))
    assert scipy.stats.binomtest(int(mask.sum()), 100 * 200, mask_fraction).pvalue > 1e-6


def test_cells_and_genes_are_hidden_independently():
    mask = draw_random_mask(2000, 20, 0.3, generator=generator()).numpy().astype(float)
    correlation = np.corrcoef(mask.T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(2000)
    spread = mask.sum(axis=1).var()
    assert abs(spread - 20 * 0.3 * 0.7) < 0.5


@given(st.integers(1, 9), st.integers(2, 50), st.floats(0.01, 0.99), st.integers(0, 99))
def test_an_exact_share_hides_as_many_genes_in_every_cell(n_cells, n_genes, mask_fraction, seed):
    n_hidden = draw_exact_mask(n_cells, n_genes, mask_fraction, generator=generator(seed)).sum(dim=1)
    assert (n_hidden == n_hidden[0]).all()
    assert 1 <= n_hidden[0] < n_genes
    assert abs(n_hidden[0] - mask_fraction * n_genes) <= 1


def test_every_set_of_an_exact_share_is_equally_likely():
    mask = draw_exact_mask(6000, 4, 0.5, generator=generator())
    counted = torch.unique(mask, dim=0, return_counts=True)[1]
    assert len(counted) == math.comb(4, 2)
    assert scipy.stats.chisquare(counted.numpy()).pvalue > 1e-4


def test_the_union_of_programmes_agrees_with_sets():
    programs = make_programs([3, 5, 1, 8], 12)
    membership = ProgramMembership(programs)
    every = torch.tensor(list(itertools.product([False, True], repeat=4)))
    for chosen, genes in zip(every, membership.union(every), strict=True):
        expected = set().union(*(programs.genes[place] for place in chosen.nonzero()[:, 0]))
        assert set(genes.nonzero()[:, 0].tolist()) == expected


def test_programmes_are_hidden_whole_and_in_the_asked_for_number():
    programs = make_programs([6] * 12, 5000, seed=1)
    assert len(np.unique(np.concatenate(programs.genes))) == 72, "the programmes of this test do not overlap"
    mask = draw_program_mask(ProgramMembership(programs), 400, 0.25, generator=generator())
    per_program = torch.stack([mask[:, genes] for genes in map(torch.as_tensor, programs.genes)])
    assert (per_program.all(dim=2) == per_program.any(dim=2)).all()
    hidden = per_program.all(dim=2)
    assert (hidden.sum(dim=0) == 3).all()
    assert (mask.sum(dim=1) == 18).all()
    assert scipy.stats.chisquare(hidden.sum(dim=1).numpy()).pvalue > 1e-4
    assert len(torch.unique(mask, dim=0)) > 100, "cells draw programmes of their own"


@given(st.integers(0, 200), st.floats(0.05, 0.8))
def test_programmes_are_hidden_until_the_share_of_genes_is_reached_and_no_further(seed, mask_fraction):
    n_genes = 40
    programs = make_programs([3, 7, 2, 9, 5, 4, 6, 8, 3, 5], n_genes, seed=seed)
    wanted = math.ceil(mask_fraction * n_genes - 1e-9)
    covered = set(np.concatenate(programs.genes).tolist())
    if len(covered) < wanted:
        return
    membership = ProgramMembership(programs)
    mask = draw_program_mask_by_genes(membership, 8, mask_fraction, generator=generator(seed))
    order = torch.rand((8, 10), generator=generator(seed)).argsort(dim=1)
    for cell in range(8):
        expected: set[int] = set()
        for program in order[cell].tolist():
            if len(expected) >= wanted:
                break
            expected |= set(programs.genes[program].tolist())
        assert set(mask[cell].nonzero()[:, 0].tolist()) == expected


def test_large_tables_are_worked_off_in_parts(monkeypatch):
    membership = ProgramMembership(make_programs([5, 9, 4], 30))
    whole = draw_program_mask_by_genes(membership, 7, 0.2, generator=generator())
    monkeypatch.setattr("selfcell.pretext.membership._LARGEST_TABLE", 36)
    assert torch.equal(whole, draw_program_mask_by_genes(membership, 7, 0.2, generator=generator()))


def test_an_isolated_programme_is_all_that_is_seen_and_all_that_is_predicted():
    programs = make_programs([3, 5, 8], 20)
    hidden, scored = draw_isolated_program(ProgramMembership(programs), 900, None, generator=generator())
    assert torch.equal(scored, ~hidden)
    rows, times = torch.unique(scored, dim=0, return_counts=True)
    assert {tuple(row.nonzero()[:, 0].tolist()) for row in rows} == {tuple(genes) for genes in programs.genes}
    assert scipy.stats.chisquare(times.numpy()).pvalue > 1e-4


@given(st.floats(0.01, 0.99), st.integers(0, 50))
def test_a_share_of_an_isolated_programme_is_hidden_and_that_share_is_predicted(mask_fraction, seed):
    programs = make_programs([2, 5, 8], 20, seed=seed)
    hidden, scored = draw_isolated_program(ProgramMembership(programs), 30, mask_fraction, generator=generator(seed))
    assert (hidden | ~scored).all(), "what is predicted is hidden"
    sets = {frozenset(genes.tolist()) for genes in programs.genes}
    for cell in range(30):
        seen, predicted = (set(mask[cell].nonzero()[:, 0].tolist()) for mask in (~hidden, scored))
        assert seen and predicted and not seen & predicted
        assert frozenset(seen | predicted) in sets
        assert abs(len(predicted) - mask_fraction * len(seen | predicted)) <= 1


def test_which_genes_of_an_isolated_programme_are_hidden_is_left_to_chance():
    programs = make_programs([4], 4)
    _, scored = draw_isolated_program(ProgramMembership(programs), 6000, 0.5, generator=generator())
    counted = torch.unique(scored, dim=0, return_counts=True)[1]
    assert len(counted) == math.comb(4, 2) and scipy.stats.chisquare(counted.numpy()).pvalue > 1e-4


def test_of_a_factor_its_targets_are_seen_and_it_alone_is_predicted():
    genes = (np.array([1, 2, 3]), np.array([4, 5]), np.array([0, 6]))
    regulators = torch.tensor([0, 1, 7])
    membership = ProgramMembership(GenePrograms(("A", "B", "C"), genes, 8, regulators.numpy()))
    hidden, scored = draw_program_to_tf(membership, regulators, 900, generator=generator())
    assert (scored.sum(dim=1) == 1).all() and (hidden | ~scored).all()
    seen = {
        (int(factor), tuple((~row).nonzero()[:, 0].tolist()))
        for factor, row in zip(scored.int().argmax(dim=1), hidden, strict=True)
    }
    assert seen == {(0, (1, 2, 3)), (1, (4, 5)), (7, (0, 6))}


def test_a_factor_is_hidden_even_where_it_is_listed_among_its_own_targets():
    membership = ProgramMembership(GenePrograms(("A",), (np.array([0, 1, 2]),), 4, np.array([1])))
    hidden, scored = draw_program_to_tf(membership, torch.tensor([1]), 3, generator=generator())
    assert (~hidden).nonzero()[:, 1].unique().tolist() == [0, 2] and scored.nonzero()[:, 1].unique().tolist() == [1]


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: draw_random_mask(5, 30, 0.4, generator=g),
        lambda g: draw_exact_mask(5, 30, 0.4, generator=g),
        lambda g: draw_program_mask(ProgramMembership(make_programs([4] * 6, 30)), 5, 0.4, generator=g),
        lambda g: draw_isolated_program(ProgramMembership(make_programs([4] * 6, 30)), 5, 0.4, generator=g)[1],
    ],
)
def test_the_generator_alone_decides(draw):
    torch.manual_seed(1)
    first = draw(generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, draw(generator(3)))
    assert not torch.equal(first, draw(generator(4)))

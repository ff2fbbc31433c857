"""Which genes are of which programme, as tensors."""

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from selfcell.data.programs import GenePrograms
from selfcell.network.gene_sets import GeneSets

_LARGEST_TABLE = 2**25
"""Entries of an intermediate table of cells x genes of programmes; more cells are worked off in parts."""


class ProgramMembership(nn.Module):
    """Which genes are of which programme, in buffers that go where the module goes and are not saved with it.

    Parameters
    ----------
    programs
        Gene programmes, none of them empty.
    """

    entry_program: Tensor
    entry_gene: Tensor
    begin: Tensor
    size: Tensor

    def __init__(self, programs: GenePrograms) -> None:
        super().__init__()
        self.n_genes = programs.n_genes
        size = torch.tensor([len(genes) for genes in programs.genes], dtype=torch.int64)
        entry_gene = torch.cat([torch.as_tensor(genes, dtype=torch.int64) for genes in programs.genes])
        self.register_buffer("size", size, persistent=False)
        self.register_buffer("begin", size.cumsum(0) - size, persistent=False)
        self.register_buffer("entry_gene", entry_gene, persistent=False)
        self.register_buffer("entry_program", torch.arange(len(size)).repeat_interleave(size), persistent=False)

    def __len__(self) -> int:
        return len(self.size)

    def sets(self, chosen: Bool[Tensor, "n_cells n_programs"]) -> GeneSets:
        """Give the genes of the chosen programmes of each cell, on the CPU, without an array of cells x genes."""
        return GeneSets.of_programs(chosen, *self._by_gene)

    @functools.cached_property
    def _by_gene(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the programmes of each gene begin, and which they are."""
        order = self.entry_gene.argsort(stable=True)
        sizes = self.entry_gene.bincount(minlength=self.n_genes)
        begins = np.concatenate([np.zeros(1, dtype=np.int64), sizes.cumsum(0).numpy()])
        return begins, self.entry_program[order].numpy()

    def table(self, *, n_rows: int, n_columns: int, dtype: torch.dtype) -> Float[Tensor, "n_rows n_columns"]:
        """Tell by ones which genes are of which programme, in a table that may be larger."""
        table = torch.zeros((n_rows, n_columns), dtype=dtype, device=self.entry_gene.device)
        table[self.entry_program, self.entry_gene] = 1
        return table

    def union(self, chosen: Bool[Tensor, "n_cells n_programs"]) -> Bool[Tensor, "n_cells n_genes"]:
        """Tell for each cell which genes are of any of its chosen programmes."""
        membership = torch.sparse_coo_tensor(
            torch.stack([self.entry_gene, self.entry_program]),
            torch.ones(len(self.entry_gene), device=self.entry_gene.device),
            (self.n_genes, len(self)),
            check_invariants=False,
        )
        times: Tensor = torch.sparse.mm(membership, chosen.T.float())
        return (times > 0).T

    def entries(self, program: Int[Tensor, " n_cells"]) -> tuple[Tensor, Tensor]:
        """Give the genes of one programme a cell, as positions of cells and of genes, cell after cell."""
        size = self.size[program]
        cell = torch.arange(len(program), device=program.device).repeat_interleave(size)
        first = size.cumsum(0) - size
        within = torch.arange(len(cell), device=program.device) - first[cell]
        return cell, self.entry_gene[self.begin[program][cell] + within]

    def draw_within(
        self, program: Int[Tensor, " n_cells"], share: float, *, generator: torch.Generator | None
    ) -> Bool[Tensor, " n_entries"]:
        """Draw a share of the genes of one programme a cell: the nearest whole number, at least one and never all.

        Parameters
        ----------
        program
            That of each cell.
        share
            Between 0 and 1.
        generator
            Source of randomness.

        Returns
        -------
        For each of :meth:`entries` whether it was drawn.
        """
        size = self.size[program]
        cell = torch.arange(len(program), device=program.device).repeat_interleave(size)
        first = size.cumsum(0) - size
        n_drawn = (share * size).round().long().clamp(min=1).minimum((size - 1).clamp(min=1))
        device = None if generator is None else generator.device
        draws = torch.rand(len(cell), generator=generator, device=device, dtype=torch.float64).to(cell.device)
        # Sorted by cell and, within a cell, by its draws: the first of each cell are drawn.
        order = (cell + draws).argsort()
        rank = torch.arange(len(cell), device=cell.device) - first[cell]
        return torch.zeros(len(cell), dtype=torch.bool, device=cell.device).index_fill_(
            0, order[rank < n_drawn[cell]], value=True
        )

    def first_rank(self, rank: Int[Tensor, "n_cells n_programs"]) -> Int[Tensor, "n_cells n_genes"]:
        """Give for each gene the lowest rank of its programmes; ``n_programs`` for a gene of none."""
        n_cells, n_programs = rank.shape
        first = rank.new_full((n_cells, self.n_genes), n_programs)
        n_at_once = max(1, _LARGEST_TABLE // len(self.entry_gene))
        for start in range(0, n_cells, n_at_once):
            part = slice(start, start + n_at_once)
            of_entry = rank[part][:, self.entry_program]
            first[part] = first[part].scatter_reduce_(1, self.entry_gene.expand(len(of_entry), -1), of_entry, "amin")
        return first

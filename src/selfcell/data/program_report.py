"""What became of each gene set on its way to the programmes of an encoder."""

import collections
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pandas as pd


class Fate(StrEnum):
    """What became of a gene set; the text is for people."""

    kept = "kept"
    too_few = "too few genes"
    too_many = "too many genes"
    low_coverage = "low coverage"
    motif = "named by a motif, not a factor"
    micro_rna = "targets of a microRNA"
    factor_absent = "factor not among the genes"
    only_itself = "no target but the factor itself"


@dataclass(frozen=True)
class SetFate:
    """One gene set of a source."""

    name: str
    program: str
    """The programme that it is in; of regulons the factor, which several sets may share. Empty where it is in none."""
    n_genes: int
    """Genes of the set, by its source."""
    n_found: int
    """Genes of the encoder among them."""
    fate: Fate


@dataclass(frozen=True)
class ProgramReport:
    """What became of the gene sets of a source, set by set and in sum."""

    source: str
    sets: tuple[SetFate, ...]
    """Of each set of the source what became of it, in the source's order."""
    sizes: np.ndarray
    """Of each programme kept the number of its genes."""
    n_genes: int
    """Genes of the encoder."""
    n_genes_covered: int
    """Genes of the encoder in at least one programme kept."""
    n_same_genes: int
    """Programmes with the very genes of an earlier one; they are kept."""
    matched_by: str
    """``ids`` or ``symbols``: by which of the encoder's names its genes were found."""
    as_regulons: bool
    """Whether a programme is the targets of a factor."""
    notes: tuple[str, ...] = ()
    """What reading the source left out or merged."""

    @property
    def n_read(self) -> int:
        """Gene sets of the source."""
        return len(self.sets)

    @property
    def n_kept(self) -> int:
        """Programmes kept. Sets of one factor are one programme."""
        return len(self.sizes)

    @property
    def dropped(self) -> dict[str, int]:
        """Why sets were dropped, and how many for each reason, the commonest first."""
        counted = collections.Counter(str(entry.fate) for entry in self.sets if entry.fate is not Fate.kept)
        return dict(counted.most_common())

    @property
    def share_of_genes(self) -> float:
        """Share of the encoder's genes in at least one programme kept, between 0 and 1."""
        return self.n_genes_covered / self.n_genes if self.n_genes else 0.0

    def describe(self) -> str:
        """Sum it up in a few sentences for the log."""
        n_sets = sum(entry.fate is Fate.kept for entry in self.sets)
        kept = f"{self.n_kept:,} regulons (from {n_sets:,} sets)" if self.as_regulons else f"{self.n_kept:,} programmes"
        text = f"{self.source}: {self.n_read:,} sets read, {kept} kept"
        if self.n_kept:
            text += (
                f", of {self.sizes.min():,} to {self.sizes.max():,} genes (median {np.median(self.sizes):,.0f}); "
                f"{self.n_genes_covered:,} of the {self.n_genes:,} genes ({self.share_of_genes:.0%}) are in at least "
                f"one. Genes were found by their {self.matched_by}"
            )
        text += "."
        if self.dropped:
            text += f" Sets dropped: {self.describe_dropped()}."
        if self.n_same_genes:
            text += f" Kept although their genes are those of another one: {self.n_same_genes:,}."
        return " ".join((text, *self.notes))

    def describe_dropped(self) -> str:
        """List the reasons why sets were dropped, with their numbers."""
        return ", ".join(f"{count:,} ({reason})" for reason, count in self.dropped.items())

    def to_frame(self) -> pd.DataFrame:
        """Give a row for each set of the source, with what became of it."""
        return pd.DataFrame(
            {
                "set": [entry.name for entry in self.sets],
                "program": [entry.program for entry in self.sets],
                "n_genes": [entry.n_genes for entry in self.sets],
                "n_found": [entry.n_found for entry in self.sets],
                "fate": [str(entry.fate) for entry in self.sets],
            }
        )

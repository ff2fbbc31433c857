"""Gene programmes: named sets of genes, and the targets of transcription factors."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class GenePrograms:
    """Gene programmes on the genes of an encoder."""

    names: tuple[str, ...]
    genes: tuple[np.ndarray, ...]
    """Of each programme the positions of its genes among the encoder's, sorted, each once (int64)."""
    n_genes: int
    """Genes of the encoder."""
    regulators: np.ndarray | None = None
    """Of each programme the position of its transcription factor among the encoder's genes (int64); None where the
    programmes are not targets of factors. The factor itself is never among ``genes``."""

    def __len__(self) -> int:
        return len(self.names)

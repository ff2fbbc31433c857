"""What a baseline is: a function that answers a task's question from the training cells, labelled or not."""

import functools
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np
import scipy.sparse as sp
from jaxtyping import Int
from sklearn.decomposition import PCA

from selfcell.data.counts import log_normalize
from selfcell.data.highly_variable import highly_variable_genes
from selfcell.data.measured import of_genes
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.downstream.base import DownstreamTask
from selfcell.network.encoder import EncoderSettings

Made = TypeVar("Made")


class ComparedCells:
    """The cells of a comparison, with what several baselines compute from them without labels.

    Parameters
    ----------
    cells
        All cells, in the encoder's order of genes. A query may lack genes of the reference: what a baseline learned
        from them would mislead it, so that it learns from those that are measured in all cells.
    unlabelled
        Positions of all training cells, which baselines may see without labels; no test cell is among them. An encoder
        that was pre-trained on a part of the donors, or on another corpus, has seen other ones.
    network
        The network that is compared with.
    batch_key
        The column of ``obs`` with the experiment of each cell, for baselines that correct for it.
    kept_in
        A folder for networks of baselines, where other comparisons find those that they would train alike.
    """

    def __init__(
        self,
        cells: Cells,
        *,
        unlabelled: np.ndarray,
        network: EncoderSettings,
        batch_key: str | None = None,
        kept_in: Path | None = None,
    ) -> None:
        self.cells = cells
        self.unlabelled = unlabelled
        self.network = network
        self.batch_key = batch_key
        self.kept_in = kept_in
        self._made: dict[Hashable, tuple[Any, float]] = {}
        self.seconds_saved = 0.0
        """What it took to make what was asked for again, or is kept; each baseline that uses it would have paid."""

    def made_once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Make something that does not depend on labels, or give what was made before under this key."""
        if key in self._made:
            made, seconds = cast("tuple[Made, float]", self._made[key])
            self.seconds_saved += seconds
            return made
        made, _ = self._made[key] = self.timed(make)
        return made

    def timed(self, make: Callable[[], Made]) -> tuple[Made, float]:
        """Make something, and give the seconds that it takes where nothing that it needs is there already."""
        started, saved = time.perf_counter(), self.seconds_saved
        made = make()
        return made, time.perf_counter() - started + self.seconds_saved - saved

    @functools.cached_property
    def expression(self) -> sp.csr_matrix:
        """``log1p`` of counts per 10,000, sparse; of genes that are measured in all cells, and zero for the others."""
        return self.log_normalized(self.cells.counts)

    def log_normalized(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """Give other counts of these genes as :attr:`expression` has those of the cells."""
        return log_normalize(of_genes(counts, self.cells.measured))

    @functools.cached_property
    def pca(self) -> PCA:
        """Principal components of the expression of the unlabelled cells, as many as the embedding has dimensions."""
        unlabelled = self.expression[self.unlabelled]
        n_components = min(self.network.n_latent, min(unlabelled.shape) - 1)
        return PCA(n_components, svd_solver="arpack", random_state=0).fit(unlabelled)

    @functools.cached_property
    def principal_components(self) -> np.ndarray:
        """All cells in the principal components of the unlabelled ones.

        The components are fitted once and used for all cells. (The paper's baseline fitted reference and query apart,
        so that their spaces did not match.)
        """
        return np.asarray(self.pca.transform(self.expression), dtype=np.float32)

    @functools.cached_property
    def highly_variable(self) -> Int[np.ndarray, " n_highly_variable"]:
        """Positions of the 2,000 most variable genes (all, where there are fewer), by the unlabelled cells alone."""
        return highly_variable_genes(of_genes(self.cells.counts[self.unlabelled], self.cells.measured))


TaskT = TypeVar("TaskT", bound=DownstreamTask)


@dataclass(frozen=True)
class Problem(Generic[TaskT]):
    """Answer a task's question for the test cells of a split, knowing the truth of its training cells."""

    task: TaskT
    compared: ComparedCells
    split: Split
    seed: int


Baseline = Callable[[Problem[Any]], Any]
"""Gives what the task's ``predict`` gives."""

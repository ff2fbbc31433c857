"""Two views of every cell, each made by a list of steps: what contrastive tasks compare."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import field_validator, model_validator
from torch import Tensor, nn

from selfcell.core.errors import InputError
from selfcell.data.minibatch import CellMinibatch, SparseExpression
from selfcell.data.programs import GenePrograms
from selfcell.network.view_pair import View, ViewPair
from selfcell.pretext.base import PretextSettings
from selfcell.pretext.membership import ProgramMembership
from selfcell.pretext.neighbor_views import mix_neighbors
from selfcell.pretext.noisy_views import (
    GaussianNoise,
    HiddenGenes,
    HiddenPrograms,
    NegativeBinomialNoise,
    Step,
    distort,
)
from selfcell.pretext.sparse_exchanges import cross_sparse_cells, swap_sparse_genes
from selfcell.pretext.sparse_views import mask_sparse_genes, mask_sparse_programs
from selfcell.pretext.view_settings import (
    AnyView,
    MaskGenes,
    MaskPrograms,
    MixNeighbors,
    ThinCounts,
    Views,
    as_steps,
)
from selfcell.pretext.views import (
    add_gaussian_noise,
    add_negative_binomial_noise,
    cross_over,
    mask_genes,
    mask_programs,
    swap_genes,
    thin_counts,
)

_OF_SPARSE: dict[str, Callable[..., SparseExpression]] = {
    "mask_genes": mask_sparse_genes,
    "swap_genes": swap_sparse_genes,
    "cross_over": cross_sparse_cells,
}
_OF_SINGLE_VALUES: dict[str, Callable[..., Step]] = {
    "mask_genes": HiddenGenes,
    "add_gaussian_noise": GaussianNoise,
    "add_negative_binomial_noise": NegativeBinomialNoise,
}
_OF_EXPRESSION: dict[str, Callable[..., Tensor]] = {
    "mask_genes": mask_genes,
    "add_gaussian_noise": add_gaussian_noise,
    "add_negative_binomial_noise": add_negative_binomial_noise,
    "swap_genes": swap_genes,
    "cross_over": cross_over,
}


class TwoViewSettings(PretextSettings):
    """Settings that every pretext task with two views of a cell has."""

    views: Views = (ThinCounts(), MaskGenes())
    """Steps that make a view, in this order; a name or a table, such as {name="mask_genes", fraction=0.5}."""
    second_views: Views | None = None
    """Steps of the second view, where it has its own; [] leaves the cell as it is."""

    @property
    def uses_programs(self) -> bool:
        """Whether a step hides gene programmes."""
        return any(isinstance(step, MaskPrograms) for step in self._steps)

    @property
    def uses_batches(self) -> bool:
        """Whether a step needs to know which batch a cell is from."""
        return any(isinstance(step, MixNeighbors) and step.among != "all" for step in self._steps)

    @property
    def _steps(self) -> tuple[AnyView, ...]:
        return self.views + (self.second_views or ())

    @field_validator("views", "second_views", mode="before")
    @classmethod
    def _with_names_alone(cls, value: Any) -> Any:
        return None if value is None else as_steps(value)

    @model_validator(mode="after")
    def _views_differ(self) -> "TwoViewSettings":
        if not any(step.changes_cells for step in self._steps):
            raise InputError(
                "Both views of every cell would be the cell itself, so there is nothing to learn: give pretext.views a "
                'step that changes something, such as [{name="mask_genes", fraction=0.3}].'
            )
        return self

    @model_validator(mode="after")
    def _counts_come_first(self) -> "TwoViewSettings":
        for steps in (self.views, self.second_views or ()):
            for before, step in itertools.pairwise(steps):
                if isinstance(step, ThinCounts) and not isinstance(before, ThinCounts):
                    raise InputError(
                        f"The view {step.name} works on counts and {before.name} on normalized expression: "
                        f"put {step.name} before it."
                    )
        return self


class TwoViews(nn.Module):
    """Make two distorted copies of every cell :cite:p:`chen2020`. Has no parameters and nothing to save.

    The second view is drawn after the first from the same generator, so the two are independent of one another.

    Parameters
    ----------
    settings
        Which steps make the views.
    programs
        Gene programmes on the genes of the minibatches, for steps that hide them.

    Raises
    ------
    InputError
        If a step hides gene programmes and there are none.
    """

    def __init__(self, settings: TwoViewSettings, *, programs: GenePrograms | None) -> None:
        super().__init__()
        if settings.uses_programs and not programs:
            raise InputError("The view mask_programs needs gene programmes: name them with pretext.programs.")
        self.settings = settings
        if programs and settings.uses_programs:
            self.membership = ProgramMembership(programs)

    def forward(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> ViewPair:
        """Give both views. On a CPU no array of cells x genes is made, unless steps other than masks follow noise.

        Parameters
        ----------
        minibatch
            Cells with raw counts, and with their ``batch`` among the codes if a step needs it.
        generator
            Source of randomness.

        Raises
        ------
        InputError
            If a step needs batches and the cells have none.
        """
        first = self.settings.views
        second = first if self.settings.second_views is None else self.settings.second_views
        return ViewPair(self._view(minibatch, first, generator), self._view(minibatch, second, generator))

    def _view(self, minibatch: CellMinibatch, steps: tuple[AnyView, ...], generator: torch.Generator) -> View:
        cells = minibatch
        for step in steps:
            if isinstance(step, ThinCounts):
                cells = thin_counts(cells, **_arguments(step), generator=generator)
        rest = [step for step in steps if not isinstance(step, ThinCounts)]
        n_sparse = _n_sparse(rest)
        if minibatch.values.is_cpu and all(_of_single_values(step) for step in rest[n_sparse:]):
            expression = cells.sparse_expression()
            for step in rest[:n_sparse]:
                expression = self._sparsely_distorted(expression, step, generator)
            return distort(expression, [self._drawn(expression, step, generator) for step in rest[n_sparse:]])
        dense = cells.expression()
        for step in rest:
            dense = self._distorted(dense, step, minibatch, generator)
        return dense

    def _sparsely_distorted(
        self, expression: SparseExpression, step: AnyView, generator: torch.Generator
    ) -> SparseExpression:
        if isinstance(step, MaskPrograms):
            return mask_sparse_programs(expression, self.membership, **_arguments(step), generator=generator)
        return _OF_SPARSE[step.name](expression, **_arguments(step), generator=generator)

    def _drawn(self, expression: SparseExpression, step: AnyView, generator: torch.Generator) -> Step:
        if isinstance(step, MaskPrograms):
            return HiddenPrograms(expression, self.membership, **_arguments(step), generator=generator)
        return _OF_SINGLE_VALUES[step.name](expression, **_arguments(step), generator=generator)

    def _distorted(
        self, expression: Tensor, step: AnyView, minibatch: CellMinibatch, generator: torch.Generator
    ) -> Tensor:
        if isinstance(step, MaskPrograms):
            return mask_programs(expression, self.membership, **_arguments(step), generator=generator)
        if isinstance(step, MixNeighbors):
            batch_code = None if step.among == "all" else _batch_code(minibatch, step)
            arguments = _arguments(step, "among") | {"mutual": step.among == "mutual"}
            return mix_neighbors(expression, batch_code, **arguments, generator=generator)
        return _OF_EXPRESSION[step.name](expression, **_arguments(step), generator=generator)


def _n_sparse(steps: Sequence[AnyView]) -> int:
    """Count the steps before the first that makes something of zeros."""
    return sum(
        1 for _ in itertools.takewhile(lambda step: step.name in _OF_SPARSE or isinstance(step, MaskPrograms), steps)
    )


def _of_single_values(step: AnyView) -> bool:
    return step.name in _OF_SINGLE_VALUES or isinstance(step, MaskPrograms)


def _arguments(step: AnyView, *left_out: str) -> dict[str, Any]:
    return {name: value for name, value in step if name not in ("name", *left_out)}


def _batch_code(minibatch: CellMinibatch, step: MixNeighbors) -> Tensor:
    if "batch" not in minibatch.codes:
        raise InputError(
            f"The view mix_neighbors with among={step.among!r} needs the batch of each cell: "
            "name the column of obs with data.batch_key."
        )
    return minibatch.codes["batch"]

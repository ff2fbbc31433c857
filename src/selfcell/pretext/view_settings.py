"""Settings of views: one class a step. A step is written as a table with its name, or as its name alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler
from pydantic_core import core_schema

from selfcell.core.config import Settings
from selfcell.core.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Range:
    """The limits of a strength, which is a number or a range ``[low, high]`` and is kept as a pair."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        number = core_schema.float_schema(allow_inf_nan=False, ge=self.ge, gt=self.gt, le=self.le, lt=self.lt)
        pair = core_schema.no_info_before_validator_function(_as_pair, core_schema.tuple_schema([number, number]))
        return core_schema.no_info_after_validator_function(_rising, pair)


def _as_pair(value: Any) -> Any:
    if isinstance(value, int | float):
        return (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("input should be a number or a range [low, high]")
    return tuple(value)


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("the low end of a range should come first")
    return value


class ViewSettings(Settings):
    """Settings that every step has."""

    name: str
    """Which step it is."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """Probability that a cell is touched, by a coin for each cell and view."""

    @property
    def changes_cells(self) -> bool:
        """Whether the step can change a cell at all."""
        strengths = [value for _, value in self if isinstance(value, tuple)]
        return any(high > 0 for _, high in strengths)


class ThinCounts(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.thin_counts`."""

    name: Literal["thin_counts"] = "thin_counts"
    """Keep each molecule with the cell's probability, as if sequenced less deeply."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a cell is touched, by a coin for each cell and view."""
    keep_fraction: Annotated[tuple[float, float], Range(gt=0.0, le=1.0)] = (0.5, 1.0)
    """Share of molecules to keep, a number or [low, high] to draw from for each cell."""

    @property
    def changes_cells(self) -> bool:
        """Whether any molecule can be lost."""
        return self.keep_fraction[0] < 1


class MaskGenes(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.mask_genes`."""

    name: Literal["mask_genes"] = "mask_genes"
    """Hide single genes at random."""
    probability: float = Field(default=1.0, gt=0, le=1)
    """Probability that a cell is touched, by a coin for each cell and view."""
    fraction: Annotated[tuple[float, float], Range(ge=0.0, lt=1.0)] = (0.0, 0.3)
    """Share of genes to hide, a number or [low, high] to draw from for each cell."""
    rescale: bool = True
    """Divide what stays visible by 1 - fraction, so that its expected sum is kept."""


class MaskPrograms(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.mask_programs`."""

    name: Literal["mask_programs"] = "mask_programs"
    """Hide whole gene programmes at random."""
    fraction: Annotated[tuple[float, float], Range(ge=0.0, lt=1.0)] = (0.05, 0.2)
    """Share of programmes to hide, a number or [low, high] to draw from for each cell."""


class AddGaussianNoise(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.add_gaussian_noise`."""

    name: Literal["add_gaussian_noise"] = "add_gaussian_noise"
    """Add normal noise to a share of the genes."""
    sigma: Annotated[tuple[float, float], Range(ge=0.0)] = (0.2, 0.2)
    """Standard deviation in log1p units, a number or [low, high] to draw from for each cell."""
    gene_fraction: float = Field(default=0.8, gt=0, le=1)
    """Share of genes that get noise."""


class AddNegativeBinomialNoise(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.add_negative_binomial_noise`."""

    name: Literal["add_negative_binomial_noise"] = "add_negative_binomial_noise"
    """Add a random cell of negative binomial counts, as the paper does."""
    strength: Annotated[tuple[float, float], Range(ge=0.0)] = (0.2, 0.2)
    """Factor on the noise, a number or [low, high] to draw from for each cell."""


class SwapGenes(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.swap_genes`."""

    name: Literal["swap_genes"] = "swap_genes"
    """Exchange the values of random pairs of genes."""
    fraction: Annotated[tuple[float, float], Range(ge=0.0, le=1.0)] = (0.1, 0.1)
    """Share of genes to exchange, a number or [low, high] to draw from for each cell."""


class CrossOver(ViewSettings):
    """Settings of :func:`~selfcell.pretext.views.cross_over`."""

    name: Literal["cross_over"] = "cross_over"
    """Take a share of the genes from another cell of the minibatch."""
    fraction: Annotated[tuple[float, float], Range(ge=0.0, le=1.0)] = (0.25, 0.25)
    """Share of genes to take, a number or [low, high] to draw from for each cell."""


class MixNeighbors(ViewSettings):
    """Settings of :func:`~selfcell.pretext.neighbor_views.mix_neighbors`."""

    name: Literal["mix_neighbors"] = "mix_neighbors"
    """Move a cell towards a near neighbor in the minibatch."""
    weight: Annotated[tuple[float, float], Range(ge=0.0, le=1.0)] = (0.0, 0.5)
    """Share of the neighbor in the mix, a number or [low, high] to draw from for each cell."""
    n_neighbors: int = Field(default=3, ge=1)
    """Draw the neighbor from so many nearest ones (of each other batch, where batches count)."""
    among: Literal["all", "bbknn", "mutual"] = "all"
    """Look among all cells, those of every other batch (bbknn), or mutual nearest ones between batches (mutual)."""


VIEWS: tuple[type[ViewSettings], ...] = (
    ThinCounts,
    MaskGenes,
    MaskPrograms,
    AddGaussianNoise,
    AddNegativeBinomialNoise,
    SwapGenes,
    CrossOver,
    MixNeighbors,
)


AnyView = (
    ThinCounts
    | MaskGenes
    | MaskPrograms
    | AddGaussianNoise
    | AddNegativeBinomialNoise
    | SwapGenes
    | CrossOver
    | MixNeighbors
)
Views = tuple[Annotated[AnyView, Field(discriminator="name")], ...]
"""Steps in the order in which they are taken."""


def as_steps(value: Any) -> Any:
    """Turn names into tables.

    Parameters
    ----------
    value
        A list of names, tables and settings.

    Raises
    ------
    InputError
        If it is anything else, or for a name that is unknown.
    """
    if not isinstance(value, list | tuple):
        raise InputError(
            'Views are a list of steps, such as ["thin_counts", {name="mask_genes", fraction=0.5}], '
            f"but got {value!r}."
        )
    return tuple(_as_step(step) for step in value)


def _as_step(step: Any) -> Any:
    if isinstance(step, ViewSettings):
        return step
    table = {"name": step} if isinstance(step, str) else step
    if not isinstance(table, Mapping) or "name" not in table:
        raise InputError(f"A view is a name or a table with a name, such as {{name = 'mask_genes'}}, but got {step!r}.")
    known = [view.model_fields["name"].default for view in VIEWS]
    if table["name"] not in known:
        raise InputError(f"Unknown view {table['name']!r}. {did_you_mean(str(table['name']), known)}")
    return table

"""DINO: sort cells into prototypes as a slowly moving copy of the network does."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from selfcell.data.minibatch import CellMinibatch
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder
from selfcell.network.gather import gather_cells
from selfcell.network.heads import HeadSizes, projection_head, projection_spread
from selfcell.network.target import TargetNetwork, cosine_momentum
from selfcell.pretext.base import Loss, TargetNetworkTask
from selfcell.pretext.two_views import TwoViews, TwoViewSettings


class DinoSettings(TwoViewSettings):
    """Settings of DINO."""

    name: Literal["dino"] = "dino"
    """The pretext task; `selfcell list` names them all."""
    projector_sizes: HeadSizes = (256, 256, 64)
    """Hidden units and output of the projector; the paper has 2048, 2048 and 256."""
    n_prototypes: int = Field(default=512, ge=2)
    """Directions that cells are sorted into; the paper has 65536."""
    student_temperature: float = Field(default=0.1, gt=0)
    """Divides the cosines of the trained network."""
    teacher_temperature: float = Field(default=0.04, gt=0)
    """Divides the cosines of the target network; below the student's, so that the targets are sharp."""
    center_momentum: float = Field(default=0.9, ge=0, le=1)
    """Share of the center of the target network's cosines that is kept at each step."""
    target_momentum: float = Field(default=0.99, ge=0, le=1)
    """Share of the target network kept at the first step, rising to 1 at the last; the paper has 0.996."""


class Prototypes(nn.Module):
    """Cosines with prototypes, learned directions: a linear layer with weights and input at unit length.

    Parameters
    ----------
    n_units
        Width of the input.
    n_prototypes
        How many there are.
    """

    def __init__(self, *, n_units: int, n_prototypes: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(n_prototypes, n_units))

    def forward(self, projection: Float[Tensor, "n_cells n_units"]) -> Float[Tensor, "n_cells n_prototypes"]:
        """Give the cosine of each projection with each prototype."""
        return functional.normalize(projection, dim=1) @ functional.normalize(self.directions, dim=1).T


class Dino(TargetNetworkTask):
    r"""Predict the prototypes into which a target network sorts the other view :cite:p:`caron2021`.

    The student, encoder, projector and prototypes, gives cosines :math:`s`; the teacher, its moving average without
    gradient, gives :math:`t`. With the center :math:`o`, a moving average of the teacher's mean output,

    .. math:: H(t, s) = -\frac{1}{N} \sum_c \mathrm{softmax}\left(\frac{t_c - o}{\tau_t}\right) \cdot
        \log \mathrm{softmax}\left(\frac{s_c}{\tau_s}\right) , \qquad L = \tfrac{1}{2} (H(t_1, s_2) + H(t_2, s_1)) .

    Sharp targets keep the outputs from becoming equal over prototypes, the center keeps them off a single one. After
    each step the teacher moves, with :math:`m` on a half cosine to 1, and the center, over the cells of all processes.

    Departs from the paper in sizes, in two views of one kind in place of many crops, in a teacher's temperature that is
    constant, and in training the prototypes from the first step, at fixed length as in the paper. The projector has
    batch norm, which the paper leaves out: an encoder without norm layers sends all cells in nearly one direction at
    first, and the center then leaves the teacher little to say.

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, where the views need them.
    """

    Settings = DinoSettings
    compares_cells = True
    moving_target = True
    center: Tensor

    def __init__(self, settings: DinoSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.views = TwoViews(settings, programs=programs)
        sizes = [encoder.n_latent, *settings.projector_sizes]
        self.projector = projection_head(sizes, activation="gelu")
        self.prototypes = Prototypes(n_units=sizes[-1], n_prototypes=settings.n_prototypes)
        self.target_network = TargetNetwork(nn.Sequential(encoder, self.projector, self.prototypes))
        self.register_buffer("center", torch.zeros(settings.n_prototypes))
        self._step_mean: Tensor | None = None

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Cross-entropy both ways; logs ``alignment`` and ``teacher_entropy``, its least value, and the spread.

        ``alignment`` is the share of cells that teacher and student sort into the same prototype.
        """
        views = self.views(minibatch, generator=generator)
        embedding, second_embedding = views.embedded(self.encoder)
        projection = self.projector(embedding)
        first_student, second_student = (
            self.prototypes(projection),
            self.prototypes(self.projector(second_embedding)),
        )
        first_teacher, second_teacher = self.target_network.of_both(views)
        if self.training:
            self._step_mean = gather_cells(torch.cat([first_teacher, second_teacher])).mean(dim=0)
        first_sorted, second_sorted = self._sort(first_teacher), self._sort(second_teacher)
        temperature = self.settings.student_temperature
        total = 0.5 * sorting_cross_entropy(second_student, first_sorted, temperature=temperature)
        total = total + 0.5 * sorting_cross_entropy(first_student, second_sorted, temperature=temperature)
        same = second_student.argmax(dim=1) == first_sorted.argmax(dim=1)
        return Loss(
            total=total,
            terms={
                "alignment": same.to(total.dtype).mean(),
                "teacher_entropy": torch.special.entr(torch.cat([first_sorted, second_sorted])).sum(dim=1).mean(),
                "projection_spread": projection_spread(projection),
            },
            embedding=embedding.detach(),
        )

    def update_target(self, *, progress: float) -> None:
        """Move the teacher towards the student, and the center towards the last training step's mean output."""
        student = nn.Sequential(self.encoder, self.projector, self.prototypes)
        self.target_network.update(student, momentum=cosine_momentum(self.settings.target_momentum, progress))
        if self._step_mean is not None:
            self.center.lerp_(self._step_mean, 1 - self.settings.center_momentum)
            self._step_mean = None

    def _sort(self, teacher: Tensor) -> Tensor:
        return sorted_by_teacher(teacher, center=self.center, temperature=self.settings.teacher_temperature)


def sorted_by_teacher(
    teacher: Float[Tensor, "n_cells n_prototypes"], *, center: Float[Tensor, " n_prototypes"], temperature: float
) -> Float[Tensor, "n_cells n_prototypes"]:
    """Give the probabilities of the prototypes that the teacher's cosines, less their center, stand for."""
    return ((teacher - center) / temperature).softmax(dim=1)


def sorting_cross_entropy(
    student: Float[Tensor, "n_cells n_prototypes"],
    probability: Float[Tensor, "n_cells n_prototypes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of the teacher's probabilities and the student's, averaged over cells.

    Parameters
    ----------
    student
        Cosines with the prototypes.
    probability
        What the teacher says; it gets no gradient.
    temperature
        Divides the student's cosines.
    """
    return functional.cross_entropy(student / temperature, probability.detach())

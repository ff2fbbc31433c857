"""Masked autoencoder: hide some genes of each cell and predict them from the rest."""

from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from selfcell.core.errors import InputError
from selfcell.data.minibatch import CellMinibatch, SparseExpression
from selfcell.data.programs import GenePrograms
from selfcell.network.encoder import MlpEncoder, mirrored_decoder
from selfcell.network.gene_sets import GeneSets
from selfcell.network.likelihoods import LikelihoodName, OutputName, make_likelihood
from selfcell.pretext.base import Loss, PretextSettings, PretextTask
from selfcell.pretext.dense_masks import (
    DenseDraw,
    DrawBlock,
    chosen_programs,
    drawn_masks,
    hide_entries_at_random,
    hide_in_blocks,
    nothing_hidden,
    random_entries,
)
from selfcell.pretext.masks import (
    draw_exact_mask,
    draw_isolated_program,
    draw_program_mask,
    draw_program_mask_by_genes,
    draw_program_to_tf,
    draw_random_mask,
)
from selfcell.pretext.membership import ProgramMembership
from selfcell.pretext.sparse_likelihood import mean_likelihood
from selfcell.pretext.sparse_masks import Drawn, hide_at_random, hide_genes, hide_sets, show_program

_DEFAULT_FRACTION = {"random": 0.5, "programs": 0.25}


class MaskedAutoencoderSettings(PretextSettings):
    """Settings of the masked autoencoder."""

    name: Literal["masked_autoencoder"] = "masked_autoencoder"
    """The pretext task; `selfcell list` names them all."""
    mask: Literal["random", "programs", "isolated_program", "program_to_tf", "none"] = "random"
    """What is hidden: random entries; whole gene programmes; all but one programme, which is predicted
    (isolated_program); all but the targets of a transcription factor, which is predicted (program_to_tf); or none, a
    plain autoencoder."""
    mask_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share to hide, between 0 and 1, both excluded: of the entries (random; 0.5 if left out), of the programmes or
    genes (programs; 0.25 if left out), of the genes of the drawn programme (isolated_program; if left out none of them
    is hidden, so that they can be copied)."""
    exact_share: bool = False
    """With mask=random: hide the same number of genes in every cell, instead of each entry by a coin of its own."""
    score_zeros: Literal["expected", "drawn"] = "expected"
    """With mask=random: what genes that a cell does not express count for. Whether they are hidden changes nothing that
    the encoder sees, so each counts by its probability to be hidden, the mean over all draws; drawn: by its draw, as in
    the paper, which is noisier and slower."""
    share_of: Literal["programs", "genes"] = "programs"
    """With mask=programs: what mask_fraction is a share of. By genes, programmes are hidden until it is reached."""
    mask_per: Literal["cell", "minibatch"] = "cell"
    """With mask=programs: draw anew for each cell or, as the paper's released code, once for the minibatch."""
    rescale_input: bool = True
    """With mask=random and programs: divide what stays visible by its share of the genes, as the paper does; with
    random its expected sum is kept."""
    likelihood: LikelihoodName = "squared_error"
    """The loss: squared_error on log1p expression; poisson, negative_binomial or zero_inflated_negative_binomial on
    counts."""
    output: OutputName = "identity"
    """With likelihood=squared_error: what the decoder's last layer goes through; softplus cannot be negative; sigmoid,
    the paper's released decoder, cannot exceed 1 either, although log1p values do: it is for their checkpoints."""

    @property
    def uses_programs(self) -> bool:
        """Whether the mask is made of programmes."""
        return self.mask in {"programs", "isolated_program", "program_to_tf"}

    @property
    def uses_regulons(self) -> bool:
        """Whether the programmes must be the targets of transcription factors."""
        return self.mask == "program_to_tf"

    @property
    def needs_counts(self) -> bool:
        """Whether the likelihood is one of counts."""
        return self.likelihood != "squared_error"

    @model_validator(mode="before")
    @classmethod
    def _fraction_of_its_mask(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mask_fraction") in (None, "none"):
            fraction = _DEFAULT_FRACTION.get(str(values.get("mask", "random")))
            return values if fraction is None else {**values, "mask_fraction": fraction}
        return values

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> "MaskedAutoencoderSettings":
        of_masks = {
            "mask_fraction": {"random", "programs", "isolated_program"},
            "exact_share": {"random"},
            "score_zeros": {"random"},
            "share_of": {"programs"},
            "mask_per": {"programs"},
        }
        if not self.rescale_input and self.mask not in {"random", "programs"}:
            raise InputError(f"pretext.rescale_input has no meaning with pretext.mask={self.mask}: it never rescales.")
        for name, masks in of_masks.items():
            default = type(self).model_fields[name].default
            if self.mask not in masks and getattr(self, name) != default:
                raise InputError(
                    f"pretext.{name} has no meaning with pretext.mask={self.mask}, only with "
                    f"{' or '.join(sorted(masks))}."
                )
        if self.output != "identity" and self.likelihood != "squared_error":
            raise InputError("pretext.output is for likelihood=squared_error; counts have a softplus of their own.")
        return self


class _Masked(NamedTuple):
    hidden: Bool[Tensor, "n_cells n_genes"]
    scored: Bool[Tensor, "n_cells n_genes"]
    """What the loss covers."""


class MaskedAutoencoder(PretextTask):
    r"""Predict the hidden genes of a cell from the visible ones :cite:p:`he2022,richter2025`.

    Hidden entries are set to zero before the encoder sees them. A decoder that mirrors the encoder predicts all genes,
    and the loss is the mean over the entries :math:`S` of the minibatch that are to be predicted: with squared error,
    in squared ``log1p`` units,

    .. math:: L = \frac{1}{|S|} \sum_{(c, g) \in S} (\hat{x}_{cg} - x_{cg})^2 .

    ========================  ============================  =====================================================
    ``mask``                  hidden                        predicted
    ========================  ============================  =====================================================
    ``random``                a share of the entries        the hidden entries
    ``programs``              a share of the programmes     the hidden genes
    ``isolated_program``      all but one programme         the programme or, with ``mask_fraction``, a hidden share
                                                            of it
    ``program_to_tf``         all but the targets of a      the factor
                              transcription factor
    ``none``                  nothing                       all genes
    ========================  ============================  =====================================================

    Random masks hide a zero without any effect on the input, so that the loss is taken in the mean over these draws: a
    zero counts by its probability to be hidden (``score_zeros``). On a CPU no array of cells x genes is made
    (:mod:`selfcell.pretext.sparse_masks`).

    Departs from the paper's released code, which divides the squared error by the number of all entries and the
    negative binomial by that of cells, instead of by the predicted entries, draws programmes once for a whole
    minibatch, never applies the two isolated masks, and ends in a sigmoid, which cannot reach most ``log1p`` values
    (``output="sigmoid"``).

    Parameters
    ----------
    settings
        Settings.
    encoder
        The network to train.
    programs
        Gene programmes, for the masks that are made of them.

    Raises
    ------
    InputError
        If all programmes together hold a smaller share of the genes than is to be hidden, or there is one alone.
    """

    Settings = MaskedAutoencoderSettings
    regulators: Tensor

    def __init__(
        self, settings: MaskedAutoencoderSettings, *, encoder: MlpEncoder, programs: GenePrograms | None = None
    ) -> None:
        super().__init__(settings, encoder=encoder, programs=programs)
        self.settings = settings
        self.encoder = encoder
        self.likelihood = make_likelihood(settings.likelihood, n_genes=encoder.n_genes, output=settings.output)
        n_outputs = self.likelihood.outputs_per_gene * encoder.n_genes
        self.decoder = mirrored_decoder(encoder.settings, n_outputs=n_outputs)
        if programs is not None:
            _check_programs(settings, programs)
            self.membership = ProgramMembership(programs)
            if settings.uses_regulons:
                self.register_buffer("regulators", torch.as_tensor(programs.regulators), persistent=False)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:
        """Mean loss over the entries to predict; logs the share of hidden entries as ``masked_fraction``."""
        if self.encoder.goes_sparse(minibatch.values):
            return self._loss_by_entries(minibatch, generator)
        if self.encoder.compute.in_blocks and self._is_linear:
            return self._loss_in_blocks(minibatch, generator)
        expression = minibatch.expression()
        hidden, scored = (mask.to(expression.device) for mask in self._draw(minibatch, generator))
        embedding = self.encoder(self._visible(expression, hidden))
        truth = minibatch.counts() if self.likelihood.of_counts else expression
        with self.encoder.compute.blocks(embedding.device):
            outputs = self.decoder(embedding)
        loss = self.likelihood(outputs.to(embedding.dtype), truth, minibatch.library_size)
        if self._expects_zeros:
            weight = torch.where(expression == 0, cast("float", self.settings.mask_fraction), scored.float())
        else:
            weight = scored.float()
        # A minibatch of few genes may have nothing to predict: its loss is 0 then, not 0 / 0.
        total = (loss * weight).sum() / weight.sum().clamp(min=1)
        return Loss(total=total, terms={"masked_fraction": hidden.float().mean()}, embedding=embedding.detach())

    @property
    def _expects_zeros(self) -> bool:
        settings = self.settings
        return settings.mask == "random" and settings.score_zeros == "expected" and not settings.exact_share

    @property
    def _is_linear(self) -> bool:
        return self.settings.likelihood == "squared_error" and self.settings.output == "identity"

    def _loss_by_entries(self, minibatch: CellMinibatch, generator: torch.Generator) -> Loss:
        """Take the loss without an array of cells x genes."""
        truth, settings, compute = minibatch.sparse_expression(), self.settings, self.encoder.compute
        if settings.mask in {"isolated_program", "program_to_tf"}:
            drawn = self._draw_isolated(truth, generator)
        elif settings.mask == "programs" and settings.mask_per == "minibatch":
            hidden = self._draw(minibatch, generator).hidden[0]
            drawn = hide_genes(truth, hidden, rescale=settings.rescale_input)
        elif settings.mask == "programs" or (settings.mask == "random" and not self._expects_zeros):
            share = settings.mask_fraction if settings.score_zeros == "drawn" and not settings.exact_share else None
            sets = self._draw_sets(truth.n_cells, generator)
            drawn = hide_sets(truth, sets, rescale=settings.rescale_input, share=share)
        else:
            drawn = hide_at_random(truth, settings.mask_fraction, rescale=settings.rescale_input, generator=generator)
        embedding = self.encoder(drawn.visible)
        with compute.blocks(embedding.device):
            units = self.decoder[:-1](embedding)
        total = self._score_drawn(units, drawn, minibatch, truth)
        terms = {"masked_fraction": torch.tensor(drawn.masked_fraction)}
        return Loss(total=total, terms=terms, embedding=embedding.detach())

    def _score_drawn(
        self, units: Float[Tensor, "n_cells n_units"], drawn: Drawn, minibatch: CellMinibatch, truth: SparseExpression
    ) -> Float[Tensor, ""]:
        last, dtype = cast("nn.Linear", self.decoder[-1]), self.encoder.compute.dtype
        if self._is_linear:
            return drawn.squared_error(units, last, dtype)
        measured = minibatch.sparse_counts() if self.likelihood.of_counts else truth
        library_size = minibatch.library_size
        return mean_likelihood(units, last, self.likelihood, measured, drawn, library_size=library_size, dtype=dtype)

    def _loss_in_blocks(self, minibatch: CellMinibatch, generator: torch.Generator) -> Loss:
        """Take the loss without an array of cells x genes in float32."""
        drawn = self._draw_dense(minibatch, generator)
        embedding = self.encoder(drawn.visible)
        with self.encoder.compute.blocks(embedding.device):
            units = self.decoder[:-1](embedding)
        total = drawn.squared_error(units, cast("nn.Linear", self.decoder[-1]), self.encoder.compute)
        return Loss(total=total, terms={"masked_fraction": drawn.masked_fraction}, embedding=embedding.detach())

    def _draw_dense(self, minibatch: CellMinibatch, generator: torch.Generator) -> DenseDraw:
        settings, truth, share = self.settings, minibatch.sparse_expression(), self.settings.mask_fraction
        rescale, dtype = settings.rescale_input and settings.mask in {"random", "programs"}, self.encoder.compute.dtype
        if share is not None and self._expects_zeros:
            return hide_entries_at_random(truth, share, rescale=rescale, dtype=dtype, generator=generator)
        share_of_all = share if settings.mask == "random" and not settings.exact_share else None
        draw = self._draw_block(minibatch, generator)
        return hide_in_blocks(truth, draw, dtype=dtype, rescale=rescale, share=share_of_all)

    def _draw_block(self, minibatch: CellMinibatch, generator: torch.Generator) -> DrawBlock:
        settings, share, device = self.settings, self.settings.mask_fraction, minibatch.values.device
        if settings.mask == "none":
            return nothing_hidden(device)
        if share is not None and settings.mask == "random" and not settings.exact_share:
            return random_entries(minibatch.n_cells, share, generator=generator)
        if share is not None and settings.mask == "programs" and settings.share_of == "programs":
            n_draws = minibatch.n_cells if settings.mask_per == "cell" else 1
            chosen = draw_exact_mask(n_draws, len(self.membership), share, generator=generator)
            return chosen_programs(self.membership, chosen, self.encoder.compute.dtype)
        return drawn_masks(*self._draw(minibatch, generator))

    def _draw_sets(self, n_cells: int, generator: torch.Generator) -> GeneSets:
        settings, share, n_genes = self.settings, cast("float", self.settings.mask_fraction), self.encoder.n_genes
        if settings.mask == "programs" and settings.share_of == "programs":
            return self.membership.sets(draw_exact_mask(n_cells, len(self.membership), share, generator=generator))

        def draw(n_some: int) -> Bool[Tensor, "n_some n_genes"]:
            if settings.mask == "programs":
                return draw_program_mask_by_genes(self.membership, n_some, share, generator=generator)
            draw_entries = draw_exact_mask if settings.exact_share else draw_random_mask
            return draw_entries(n_some, n_genes, share, generator=generator)

        return GeneSets.of_draws(draw, n_cells=n_cells, n_genes=n_genes)

    def _draw_isolated(self, truth: SparseExpression, generator: torch.Generator) -> Drawn:
        program = torch.randint(len(self.membership), (truth.n_cells,), generator=generator)
        if self.settings.mask == "program_to_tf":
            return show_program(truth, self.membership, program, predicted=self.regulators[program])
        return show_program(truth, self.membership, program, share=self.settings.mask_fraction, generator=generator)

    def _draw(self, minibatch: CellMinibatch, generator: torch.Generator) -> _Masked:
        settings, n_cells, n_genes = self.settings, minibatch.n_cells, minibatch.n_genes
        fraction = settings.mask_fraction
        if settings.mask == "isolated_program":
            return _Masked(*draw_isolated_program(self.membership, n_cells, fraction, generator=generator))
        if settings.mask == "program_to_tf":
            return _Masked(*draw_program_to_tf(self.membership, self.regulators, n_cells, generator=generator))
        if fraction is None:
            nothing = torch.zeros((n_cells, n_genes), dtype=torch.bool)
            return _Masked(nothing, ~nothing)
        if settings.mask == "programs":
            draw_programs = draw_program_mask if settings.share_of == "programs" else draw_program_mask_by_genes
            n_draws = n_cells if settings.mask_per == "cell" else 1
            hidden = draw_programs(self.membership, n_draws, fraction, generator=generator).expand(n_cells, -1)
        else:
            draw_entries = draw_exact_mask if settings.exact_share else draw_random_mask
            hidden = draw_entries(n_cells, n_genes, fraction, generator=generator)
        return _Masked(hidden, hidden)

    def _visible(
        self, expression: Float[Tensor, "n_cells n_genes"], hidden: Bool[Tensor, "n_cells n_genes"]
    ) -> Float[Tensor, "n_cells n_genes"]:
        visible = expression.masked_fill(hidden, 0.0)
        settings = self.settings
        if not settings.rescale_input or settings.mask_fraction is None or settings.mask == "isolated_program":
            return visible
        if settings.mask == "random" and not settings.exact_share:
            return visible / (1 - settings.mask_fraction)
        n_visible = (~hidden).sum(dim=1, keepdim=True).clamp(min=1)
        return visible * (hidden.shape[1] / n_visible)


def _check_programs(settings: MaskedAutoencoderSettings, programs: GenePrograms) -> None:
    fraction = settings.mask_fraction
    if settings.mask == "programs" and len(programs) < 2:
        raise InputError(
            f"pretext.mask=programs hides some programmes and shows others, but {settings.programs} has only "
            f"{len(programs)} on these genes. Take a source with more, or lower pretext.program_min_genes."
        )
    if settings.mask == "programs" and settings.share_of == "genes" and fraction is not None:
        covered = len(set().union(*(genes.tolist() for genes in programs.genes))) / programs.n_genes
        if covered < fraction:
            raise InputError(
                f"pretext.mask_fraction={fraction} of the genes cannot be hidden by programmes: all {len(programs):,} "
                f"of them together hold {covered:.1%} of the genes. Lower it, or take more programmes."
            )

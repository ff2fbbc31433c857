"""Downstream tasks: what an encoder is judged by. One question, one file."""

from typing import TYPE_CHECKING

from selfcell.core.registry import Entry, Registry

if TYPE_CHECKING:
    from selfcell.downstream.base import DownstreamTask

DOWNSTREAM_TASKS: "Registry[type[DownstreamTask]]" = Registry(
    "downstream task",
    {
        "cell_type": Entry(
            "selfcell.downstream.cell_type:CellTypeTask", "Tell the type of each cell of unseen donors."
        ),
        "reconstruction": Entry(
            "selfcell.downstream.reconstruction:ReconstructionTask",
            "Reconstruct the expression of cells of unseen donors, whole or with counts hidden.",
        ),
        "cross_modality": Entry(
            "selfcell.downstream.cross_modality:CrossModalityTask", "Tell proteins or chromatin of a cell from its RNA."
        ),
        "integration": Entry(
            "selfcell.downstream.integration:IntegrationTask",
            "Embed cells by type and not by batch, those of unseen donors and batches too.",
        ),
    },
)

REGIMES = {
    "zero_shot": "Nothing is trained: the nearest labelled cells answer, or the pre-trained decoder.",
    "probe": "Frozen encoder; a linear model on the embedding, or a decoder, is trained.",
    "fine_tuned": "Everything trained for the task, from the pre-trained weights.",
    "from_scratch": "Everything trained for the task, the same network from random weights.",
}
"""The ways of using an encoder. Only the starting weights differ between the last two."""

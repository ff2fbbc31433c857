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
    },
)

REGIMES = {
    "zero_shot": "Nothing is trained: the nearest labelled cells vote, or the pre-trained decoder answers.",
    "probe": "Frozen encoder; a logistic regression on the embedding, or a decoder, is trained.",
    "fine_tuned": "Everything trained for the task, from the pre-trained weights.",
    "from_scratch": "Everything trained for the task, the same network from random weights.",
}
"""The ways of using an encoder. Only the starting weights differ between the last two."""

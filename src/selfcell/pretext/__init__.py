"""Pretext tasks: what an encoder is trained on when there are no labels. One objective, one file."""

from typing import TYPE_CHECKING

from selfcell.core.registry import Entry, Registry

if TYPE_CHECKING:
    from selfcell.pretext.base import PretextTask

PRETEXT_TASKS: "Registry[type[PretextTask]]" = Registry(
    "pretext task",
    {
        "masked_autoencoder": Entry(
            "selfcell.pretext.masked_autoencoder:MaskedAutoencoder",
            "Hide genes of each cell and predict them from the rest.",
        ),
    },
)

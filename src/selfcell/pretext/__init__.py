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
        "byol": Entry(
            "selfcell.pretext.byol:Byol", "Predict how a slowly moving copy of the network projects the other view."
        ),
        "simsiam": Entry(
            "selfcell.pretext.simsiam:SimSiam", "Predict the projection of the other view, held still for the gradient."
        ),
        "simclr": Entry(
            "selfcell.pretext.simclr:Simclr", "Find the other view of each cell among the views of a minibatch."
        ),
        "barlow_twins": Entry(
            "selfcell.pretext.barlow_twins:BarlowTwins", "Make units agree between two views and decorrelate them."
        ),
        "vicreg": Entry(
            "selfcell.pretext.vicreg:Vicreg", "Make two views agree while units keep their variance and decorrelate."
        ),
        "moco": Entry("selfcell.pretext.moco:Moco", "Find the other view of each cell in a queue of earlier cells."),
        "nnclr": Entry("selfcell.pretext.nnclr:Nnclr", "Predict the nearest earlier cell of each cell's other view."),
        "dino": Entry(
            "selfcell.pretext.dino:Dino", "Sort cells into prototypes as a slowly moving copy sorts the other view."
        ),
        "latent_prediction": Entry(
            "selfcell.pretext.latent_prediction:LatentPrediction",
            "Hide genes or whole programmes of each cell and predict the embedding of the whole cell.",
        ),
    },
    open_to_others=True,
)

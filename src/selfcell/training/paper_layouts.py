"""How the checkpoints of Richter et al. 2025 are laid out: which keys each kind has, and what becomes of them."""

from dataclasses import dataclass, field
from typing import NamedTuple

_HEAD = "a head of pre-training, which the embedding does not need"
_PROJECTOR = "the projector of pre-training, which the embedding does not need"
_NORM = "a normalization of the pre-training loss, which the embedding does not need"
_NEVER_TRAINED = (
    "Its last Linear was never trained: pre-training took the representation before it, so the embedding passes "
    "through random weights. Fine-tune it before use."
)


class Reader(NamedTuple):
    """A weight beside the encoder that takes what one of its Linears gives, by which a lost Linear is noticed."""

    key: str
    place: int
    """The Linear: -1 is the last one."""


@dataclass(frozen=True)
class Layout:
    """One kind of checkpoint."""

    name: str
    marks: tuple[str, ...]
    """Beginnings of keys; of each there are some, which tells the kind."""
    encoder: str
    """Beginning of the encoder's keys, before the place in a stack of Linear, activation and dropout."""
    pretext: str | None
    """The pretext task; none for a classifier."""
    output: str | None = None
    """What an autoencoder's decoder ends in."""
    decoder: str | None = None
    """Beginning of the decoder's keys, if it is of use."""
    copies: tuple[str, ...] = ()
    """Beginnings of keys under which the encoder stands again."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Beginnings of keys that are of no use, and why."""
    reader: Reader | None = None
    warning: str | None = None


MASKED_AUTOENCODER = Layout(
    name="masked autoencoder",
    marks=("encoder.", "decoder."),
    encoder="encoder.",
    pretext="masked_autoencoder",
    output="sigmoid",
    decoder="decoder.0.",
)
NEGATIVE_BINOMIAL = Layout(
    name="negative binomial autoencoder",
    marks=("encoder.", "px_r"),
    encoder="encoder.",
    pretext="masked_autoencoder",
    output="identity",
    left_out={
        "decoder.": "its decoder gives two outputs a gene, of which half are used, as a negative binomial of log1p "
        "values; ours is of counts",
        "px_r": "the dispersion of log1p values; ours is of counts",
    },
    reader=Reader("decoder.0.0.weight", -1),
)
CLASSIFIER = Layout(
    name="cell-type classifier",
    marks=("classifier.",),
    encoder="classifier.",
    pretext=None,
    left_out={
        "class_weights": "weights of the training loss",
        "child_lookup": "which types are below which, for the paper's scores",
    },
)
_PAIRED = ("byol.net.", "byol.online_encoder.net.")
BYOL = Layout(
    name="BYOL",
    marks=("inner_model.", "byol.target_encoder."),
    encoder="inner_model.",
    pretext="byol",
    copies=_PAIRED,
    left_out={
        "byol.online_encoder.projector.": _PROJECTOR,
        "byol.online_predictor.": _HEAD,
        "byol.target_encoder.": "the target network, which training only compares with",
    },
    reader=Reader("byol.online_encoder.projector.0.weight", -2),
    warning=_NEVER_TRAINED,
)
SIMSIAM = Layout(
    name="SimSiam",
    marks=("inner_model.", "byol."),
    encoder="inner_model.",
    pretext="simsiam",
    copies=_PAIRED,
    left_out={"byol.online_encoder.projector.": _PROJECTOR, "byol.online_predictor.": _HEAD},
    reader=Reader("byol.online_encoder.projector.0.weight", -2),
    warning=_NEVER_TRAINED,
)
BARLOW_TWINS = Layout(
    name="Barlow Twins",
    marks=("backbone.",),
    encoder="backbone.",
    pretext="barlow_twins",
    left_out={"projector.": _PROJECTOR, "bn.": _NORM},
    reader=Reader("projector.0.weight", -1),
)
BARLOW_TWINS_TRAINER = Layout(
    name="Barlow Twins, of the whole trainer",
    marks=("inner_model.", "barlow_twins."),
    encoder="inner_model.",
    pretext="barlow_twins",
    copies=("barlow_twins.backbone.",),
    left_out={"barlow_twins.projector.": _PROJECTOR, "barlow_twins.bn.": _NORM},
    reader=Reader("barlow_twins.projector.0.weight", -1),
)

LAYOUTS = (NEGATIVE_BINOMIAL, MASKED_AUTOENCODER, CLASSIFIER, BYOL, SIMSIAM, BARLOW_TWINS, BARLOW_TWINS_TRAINER)
"""In the order in which they are tried: what has more marks comes first."""

"""Cell-type prediction: tell the type of each cell of donors that were never seen."""

import tempfile
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import scipy.sparse as sp
import torch
from jaxtyping import Float, Int
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from selfcell.core.config import Settings
from selfcell.core.errors import InputError
from selfcell.core.seeds import derive_seed
from selfcell.data.loader import CellLoader, cell_loader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.source import Cells
from selfcell.data.splits import Split
from selfcell.downstream.base import DownstreamTask, EncodedCells
from selfcell.downstream.embed import CELLS_AT_ONCE
from selfcell.downstream.metrics import classification_scores, confusion_matrix
from selfcell.downstream.neighbors import N_NEIGHBORS, vote_of_neighbors
from selfcell.network.compute import quick_float32
from selfcell.network.encoder import ACTIVATIONS, MlpEncoder
from selfcell.pretext.base import Loss, Objective
from selfcell.training.fit import FitOutcome, fit, seeded
from selfcell.training.settings import TrainingSettings


class ClassifierTrainingSettings(TrainingSettings):
    """The optimizer of fine-tuning and of training from scratch alike: the paper's rates for classifiers."""

    chooses_minibatch: ClassVar[bool] = False

    max_epochs: int = Field(default=20, ge=1)
    """Passes over the labelled training cells."""
    minibatch_size: int = Field(default=256, ge=1)
    """Cells whose loss is taken at once."""
    learning_rate: float = Field(default=9e-4, gt=0)
    """Learning rate at the start, or after the warm-up."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Weight decay: decoupled with adamw; with lars added to the gradients, and not on biases and norms."""
    patience: int = Field(default=0, ge=0)
    """Stop after so many epochs without a better validation loss, and keep the best weights; 0 trains all epochs and
    keeps the last ones, which does better where few donors are labelled."""


class CellTypeSettings(Settings):
    """Settings of cell-type prediction."""

    n_neighbors: int = Field(default=N_NEIGHBORS, ge=1)
    """Labelled cells that vote in zero_shot."""
    class_weights: Literal["balanced", "none"] = "balanced"
    """Weight of a class in the loss: balanced weighs rare types up, as the paper does; none counts every cell alike."""
    training: ClassifierTrainingSettings = ClassifierTrainingSettings()
    """Optimizer of fine_tuned and from_scratch."""


class CellTypeClassifier(Objective):
    """An encoder with a linear head on its activated embedding, trained by weighted cross-entropy.

    The head is the paper's: activation, dropout, Linear. The activation is the one the encoder was trained with.

    Parameters
    ----------
    encoder
        Trained along.
    class_weight
        Weight of each class in the loss.
    """

    def __init__(self, encoder: MlpEncoder, *, class_weight: Float[Tensor, " n_classes"]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = classifier_head(encoder, n_classes=len(class_weight))
        self.register_buffer("class_weight", class_weight, persistent=False)

    def compute_loss(self, minibatch: CellMinibatch, *, generator: torch.Generator) -> Loss:  # noqa: ARG002
        """Cross-entropy of the labels; logs ``accuracy``."""
        label_code = minibatch.codes["label"]
        logits = self.head(self.encoder(minibatch.sparse_expression()))
        accuracy = (logits.argmax(dim=1) == label_code).float().mean()
        weight = self.get_buffer("class_weight")
        total = nn.functional.cross_entropy(logits, label_code, weight=weight)
        # Types that no training cell has weigh nothing; held-out cells may be of these alone, and 0 / 0 is no loss.
        total = torch.where(weight[label_code].sum() > 0, total, 0.0)
        return Loss(total=total, terms={"accuracy": accuracy})


def classifier_head(encoder: MlpEncoder, *, n_classes: int) -> nn.Sequential:
    """Make the head of a classifier: activation, dropout, Linear."""
    activation = ACTIVATIONS[encoder.settings.activation]()
    return nn.Sequential(activation, nn.Dropout(encoder.settings.dropout), nn.Linear(encoder.n_latent, n_classes))


def classify(encoder: MlpEncoder, head: nn.Module, cells: Cells) -> Float[np.ndarray, "n_cells n_classes"]:
    """Give the probability of each class for each cell."""
    encoder.eval()
    head.eval()
    with torch.inference_mode(), quick_float32():
        parts = [
            head(encoder(minibatch.sparse_expression())).softmax(dim=1).numpy()
            for minibatch in cell_loader(cells.counts, minibatch_size=CELLS_AT_ONCE)
        ]
    probability: np.ndarray = np.concatenate(parts)
    return probability


def balanced_class_weight(label_code: Int[np.ndarray, " n_cells"], *, n_classes: int) -> Float[Tensor, " n_classes"]:
    """Weigh each class by n_cells / (classes present x its cells), as scikit-learn does; absent classes by 0."""
    n_cells = np.bincount(label_code, minlength=n_classes)
    with np.errstate(divide="ignore"):
        weight = len(label_code) / ((n_cells > 0).sum() * n_cells)
    return torch.from_numpy(np.where(n_cells > 0, weight, 0.0).astype(np.float32))


class CellTypeTask(DownstreamTask):
    """Tell the type of each test cell :cite:p:`richter2025`.

    Parameters
    ----------
    settings
        Settings.
    label_code
        Type of every cell, as a position in ``classes``.
    classes
        Names of the types.
    """

    Settings = CellTypeSettings

    def __init__(
        self, settings: CellTypeSettings, *, label_code: Int[np.ndarray, " n_cells"], classes: tuple[str, ...]
    ) -> None:
        self.settings = settings
        self.label_code = label_code
        self.classes = classes

    def predict(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> Int[np.ndarray, " n_test"]:
        """Give the class of every cell of ``split.test``; ``validation`` is for stopping, where that is asked for."""
        labelled = split.train
        embedding = encoded.embedding
        if regime == "zero_shot":
            vote = vote_of_neighbors(
                embedding[labelled],
                self.label_code[labelled],
                embedding[split.test],
                n_neighbors=self.settings.n_neighbors,
            )
            return vote.label_code
        if regime == "probe":
            return fit_logistic_regression(embedding[labelled], self.label_code[labelled], embedding[split.test])
        classifier = self._trained(encoded, split, regime=regime, seed=seed)
        test_cells = encoded.cells.subset(split.test)
        return np.asarray(classify(classifier.encoder, classifier.head, test_cells).argmax(axis=1))

    def score(self, predicted: np.ndarray, split: Split) -> dict[str, float]:
        """Compute macro and micro F1 and balanced accuracy."""
        truth = self.label_code[split.test]
        return classification_scores(confusion_matrix(truth, predicted, n_classes=len(self.classes)))

    def _trained(self, encoded: EncodedCells, split: Split, *, regime: str, seed: int) -> CellTypeClassifier:
        with tempfile.TemporaryDirectory() as folder:
            classifier, _ = self.train_classifier(
                encoded.encoder,
                encoded.cells,
                split,
                from_scratch=regime == "from_scratch",
                seed=seed,
                out=Path(folder),
            )
        return classifier

    def train_classifier(
        self,
        start: MlpEncoder,
        cells: Cells,
        split: Split,
        *,
        from_scratch: bool,
        seed: int,
        out: Path,
        resume: bool = False,
        show_progress: bool = False,
    ) -> tuple[CellTypeClassifier, FitOutcome]:
        """Train encoder and head on the labels of ``split.train``; watch the loss on ``split.validation``, if any.

        Parameters
        ----------
        start
            The encoder to begin from; not changed. With ``from_scratch`` only its sizes are used. Everything else, the
            head's first weights included, is the same either way.
        cells
            Cells in the encoder's order of genes.
        split
            Which cells to train on, and to watch the loss on.
        from_scratch
            Begin from random weights.
        seed
            Seed of weights, order and dropout.
        out
            Folder for logs and checkpoints.
        resume
            Go on from the checkpoint in ``out``.
        show_progress
            Show a progress bar.
        """
        n_classes = len(self.classes)
        weight = torch.ones(n_classes)
        if self.settings.class_weights == "balanced":
            weight = balanced_class_weight(self.label_code[split.train], n_classes=n_classes)
        with seeded(seed, "classifier weights"):
            encoder = MlpEncoder(start.settings, n_genes=start.n_genes)
            classifier = CellTypeClassifier(encoder, class_weight=weight)
        if not from_scratch:
            encoder.load_state_dict(start.state_dict())
        training = self.settings.training.model_copy(update={"seed": derive_seed(seed, "fine-tuning") % 2**31})
        outcome = fit(
            classifier,
            training,
            train=self._loader(cells, split.train, shuffle_seed=training.seed),
            validation=self._loader(cells, split.validation, shuffle_seed=None) if len(split.validation) else None,
            out=out,
            title="From scratch" if from_scratch else "Fine-tuning",
            resume=resume,
            show_progress=show_progress,
        )
        return classifier, outcome

    def _loader(self, cells: Cells, rows: np.ndarray, *, shuffle_seed: int | None) -> CellLoader:
        return cell_loader(
            cells.counts,
            codes={"label": self.label_code},
            minibatch_size=self.settings.training.minibatch_size,
            shuffle_seed=shuffle_seed,
            positions=rows,
        )


def fit_logistic_regression(
    train: np.ndarray | sp.csr_matrix,
    label_code: Int[np.ndarray, " n_train"],
    test: np.ndarray | sp.csr_matrix,
    *,
    inverse_penalty: float = 1.0,
) -> np.ndarray:
    """Predict by a multinomial logistic regression with balanced class weights.

    Parameters
    ----------
    train, test
        Cells x features; dense ones are standardized, sparse ones scaled to unit variance and not centred.
    label_code
        Class of each training cell.
    inverse_penalty
        scikit-learn's ``C``: the smaller, the stronger the L2 penalty.
    """
    if len(np.unique(label_code)) == 1:
        return np.full(len(test), label_code[0])
    scaler = StandardScaler(with_mean=not sp.issparse(train))
    regression = LogisticRegression(C=inverse_penalty, class_weight="balanced", max_iter=3_000, tol=1e-3)
    model = make_pipeline(scaler, regression)
    model.fit(train, label_code)
    predicted: np.ndarray = model.predict(test)
    return predicted


def label_classes(labels: "np.ndarray | list[str]", *, key: str) -> tuple[str, ...]:
    """Give the sorted classes of a label column.

    Raises
    ------
    InputError
        If there is only one, or nearly every cell has its own.
    """
    classes = tuple(sorted(set(labels)))
    if len(classes) > max(len(labels) // 2, 2):
        raise InputError(
            f"obs[{key!r}] has {len(classes):,} different values for {len(labels):,} cells, so it looks like a "
            "measurement or a name of each cell. Give a column of types."
        )
    if len(classes) < 2:
        raise InputError(
            f"All cells have the same label in obs[{key!r}] ({classes[0]!r}): there is nothing to tell apart."
        )
    return classes

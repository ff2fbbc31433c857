"""What holds up training on some cells: the reading of them, or the network; for ``selfcell doctor CELLS``."""

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from selfcell.core.errors import InputError
from selfcell.data.atlas.index import is_url
from selfcell.data.backed import BackedRows
from selfcell.data.loader import CellLoader
from selfcell.data.minibatch import CellMinibatch
from selfcell.data.stream import AnyCells
from selfcell.data.streamed import StreamedCells
from selfcell.training.inputs import (
    TrainingSource,
    check_task,
    draw_split,
    load_task_programs,
    open_training_cells,
    task_loaders,
)
from selfcell.training.minibatch_size import with_minibatch_size
from selfcell.training.pretrain import make_task
from selfcell.training.settings import PretrainSettings
from selfcell.training.steps import Steps

_KEPT = 8
_CLEAR = 1.2
"""How many times faster one must be than the other, for the other to be named alone."""


@dataclass(frozen=True)
class Pace:
    """Cells per second of the parts of training, each by itself, and together."""

    source: str
    """``memory``, ``file``, ``atlas`` or ``remote atlas``."""
    device: str
    n_threads: int
    minibatch_size: int
    layers: tuple[int, ...]
    """Values in each layer of the encoder, the genes first."""
    loader: float
    """Reading alone."""
    network: float
    """Steps of the optimizer on minibatches held in memory."""
    together: float
    """Both, as in training."""

    @property
    def ratio(self) -> float:
        """How many times faster the loader is than the network."""
        return self.loader / self.network

    @property
    def limit(self) -> str:
        """What holds up training: ``loader``, ``network``, or ``both`` where neither stands out."""
        if self.ratio >= _CLEAR:
            return "network"
        return "loader" if self.ratio <= 1 / _CLEAR else "both"

    def advice(self) -> list[str]:
        """Say what limits, and what to do about it."""
        if self.limit == "network":
            return [f"The network limits: the loader is {_times(self.ratio)} as fast.", *self._for_network()]
        if self.limit == "loader":
            return [
                f"The loader limits: the network is {_times(1 / self.ratio)} as fast.",
                *self._for_loader(),
            ]
        return ["Loader and network are about as fast as each other.", *self._for_loader()]

    def _for_network(self) -> list[str]:
        if self.device == "cpu":
            smaller = (
                ", or take a smaller network (--set network.hidden_sizes=[256])" if max(self.layers[1:]) > 256 else ""
            )
            return [f"Train on a GPU{smaller}. Other work on this machine slows the network most: measure without it."]
        larger = "A larger minibatch uses a GPU better: --set training.minibatch_size="
        return [f"{larger}{4 * self.minibatch_size}."] if self.minibatch_size < 4096 else ["More GPUs would help."]

    def _for_loader(self) -> list[str]:
        if self.source == "memory":
            return ["A larger minibatch takes less time per cell: --set training.minibatch_size=..."]
        if self.source == "file":
            return ["Build an atlas, which is read many times faster: selfcell atlas build FILE --out DIR."]
        said = [f"Read with more threads: --set data.loader_threads={2 * self.n_threads}."]
        if self.source == "remote atlas":
            said.append("Keep what was fetched for later epochs: --set data.cache_folder=DIR; or copy the atlas here.")
            said.append("Read more cells at one go: --set data.block_size=1024.")
        return said


def _times(ratio: float) -> str:
    return f"{ratio:,.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def measure_pace(source: TrainingSource, settings: PretrainSettings, *, seconds: float) -> Pace:
    """Measure how fast some cells can be trained on: the loader, the network, and both.

    Nothing is written. The network is trained from its random weights, on one device.

    Parameters
    ----------
    source, settings
        As for :func:`selfcell.pretrain`.
    seconds
        How long to measure, a third for each; at least two minibatches are taken.

    Raises
    ------
    InputError
        As :func:`selfcell.pretrain` does.
    """
    cells = open_training_cells(source, settings)
    split = draw_split(cells, settings)
    settings = with_minibatch_size(settings, n_cells=len(split.train), n_genes=len(cells.genes))
    check_task(settings, cells, split)
    programs = load_task_programs(settings, cells.genes, stored=None)
    loader = task_loaders(settings, cells, split)["train"]
    device = _device(settings.training.device)
    with torch.random.fork_rng():
        task = make_task(settings, cells.genes, programs)
        steps = Steps(task, settings.training, device)
        kept = list(itertools.islice(loader, _KEPT))
        steps(kept[0])
        share = seconds / 3
        loaded = _cells_per_second(_endless(loader), share, device=device)
        trained = _cells_per_second(map(steps, itertools.cycle(kept)), share, device=device)
        together = _cells_per_second(map(steps, _endless(loader)), share, device=device)
    return Pace(
        source=_kind(source, cells),
        device=device,
        n_threads=settings.data.loader_threads,
        minibatch_size=settings.training.cells_per_minibatch,
        layers=(len(cells.genes), *settings.network.hidden_sizes, settings.network.n_latent),
        loader=loaded,
        network=trained,
        together=together,
    )


def _cells_per_second(minibatches: Iterable[CellMinibatch], seconds: float, *, device: str) -> float:
    n_cells, started = 0, time.perf_counter()
    for place, minibatch in enumerate(minibatches):
        n_cells += minibatch.n_cells
        if place and time.perf_counter() - started > seconds:
            break
    if device == "cuda":
        torch.cuda.synchronize()
    return n_cells / (time.perf_counter() - started)


def _endless(loader: CellLoader) -> Iterator[CellMinibatch]:
    while True:
        yield from loader


def _device(wanted: str) -> str:
    if wanted == "gpu" and not torch.cuda.is_available():
        raise InputError("training.device=gpu, but torch finds no CUDA GPU to measure on. Take auto or cpu.")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def _kind(source: TrainingSource, cells: AnyCells) -> str:
    if not isinstance(cells, StreamedCells):
        return "memory"
    if isinstance(cells.rows, BackedRows):
        return "file"
    return "remote atlas" if is_url(source) else "atlas"

"""How many cells a minibatch has where that is left open (``training.minibatch_size=auto``)."""

import itertools
import logging
import os
from pathlib import Path

import torch

from selfcell.core.errors import InputError
from selfcell.training.settings import PretrainSettings

logger = logging.getLogger(__name__)

STEPS_OF_AN_EPOCH = 100
STEPS_OF_A_RUN = 5_000
SMALLEST, LARGEST = 64, 8_192
SHARE_OF_MEMORY = 0.5
ARRAYS, ARRAYS_OF_COUNTS = 12, 52
"""Arrays of cells x genes in float32 that a dense step does not exceed; the second with a likelihood of counts."""

_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def with_minibatch_size(settings: PretrainSettings, *, n_cells: int, n_genes: int) -> PretrainSettings:
    """Give the settings with a number of cells in the place of ``auto``, and say why so many.

    Parameters
    ----------
    settings
        Of the run.
    n_cells
        Training cells.
    n_genes
        Genes of the cells.

    Raises
    ------
    InputError
        If there is too little memory for these genes and this network.
    """
    if settings.training.minibatch_size != "auto":
        return settings
    size, reason = choose_minibatch_size(
        settings, n_cells=n_cells, n_genes=n_genes, memory_bytes=device_memory(settings.training.device)
    )
    logger.info("A minibatch has %s cells (training.minibatch_size=auto): %s.", f"{size:,}", reason)
    training = settings.training.model_copy(update={"minibatch_size": size})
    return settings.model_copy(update={"training": training})


def choose_minibatch_size(
    settings: PretrainSettings, *, n_cells: int, n_genes: int, memory_bytes: int
) -> tuple[int, str]:
    """Choose a power of two: for enough steps of the optimizer, and within half of the memory.

    Parameters
    ----------
    settings
        Of the run: the network, epochs, minibatches per step, processes.
    n_cells, n_genes
        Training cells and their genes.
    memory_bytes
        Of the device, all of it, so that the choice does not depend on what else is running.

    Returns
    -------
    The cells of a minibatch, of all processes together, and the reason.
    """
    training = settings.training
    n_processes = training.devices * training.nodes
    wanted = max(1, _for_enough_steps(settings, n_cells))
    fitting = _within_memory(settings, n_genes, memory_bytes) * (1 if _on_cpu(training.device) else n_processes)
    if fitting < n_processes:
        raise InputError(
            f"The memory of {memory_bytes / 1e9:.1f} GB is too little for {n_genes:,} genes and this network. Take a "
            "smaller one (network.hidden_sizes=[256]) or fewer genes, or set training.minibatch_size yourself."
        )
    size = 2 ** (min(max(wanted, SMALLEST), LARGEST, fitting, n_cells).bit_length() - 1)
    size = max(n_processes, size - size % n_processes)
    if fitting < min(max(wanted, SMALLEST), LARGEST):
        return size, f"no more than {fitting:,} are sure to fit into {SHARE_OF_MEMORY:.0%} of the memory"
    if wanted >= LARGEST:
        return size, f"{n_cells:,} training cells make enough steps, and the paper takes no more"
    if wanted < SMALLEST:
        return size, f"the least that is taken, as there are {n_cells:,} training cells"
    return size, (
        f"{n_cells:,} training cells then make {STEPS_OF_AN_EPOCH} steps an epoch or more, and about "
        f"{STEPS_OF_A_RUN:,} in all at least"
    )


def _for_enough_steps(settings: PretrainSettings, n_cells: int) -> int:
    training = settings.training
    of_an_epoch = n_cells // (STEPS_OF_AN_EPOCH * training.accumulate)
    # How many epochs a budget is long is not known.
    in_all = n_cells * training.max_epochs // (STEPS_OF_A_RUN * training.accumulate)
    return of_an_epoch if training.budget is not None else min(of_an_epoch, in_all)


def _within_memory(settings: PretrainSettings, n_genes: int, memory_bytes: int) -> int:
    """Give the cells whose step surely fits, as if all of it were dense and in float32."""
    widths = [n_genes, *settings.network.hidden_sizes, settings.network.n_latent]
    n_weights = 2 * sum(n_in * n_out for n_in, n_out in itertools.pairwise(widths))
    # Weights, gradients, two moments, what the clipping and a target network hold, and an average.
    of_weights = 4 * n_weights * (6 + bool(settings.training.average_decay))
    is_of_counts = getattr(settings.pretext, "likelihood", "squared_error") != "squared_error"
    of_a_cell = 4 * (ARRAYS_OF_COUNTS if is_of_counts else ARRAYS) * (n_genes + 4 * sum(widths[1:]))
    return int((SHARE_OF_MEMORY * memory_bytes - of_weights) // of_a_cell)


def _on_cpu(device: str) -> bool:
    return device == "cpu" or not torch.cuda.is_available()


def device_memory(device: str) -> int:
    """Give the memory in bytes of what is trained on: a GPU's, or what this process may have of the machine's."""
    if not _on_cpu(device):
        return int(torch.cuda.get_device_properties(0).total_memory)
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in _CGROUP_LIMITS:
        text = file.read_text(encoding="ascii").strip() if file.exists() else "max"
        limits += [int(text)] if text.isdigit() else []
    return min(limits)

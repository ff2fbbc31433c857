"""Several processes that train one model: which one this is, and what only the first of them does.

Lightning, torchrun and SLURM each start them in their own way. All of them run the whole program; they meet when
training begins, and again when it has ended.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping

import torch.distributed
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import LightningDataModule

from selfcell.core.errors import InputError
from selfcell.data.loader import CellLoader
from selfcell.training.settings import TrainingSettings
from selfcell.training.waiting import TimedLoader


def is_first_process() -> bool:
    """Tell whether this process is the one that writes files and messages; true where there is only one.

    Known from the environment that torchrun, SLURM or Lightning sets, before anything is set up.
    """
    # torchrun may have been started by SLURM, once a machine.
    if TorchElasticEnvironment.detect():
        places: tuple[str, ...] = ("RANK",)
    elif SLURMEnvironment.detect():
        places = ("SLURM_PROCID",)
    else:
        places = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
    return all(int(os.environ.get(name, 0)) == 0 for name in places)


def mute_others() -> None:
    """Let no process but the first log anything short of an error."""
    if not is_first_process():
        logging.getLogger("selfcell").setLevel(logging.ERROR)


def check_processes(settings: TrainingSettings) -> None:
    """Refuse settings that are at odds with how the processes were started.

    Raises
    ------
    InputError
        If torchrun or SLURM has started another number of processes than the settings name.
    """
    n_wanted = settings.devices * settings.nodes
    name, n_started, n_here = _started()
    if n_started is not None and n_started != n_wanted:
        raise InputError(
            f"{name} has started {_counted(n_started)}, but training.devices x training.nodes is "
            f"{settings.devices} x {settings.nodes}: make them agree (--devices, --nodes)."
        )
    if n_here is not None and n_here != settings.devices:
        raise InputError(
            f"{name} has started {_counted(n_here)} on this machine, but training.devices is {settings.devices}: make "
            "them agree (--devices, --nodes)."
        )


def check_shares(settings: TrainingSettings, loaders: Mapping[str, CellLoader]) -> None:
    """Refuse loaders whose minibatches are too small for the processes, or cannot be shared by them as is needed."""
    for loader in loaders.values():
        loader.share(0, settings.devices * settings.nodes)


def slurm_plugins() -> list[SLURMEnvironment]:
    """Give what Lightning is to know of SLURM, where SLURM has started this process; else nothing.

    Left to itself Lightning answers SIGUSR1 with a checkpoint of its own in the working directory, from which the next
    training there would begin, whatever it trains; and it puts the job into the queue again. A run has its checkpoint.
    """
    under_slurm = SLURMEnvironment.detect() and not TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if under_slurm else []


def refuse_several(settings: TrainingSettings, what: str) -> None:
    """Refuse more than one process where only one can do the work.

    Raises
    ------
    InputError
        If the settings ask for several.
    """
    if settings.devices * settings.nodes > 1:
        raise InputError(
            f"{what} runs in one process, but training.devices x training.nodes is {settings.devices} x "
            f"{settings.nodes}: leave both at 1."
        )


def _started() -> tuple[str, int | None, int | None]:
    """Give who started the processes, how many in all, and on this machine; None where that is not told."""
    if TorchElasticEnvironment.detect():
        return "torchrun", _number("WORLD_SIZE"), _number("LOCAL_WORLD_SIZE")
    if SLURMEnvironment.detect():
        return "SLURM", _number("SLURM_NTASKS"), _number("SLURM_NTASKS_PER_NODE")
    return "", None, None


def _number(variable: str) -> int | None:
    return int(os.environ[variable]) if variable in os.environ else None


def _counted(n_processes: int) -> str:
    return f"{n_processes} process{'es' * (n_processes > 1)}"


def wait_for_all(is_done: Callable[[], bool] = lambda: True, *, seconds: float = 600.0) -> None:
    """Go on when every process has come this far.

    Parameters
    ----------
    is_done
        Tells whether the first process has. Asked over and over where the processes have not met, as there was nothing
        left to train.
    seconds
        To keep asking.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        return
    stop = time.monotonic() + seconds
    while not is_first_process() and not is_done() and time.monotonic() < stop:
        time.sleep(0.1)


class SharedLoaders(LightningDataModule):
    """Gives each process its share of every minibatch.

    Parameters
    ----------
    train, validation
        Loaders of all cells.
    """

    def __init__(self, train: CellLoader, validation: CellLoader | None) -> None:
        super().__init__()
        self.train = train
        self.validation = validation

    def train_dataloader(self) -> TimedLoader:
        """Give the loader of training cells."""
        return TimedLoader(self._share(self.train))

    def val_dataloader(self) -> CellLoader:
        """Give the loader of validation cells."""
        if self.validation is None:
            raise ValueError("There are no validation cells.")
        return self._share(self.validation)

    def _share(self, loader: CellLoader) -> CellLoader:
        if self.trainer is None or self.trainer.world_size == 1:
            return loader
        return loader.share(self.trainer.global_rank, self.trainer.world_size)

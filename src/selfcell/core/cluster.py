"""A Dask cluster that somebody has started: on this machine, or by dask-jobqueue on SLURM and its kin."""

from typing import Any

from selfcell.core.errors import NoWorkplaceError
from selfcell.core.extras import import_extra

_SECONDS_TO_WAIT = 30


def dask_client(address: str) -> Any:
    """Connect to a scheduler; the client is to be used as a context.

    Parameters
    ----------
    address
        Of the scheduler, such as ``tcp://node:8786``.

    Raises
    ------
    InputError
        If Dask is not installed.
    NoWorkplaceError
        If there is no scheduler.
    """
    distributed = import_extra("distributed", extra="dask", use="--dask, here and on the workers,")
    try:
        return distributed.Client(address, timeout=_SECONDS_TO_WAIT)
    except (OSError, ValueError) as error:
        raise NoWorkplaceError(f"There is no Dask scheduler at {address!r}: {error}.") from error

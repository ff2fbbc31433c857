"""How much memory a file of cells would take, by what it says of itself, before any of it is read."""

from pathlib import Path
from typing import Any

import h5py
import zarr

from selfcell.core.errors import InputError
from selfcell.core.memory import available_memory


def refuse_too_large(path: Path) -> None:
    """Refuse a file whose arrays do not fit in memory, as one that is compressed, or damaged, may declare.

    What cannot be opened is left to the reader, which says so.

    Parameters
    ----------
    path
        An HDF5 file or a Zarr folder.

    Raises
    ------
    InputError
        With both sizes.
    """
    free = available_memory()
    try:
        needed = _bytes_in_zarr(path) if path.is_dir() else _bytes_in_hdf5(path)
    except Exception:  # noqa: BLE001 - the reader comes upon the same, and says what it is
        return
    if free is not None and needed > free:
        raise InputError(
            f"{path} holds arrays of {needed / 1e9:,.0f} GB, and {free / 1e9:,.0f} GB of memory are free. Take some of "
            f"its cells, or make an atlas, which is streamed: selfcell atlas build {path} --out DIR"
        )


def _bytes_in_hdf5(path: Path) -> int:
    sizes: list[int] = []

    def add(_: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.shape is not None:
            sizes.append(int(node.size) * node.dtype.itemsize)

    with h5py.File(path, "r") as file:
        file.visititems(add)
    return sum(sizes)


def _bytes_in_zarr(path: Path) -> int:
    members: Any = zarr.open_group(path, mode="r").members(max_depth=None)
    return sum(int(node.nbytes) for _, node in members if isinstance(node, zarr.Array))

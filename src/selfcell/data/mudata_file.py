"""One modality of an .h5mu file, and the file once more with what was added to it."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import h5py
from anndata.io import read_elem, write_elem

from selfcell.core.errors import InputError, speaking_of
from selfcell.data.declared_size import refuse_too_large
from selfcell.data.mudata_input import refuse_missing_modality, what_damaged

_ADDED_TO = ("obs", "obsm", "uns")
"""The parts of an AnnData that are written anew."""


@dataclass(frozen=True)
class MuDataFile:
    """A file of several modalities, of which one is read.

    All else is copied as it stands, to the last byte: what reads and writes a whole MuData changes types of columns,
    and takes columns of modalities into the common table. No package but anndata is needed.
    """

    path: Path
    modality: str
    """The one with the genes."""
    modalities: tuple[str, ...]
    columns: tuple[str, ...]
    """Of the ``obs`` that all modalities share."""
    adata: anndata.AnnData
    """The modality."""

    @classmethod
    def read(cls, path: Path, modality: str) -> "MuDataFile":
        """Read a modality, with all cells that it has.

        Raises
        ------
        InputError
            If the file cannot be read, or has no such modality.
        """
        refuse_too_large(path)
        try:
            with h5py.File(path) as file:
                modalities = tuple(file["mod"])
                with speaking_of(path.name):
                    refuse_missing_modality(modality, modalities)
                columns = tuple(map(str, file["obs"].attrs["column-order"]))
                adata = read_elem(file["mod"][modality])
        except InputError:
            raise
        except Exception as error:
            raise InputError(what_damaged(path, error)) from error
        if not isinstance(adata, anndata.AnnData):
            raise InputError(what_damaged(path, f"modality {modality!r} is no AnnData"))
        return cls(path, modality, modalities, columns, adata)

    def write(self, out: Path) -> None:
        """Write the file with what was added to ``obs``, ``obsm`` and ``uns`` of the modality."""
        shutil.copyfile(self.path, out)
        with h5py.File(out, "r+") as file:
            for name in _ADDED_TO:
                part: Any = getattr(self.adata, name)
                write_elem(file["mod"][self.modality], name, part if name == "obs" else dict(part))

"""Files that commands write: what they may be called, and cells in the format that they came in."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from selfcell.core.errors import InputError

CELLS_KINDS = (".h5ad", ".h5mu")
"""Formats in which cells that were added to are written."""


def refuse_existing(path: Path, *, overwrite: bool, kinds: tuple[str, ...] = (".h5ad",)) -> None:
    """Refuse to write over a file, before hours are spent.

    Parameters
    ----------
    path
        The file to be.
    overwrite
        Whether it may be replaced.
    kinds
        Suffixes that it may have.

    Raises
    ------
    InputError
        If the file is there, or is named otherwise.
    """
    if path.suffix not in kinds:
        raise InputError(f"--out must name {_listed(kinds)} file, but is {str(path)!r}.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already. Name another file, or replace it (--overwrite).")
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{path} cannot be written: {existing} is a file, not a folder.")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror} in {existing}.") from error


@dataclass(frozen=True)
class CellsToWrite:
    """Cells that a command adds to, and what it then writes: these alone, or all modalities of the file they are of."""

    adata: Any
    file: Any = None
    """The :class:`selfcell.data.mudata_file.MuDataFile` of which ``adata`` is a modality."""

    @classmethod
    def read(cls, cells: str | Path, *, out: Path) -> "CellsToWrite":
        """Read cells as ``out`` is to have them: of an .h5mu file, all modalities where that is an .h5mu file too.

        Raises
        ------
        InputError
            If the cells cannot be read, or have no other modalities to be written with.
        """
        from selfcell.data.mudata_file import MuDataFile
        from selfcell.data.mudata_input import RNA, modality_of
        from selfcell.data.source import read_adata

        if out.suffix != ".h5mu":
            return cls(read_adata(cells))
        path, modality = modality_of(Path(cells)) or (Path(cells), RNA)
        if path.suffix != ".h5mu":
            raise InputError(
                f"--out {out} would be a MuData, which keeps all modalities of an .h5mu file, but {cells} is none. "
                f"Name {out.with_suffix('.h5ad').name}."
            )
        if not path.exists():
            read_adata(cells)  # says what is there instead
        file = MuDataFile.read(path, modality)
        return cls(file.adata, file)

    def refuse_taken(self, column: str) -> None:
        """Refuse a column of obs that the MuData has itself: it would have two values for one cell.

        Raises
        ------
        InputError
            If one of the columns that would be written is there.
        """
        taken = [] if self.file is None else [name for name in self.file.columns if name.startswith(column)]
        if taken:
            raise InputError(f"obs[{taken[0]!r}] of the MuData is there already: choose another --key-added.")

    def write(self, out: Path) -> None:
        """Write the file atomically and say so."""
        if self.file is None:
            write_adata(self.adata, out)
            return
        from selfcell.core.atomic import atomic_path
        from selfcell.core.write_errors import writing_cells

        with writing_cells(out), atomic_path(out) as temporary:
            self.file.write(temporary)
        modalities, name = ", ".join(self.file.modalities), self.file.modality
        typer.echo(f"Wrote {out} ({modalities}; {self.adata.n_obs:,} cells). What is new is in modality {name!r}.")


def write_adata(adata: Any, path: Path) -> None:
    """Write an .h5ad file atomically and say so."""
    from selfcell.core.atomic import atomic_path
    from selfcell.core.write_errors import writing_cells

    with writing_cells(path), atomic_path(path) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
    typer.echo(f"Wrote {path} ({adata.n_obs:,} cells).")


def _listed(kinds: tuple[str, ...]) -> str:
    return " or ".join(f"{'an' if kind.startswith('.h5') else 'a'} {kind}" for kind in kinds)

"""The tables of a benchmark on disk, and by which file each is known to belong to the others."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from selfcell.core.atomic import atomic_path
from selfcell.core.digest import sha256_of
from selfcell.core.errors import InputError


def write_tables(tables: Mapping[str, pd.DataFrame], out: Path, *, csv: bool) -> dict[str, str]:
    """Write tables as Parquet, each atomically, and as CSV if asked to; a CSV that is there is never left behind.

    Returns
    -------
    The SHA-256 of each Parquet file by the table's name, for ``benchmark.json``.
    """
    for name, table in tables.items():
        with atomic_path(out / f"{name}.parquet") as temporary:
            table.to_parquet(temporary, index=False)
        if csv or (out / f"{name}.csv").exists():
            with atomic_path(out / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False, float_format="%.6g")
    return {name: sha256_of(out / f"{name}.parquet") for name in tables}


def refuse_mixed(folder: Path, written: Mapping[str, str], names: Iterable[str]) -> None:
    """Refuse tables of two runs: they are replaced one by one, and a run may be killed in between.

    Parameters
    ----------
    folder
        The results of a benchmark.
    written
        What :func:`write_tables` gave; tables of which it says nothing, as those of older versions, are taken as they
        are.
    names
        The tables to look at.

    Raises
    ------
    InputError
        If a table is not the one that was written with the others.
    """
    for name in names:
        if name in written and sha256_of(folder / f"{name}.parquet") != written[name]:
            raise InputError(
                f"{folder} has tables of two runs: {name}.parquet is not the one that benchmark.json was written with, "
                "as where a run was stopped while it wrote them. Run the benchmark again: trials that are done are "
                "kept."
            )

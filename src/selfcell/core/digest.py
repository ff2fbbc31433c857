"""Hashes of arrays and tables, to tell whether two are the same."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp


def digest_of(values: Any) -> str:
    """Hash an array, a sparse matrix, or a column or table, by its values and not by how it is held.

    Returns
    -------
    A SHA-256 as hex digits. Numbers are hashed as 64-bit floats or integers, anything else as text.
    """
    digest = hashlib.sha256()
    for part in _parts(values):
        digest.update(f"{part.shape} {part.dtype.str}\n".encode())
        digest.update(part.tobytes())
    return digest.hexdigest()


def sha256_of(content: Path | bytes) -> str:
    """Give the SHA-256 of a file's bytes, or of what is to be one, as hex digits."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parts(values: Any) -> list[np.ndarray]:
    if sp.issparse(values):
        rows = sp.csr_matrix(values)
        rows.sum_duplicates()
        return [np.array(rows.shape), *map(_plain, (rows.indptr, rows.indices, rows.data))]
    if isinstance(values, pd.DataFrame):
        return [_plain(values.columns.to_numpy()), _plain(values.to_numpy())]
    return [_plain(np.asarray(values))]


def _plain(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "biu":
        return np.ascontiguousarray(values, dtype=np.int64)
    if values.dtype.kind == "f":
        return np.ascontiguousarray(values, dtype=np.float64)
    return np.frombuffer("\0".join(map(str, values.ravel())).encode(), dtype=np.uint8)

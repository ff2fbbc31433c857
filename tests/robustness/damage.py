"""Damage to files: bytes, JSON, tables and HDF5, drawn at random; and what a reader may do with a damaged file."""

import contextlib
import csv
import io
import json
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import h5py
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from selfcell.core.errors import InputError

_TIMES = int(os.environ.get("SELFCELL_FUZZ", "1"))
"""How many times as many examples as usual."""
_MOST_SECONDS = 20
_OTHER_JSON = [None, True, 0, -1, 1e308, "x", "", [], {}, [1], {"a": 1}, [[]], {"": None}, "nan", 2**70]
_OTHER_CELLS = ["", "nan", "inf", "-1", "1e400", "x", 'ä"', "1,2", "True", "9" * 30, "\r", "'"]
_OTHER_NUMBERS = [np.nan, np.inf, -1, 2**40, -(2**62), 1e308, 0.5, 2**31, 2**32, 7]


# Seeds, since of the draws that hypothesis would make of a Random itself, the first is always the simplest: no damage
# but that a file is missing.
randoms = st.integers(0, 2**64 - 1).map(Random)


def examples(number: int) -> hypothesis.settings:
    """Settings of a test that draws damage: so many examples, or ``$SELFCELL_FUZZ`` times as many."""
    checks = [hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow]
    return hypothesis.settings(max_examples=number * _TIMES, deadline=None, suppress_health_check=checks)


@contextlib.contextmanager
def works_or_says(*names: str) -> Iterator[None]:
    """Let what is done in the block work, or end in an error of ours that has one of the names; and not hang."""

    def late(*_: object) -> None:
        pytest.fail(f"took more than {_MOST_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(_MOST_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        if names and not any(name in str(error) for name in names):
            pytest.fail(f"names none of {names}: {error}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def of_bytes(content: bytes, random: Random) -> bytes:
    """Cut, empty, overwrite, or change some bytes."""
    start, stop = sorted(random.randrange(len(content) + 1) for _ in range(2))
    flipped = bytearray(content)
    for _ in range(random.choice([1, 2, 8, 64])):
        flipped[random.randrange(len(content))] = random.randrange(256)
    return random.choice(
        [
            content[:start],
            b"",
            random.randbytes(random.randrange(1, 400)),
            bytes(flipped),
            content[:start] + random.randbytes(9) + content[start:],
            content[:start] + content[stop:],
            json.dumps(random.choice(_OTHER_JSON)).encode(),
            bytes(random.randrange(1, 300)),
            content + content,
        ]
    )


def of_json(content: Any, random: Random) -> Any:
    """Take an entry out, or put something of another kind in its place."""
    content = json.loads(json.dumps(content))
    places = list(_places(content))
    for *path, last in random.choices(places, k=random.choice([1, 1, 2])):
        node = content
        with contextlib.suppress(LookupError, TypeError):
            for key in path:
                node = node[key]
            if random.random() < 0.35:
                del node[last]
            else:
                node[last] = random.choice(_OTHER_JSON)
    return content


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node[:4]) if isinstance(node, list) else ()
    for key, below in items:
        yield (*path, key)
        yield from _places(below, (*path, key))


def of_table(text: str, random: Random) -> str:
    """Change a cell, a row, a column or the header of a CSV file."""
    rows = list(csv.reader(io.StringIO(text)))
    row, column = random.choice(rows), random.randrange(len(rows[0]))
    kind = random.randrange(6)
    if kind == 0:
        row[random.randrange(len(row))] = random.choice(_OTHER_CELLS)
    elif kind == 1:
        del row[random.randrange(len(row))]
    elif kind == 2:
        row.append(random.choice(_OTHER_CELLS))
    elif kind == 3:
        rows.remove(row)
    elif kind == 4:
        for other in rows:
            other[column:] = [random.choice(_OTHER_CELLS), *other[column + 1 :]]
    else:
        rows[0] = [random.choice(_OTHER_CELLS) for _ in rows[0]]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(rows)
    return written.getvalue()


def of_file(file: Path, random: Random) -> None:
    """Damage a file, by its kind or byte by byte, or remove it."""
    content = file.read_bytes()
    by_kind: dict[str, Callable[[], bytes]] = {
        ".json": lambda: json.dumps(of_json(json.loads(content), random)).encode(),
        ".csv": lambda: of_table(content.decode(), random).encode(),
    }
    draw = random.random()
    if draw < 0.06:
        file.unlink()
    elif draw < 0.6 and file.suffix in by_kind:
        file.write_bytes(by_kind[file.suffix]())
    else:
        file.write_bytes(of_bytes(content, random))


def of_hdf5(path: Path, random: Random) -> None:
    """Take a part of an HDF5 file out, or make it another: of other length, kind, numbers, names, attributes."""
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name = random.choice(names)
        node = file[name]
        change = random.choice([_remove, _replace, _other_attribute, *[_change_array] * 4])
        # HDF5 does not hold everything that is drawn.
        with contextlib.suppress(OSError, TypeError, ValueError, OverflowError):
            change(file, name, node, random)


def _remove(file: h5py.File, name: str, node: Any, random: Random) -> None:
    del file[name]


def _replace(file: h5py.File, name: str, node: Any, random: Random) -> None:
    del file[name]
    other = random.choice([None, 1, "text", np.zeros((2, 2, 2)), np.zeros(0), h5py.Empty("f")])
    if other is None:
        file.create_group(name)
    else:
        file[name] = other


def _other_attribute(file: h5py.File, name: str, node: Any, random: Random) -> None:
    key = random.choice([*node.attrs, "shape"])
    node.attrs[key] = random.choice(["x", 3, [1, 2, 3], [-1, 5], [2**60, 2**60], "csc_matrix", "array", "null", "99.0"])


def _change_array(file: h5py.File, name: str, node: Any, random: Random) -> None:
    if not isinstance(node, h5py.Dataset) or not node.shape:
        return
    content, attributes, kind = node[()], dict(node.attrs), random.randrange(6)
    if kind == 0 and content.dtype.kind in "iuf":
        content = content.astype(random.choice([np.float64, np.int64]))
        content.reshape(-1)[random.randrange(content.size)] = random.choice(_OTHER_NUMBERS)
    elif kind == 1 and content.dtype.kind == "O":
        content[random.randrange(content.size)] = random.choice([b"", b"\xff\xfe", "ä".encode(), b"a\nb", content[0]])
    elif kind == 2:
        del file[name]
        dtype = "f4" if content.dtype.kind == "O" else content.dtype
        file.create_dataset(name, shape=(random.choice([10**6, 10**11]),), dtype=dtype, chunks=(1000,))
        file[name].attrs.update(attributes)
        return
    else:
        content = random.choice([content[:-1], content[:0], content[::-1], np.concatenate([content, content])])
    del file[name]
    file[name] = content
    file[name].attrs.update(attributes)

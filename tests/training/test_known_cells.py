import numpy as np
import pytest

from selfcell.core.errors import InputError
from selfcell.data.cell_hashes import CellHashes
from selfcell.data.source import open_cells
from selfcell.data.splits import Split
from selfcell.training.known_cells import FILE, read_known_cells, write_known_cells


def test_what_a_run_was_given_is_read_back(adata, tmp_path):
    cells = open_cells(adata)
    split = Split(np.arange(100), np.arange(100, 120), np.arange(120, 150), unit="cell")
    write_known_cells(tmp_path / "first", cells, split)
    known = read_known_cells(tmp_path / "first")
    hashes = CellHashes.of(cells)
    assert hashes.found_in(known.learned_from).nonzero()[0].tolist() == list(range(120))
    assert hashes.found_in(known.set_aside).nonzero()[0].tolist() == list(range(120, 150))
    later = Split(np.arange(200, 300), np.arange(0), np.arange(0), unit="cell")
    write_known_cells(tmp_path / "second", cells, later, before=known)
    again = read_known_cells(tmp_path / "second")
    assert hashes.found_in(again.learned_from).nonzero()[0].tolist() == list(range(200, 300))
    assert hashes.found_in(again.set_aside).nonzero()[0].tolist() == list(range(120, 150))


def test_without_a_list_nothing_is_known_and_a_damaged_one_is_refused(tmp_path):
    assert read_known_cells(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"PK no archive")
    with pytest.raises(InputError, match=r"cells.safetensors is damaged .* Delete it"):
        read_known_cells(tmp_path)

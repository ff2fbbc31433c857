from pathlib import Path

import pytest

from selfcell.core.atomic import atomic_folder, atomic_path, write_json
from selfcell.core.write_errors import CannotWriteError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail_halfway():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_whole_with_its_folder(tmp_path):
    write_json(tmp_path / "new" / "a.json", {"a": 1})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as temporary:
        (temporary / "a").touch()
    with atomic_folder(folder) as temporary:
        (temporary / "b").touch()
    assert [file.name for file in folder.iterdir()] == ["b"]

    def fail_halfway():
        with atomic_folder(folder) as temporary:
            (temporary / "c").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert [file.name for file in folder.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [folder]


def test_the_folder_above_is_replaced_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "run" / "within").mkdir(parents=True)
    with atomic_folder(tmp_path / "run" / "within" / "..") as temporary:
        assert temporary.parent == tmp_path
        (temporary / "new").touch()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["new"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotWriteError, match="cannot be written"), atomic_path(Path()) as temporary:
        temporary.touch()

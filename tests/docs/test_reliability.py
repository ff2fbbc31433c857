"""Each row of the page on reliability names tests that are there."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
ROWS = [row for row in PAGE.splitlines() if row.startswith("| ") and not row.startswith(("| tried", "| command"))]


def test_every_row_names_files_of_tests_and_tests_that_are_there():
    assert len(ROWS) > 30
    sources = {path: path.read_text() for path in TESTS.rglob("test_*.py")}
    for row in ROWS:
        shown_by = row.split(" | ")[-1]
        files = re.findall(r"`(?:tests/)?([\w/]*test_\w+\.py)`", shown_by)
        assert files, row
        named = [[text for path, text in sources.items() if path.as_posix().endswith(f"/{name}")] for name in files]
        assert all(named), row
        found = "".join(text for texts in named for text in texts)
        for name in re.findall(r"`(?:\.\.\.)?(\w+)(?:\.\.\.)?`", shown_by):
            assert name in found, (row, name)

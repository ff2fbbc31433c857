"""Print the lowest versions that pyproject.toml allows, as constraints for pip."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = {"torch"}
"""Stays as set-up has it: each version of it is a download of its own kind."""


def main() -> None:
    """Print a line for each dependency, of extras too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    lines = []
    for requirement in [*project["dependencies"], *(line for extra in extras for line in extra)]:
        name, lowest = re.fullmatch(r"([\w.-]+)>=([\d.]+)", requirement).groups()
        if name not in PINNED:
            lines.append(f"{name}=={lowest}")
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lines += [line for line in pinned if line.split("==")[0] in PINNED]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

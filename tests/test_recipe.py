"""The recipe for conda says what pyproject.toml says, and the source archive has what a clone has."""

import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RECIPE = yaml.safe_load((ROOT / "recipe/recipe.yaml").read_text(encoding="utf-8"))
CONDA_NAMES = {
    "huggingface-hub": "huggingface_hub",
    "matplotlib": "matplotlib-base",
    "tiledbsoma": "tiledbsoma-py",
    "torch": "pytorch",
}
"""Names on conda-forge that are other ones than on the package index."""
NOT_SHIPPED = {".gitignore", ".pre-commit-config.yaml", "pyproject.toml"}
"""Of git alone; the last goes into every source archive unasked."""


def _for_conda(requirements: list[str]) -> list[str]:
    pairs = [re.fullmatch(r"([\w.-]+)(>=[\d.]+)", line).groups() for line in requirements]
    return [f"{CONDA_NAMES.get(name, name)} {bound}" for name, bound in pairs]


def test_the_recipe_requires_what_the_package_requires():
    project = PROJECT["project"]
    python, *others = RECIPE["requirements"]["run"]
    assert others == _for_conda(project["dependencies"])
    assert python == "python >=${{ python_min }}"
    assert project["requires-python"] == f">={RECIPE['context']['python_min']}"
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    assert RECIPE["requirements"]["run_constraints"] == _for_conda(extras)
    assert PROJECT["build-system"]["requires"] == ["hatchling"] and "hatchling" in RECIPE["requirements"]["host"]


def test_the_recipe_is_of_this_version_licence_and_program():
    project, about = PROJECT["project"], RECIPE["about"]
    assert RECIPE["context"]["version"] == project["version"] == importlib.metadata.version("selfcell")
    assert (about["license"], about["license_file"]) == (project["license"], project["license-files"])
    assert about["summary"] == project["description"]
    assert about["homepage"] in project["urls"].values()
    scripts = [f"{name} = {target}" for name, target in project["scripts"].items()]
    assert RECIPE["build"]["python"]["entry_points"] == scripts
    assert all((ROOT / name).is_file() for name in project["license-files"])


def test_the_source_archive_has_what_a_clone_has():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no clone: this is the archive")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {line.split("/")[0] for line in listed.splitlines()} - NOT_SHIPPED
    shipped = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert {name.removeprefix("/") for name in shipped} == tracked

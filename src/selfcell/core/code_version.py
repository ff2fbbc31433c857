"""What code a result was made by: a hash over a module and all of the package that it imports."""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = "selfcell"
_ROOT = Path(__file__).parents[1]


def code_version(modules: Iterable[str]) -> str:
    """Hash the code of some modules of the package and of all that these import, near or far.

    Comments, docstrings and layout do not count, so that a result outlives a better explanation. What is chosen by name
    from a registry is not followed: name its module too. Other packages do not count, but for a module that is named.

    Parameters
    ----------
    modules
        Names such as ``selfcell.downstream.cell_type``.

    Returns
    -------
    The first 12 hex digits of a SHA-256.
    """
    reached: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _imported_by(name)
    digest = hashlib.sha256()
    for name in sorted(reached):
        digest.update(f"{name} {_digest(name)}\n".encode())
    return digest.hexdigest()[:12]


@functools.cache
def _digest(module: str) -> str:
    return hashlib.sha256(ast.dump(_without_docstrings(_parsed(module))).encode()).hexdigest()


@functools.cache
def _imported_by(module: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_imports(_parsed(module))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _file_of(alias.name) is not None)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and _file_of(node.module) is not None:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _file_of(inner) is not None else node.module


def _file_of(module: str) -> Path | None:
    """Give the file of a module of the package; None for any other."""
    package, *rest = module.split(".")
    if package != PACKAGE:
        return None
    path = _ROOT.joinpath(*rest)
    candidates = (path / "__init__.py", path.with_suffix(".py")) if rest else (path / "__init__.py",)
    return next((file for file in candidates if file.exists()), None)


def _parsed(module: str) -> ast.Module:
    file = _file_of(module)
    if file is None:
        spec = importlib.util.find_spec(module) if module.partition(".")[0] != PACKAGE else None
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"there is no module {module} whose code could be read")
        file = Path(spec.origin)
    return ast.parse(importlib.util.decode_source(file.read_bytes()))


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Take out every statement that is a string alone: docstrings, and those below attributes."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_string(line)]  # type: ignore[attr-defined]
    return tree


def _is_string(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)

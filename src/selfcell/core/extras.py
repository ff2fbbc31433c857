"""Packages that only an extra brings: imported where they are used, and named where they are absent."""

import importlib
from types import ModuleType

from selfcell.core.errors import InputError


def import_extra(module: str, *, extra: str, use: str) -> ModuleType:
    """Import a module of a package, or say how to get that.

    Parameters
    ----------
    module
        The package, or what lies in it, as Python imports it.
    extra
        Which brings it: in a clone, ``pip install '.[EXTRA]'``.
    use
        What is wanted of it, the subject of "... needs PACKAGE".

    Raises
    ------
    InputError
        If it is not installed, or is but cannot be imported.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        is_absent = isinstance(error, ModuleNotFoundError) and str(error.name).partition(".")[0] == package
        fault = "" if is_absent else f", which cannot be imported ({error})"
        raise InputError(f"{use} needs {package}{fault}: in a clone of selfcell, pip install '.[{extra}]'.") from None

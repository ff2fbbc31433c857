"""Markdown from a template, in which nothing that comes from data can be more than text."""

import re
from importlib.resources import files

import jinja2
from markupsafe import Markup

_SPECIAL = re.compile(r"[\\`*_{}\[\]|~]|^[#+\->]")


def as_text(value: object) -> str:
    """Write a value so that Markdown and HTML show it as it is, on one line."""
    if isinstance(value, Markup):
        return str(value)
    line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\g<0>", line)


def fill_in(template: str, **content: object) -> str:
    """Fill in a template of this folder; what it shows goes through :func:`as_text`, but for ``Markup``."""
    environment = jinja2.Environment(
        finalize=as_text,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = files("selfcell.publishing").joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(text).render(**content)

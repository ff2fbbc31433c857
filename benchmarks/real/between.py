"""Parts of pages that scripts write, between marks."""

import re
import textwrap
from pathlib import Path

_KEPT = "\0"
"""Stands for a space at which no line ends."""


def write_between(page: Path, parts: list[str], *, begin: str, end: str) -> None:
    """Put lines in the place of what stands between two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text("\n".join([before.rstrip(), "", begin, "", *parts, end]) + after, encoding="utf-8")


def points(text: str) -> list[str]:
    """Give the points of a list, each in lines of even length."""
    return [_wrapped(" ".join(point.split()).removeprefix("- ")) for point in text.split("\n- ")]


def _wrapped(point: str) -> str:
    # A number stays beside its interval.
    kept = re.sub(r" \[[-+.\d][^\]]*\]", lambda found: found[0].replace(" ", _KEPT), point)
    indents = {"initial_indent": "- ", "subsequent_indent": "  "}
    wrapped = textwrap.fill(kept, 150, break_long_words=False, break_on_hyphens=False, **indents)
    return wrapped.replace(_KEPT, " ")

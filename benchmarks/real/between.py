"""Parts of pages that scripts write, between marks."""

from pathlib import Path


def write_between(page: Path, parts: list[str], *, begin: str, end: str) -> None:
    """Put lines in the place of what stands between two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text("\n".join([before.rstrip(), "", begin, "", *parts, end]) + after, encoding="utf-8")

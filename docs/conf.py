"""Sphinx settings: strict, and working with no network unless on Read the Docs."""

import importlib.metadata
import os

project = "selfcell"
author = "The selfcell developers"
copyright = f"2026, {author}"
release = version = importlib.metadata.version("selfcell")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinxcontrib.bibtex",
]
html_theme = "furo"
html_title = "selfcell"
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
myst_heading_anchors = 3

autosummary_generate = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False

nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!selfcell\.).*"),
    (r"py:.*", r"selfcell\..*\.((Any)?Settings|\w+T|Annotated|Vote|PerClass|Estimate|Made)"),
]
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable", None),
        "python": ("https://docs.python.org/3", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

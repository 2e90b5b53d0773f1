"""Sphinx's settings of the site, which `make site` builds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_site"), str(HERE.parent)]

import reference_pages  # noqa: E402  which is in _site
import torchclip  # noqa: E402

project = "torchclip"
copyright = "the torchclip developers, Apache-2.0"
version = release = torchclip.__version__
extensions = ["mathml", "myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_site"]
html_theme = "furo"
html_title = f"torchclip {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "monokai"  # furo's own underlines the names of modules, as if they were links
html_math_renderer = "mathml"
html_show_sphinx = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
maximum_signature_line_length = 60
add_module_names = False
napoleon_use_rtype = False
nitpicky = True
# Of the types in signatures and the names of other packages only ours have a page here.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!torchclip\.)[\w.]+"),
    (r"py:.*", r"torchclip\.(backends|distributed|policies|rules|state|step)\..*"),
]


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: reference_pages.write(HERE / "reference"))

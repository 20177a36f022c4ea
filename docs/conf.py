"""The documentation site: `make docs` builds it into build/docs, offline, and fails on any warning."""

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "Triune"
author = "the Triune authors"
project_copyright = author
version = release = installed("triune")

extensions = ["myst_parser", "reference"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # so that `page.md#a-heading` links are checked

html_theme = "furo"
html_title = "Triune"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": []}
pygments_style = "friendly"

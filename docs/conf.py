"""Settings of the documentation site: ``make docs`` builds it into ``docs/_build/html``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of tutorials: their layers are too small for more

from sitetools import links, methods, pictures  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import tern_lightning  # noqa: E402

project = "tern-lightning"
author = project_copyright = "the tern-lightning authors"
release = version = tern_lightning.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_design",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "sitetools.mathml",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "sitetools"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
highlight_language = "none"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = r"(ws|pi|jetson)?\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "../examples/tutorials",
    "gallery_dirs": "tutorials",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py$",
    "within_subsection_order": "sitetools.tutorials.Order",
    "reset_modules": ("matplotlib", "sitetools.tutorials.quiet"),
    "default_thumb_file": str(pictures.PAGES / "thumbnail.png"),
    "show_memory": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "show_signature": False,
    "remove_config_comments": True,
}
# The gallery keeps functions in its settings, which cannot be stored.
suppress_warnings = ["config.cache"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_use_ivar = True
# Public names have to lead somewhere. Types of other packages and inner parts of ours have no page to link to.
_PUBLIC = r"(tern_lightning(\.functional|\.metrics|\.quantizers)?|tvm_schedules(\.errors)?)\.\w+$"
nitpick_ignore_regex = [(r"py:.*", rf"(?!{_PUBLIC}).*")]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "tern-lightning"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}

# Files on the code host exist there when this version does; tests/test_documents.py looks for them in the checkout.
linkcheck_ignore = [rf"{links.HOST}.*"]


def _site_links(app: Sphinx, name: str, content: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md" and "generated" not in path.parts:
        content[0] = links.site_links(content[0], path, path)


def _generate(app: Sphinx) -> None:
    links.copy_documents()
    methods.write_pages()
    pictures.write_pictures()


def setup(app: Sphinx) -> None:
    """Make pages out of the code before Sphinx looks for them, and links for the site."""
    app.connect("builder-inited", _generate, priority=100)
    app.connect("source-read", _site_links)

"""The site: `sphinx-build -W docs site`, after `pip install '.[docs]'`."""

import re

import crossent

project = "crossent"
author = "The crossent developers"
release = version = crossent.__version__
copyright = author

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["pictures"]
html_theme = "alabaster"
html_theme_options = {"page_width": "70rem", "body_max_width": "none", "code_font_size": "0.8em"}
html_show_sphinx = False
html_show_copyright = False

smartquotes = False
default_role = "literal"  # single backticks are code, here as in the source
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
toc_object_entries_show_parents = "hide"


def _as_markup(app, what, name, obj, options, lines):
    """Keep the lines of formulas apart, and classes_ and |z| from being read as markup.

    What is between backticks is safe. Formulas are what is indented before the first section.
    """
    sections = next((i for i, line in enumerate(lines) if line.startswith("---")), len(lines))
    for i, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        heads = re.match(r"(\w+, )*\w+_( : |$)|", line).end()  # the names of attributes
        parts = re.split(r"(`[^`]*`)", line[heads:])
        parts[::2] = [re.sub(r"(?<=\w)_(?!\w)|\|", r"\\\g<0>", part) for part in parts[::2]]
        bar = "    | " if i < sections and line.startswith("    ") else ""
        lines[i] = bar + line[:heads] + "".join(parts)


def setup(app):
    """Connect the hook."""
    app.connect("autodoc-process-docstring", _as_markup, priority=400)  # before napoleon

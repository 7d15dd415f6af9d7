"""Assemble the page: the template with its style, its scripts and the trained layer inside it."""

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import crossent


def assemble(layer: Mapping[str, Any]) -> str:
    """Return the page as one HTML text that loads nothing.

    Parameters
    ----------
    layer
        What `crossent.lab.layer.trained_layer` returns: the history of a trained layer.

    Examples
    --------
    >>> from crossent.lab.layer import trained_layer
    >>> assemble(trained_layer()).count("<section")
    6
    """
    page = _read("lab.html")
    page = re.sub(r'<link rel="stylesheet" href="(.+?)">', _style, page)
    page = re.sub(r'<script src="(.+?)"></script>', _script, page)
    page = page.replace('id="layer-data">', f'id="layer-data">{_json(layer)}')
    words = {"version": crossent.__version__, **layer}
    return re.sub(r"<!-- (\w+) -->", lambda match: str(words[match[1]]), page)


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _style(match: re.Match[str]) -> str:
    return f"<style>\n{_read(match[1])}</style>"


def _script(match: re.Match[str]) -> str:
    return f"<script>\n{_read(match[1])}</script>"


def _json(layer: Mapping[str, Any]) -> str:
    # "<" would let a text inside the data end the script element.
    return json.dumps(layer, separators=(",", ":")).replace("<", "\\u003c")

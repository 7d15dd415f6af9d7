"""Take the pictures of docs/lab.md: `python docs/pictures/lab.py`, with Debian's chromium."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from crossent.lab.layer import trained_layer
from crossent.lab.page import assemble

PICTURES: list[dict[str, Any]] = [
    {"name": "lab-price", "figure": "#price figure", "scheme": "light"},
    {"name": "lab-slowdown", "figure": "#slowdown figure", "scheme": "light"},
    {"name": "lab-neuron", "figure": "#neuron figure", "scheme": "light"},
    {"name": "lab-softmax", "figure": "#softmax figure >> nth=1", "scheme": "dark"},
    {"name": "lab-tails", "figure": "#tails figure", "scheme": "dark"},
    {"name": "lab-layer", "figure": "#layer figure >> nth=0", "scheme": "light"},
]


def take(browser: Browser, address: str, name: str, figure: str, scheme: Any) -> None:
    """Save one figure as the page first shows it, but with the two-term error chosen."""
    page = browser.new_page(viewport={"width": 1090, "height": 900}, color_scheme=scheme)
    page.goto(f"{address}#kind=two")
    page.locator(figure).evaluate("figure => { figure.style.padding = '1rem' }")
    page.evaluate("dispatchEvent(new Event('resize'))")  # drawn again at the width that is left
    page.locator(figure).screenshot(path=Path(__file__).with_name(f"{name}.png"))


with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
    lab = Path(folder) / "lab.html"
    lab.write_text(assemble(trained_layer()), encoding="utf-8")
    chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"))
    for picture in PICTURES:
        take(chromium, lab.as_uri(), **picture)
    chromium.close()

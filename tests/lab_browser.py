"""A real browser for the tests of the lab page: Debian's chromium, cut off from any network."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

MISSING = (
    "The lab page is tested in a real browser, and there is no `chromium` on the PATH: "
    "apt-get install chromium."
)


@contextmanager
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        # In continuous integration a test that did not run must not look like one that passed.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


@contextmanager
def watched_page(browser: Browser, **context: Any) -> Iterator[Page]:
    """Yield a page on which a request that leaves this machine, or any error, fails the test."""
    problems: list[str] = []

    def only_files(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            problems.append(f"request for {route.request.url}")
            route.abort()

    with browser.new_context(**context) as window:
        window.route("**/*", only_files)
        page = window.new_page()
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: problems.append(f"console {message.type}: {message.text}"),
        )
        yield page
    assert not problems, "; ".join(problems)

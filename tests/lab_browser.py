"""A real browser for the tests of the lab page: Debian's chromium, cut off from any network."""

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
        pytest.fail(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path)
        yield browser
        browser.close()


def watch(page: Page) -> list[str]:
    """Return a list that fills with every request that leaves this machine, and every error."""
    problems: list[str] = []

    def only_files(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:")):
            route.continue_()
        else:
            problems.append(f"request for {route.request.url}")
            route.abort()

    page.route("**/*", only_files)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("console", lambda said: problems.append(f"console {said.type}: {said.text}"))
    return problems


@contextmanager
def watched_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """Yield a page of its own; what `watch` finds on it fails the test."""
    page = browser.new_page(**options)
    problems = watch(page)
    yield page
    page.close()
    assert not problems, "; ".join(problems)

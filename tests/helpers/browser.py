"""A headless Chromium that notes what a page asks for and complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


@contextmanager
def open_page(url: str, *, width: int, dark: bool = False) -> Iterator[tuple[Page, list[str]]]:
    """The page, and a list of every request but for the page itself and of everything on the console.

    Args:
        dark: whether the reader has set the system to dark.
    """
    if not CHROMIUM:
        pytest.skip("there is no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        scheme: Any = "dark" if dark else "light"
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("request", lambda request: problems.append(f"request: {request.url[:200]}"))
        page.set_default_timeout(180_000)  # milliseconds
        page.goto(url)
        problems.remove(f"request: {url.partition('#')[0][:200]}")
        yield page, problems
        browser.close()

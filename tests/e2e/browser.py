"""A person at a browser: headless Chromium on the real pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from .deployment import ARTIFACTS, PASSWORD, Deployment

CHROMIUM = next(
    (
        path
        for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
        if Path(path).exists()
    ),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SPAWN_MS, CELL_MS = 300_000, 300_000


@contextmanager
def open_page(deployment: Deployment) -> Iterator[Person]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=SPAWN_MS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(SPAWN_MS)
        expect.set_options(timeout=CELL_MS)
        try:
            yield Person(page, deployment)
        except Exception:
            page.screenshot(path=ARTIFACTS / "screenshots" / "failure.png")
            raise
        finally:
            browser.close()


class Person:
    def __init__(self, page: Page, deployment: Deployment) -> None:
        self.page, self.deployment = page, deployment

    def screenshot(self, name: str) -> None:
        self.page.screenshot(path=ARTIFACTS / "screenshots" / f"{name}.png")

    def log_in(self, name: str, password: str = PASSWORD) -> None:
        self.page.goto(f"{self.deployment.url}hub/login")
        self.page.fill("#username_input", name)
        self.page.fill("#password_input", password)
        self.page.click("#login_submit")

    def start_server(self) -> None:
        """From any hub page to JupyterLab."""
        self.page.goto(f"{self.deployment.url}hub/spawn")
        if self.page.locator("#progress-bar").count():
            self.page.wait_for_timeout(500)
            self.screenshot("starting")
        self.page.wait_for_url(re.compile(r"/user/[^/]+/lab"), timeout=SPAWN_MS)
        self.wait_for_lab()

    def open_notebook(self, user: str, path: str) -> None:
        self.page.goto(f"{self.deployment.url}user/{user}/lab/tree/{path}?reset")
        self.wait_for_lab()
        expect(self.page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=SPAWN_MS)
        self.wait_for_idle_kernel()

    def wait_for_idle_kernel(self) -> None:
        """The status bar's "Python 3 (ipykernel) | Idle"."""
        expect(self.page.get_by_text("| Idle").first).to_be_visible(timeout=CELL_MS)

    def wait_for_lab(self) -> None:
        self.page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=SPAWN_MS)
        self.page.wait_for_selector(".jp-LabShell", timeout=SPAWN_MS)

    def begin_cell(self, number: int) -> None:
        """Run the cell at this place (from 0) and do not wait for its end."""
        self.page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".cm-content").click()
        self.page.keyboard.press("Control+Enter")

    def run_cell(self, number: int) -> str:
        """Run the cell at this place (from 0) and return the text of its output."""
        prompt = self.page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-InputPrompt").first
        before = prompt.inner_text()
        self.begin_cell(number)
        expect(prompt).to_have_text(re.compile(r"\[\d+\]:"), timeout=CELL_MS)
        if before.strip("[]: "):
            expect(prompt).not_to_have_text(before, timeout=CELL_MS)
            expect(prompt).to_have_text(re.compile(r"\[\d+\]:"), timeout=CELL_MS)
        return self.output(number)

    def output(self, number: int) -> str:
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").nth(number)
        return "\n".join(cell.locator(".jp-OutputArea-output").all_inner_texts())

    def menu(self, *path: str) -> None:
        """Choose an entry of JupyterLab's menu bar, for example "Kernel", "Restart Kernel…"."""
        self.page.locator(".lm-MenuBar-itemLabel", has_text=re.compile(f"^{path[0]}$")).click()
        for label in path[1:]:
            self.page.locator(".lm-Menu-itemLabel", has_text=re.compile(f"^{label}$")).click()

    def accept_dialog(self) -> None:
        self.page.locator(".jp-Dialog .jp-mod-accept").click()

"""A real JupyterLab on loopback, driven by a real Chromium.

A test opens a notebook with the fixture `open_notebook` and talks to the `Notebook` it gets. Everything waits for what
it needs to see in the page; nothing sleeps.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import psutil
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
# Without these Chromium talks to its maker's hosts at every start.
CHROMIUM_ARGS = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS: dict[str, dict[str, Any]] = {
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
}
LAB_ARGS = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port_retries=0"]
LAB_ARGS += ["--LabApp.expose_app_in_browser=True"]  # `window.jupyterapp`, by which `Notebook` runs cells
START_SECONDS = 60
CELL_SECONDS = 120

# Answers are about the notebook in front; `kernel` is null until its session has one.
PRELUDE = """
const panel = window.jupyterapp.shell.currentWidget;
const kernel = panel?.sessionContext?.session?.kernel ?? null;
const run = (command, args) => window.jupyterapp.commands.execute(command, args);
"""
SELECT = "panel.content.activeCellIndex = arg; panel.content.deselectAll();"


class CellFailed(AssertionError):
    """A cell ended in an exception; the message is its traceback."""


class Lab:
    """The server: its files, its address, its kernels' processes. Its home directory is its own."""

    def __init__(self, root: Path, settings: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.root = root / "notebooks"
        self.home = root / "home"
        self.root.mkdir(parents=True)
        for plugin, values in {**SETTINGS, **(settings or {})}.items():
            package, name = plugin.split(":")
            file = self.home / ".jupyter" / "lab" / "user-settings" / package / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.log = root / "lab.log"
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *LAB_ARGS, f"--port={self.port}", f"--ServerApp.root_dir={self.root}"],
            env=self._environ(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._log_reader = threading.Thread(target=self._follow_log, daemon=True)
        self._log_reader.start()
        if not self._ready.wait(START_SECONDS):
            self.stop()
            raise TimeoutError(f"JupyterLab did not start:\n{self.log.read_text()}")

    def _environ(self) -> dict[str, str]:
        foreign = re.compile("SKYDECK_|JUPYTER|IPYTHON|XDG_")
        inherited = {name: value for name, value in os.environ.items() if not foreign.match(name)}
        return inherited | {"HOME": str(self.home), "JUPYTER_TOKEN": self.token}

    def _follow_log(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines, self.log.open("w") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if f"http://127.0.0.1:{self.port}/" in line:
                    self._ready.set()

    def stop(self) -> None:
        self._process.terminate()  # it shuts its kernels down first
        self._process.wait(30)
        self._log_reader.join()

    def add(self, notebook: Path | Sequence[str], name: str) -> str:
        """Puts a notebook file, or one with these cells, where the server finds it."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(notebook, Path):
            shutil.copy(notebook, path)
        else:
            path.write_text(json.dumps(document(notebook)))
        return name

    def kernel_process(self, kernel_id: str) -> psutil.Process:
        """Found from outside, so that it works while the kernel is busy."""
        for process in psutil.Process(self._process.pid).children(recursive=True):
            if any(kernel_id in argument for argument in process.cmdline()):
                return process
        raise LookupError(f"no process of kernel {kernel_id}")


class Notebook:
    """One notebook in one browser window."""

    def __init__(self, lab: Lab, browser: Browser, name: str, width: int = 1400, height: int = 900) -> None:
        self.lab = lab
        self.name = name
        self.console_errors: list[str] = []
        self.page: Page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        self.page.goto(f"http://127.0.0.1:{lab.port}/lab/tree/{quote(name)}?token={lab.token}")
        self.wait_idle()

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(message.text)

    # running cells

    def start(self, index: int) -> None:
        """Runs a cell and returns at once."""
        self._evaluate(f"{SELECT} run('notebook:run-cell')", index)

    def run(self, index: int) -> str:
        """Runs a cell to its end and returns the text it shows."""
        self._evaluate(f"{SELECT} await run('notebook:run-cell')", index)
        self._raise_failures("[panel.content.widgets[arg]]", index)
        return self.text(index)

    def start_all(self) -> None:
        self._evaluate("run('notebook:run-all-cells')")

    def run_all(self) -> None:
        self._evaluate("await run('notebook:run-all-cells')")
        self._raise_failures("panel.content.widgets")

    def wait_idle(self, seconds: float = CELL_SECONDS) -> None:
        self.wait_for("kernel && kernel.status === 'idle' && panel.content.widgets.length > 0", seconds=seconds)

    def wait_busy(self) -> None:
        self.wait_for("kernel && kernel.status === 'busy'")

    def _raise_failures(self, cells: str, arg: object = None) -> None:
        failures = self._evaluate(
            f"return {cells}.flatMap(cell => cell.model.outputs?.toJSON() ?? [])"
            ".filter(output => output.output_type === 'error').map(output => output.traceback.join('\\n'))",
            arg,
        )
        if failures:
            raise CellFailed(re.sub(r"\x1b\[[0-9;]*m", "", "\n\n".join(failures)))

    # looking

    def output(self, index: int) -> Locator:
        """Where a cell shows its results. Lab draws what is in sight: the cell is scrolled there first."""
        self._evaluate("await panel.content.scrollToItem(arg)", index)
        cell = f'.jp-Notebook:visible .jp-Cell[data-windowed-list-index="{index}"]'
        return self.page.locator(f"{cell} .jp-OutputArea").first

    def text(self, index: int) -> str:
        return str(self._evaluate("return panel.content.widgets[arg].outputArea?.node.innerText ?? ''", index))

    def wait_for(self, condition: str, arg: object = None, seconds: float = CELL_SECONDS) -> None:
        """Waits until a JavaScript expression (over `panel`, `kernel`, `arg`) is true."""
        script = f"arg => {{ if (!window.jupyterapp?.shell) return false; {PRELUDE} return {condition} }}"
        self.page.wait_for_function(script, arg=arg, timeout=seconds * 1000)

    def screenshot(self, name: str) -> Path:
        path = ARTIFACTS / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        self.page.screenshot(path=path)
        return path

    def theme(self, shade: Literal["light", "dark"]) -> None:
        self._evaluate("await run('apputils:change-theme', {theme: `JupyterLab ${arg}`})", shade.title())
        self.wait_for("document.body.dataset.jpThemeLight === arg", "true" if shade == "light" else "false")

    # the kernel and the file

    @property
    def kernel_id(self) -> str:
        return str(self._evaluate("return kernel.id"))

    @property
    def kernel_pid(self) -> int:
        return self.lab.kernel_process(self.kernel_id).pid

    def restart_kernel(self) -> None:
        self._evaluate("await panel.sessionContext.session.kernel.restart()")
        self.wait_idle()

    def interrupt(self) -> None:
        self._evaluate("await kernel.interrupt()")

    def save(self) -> None:
        self._evaluate("await run('docmanager:save')")

    def reload(self) -> None:
        self.page.reload()
        self.wait_idle()

    def close(self) -> None:
        """Closes the window and ends its kernel."""
        self._evaluate("await panel.sessionContext.shutdown()")
        self.page.context.close()

    def _evaluate(self, body: str, arg: object = None) -> Any:
        return self.page.evaluate(f"async arg => {{ {PRELUDE} {body} }}", arg)


def document(cells: Sequence[str]) -> dict[str, object]:
    code: dict[str, object] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    return {
        "cells": [{**code, "id": f"cell-{index}", "source": source} for index, source in enumerate(cells)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

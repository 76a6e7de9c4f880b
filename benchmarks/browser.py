"""A headless Chromium by its DevTools protocol over a pipe, from the standard library alone.

    with Browser() as browser:
        tab = browser.open(path)
        tab.run("document.title")

Its network is off from the start, and what it asks for, complains of or throws is kept in the tab.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # in a container, root has none
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 300.0
"""Seconds for an answer: on a busy machine a start takes a minute."""
READ, WRITE = 3, 4
"""The file descriptors that Chromium reads commands from and writes answers to."""


def chromium() -> str | None:
    """Where the browser is; None where it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One process of Chromium with a profile of its own, both gone at the end of the context."""

    def __enter__(self) -> Browser:
        found = chromium()
        if found is None:
            raise FileNotFoundError(f"no browser: expected one of {', '.join(NAMES)} on the path; install chromium")
        self.stack = contextlib.ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        (read, write), (answers, replies) = os.pipe(), os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read, replies)]
        for end in (read, replies):
            os.close(end)
        self.stack.callback(os.close, write)
        self.stack.callback(os.close, answers)
        self.process = subprocess.Popen(
            [found, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(READ, WRITE),
            preexec_fn=lambda: [os.dup2(end, at) for end, at in zip(ends, (READ, WRITE), strict=True)],
        )
        for end in ends:
            os.close(end)
        self.stack.callback(self._stop)
        self.write, self.answers = write, answers
        self.count, self.rest = 0, b""
        self.events: deque[dict[str, Any]] = deque()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def _stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result; RuntimeError with its words where it fails."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters} | (
            {"sessionId": session} if session else {}
        )
        os.write(self.write, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self.count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)
        raise AssertionError("unreachable")

    def wait(self, method: str) -> dict[str, Any]:
        """The first event of that name that has come or will; all before it are kept."""
        kept: deque[dict[str, Any]] = deque()
        while True:
            event = self.events.popleft() if self.events else next(self._messages())
            if event.get("method") == method:
                self.events.extendleft(reversed(kept))
                return event
            kept.append(event)

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self.rest:
                if not select.select([self.answers], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"Chromium gave no answer within {PATIENCE:.0f} s")
                read = os.read(self.answers, 1 << 16)
                if not read:
                    raise RuntimeError(f"Chromium ended: exit code {self.process.wait(30)}")
                self.rest += read
            message, _, self.rest = self.rest.partition(b"\0")
            yield json.loads(message)

    def open(self, page: Path, width: int = 1280, height: int = 900, *, script: bool = True, dark: bool = False) -> Tab:
        """A tab with `page`, loaded without a network; `script`: whether it may run its own."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Network", "Log", "Runtime"):
            tab.send(f"{domain}.enable")
        tab.send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        tab.send("Emulation.setScriptExecutionDisabled", value=not script)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.send("Emulation.setEmulatedMedia", features=[scheme])
        tab.resize(width, height)
        self.events.clear()
        tab.send("Page.navigate", url=page.resolve().as_uri())
        self.wait("Page.loadEventFired")
        return tab


class Tab:
    """A page in the browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol for this tab."""
        return self.browser.send(method, self.session, **parameters)

    def resize(self, width: int, height: int) -> None:
        """Set the size of the window in pixels."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON would carry it; RuntimeError where it throws."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "thrown"))
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key and let it go: its DOM name, its code, and the text that it types."""
        for kind in ("keyDown", "keyUp"):
            typed = {"text": text} if text and kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **typed)

    def requests(self) -> list[str]:
        """Addresses that the page has asked for, itself first, without what it carries inside."""
        mine = (event for event in self.browser.events if event.get("sessionId") == self.session)
        asked = [e["params"]["request"]["url"] for e in mine if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith(("data:", "blob:"))]

    def complaints(self) -> list[str]:
        """What the console holds, refusals of the policy included, and what was thrown."""
        said = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            held = event["params"]
            if event["method"] == "Log.entryAdded":
                said.append(held["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled":
                said.append(" ".join(str(each.get("value", each.get("description"))) for each in held["args"]))
            elif event["method"] == "Runtime.exceptionThrown":
                said.append(held["exceptionDetails"]["exception"].get("description", held["exceptionDetails"]["text"]))
        return said

    def screenshot(self, path: Path) -> None:
        """Write what the window shows as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def pdf(self) -> bytes:
        """The page in print."""
        return base64.b64decode(self.send("Page.printToPDF", preferCSSPageSize=True)["data"])

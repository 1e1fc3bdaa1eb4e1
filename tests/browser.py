"""A real headless Chromium, driven by its DevTools protocol over a pipe: pages as a reader sees them."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
"""The browser; None where there is none. The environment variable CHROMIUM may name one."""
NO_CHROMIUM = f"needs Chromium: none of {', '.join(NAMES)} is on PATH, and CHROMIUM names none"
PATIENCE = 60.0
"""Seconds that the browser may take to answer."""

_DRAWN = """new Promise(done => {
  const plots = [...document.querySelectorAll(".plot")];
  const look = () => plots.every(p => p.querySelector(".main-svg") && p._fullLayout) ? done(plots.length)
    : setTimeout(look, 20);
  look();
})"""
_COLOURS = """new Promise(done => {
  const image = new Image();
  image.onload = () => {
    const canvas = Object.assign(document.createElement("canvas"), {width: image.width, height: image.height});
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
    const count = new Map();
    pixels.forEach(p => count.set(p, (count.get(p) ?? 0) + 1));
    done([1 - Math.max(...count.values()) / pixels.length, count.size]);
  };
  image.src = "data:image/png;base64,$DATA";
})"""


class Box(NamedTuple):
    """A figure's place on its page, px."""

    x: float
    y: float
    width: float
    height: float


class Browser:
    """One Chromium with one tab. Nothing is loaded from the network."""

    def __init__(self, process: subprocess.Popen[bytes], read: int, write: int) -> None:
        self._process, self._read, self._write = process, read, write
        self._number, self._buffer = 0, b""
        self.console: list[str] = []
        """What the page wrote on its console, and errors, since it was opened."""
        target = self._call("Target.createTarget", session="", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", session="", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    @classmethod
    @contextmanager
    def started(cls, profile: Path) -> Iterator[Self]:
        """A browser with its profile in this folder, until the end."""
        assert CHROMIUM
        (child_read, write), (read, child_write) = os.pipe(), os.pipe()
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--remote-debugging-pipe",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={profile}",
        ]
        # the protocol speaks on descriptors 3 and 4 of the browser
        command = f'exec "$0" "$@" 3<&{child_read} 4>&{child_write}'
        process = subprocess.Popen(
            ["bash", "-c", command, CHROMIUM, *options],
            pass_fds=(child_read, child_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_read)
        os.close(child_write)
        try:
            yield cls(process, read, write)
        finally:
            process.kill()
            process.wait()
            os.close(read)
            os.close(write)

    def open(self, file: Path, width: int = 1280, dark: bool = False) -> int:
        """Show a page as high as it is, all figures drawn; returns how many there are."""
        self.console.clear()
        self._call("Emulation.setEmulatedMedia", features=[_scheme(dark)])
        self._size(width, 900)
        self._call("Page.navigate", url=file.as_uri())
        self._until("Page.loadEventFired")
        self._size(width, min(self.run("document.documentElement.scrollHeight"), 12_000))
        return int(self.run(_DRAWN))

    def run(self, script: str) -> Any:
        """The value of a script in the page, or of its promise."""
        got = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def figures(self) -> list[Box]:
        """Where the figures are."""
        script = """[...document.querySelectorAll(".plot, .drawn svg")].map(p => {
          const r = p.getBoundingClientRect(); return [r.x + scrollX, r.y + scrollY, r.width, r.height]; })"""
        return [Box(*box) for box in self.run(script)]

    def png(self, box: Box | None = None) -> bytes:
        """A picture of the page, or of a part of it."""
        clip = {} if box is None else {"clip": {**box._asdict(), "scale": 1}}
        shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, **clip)
        return base64.b64decode(shot["data"])

    def ink(self, pictures: list[bytes]) -> list[tuple[float, int]]:
        """Of each picture the share of pixels that differ from its commonest colour, and how many colours it has."""
        self._call("Page.navigate", url="about:blank")
        self._until("Page.loadEventFired")
        return [tuple(self.run(_COLOURS.replace("$DATA", base64.b64encode(p).decode()))) for p in pictures]

    def _size(self, width: int, height: int) -> None:
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session != "":
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        number = self._number
        return dict(self._until(lambda got: got.get("id") == number)["result"])

    def _until(self, wanted: Any) -> dict[str, Any]:
        """The next message that is `wanted`; what the page says on its console meanwhile is kept."""
        is_wanted = wanted if callable(wanted) else lambda got: got.get("method") == wanted
        ends = time.monotonic() + PATIENCE
        while True:
            while b"\0" not in self._buffer:
                ready, _, _ = select.select([self._read], [], [], max(ends - time.monotonic(), 0))
                assert ready, f"Chromium did not answer in {PATIENCE:g} s"
                part = os.read(self._read, 1 << 20)
                assert part, "Chromium has ended"
                self._buffer += part
            line, _, self._buffer = self._buffer.partition(b"\0")
            got = json.loads(line)
            assert "error" not in got, got
            self._note(got)
            if is_wanted(got):
                return dict(got)

    def _note(self, got: dict[str, Any]) -> None:
        params = got.get("params", {})
        if got.get("method") == "Runtime.exceptionThrown":
            self.console.append(json.dumps(params["exceptionDetails"]))
        elif got.get("method") == "Runtime.consoleAPICalled":
            self.console.append(json.dumps(params["args"]))
        elif got.get("method") == "Log.entryAdded":
            self.console.append(params["entry"]["text"])


def _scheme(dark: bool) -> dict[str, str]:
    return {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}

"""A headless Chromium, told what to do by the DevTools protocol over a pipe. It trusts what its own store names."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import wait_until

ANSWER_S = 60.0


class Browser:
    """One page. `home`: a folder of its own, with its trust store; `prefix`: words before the program's name."""

    def __init__(self, home: Path, *prefix: str) -> None:
        self._home = home
        self._prefix = prefix
        self._number = 0
        self._left = b""
        self._session: str | None = None

    def trust(self, root: Path) -> None:
        """A root certificate, as a person would import it."""
        store = self._home / ".pki" / "nssdb"
        store.mkdir(parents=True)
        where = ("-d", f"sql:{store}")
        subprocess.run(["certutil", *where, "-N", "--empty-password"], check=True)
        subprocess.run(["certutil", *where, "-A", "-t", "C,,", "-n", "root", "-i", str(root)], check=True)

    def __enter__(self) -> Self:
        theirs_in, self._in = os.pipe()
        self._out, theirs_out = os.pipe()
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        quiet = ("--disable-background-networking", "--disable-component-update", "--window-size=1280,800")
        # The shell moves the pipe to where Chromium looks for it.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = [
            *self._prefix,
            "chromium",
            *flags,
            *quiet,
            "--remote-debugging-pipe",
            f"--user-data-dir={self._home}/data",
        ]
        self._log = (self._home / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            env={**os.environ, "HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        targets = wait_until("a page", self._pages, 30)
        attached = self.send("Target.attachToTarget", targetId=targets[0]["targetId"], flatten=True)
        self._session = str(attached["sessionId"])
        self.send("Page.enable")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._log.close()

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of one command. Raises RuntimeError with what the browser says."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._in, json.dumps(message).encode() + b"\0")
        for answer in self._answers():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise RuntimeError(f"{method}: the browser ended")

    def open(self, url: str) -> str:
        """Go there; what went wrong, empty when nothing did."""
        return str(self.send("Page.navigate", url=url).get("errorText", ""))

    def value(self, expression: str) -> Any:
        """Of JavaScript in the page, promises waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails'].get('exception', answer)}")
        return answer["result"].get("value")

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def press(self, key: str, code: int, *, shift: bool = False) -> None:
        """A key as a person presses it. `code`: the windowsVirtualKeyCode."""
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.send("Input.dispatchKeyEvent", type="keyDown", text="\r" if key == "Enter" else "", **common)
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector: str) -> None:
        """In the middle of the first element that fits."""
        where = self.value(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def _pages(self) -> list[dict[str, Any]]:
        found = self.send("Target.getTargets")["targetInfos"]
        return [one for one in found if one["type"] == "page"]

    def _answers(self) -> Iterator[dict[str, Any]]:
        until_s = time.monotonic() + ANSWER_S
        while time.monotonic() < until_s:
            message, separator, rest = self._left.partition(b"\0")
            if separator:
                self._left = rest
                yield json.loads(message)
            elif chunk := os.read(self._out, 1 << 16):
                self._left += chunk
            else:
                return


@contextmanager
def browsing(home: Path, root: Path | None, *prefix: str) -> Iterator[Browser]:
    """A browser with an empty home, which trusts `root` beside what all trust."""
    home.mkdir()
    browser = Browser(home, *prefix)
    if root is not None:
        browser.trust(root)
    with browser:
        yield browser

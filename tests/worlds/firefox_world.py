"""A Firefox without a window, asked by WebDriver BiDi, which it speaks itself: Debian has no geckodriver."""

import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

websocket = pytest.importorskip("websocket", reason="tests in Firefox need websocket-client, which selenium brings")
PATIENCE = 120.0
QUIET = {
    "app.normandy.enabled": False,
    "app.update.auto": False,
    "browser.safebrowsing.malware.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
"""What keeps Firefox from asking for more than the page."""


@contextmanager
def firefox(profile: Path) -> Iterator["Firefox"]:
    """Yield a fresh Firefox with a profile of its own; skips where there is none."""
    program = shutil.which("firefox-esr")
    if program is None:
        pytest.skip("tests in Firefox need firefox-esr")
    profile.mkdir()
    lines = (f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in QUIET.items())
    (profile / "user.js").write_text("".join(lines))
    command = [program, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"ws://[\d.]+:\d+", line)))
        Thread(target=process.stderr.read, daemon=True).start()
        try:
            with closing(
                websocket.create_connection(f"{address}/session", timeout=PATIENCE, suppress_origin=True)
            ) as tab:
                yield Firefox(tab)
        finally:
            process.terminate()


class Firefox:
    """One tab."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._send("session.new", capabilities={})
        self._tab = self._send("browsingContext.getTree")["contexts"][0]["context"]

    def open(self, address: str) -> None:
        """Load a page on a screen of 1280 x 800, and wait for all of it."""
        self._send("browsingContext.setViewport", context=self._tab, viewport={"width": 1280, "height": 800})
        self._send("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def ask(self, script: str) -> Any:
        """Return what a script of the page returns, which may await."""
        function = f"async () => JSON.stringify(await (async () => {{ {script} }})())"
        target = {"context": self._tab}
        answer = self._send("script.callFunction", functionDeclaration=function, awaitPromise=True, target=target)
        assert answer["type"] == "success", answer
        return json.loads(answer["result"].get("value", "null"))

    def wait(self, script: str) -> None:
        """Return as soon as what a script says is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.ask(f"return Boolean({script})"):
                return
            time.sleep(0.05)
        raise AssertionError(f"waited {PATIENCE:g} s for: {script}")

    def _send(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self._socket.recv())).get("id") != number:
            pass
        assert answer["type"] == "success", answer
        return answer["result"]

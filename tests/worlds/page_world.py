"""A small phantom collection, the real server over it, and a reader at a real Chromium.

Without selenium, Chromium and its driver every test that looks at the page skips itself.
"""

import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from command_line import done
from folders import ROOT

pytest.importorskip("selenium", reason="the page's tests need selenium")
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webelement import WebElement

ENCODER = ROOT / "scripts" / "demo_encoder.safetensors"
SERVE = [sys.executable, "-u", "-m", "scripts.cli", "serve"]
QUERY, ONE_VIEW = "patient00001/study2", "patient00001/study1"
"""Of the phantoms of seed 7: a study with both views, and one with its frontal film alone."""
PATIENCE = 120.0
ROOM = "const room = (path) => import(new URL(`../${path}`, document.querySelector('script[type=module]').src));"
"""A script's way to the modules that the page runs: by another address it would get others of the same text."""
FLAGS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "enable-unsafe-swiftshader",  # WebGL without a graphics card
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1280,800",
    "force-device-scale-factor=1",
)


def build_collection(folder: Path) -> Path:
    """Write films, index, map and probe of 24 simulated patients, once a session."""
    if not (folder / "probe").exists():
        build_index(folder, patients=24, seed=7)
        done("map", folder / "index")
        done("probe", folder / "embeddings", "--cv", 2, "--out", folder / "probe")
    return folder


def build_index(folder: Path, *, patients: int, seed: int) -> None:
    """Write films and index of simulated patients."""
    films, studies, embeddings = (folder / name for name in ("films", "studies.parquet", "embeddings"))
    done("phantom", "--patients", patients, "--seed", seed, "--jobs", 1, "--out", films)
    done("import", "chexpert", films / "train.csv", "--images", films, "--out", studies)
    done("export", studies, "--images", films, "--encoder", ENCODER, "--regions", "--out", embeddings)
    done("index", embeddings, "--out", folder / "index")


@contextmanager
def served(*words: str | Path, port: int = 0) -> Iterator[str]:
    """Yield the address of a server process started with these words; 0 is any free port."""
    with serving(*words, port=port) as (_, address):
        yield address


@contextmanager
def serving(*words: str | Path, port: int = 0) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield a server process and its address; one that was stopped goes on, to end."""
    command = [*SERVE, *map(str, words), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, "the server did not start"
        try:
            yield process, line.split()[-1]
        finally:
            process.terminate()
            process.send_signal(signal.SIGCONT)


class Relay(socketserver.ThreadingTCPServer):
    """Stands between a browser and a server; where `most` is set, an answer ends after so many bytes."""

    daemon_threads = True
    most: int | None = None
    asked, answered = 0, 0
    """Bytes that have passed, of requests and of answers."""

    def __init__(self, server: str) -> None:
        place = urlsplit(server)
        self.place = (str(place.hostname), place.port or 0)
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.place) as beyond, suppress(OSError):
            Thread(target=self._ask, args=(beyond,), daemon=True).start()
            while piece := beyond.recv(1 << 16):
                self.request.sendall(piece[: self.server.most])
                self.server.answered += len(piece)
                if self.server.most is not None:
                    return

    def _ask(self, beyond: socket.socket) -> None:
        with suppress(OSError):
            while piece := self.request.recv(1 << 16):
                beyond.sendall(piece)
                self.server.asked += len(piece)


@contextmanager
def at_the_page(base: Path, *further: str) -> Iterator["Reader"]:
    """Yield a reader at a fresh headless Chromium, who looks at the served collections.

    Args:
        base: keeps the collection that is always served.
        further: collections served beside it, each as NAME=INDEX.
    """
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("the page's tests need chromium and chromedriver")
    world = build_collection(base / "page")
    options = ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"user-data-dir={tempfile.mkdtemp(dir=base)}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with served(f"main={world / 'index'}", *further, "--encoder", ENCODER, "--probe", world / "probe") as address:
        chrome = Chrome(options=options, service=Service(driver))
        chrome.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        try:
            yield Reader(chrome, address, world / "films" / "train")
        finally:
            chrome.quit()


class Reader:
    """Does what a reader does at the page, and waits as a reader waits."""

    def __init__(self, chrome: Chrome, address: str, films: Path) -> None:
        self.chrome, self.address, self.films = chrome, address, films

    def forget(self) -> None:
        """Leave the page, and forget cookies, settings and files that the browser has kept of it."""
        self.chrome.get("about:blank")
        self.chrome.execute_cdp_cmd("Storage.clearDataForOrigin", {"origin": self.address, "storageTypes": "all"})
        self.chrome.execute_cdp_cmd("Network.clearBrowserCache", {})

    def open(self, path: str) -> None:
        """Load a path of the served page, and wait for its scripts."""
        self.chrome.get(self.address + path)
        self.wait("document.readyState === 'complete' && document.documentElement.className === 'scripted'")

    def screen(self, width: int, height: int) -> None:
        """Look at the page on a screen of that many pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def ask(self, script: str, *values: Any) -> Any:
        """Return what a script of the page returns."""
        return self.chrome.execute_script(script, *values)

    def later(self, script: str, *values: Any) -> Any:
        """Return what a script that may await gives `done`; `room(path)` is a module of the page itself."""
        whole = f"const done = arguments[arguments.length - 1]; {ROOM} (async () => {{ {script} }})()"
        return self.chrome.execute_async_script(whole, *values)

    def wait(self, script: str, *values: Any) -> Any:
        """Return what a script returns as soon as that is true."""
        return self._until(lambda: self.ask(f"return {script}", *values), script)

    def find(self, selector: str) -> Any:
        """Return the first element of a CSS selector that is displayed, once there is one."""

        def displayed() -> list[WebElement]:
            return [one for one in self.all(selector) if one.is_displayed()]

        return self._until(displayed, selector)[0]

    def all(self, selector: str) -> list[WebElement]:
        """Return the elements of a CSS selector, displayed or not."""
        return self.chrome.find_elements("css selector", selector)

    def text(self, selector: str) -> str:
        """Return the text of an element as it is displayed."""
        return self.find(selector).text

    def click(self, selector: str) -> None:
        """Click an element."""
        self.find(selector).click()

    def press(self, keys: str) -> None:
        """Press keys wherever the focus is."""
        ActionChains(self.chrome).send_keys(keys).perform()

    def drag(self, selector: str, across: int, down: int) -> None:
        """Drag from the middle of an element, by pixels."""
        ActionChains(self.chrome).drag_and_drop_by_offset(self.find(selector), across, down).perform()

    def wheel(self, selector: str, down: int) -> None:
        """Turn the wheel over the middle of an element."""
        box = self.find(selector).rect
        place = {"x": int(box["x"] + box["width"] / 2), "y": int(box["y"] + box["height"] / 2)}
        turn = {"type": "mouseWheel", "deltaX": 0, "deltaY": down, **place}
        self.chrome.execute_cdp_cmd("Input.dispatchMouseEvent", turn)

    def choose(self, view: str, film: Path | None = None) -> None:
        """Choose a file for a view, or the query's own film of that view."""
        own = self.films / QUERY / {"frontal": "view1_frontal.jpg", "lateral": "view2_lateral.jpg"}[view]
        field = f"#films input[name={view}]"
        self._until(lambda: self.all(field), field)[0].send_keys(str(film or own))

    def hits(self) -> list[str]:
        """Return the studies of the cards, in order."""
        return [str(card.get_attribute("data-study")) for card in self.all(".hit")]

    def complaints(self) -> list[str]:
        """Return what the console has said since the last call, but for friendly remarks and what drawing costs."""
        said = [entry["message"] for entry in self.chrome.get_log("browser") if entry["level"] != "INFO"]
        return [message for message in said if "GL Driver Message (OpenGL, Performance" not in message]

    def _until(self, found: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if result := found():
                return result
            time.sleep(0.05)
        raise AssertionError(f"waited {PATIENCE:g} s for: {what}")

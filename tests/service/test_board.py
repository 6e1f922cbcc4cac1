"""The Grafana board over a real Prometheus that scrapes a real server, as the deployment's README says.

Without Prometheus (`apt-get install prometheus`) it skips itself.
"""

import json
import math
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from folders import ROOT
from served_world import save_world, serving

from encoder.embedder import Embedder
from scripts.benches.clients import film_request
from service.guard.tokens import create_token

DEPLOY = ROOT / "service" / "deploy"
PATIENCE = 60.0
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Prometheus is missing: apt-get install prometheus"),
]


def configuration(url: str, token: Path) -> str:
    """Return what the README has Prometheus scrape, with this address and token."""
    [shown] = re.findall(r"^ {4}(scrape_configs:\n(?: {4}.*\n)+)", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    named = shown.replace("127.0.0.1:8080", urllib.parse.urlsplit(url).netloc)
    named = named.replace("/etc/prometheus/precedent.token", str(token))
    return "global: {scrape_interval: 1s}\n" + re.sub(r"^ {4}", "", named, flags=re.MULTILINE)


@contextmanager
def watching(folder: Path, settings: str) -> Iterator[str]:
    """Run Prometheus on a port of its own; yield its address."""
    (folder / "prometheus.yml").write_text(settings)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["--config.file", folder / "prometheus.yml", "--storage.tsdb.path", folder / "tsdb"]
    words += ["--web.listen-address", address, "--log.level=error"]
    with subprocess.Popen(["prometheus", *words]) as process:
        try:
            yield f"http://{address}"
        finally:
            process.terminate()


def values(prometheus: str, expression: str) -> list[float]:
    """Return what an expression of the board comes to now; nothing while Prometheus starts."""
    plain = expression.replace("$__rate_interval", "20s").replace("$job", ".*")
    query = urllib.parse.urlencode({"query": plain})
    try:
        with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}") as answer:
            found = json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code == 400:  # what it cannot parse
            raise AssertionError(error.read().decode()) from error
        return []
    except urllib.error.URLError:
        return []
    return [float(one["value"][1]) for one in found]


def use(url: str, root: Path, token: str) -> None:
    """Search, look at maps, and ask for what is not there."""
    film = film_request((root / "1.png").read_bytes(), 3)
    asked: list[tuple[str, bytes | None, dict[str, str]]] = [
        ("/v1/search", film.body, {"Content-Type": film.content_type}),
        ("/v1/predict", film.body, {"Content-Type": film.content_type}),
        ("/v1/explain", film.body, {"Content-Type": film.content_type}),
        ("/v1/studies/patient00000/study9", None, {}),
    ]
    for path, body, headers in asked:
        request = urllib.request.Request(url + path, body, headers | {"Authorization": f"Bearer {token}"})
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as refusal:
            refusal.close()


def test_every_panel_of_the_board_shows_a_value(tmp_path: Path, tiny_embedder: Embedder) -> None:
    root, tokens = save_world(tmp_path, tiny_embedder), tmp_path / "tokens.json"
    reader = create_token(tokens, "reader", ["read"])
    (tmp_path / "token").write_text(create_token(tokens, "prometheus", ["metrics"]))
    board: dict[str, Any] = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    targets = {target["expr"]: panel["title"] for panel in panels for target in panel["targets"]}
    empty = {one: title for one, title in targets.items() if not re.search("precedent_(follow|pacs)_", one)}

    with (
        serving(root, "--tokens", str(tokens)) as server,
        watching(tmp_path, configuration(server.url, tmp_path / "token")) as prometheus,
    ):
        deadline = time.monotonic() + PATIENCE
        assert len(empty) < len(targets)  # those of films from a PACS, in a row of their own: tests/scripts/pacs
        while empty and time.monotonic() < deadline:
            use(server.url, root, reader)
            empty = {one: title for one, title in empty.items() if all(map(math.isnan, values(prometheus, one)))}
            time.sleep(0.5)

    assert empty == {}

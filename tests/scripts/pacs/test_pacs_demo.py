"""scripts/pacs-demo: films in a real PACS, found, and results that come back to it; OHIF beside it as one site."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import click
import pytest
import requests
from folders import ROOT
from pacs_world import Orthanc, film, needs_orthanc, orthanc

from scripts.cli import precedent
from scripts.pacs.ohif import Viewer

DEMO = ROOT / "scripts" / "pacs-demo"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Orthanc]:
    with orthanc(tmp_path / "orthanc") as server:
        yield server


def test_its_commands_have_verbs_and_options_that_exist(tmp_path: Path) -> None:
    text = re.sub(r"\\\n\s*", "", DEMO.read_text(encoding="utf-8"))
    lines = re.findall(r'(?:^ *run |^start \w+ |^follow=")(precedent [^"\n#]*)', text, re.MULTILINE)
    words = [shlex.split(re.sub(r"\$\{viewer:.*|\$\w+|\$\{.*?\}", "1", line))[1:] for line in lines]

    assert len(words) >= 10
    for verb, *rest in words:
        command: click.Command | None = precedent
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), verb)
            if isinstance(command, click.Group):
                verb, *rest = rest
        assert command is not None, verb
        command.make_context(verb, rest, resilient_parsing=True)
    refused = subprocess.run(["bash", DEMO, "--twice"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (2, "expected --once, --ohif or --patients N, got --twice\n")


@needs_orthanc
def test_the_viewer_shows_its_own_files_and_what_the_pacs_answers_and_stores_nothing(
    server: Orthanc, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("the viewer")
    (site / "app-config.js").write_text("asks a server of others")
    (tmp_path / "secret").write_text("of another folder")
    server.put(film())
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Viewer, directory=str(site), pacs=server.dicomweb)) as viewer:
        Thread(target=viewer.serve_forever, daemon=True).start()
        url = f"http://localhost:{viewer.server_port}"
        pages = [requests.get(f"{url}{path}", timeout=9).text for path in ("/", "/viewer?StudyInstanceUIDs=1.2.1")]
        config = requests.get(f"{url}/app-config.js", timeout=9).text
        studies = requests.get(f"{url}/dicom-web/studies", timeout=9).json()
        outside = requests.Request("GET", url).prepare()
        outside.url = f"{url}/%2e%2e/secret"
        climbed = requests.Session().send(outside, timeout=9).text
        stored = requests.post(f"{url}/dicom-web/studies", data=film("P2", "1.2.9"), timeout=9)
        viewer.shutdown()

    assert pages == [climbed, "the viewer"] == ["the viewer"] * 2
    assert "/dicom-web" in config
    assert "others" not in config
    assert studies == server.get("/dicom-web/studies").json()
    assert (stored.status_code, len(studies)) == (501, 1)


@needs_orthanc
@pytest.mark.long
def test_films_come_in_are_found_and_results_return(tmp_path: Path) -> None:
    tree = tmp_path / "precedent"
    for room in ("encoder", "index", "service", "scripts"):
        shutil.copytree(ROOT / room, tree / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tree / "scripts" / "venv.sh").write_text("")
    told = subprocess.run(
        ["bash", tree / "scripts" / "pacs-demo", "--once", "--patients", "18"],
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin", "PYTHONPATH": str(tree)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    [known] = [line for line in lines if line.startswith("what follow knows: ")]
    [held] = [line for line in lines if line.startswith("in the PACS: ")]
    assert known == "what follow knows: 36 films added, 4 films refused: modality"
    assert held.endswith("24 studies, 36 series of films, 1 of reports, 1 of heat maps, 1 of key objects")
    assert [line.split(":")[0] for line in lines if ": stored, " in line] == ["sr", "sc", "sc", "kos"]
    left = subprocess.run(["pgrep", "-f", f"{tree.name}/demo"], capture_output=True, text=True, check=False).stdout
    assert "Orthanc has stopped" in (tree / "demo" / "pacs-18" / "log" / "orthanc").read_text(), left

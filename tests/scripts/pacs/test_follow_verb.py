"""`precedent follow` as a process: it says what it does, counts it, and names nobody."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import pytest
from canary_films import MARKER, every_name, holds, leaks, named_film
from click.testing import CliRunner
from command_line import done, json_of, refusal
from follow_world import SEED, save_collection_of
from living_world import ids_of
from pacs_world import film, free_port, needs_orthanc, orthanc
from pydicom.uid import DigitalXRayImageStorageForPresentation
from results_world import save_probe

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from index.importing.crosswalk import Crosswalk
from index.importing.pseudonyms import load_key
from index.living.collection import LivingCollection
from scripts.cli import precedent

pytestmark = needs_orthanc
UIDS = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1", "SOPInstanceUID": "1.2.1.1.1"}


@pytest.fixture
def world(tmp_path: Path, tiny_embedder: Embedder) -> list[str]:
    """Return the words that follow into a collection, but for where the films come from."""
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    save_collection_of(tmp_path, tiny_embedder)
    words = [tmp_path / "index", "--images", tmp_path / "images", "--encoder", tmp_path / "encoder.safetensors"]
    return [*map(str, words), "--state", str(tmp_path / "state"), "--runtime", "torch", "--settle", "0"]


@contextmanager
def running(*words: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run a process that follows; yield it and what it says as it begins."""
    command = [sys.executable, "-m", "scripts.cli", "follow", *words, "--json", "--log-format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr.read() if process.stderr else ""
            yield process, json.loads(line)
        finally:
            process.kill()


def test_what_it_leaves_says_and_counts_names_nobody_and_the_key_leads_back(world: list[str], tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation():
        named = named_film(every_name(), 0, **UIDS)
    key, way_back = tmp_path / "site.key", tmp_path / "site.crosswalk"
    words = [*world, "--pseudonymise", str(key), "--new-key", "--crosswalk", str(way_back)]
    words += ["--audit", str(tmp_path / "audit.jsonl"), "--once", "--log-format", "json"]
    with orthanc(tmp_path / "orthanc") as server:
        server.put(
            named, film(f"{MARKER}2", "1.2.2", BurnedInAnnotation="YES"), film(f"{MARKER}3", "1.2.3", Modality="CT")
        )
        told = CliRunner().invoke(precedent, ["follow", server.url, *words])
    assert told.exit_code == 0, told.output
    status = json_of("follow", "--status", "--state", tmp_path / "state")

    assert status["films"] == {"added": 1, "refused: burned in": 1, "refused: modality": 1}
    assert not any(holds(text.encode(), MARKER) for text in (told.output, json.dumps(status)))
    left = [path for name in ("state", "index", "images") for path in (tmp_path / name).rglob("*") if path.is_file()]
    assert leaks([*left, tmp_path / "audit.jsonl", way_back], [MARKER, "1.2.1", "1.2.2"]) == []
    [study_id] = [one for one in ids_of(LivingCollection(tmp_path / "index")) if one != SEED]
    assert Crosswalk.open(way_back, load_key(key)).study_uid(study_id) == "1.2.1"
    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [(one["event"], one.get("added")) for one in events[1:]] == [("intent", [study_id]), ("done", [study_id])]
    done("audit", "verify", tmp_path / "audit.jsonl")
    done("snapshot", tmp_path / "index", tmp_path / "snapshot")
    held = [path for path in (tmp_path / "snapshot").rglob("*") if path.is_file()]
    assert leaks(held, [MARKER, "1.2.1", "1.2.2"]) == []
    assert not {path.read_bytes() for path in held} & {way_back.read_bytes(), key.read_bytes()}
    assert all(way_back.name not in str(path) for path in held)
    asked = ["follow", "--status", "--state", tmp_path / "state", "--pseudonymise", key, "--of", "1.2.1.1.1"]
    assert [one["fate"] for one in json_of(*asked)["log"]] == ["came", "added"]


def test_results_that_return_name_nobody_but_in_themselves(world: list[str], tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation():
        named = named_film(every_name(), 0, **UIDS, SOPClassUID=DigitalXRayImageStorageForPresentation)
    key, way_back, out = tmp_path / "site.key", tmp_path / "site.crosswalk", tmp_path / "out"
    save_probe(tmp_path / "probe", Embedder.load(tmp_path / "encoder.safetensors", runtime="torch"))
    words = [
        *world,
        "--pseudonymise",
        str(key),
        "--new-key",
        "--return",
        "sr,sc,kos",
        "--probe",
        str(tmp_path / "probe"),
    ]
    words += ["--audit", str(tmp_path / "audit.jsonl"), "--once", "--log-format", "json", "--to"]
    out.mkdir()
    with orthanc(tmp_path / "orthanc") as server:
        server.put(named, film(f"{MARKER}2", "1.2.2"))
        without = CliRunner().invoke(precedent, ["follow", server.url, *words, str(out)])
        told = CliRunner().invoke(precedent, ["follow", server.url, *words, str(out), "--crosswalk", str(way_back)])
        server.put(film(f"{MARKER}3", "1.2.3", PatientName=MARKER))
        silent = f"PACS@127.0.0.1:{free_port()}"
        words.remove("--new-key")
        unsent = refusal("follow", server.url, *words, silent, "--crosswalk", way_back)
    status = json_of("follow", "--status", "--state", tmp_path / "state")

    assert (without.exit_code, "expected --crosswalk" in without.output) == (2, True)
    assert told.exit_code == 0, told.output
    made = Counter(str(pydicom.dcmread(file).Modality) for file in out.glob("*.dcm"))
    assert made == {"SR": 2, "OT": 2, "KO": 2}
    assert any(holds(file.read_bytes(), MARKER) for file in out.iterdir())  # results say of whom they are
    assert "does not answer" in unsent
    assert (status["returned"]["studies_waiting"], status["returned"]["reason"]) == (
        1,
        unsent.removeprefix("precedent: "),
    )
    said = (told.output, unsent, json.dumps(status), *(str(entry) for entry in status["log"]))
    assert not any(holds(text.encode(), MARKER) or "1.2.826" in text for text in said)
    left = [path for name in ("state", "index", "images") for path in (tmp_path / name).rglob("*") if path.is_file()]
    waiting = set((tmp_path / "state/results").iterdir())
    assert len(waiting) == 3
    assert (
        leaks([*(set(left) - waiting), tmp_path / "audit.jsonl", way_back], [MARKER, "1.2.1", "1.2.2", "1.2.3"]) == []
    )
    done("audit", "verify", tmp_path / "audit.jsonl")
    events = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    sent = Counter(one["result"] for one in events if one.get("method") == "return" and one["event"] == "done")
    assert sent == {"stored": 6, "failed": 1}


def test_it_counts_for_prometheus_and_ends_when_it_is_told_to(world: list[str], tmp_path: Path) -> None:
    with orthanc(tmp_path / "orthanc") as server:
        server.put(film())
        with running(server.url, *world, "--metrics", "0", "--list-every", "1") as (process, said):
            _until(said["metrics"], r'precedent_follow_films\{fate="added"\} 1\.0')
            found = _until(said["metrics"], r'precedent_pacs_answers_total\{status="200"\} [1-9]')
            second = refusal("follow", server.url, *world)
            server.stop()
            _until(said["metrics"], r'precedent_pacs_answers_total\{status="none"\} [1-9]')
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert "another process" in second
    assert 'precedent_follow_studies_total{change="added"} 1.0' in found
    assert "precedent_follow_waiting_studies 0.0" in found


def _until(port: int, wanted: str) -> str:
    """Return the metrics once they hold what is wanted."""
    for _ in range(600):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            text: str = answer.read().decode()
        if re.search(wanted, text):
            return text
        time.sleep(0.1)
    raise AssertionError(text)


def test_wrong_words_are_refused_before_anything_is_made(world: list[str], tmp_path: Path) -> None:
    for words, said in [
        (["--listen", "PRECEDENT"], "expected AET@PORT"),
        (["--listen", "PRECEDENT@11112", "--host", "0.0.0.0"], "expected --allow AET"),
        (["--listen", "PRECEDENT@11112", "--allow", "A" * 17], "expected titles of 1 to 16"),
    ]:
        assert said in refusal("follow", *world, *words)
    assert "expected the folder of --state" in refusal("follow", "--status", "--state", tmp_path / "nowhere")
    said = refusal("follow", "http://localhost:9", *world, "--pseudonymise", tmp_path / "images/key", "--new-key")
    assert "outside the folder" in said

"""The verbs on a collection in a file of Milvus Lite: what they print, and what they refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import done, refusal
from export_files import save_export
from milvus_world import hostile_studies, tied_vectors


@pytest.mark.slow
def test_the_verbs_do_on_milvus_what_they_do_on_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    studies = hostile_studies(rng, 40)
    save_export(tmp_path / "export", studies, tied_vectors(rng, 40))
    asked, gone = studies["study_id"][0].as_py(), studies["study_id"][1].as_py()
    address, folder = f"milvus+file://{tmp_path}/cases.db/cases", tmp_path / "index"

    done("index", tmp_path / "export", "--out", folder)
    built = json.loads(done("index", tmp_path / "export", "--backend", "milvus", "--uri", address, "--json").stdout)
    assert (built["kind"], built["rows"]) == ("flat", 40)
    for index in (address, folder):
        done("delete", index, gone)
    words = ["--study", asked, "-k", "9", "--where", "Edema!=1", "--group-by", "patient", "--json"]
    there, here = (json.loads(done("search", index, *words).stdout) for index in (address, folder))
    assert there | {"took_ms": None} == here | {"took_ms": None}
    assert done("verify", address).stdout == f"{address}: 39 studies, 0 faults\n"


@pytest.fixture
def old_milvus(tmp_path: Path) -> Iterator[str]:
    """Yield the network namespace of a standalone Milvus 2.3, which listens on every interface that it sees."""
    pytest.importorskip("milvus", reason="needs the server in PyPI's milvus 2.3.5")
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("a network namespace needs root and iproute2")
    space = f"precedent-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", space], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no network namespace can be made here")
    subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
    command = [sys.executable, "-c", "import milvus; milvus.main()", "--debug", "--data", str(tmp_path / "milvus")]
    try:
        with subprocess.Popen(
            ["ip", "netns", "exec", space, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ):
            try:
                yield space
            finally:
                held = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=True)
                for pid in map(int, held.stdout.split()):
                    os.kill(pid, signal.SIGKILL)
    finally:
        subprocess.run(["ip", "netns", "del", space], check=True)


@pytest.mark.long
def test_a_standalone_milvus_that_is_too_old_is_refused_and_left_as_it_was(tmp_path: Path, old_milvus: str) -> None:
    rng = np.random.default_rng(1)
    save_export(tmp_path / "export", hostile_studies(rng, 20), tied_vectors(rng, 20))
    inside = ["ip", "netns", "exec", old_milvus, sys.executable]
    words = [
        "-m",
        "scripts.cli",
        "index",
        tmp_path / "export",
        "--backend",
        "milvus",
        "--uri",
        "http://127.0.0.1:19530/cases",
    ]
    end = time.monotonic() + 120
    while True:
        told = subprocess.run([*inside, *map(str, words)], capture_output=True, text=True, check=False)
        if "does not answer" not in told.stderr or time.monotonic() > end:
            break

    assert told.returncode == 1
    assert "expected Milvus 2.5 or later" in told.stderr.replace("\n", " ")
    asked = "import pymilvus; print(pymilvus.MilvusClient('http://127.0.0.1:19530', timeout=10).list_collections())"
    assert subprocess.run([*inside, "-c", asked], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compact"], "it compacts by itself"),
        (["map"], "no map is made of one"),
        (["snapshot", "OUT"], "back it up with its own tools"),
        (["search", "--study", "a/b"], "no file '/nowhere/cases.db'"),
        (["verify"], "no file '/nowhere/cases.db'"),
        (["delete", "a/b"], "no file '/nowhere/cases.db'"),
    ],
)
def test_what_is_not_done_on_milvus_and_a_file_that_is_not_there_are_told_in_one_line(
    words: list[str], sentence: str
) -> None:
    assert sentence in refusal(words[0], "milvus+file:///nowhere/cases.db/cases", *words[1:])

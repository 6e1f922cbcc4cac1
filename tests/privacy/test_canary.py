"""A name that stands wherever a DICOM file can hold one is nowhere in what the pipeline and the service leave or say."""

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pydicom
import pytest
from canary_films import (
    MARKER,
    commented_jpeg,
    every_name,
    film_pixels,
    holds,
    leaks,
    named_film,
    renamed,
    write_archive,
)
from canary_requests import asked, asked_by_strangers
from click.testing import CliRunner
from folders import ROOT
from pydicom.dataset import Dataset

from index.table.studies import load_studies, save_studies
from scripts.cli import precedent
from service.audit.chain import verify as verify_audit
from service.guard.tokens import SCOPES, create_token

pytestmark = pytest.mark.slow
STUDIES = 24


@dataclass(frozen=True)
class World:
    """What the verbs left, and every word that they printed."""

    work: Path
    names: Dataset
    told: str
    key: str
    studies: tuple[str, ...]
    archive: Path
    kept: Path
    """An index whose table names the archive's own files: pseudonyms, but no copies."""


@pytest.fixture(scope="module")
def names() -> Iterator[Dataset]:
    """Yield every name; values that break their VR are part of it."""
    with pydicom.config.disable_value_validation():
        yield every_name()


@pytest.fixture(scope="module")
def world(names: Dataset, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return what becomes of an archive full of names, from its import to a probe."""
    work, archive = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("archive")
    key = tmp_path_factory.mktemp("keys") / "site.key"
    write_archive(archive, names, STUDIES)
    data = Path(os.environ.get("PRECEDENT_DATA", ROOT.parent / "shared" / "data"))  # where there are any
    for film in data.glob("dicom/chest/nih_*.dcm"):
        (archive / f"{MARKER}-real").write_bytes(renamed(film, names))
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    table, kept = work / "studies.parquet", tmp_path_factory.mktemp("kept")
    words = ("import", "dicom", archive, "--pseudonymise", key)
    told = _run(*words, "--out", table, "--new-key", "--copy-to", work / "films")
    told += _run(*words, "--out", work / "again.parquet", "--json", "--copy-to", work / "films", "--keep-burned-in")
    told += _run(*words, "--out", work / "strict.parquet", "--strict", "--copy-to", work / "films", code=1)
    told += _run(*words, "--out", kept / "studies.parquet", "--keep-paths")
    _label(table)
    told += _from_films_to_a_probe(work)
    told += _run(
        "export",
        kept / "studies.parquet",
        "--images",
        archive,
        "--encoder",
        work / "encoder.safetensors",
        "--out",
        kept / "vectors",
        "--allow-failures",
    )
    told += _run("index", kept / "vectors", "--out", kept / "index")
    logging.getLogger().removeHandler(handler)
    _tear(archive, load_studies(kept / "studies.parquet").to_pylist()[1])
    ids = tuple(load_studies(table)["study_id"].to_pylist())
    return World(work, names, told + log.getvalue(), key.read_text(), ids, archive, kept / "index")


def _from_films_to_a_probe(work: Path) -> str:
    encoder, films, index = work / "encoder.safetensors", work / "films", work / "index"
    small = ("--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64")
    study = load_studies(work / "studies.parquet")["study_id"][0].as_py()
    upload = work.parent / f"{MARKER}-upload.dcm"
    upload.write_bytes(named_film(every_name(), 7))
    told = _run("encoder", "create", *small, "--out", encoder)
    told += _run("export", work / "studies.parquet", "--images", films, "--encoder", encoder, "--out", work / "vectors")
    told += _run("index", work / "vectors", "--out", index)
    told += _run("map", index)
    told += _run(
        "probe", work / "vectors", "--out", work / "probe", "--findings", "Edema", "--cv", "2", "--draws", "500"
    )
    told += _run(
        "evaluate",
        work / "vectors",
        "--out",
        work / "report",
        "--findings",
        "Edema",
        "--draws",
        "500",
        "--pixels",
        films,
    )
    told += _run("search", index, "--study", study, "--json")
    told += _run("search", index, "--frontal", upload, "--encoder", encoder)
    told += _run("predict", index, "--encoder", encoder, "--probe", work / "probe", "--frontal", upload)
    told += _run(
        "explain",
        index,
        "--encoder",
        encoder,
        "--frontal",
        upload,
        "--hit",
        study,
        "--no-trust",
        "--out",
        work / "maps",
    )
    return told


def _run(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(precedent, [str(word) for word in words])
    refused = result.exception if not isinstance(result.exception, SystemExit) else None
    assert (1 if refused else result.exit_code) == code, (result.output, result.exception)
    return f"{result.stdout}\n{result.stderr}\n{refused or ''}\n"


def _tear(archive: Path, study: dict[str, Any]) -> None:
    film = archive / study["frontal_path"]
    film.write_bytes(film.read_bytes()[:-1000])


def _label(table: Path) -> None:
    """Give every other study a finding, as a table of labels would."""
    studies = load_studies(table)
    labels = pa.array([row % 2 for row in range(studies.num_rows)], pa.int8())
    place = studies.column_names.index("Edema")
    save_studies(studies.set_column(place, "Edema", labels), table)


def test_everybody_of_the_archive_is_in_the_table_under_a_pseudonym(world: World) -> None:
    studies = load_studies(world.work / "studies.parquet").to_pylist()

    assert len(studies) >= STUDIES
    assert all(row["study_id"].startswith(f"{row['patient_id']}/study") for row in studies)
    assert max(row["age"] or 0 for row in studies) == 90
    assert all((world.work / "films" / row["frontal_path"]).is_file() for row in studies)
    assert "text is burned into the picture: 1" in world.told


def test_no_name_is_in_what_the_verbs_print_or_log(world: World) -> None:
    assert not holds(world.told.replace(f"{MARKER}-upload", "").encode(), MARKER)
    assert world.key not in world.told


def test_no_name_and_no_key_is_in_any_file_that_is_left(world: World) -> None:
    assert leaks([world.work], [MARKER, world.key]) == []


def test_the_search_for_the_name_finds_it_where_it_is(world: World, tmp_path: Path) -> None:
    write_archive(tmp_path / "archive", world.names, 4)
    _run("import", "dicom", tmp_path / "archive", "--out", tmp_path / "plain.parquet")
    (tmp_path / "film.json").write_text(json.dumps({"png": base64.b64encode(commented_jpeg(film_pixels(1))).decode()}))

    assert leaks([tmp_path / "plain.parquet"], [MARKER])
    assert leaks([tmp_path / "film.json"], [MARKER])
    assert leaks([tmp_path / "archive"], [MARKER])


@dataclass(frozen=True)
class Served:
    """Every answer of a real server, status line and headers before each body, and what the process wrote."""

    answers: dict[str, bytes]
    refusals: dict[str, bytes]
    log: bytes
    secrets: tuple[str, ...]
    """Tokens: a good one, one of no scope that helps, one that ran out, one that never was."""


@pytest.fixture(scope="module")
def served(world: World) -> Served:
    """Return what a real server says to all that its own document offers, rightly and wrongly asked."""
    tokens = world.work / "tokens.json"
    secret = create_token(tokens, "alice", list(SCOPES))
    others = (
        create_token(tokens, "metrics", ["metrics"]),
        create_token(tokens, "old", ["read"], lifetime=-timedelta(1)),
        f"precedent_{MARKER}",
    )
    words = [
        f"main={world.work / 'index'}",
        f"kept={world.kept}",
        "--encoder",
        world.work / "encoder.safetensors",
        "--probe",
        world.work / "probe",
        "--port",
        "0",
        "--log-format",
        "json",
        "--audit",
        world.work / "audit.jsonl",
        "--tokens",
        tokens,
    ]
    line = [sys.executable, "-u", "-m", "scripts.cli", "serve", *map(str, words)]
    with (world.work.parent / "serve.log").open("w+b") as log:
        with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=log) as process:
            assert process.stdout is not None
            begun = process.stdout.readline()
            url = begun.split()[-1].decode()
            answers = dict(asked(url, world.names, world.studies, secret))
            refusals = dict(asked_by_strangers(url, others))
            process.send_signal(signal.SIGTERM)
            ended = process.stdout.read()
        log.seek(0)
        return Served(answers, refusals, begun + ended + log.read(), (secret, *others[:2]))


def test_the_service_answered_rightly_and_wrongly_asked(served: Served) -> None:
    statuses = {answer[:3] for answer in served.answers.values()}

    assert {b"200", b"400", b"404", b"415", b"422"} <= statuses
    assert not {status for status in statuses if status.startswith(b"5")}


def test_who_shows_no_token_that_helps_is_refused_and_the_machines_routes_answer(served: Served, world: World) -> None:
    assert {answer[:3] for answer in served.refusals.values()} <= {b"401", b"403", b"400", b"429"}
    assert [served.answers[f"GET {path}"][:3] for path in ("/readyz", "/metrics")] == [b"200", b"200"]
    assert verify_audit(world.work / "audit.jsonl").lines > len(served.answers) / 2


def test_no_token_is_in_an_answer_a_log_a_metric_or_a_file(served: Served, world: World) -> None:
    told = [
        asked
        for asked, answer in (served.answers | served.refusals).items()
        if any(holds(answer, one) for one in served.secrets)
    ]

    assert told == []
    assert not [one for one in served.secrets if holds(served.log, one)]
    assert leaks([world.work], list(served.secrets)) == []


def test_no_answer_of_the_service_holds_a_name_or_a_path(served: Served, world: World) -> None:
    paths = load_studies(world.work / "studies.parquet")["frontal_path"].to_pylist()
    forbidden = (MARKER, world.key, str(world.work), *(Path(path).name for path in paths[:3]))
    told = [
        f"{asked}: {word}"
        for asked, answer in (served.answers | served.refusals).items()
        for word in forbidden
        if holds(answer, word)
    ]

    assert told == []


def test_no_log_of_the_service_and_no_file_beside_it_holds_a_name_or_a_path(served: Served, world: World) -> None:
    assert not [word for word in (MARKER, world.key, str(world.work / "films")) if holds(served.log, word)]
    assert leaks([world.work], [MARKER, world.key]) == []

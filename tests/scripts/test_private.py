"""Whatever a verb leaves behind, its owner alone can read it, whatever the shell's umask lets others do."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from film_files import dicom
from folders import ROOT
from training_films import save_collection, train_words

from index.errors import CollectionError
from index.table.studies import load_studies, save_studies, studies_schema
from service.process import keep_files_private

RUN_ALL = """
import json, os, sys
from scripts.cli import main
os.umask(0o022)
for words in json.load(sys.stdin):
    sys.argv = ["precedent", *words]
    try:
        main()
    except SystemExit as stopped:
        if stopped.code:
            sys.exit(f"{words}: {stopped.code}")
"""


def run_all(*verbs: list[str], **environ: str) -> None:
    """Run verbs one after another in a process whose umask is the usual 022."""
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        input=json.dumps(verbs),
        env=os.environ | environ,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]


def modes(folder: Path) -> dict[int, list[str]]:
    """Return what lies below a folder by its permissions, which 0o600 and 0o700 stand for where others have none."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        found.setdefault(path.stat().st_mode & 0o777, []).append(str(path.relative_to(folder)))
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder of films: studies, one more whose film is torn, and an archive of two DICOM files."""
    folder = tmp_path / "given"
    (folder / "dicom").mkdir(parents=True)
    save_collection(folder)
    (folder / "torn.png").write_bytes((folder / "0.png").read_bytes()[:1000])
    rows = load_studies(folder / "studies.parquet").to_pylist()
    torn = rows[0] | {"study_id": "torn", "frontal_path": "torn.png", "lateral_path": None}
    save_studies(pa.Table.from_pylist([*rows, torn], studies_schema()), folder / "with_torn.parquet")
    save_studies(pa.Table.from_pylist(rows[1:2], studies_schema()), folder / "more.parquet")
    for number in (1, 2):
        ids = {"PatientID": f"P{number}", "StudyInstanceUID": f"1.{number}", "SOPInstanceUID": f"1.{number}.1"}
        (folder / "dicom" / str(number)).write_bytes(dicom(ViewPosition="PA", **ids))
    return folder


def pipeline(given: Path, out: Path) -> list[list[str]]:
    """Return the words of every verb that writes, each into a folder of its own where it takes one."""
    films, index, encoder = ["--images", str(given)], str(out / "index"), str(out / "run" / "encoder.safetensors")
    table, film = str(given / "studies.parquet"), str(given / "0.png")
    more, probe, shards = str(given / "more.parquet"), str(out / "probe"), str(out / "embeddings")
    words = [
        [
            "import",
            "dicom",
            given / "dicom",
            "--out",
            out / "dicom.parquet",
            "--pseudonymise",
            given / "key",
            "--new-key",
            "--copy-to",
            out / "copies",
        ],
        ["import", "join", f"a={table}", f"b={table}", "--out", out / "joined.parquet"],
        [*train_words(given, "run.epochs=1"), "--out", out / "run"],
        ["encoder", "pack", encoder, "--out", out / "packed.safetensors"],
        [
            "export",
            given / "with_torn.parquet",
            *films,
            "--encoder",
            encoder,
            "--out",
            shards,
            "--allow-failures",
            "--runtime",
            "torch",
        ],
        ["index", shards, "--out", index],
        ["map", index],
        ["probe", shards, "--cv", "2", "--findings", "Lung Lesion", "--draws", "500", "--out", probe],
        ["evaluate", shards, "--out", out / "evaluation", "--draws", "500"],
        ["predict", index, "--encoder", encoder, "--probe", probe, "--frontal", film, "--maps", out / "predicted"],
        [
            "explain",
            "--encoder",
            encoder,
            "--probe",
            probe,
            "--finding",
            "Lung Lesion",
            "--frontal",
            film,
            "--no-trust",
            "--out",
            out / "explained",
        ],
        ["delete", index, "patient00001/study1"],
        ["add", index, more, *films, "--encoder", encoder, "--runtime", "torch"],
        ["snapshot", index, out / "snapshot"],
        ["restore", out / "snapshot", out / "restored"],
        ["compact", index],
        ["delete", index, "patient00002/study2"],
        ["token", "create", "a", "--scope", "read", "--tokens", out / "tokens.json"],
    ]
    return [[str(word) for word in verb] for verb in words]


@pytest.mark.slow
def test_what_every_verb_leaves_is_its_owners_alone(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    run_all(*pipeline(archive, out))

    assert set(modes(out)) == {0o600, 0o700}, modes(out)
    names = {path.name for path in out.rglob("*")}
    assert {"_failed.parquet", "changes.sqlite", "map.json", "metrics.csv", "splits.json", "report.html"} <= names
    assert any((out / "copies").rglob("*.png"))
    assert (archive / "key").stat().st_mode & 0o777 == 0o600


def test_an_archive_that_a_group_reads_says_so(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    table = archive / "studies.parquet"
    words = ["import", "join", f"a={table}", f"b={table}", "--out"]

    run_all([*words, str(out / "own.parquet")])
    run_all([*words, str(out / "shared.parquet")], PRECEDENT_UMASK="027")

    assert modes(out) == {0o600: ["own.parquet"], 0o640: ["shared.parquet"]}


@pytest.fixture
def umask() -> Iterator[int]:
    """Return the umask of the tests, which what a test sets is put back to."""
    before = os.umask(0o022)
    yield before
    os.umask(before)


@pytest.mark.parametrize(
    ("before", "told", "after"), [(0o022, "", 0o077), (0o177, "", 0o177), (0o077, "027", 0o027), (0o022, "0", 0)]
)
def test_a_stricter_umask_stays_and_one_that_is_told_counts(umask: int, before: int, told: str, after: int) -> None:
    os.umask(before)
    keep_files_private({"PRECEDENT_UMASK": told})
    assert os.umask(0o022) == after
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0


@pytest.mark.parametrize("told", ["rwx", "9", "-1", "1000"])
def test_what_is_no_umask_is_refused(umask: int, told: str) -> None:
    with pytest.raises(CollectionError, match="expected PRECEDENT_UMASK to be a umask such as 027, got"):
        keep_files_private({"PRECEDENT_UMASK": told})

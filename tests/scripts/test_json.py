"""Every verb with --json prints one JSON value and nothing else on stdout, however it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pytest
from command_line import done, verbs
from export_files import save_drawn
from film_files import dicom
from folders import ROOT

from index.table.studies import load_studies, save_studies
from scripts.cli import main, precedent
from scripts.terminal import json_alone, say_json
from service.audit.log import AuditLog

NIH = """\
Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,\
OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],
00000427_003.png,No Finding,3,427,77,F,PA,2830,2889,0.143,0.143,
"""
MADE = [
    "phantom --patients 12 --seed 4 --jobs 1 --out films",
    "import chexpert films/train.csv --images films --out studies.parquet",
    "encoder create --backbone test_efficientnet --dim 256 --size 64 --weights none --out encoder.safetensors",
    "export studies.parquet --images films --encoder encoder.safetensors --runtime torch --regions --out embeddings",
    "index embeddings --out index",
    "probe embeddings --cv 2 --findings Edema,Pneumothorax --out probe",
    "snapshot index snapshot",
    "token create alice --scope read --tokens tokens.json",
]
"""The world, in the folder in which each case below runs."""
FILMS = "--images films --encoder encoder.safetensors"
CASES = {
    "phantom": "--patients 1 --jobs 1 --out {new}/films --contact-sheet {new}/sheet.png",
    "import chexpert": "films/train.csv --images films --out {new}/studies.parquet",
    "import nih": "nih.csv --images . --no-check-images --out {new}/studies.parquet",
    "import table": "mine.csv . --no-check-images --out {new}/studies.parquet",
    "import dicom": "dicom --out {new}/studies.parquet",
    "import join": "a=studies.parquet b=studies.parquet --absent b --out {new}/studies.parquet",
    "import vectors": "embeddings --studies studies.parquet --model mine --out {new}/imported",
    "import texts": "embeddings --id-column study_id --model mine --out {new}/texts.parquet",
    "encoder create": "--backbone test_efficientnet --dim 256 --size 64 --weights none --out {new}/e.safetensors",
    "encoder adopt": "--list",
    "encoder info": "encoder.safetensors",
    "encoder pack": "encoder.safetensors --out {new}/packed.safetensors",
    "encoder quantize": "{new}/encoder.safetensors --studies studies.parquet --images films --count 16",
    "train": "studies.parquet --images films --recipe phantom --threads 1 --set encoder.backbone=test_efficientnet"
    " --set preprocessing.size=64 --set run.batch_size=8 --set run.epochs=1 --set run.weights=none"
    " --set targets.findings=['Pneumothorax'] --set run.valid_fraction=0.4 --set run.monitor=loss --out {new}/run",
    "export": f"studies.parquet {FILMS} --runtime torch --out {{new}}/embeddings",
    "index": "embeddings --out {new}/built",
    "add": f"{{new}}/index studies.parquet {FILMS} --runtime torch",
    "delete": "{new}/index patient00002/study1",
    "compact": "{new}/index",
    "snapshot": "index {new}/snapshot",
    "restore": "snapshot {new}/restored",
    "verify": "index --trust-collection",
    "upgrade": "index",
    "map": "{new}/index",
    "search": "index --study patient00001/study1 -k 2",
    "neighbours": "index -k 2 --out {new}/graph.jsonl",
    "probe": "embeddings --cv 2 --findings Edema --out {new}/probe",
    "predict": "index --encoder encoder.safetensors --probe probe --frontal film.jpg -k 3",
    "explain": "index --encoder encoder.safetensors --probe probe --frontal film.jpg --finding Edema --out {new}/maps",
    "return": "dicom index --encoder encoder.safetensors --probe probe --return sr --to {new}",
    "pointing": f"studies.parquet {FILMS} --boxes films/boxes.csv --probe probe --limit 1",
    "regions": "index --images films --boxes films/boxes.csv --limit 1",
    "evaluate": "embeddings --draws 500 --out {new}/report",
    "audit-shortcuts": "drawn --draws 500 --folds 2 --findings Pneumonia --out {new}/report",
    "drift": "drawn-index arrived --out {new}/report",
    "token create": "bob --scope read --tokens {new}/tokens.json",
    "token list": "--tokens tokens.json",
    "token revoke": "alice --tokens {new}/tokens.json",
    "audit verify": "audit.jsonl",
    "doctor": "index --encoder encoder.safetensors --trust-collection",
    "help": "index",
    "bench bombs": "--repeat 1",
    "bench encode": "--encoder encoder.safetensors --no-compile --count 2 --batch 2 --repeat 1",
    "bench export": "--encoder encoder.safetensors --runtime torch --kind small --films 4 --repeat 1",
    "bench follow": "--encoder encoder.safetensors --runtime torch --films 2 --kind half --folder {new}",
    "bench living": "--rows 300 --dim 16 --changes 3 --kills 1 --repeat 1 --folder {new}",
    "bench probe": "--rows 200 --dim 8 --findings 2 --repeat 1",
    "bench read": "--kind small --films 4 --repeat 1",
    "bench search": "--rows 500 --dim 16 --queries 10 --batch 20 --repeat 1 --folder {new}",
    "bench serve": "--encoder encoder.safetensors --rows 200 --vectors 8 --films 8 --repeat 1",
    "bench train": "--films 8 --batch 2 --device cpu --repeat 1",
}
NAMED = {
    "PatientID": "P1",
    "StudyInstanceUID": "1.2.3",
    "SeriesInstanceUID": "1.2.3.1",
    "SOPInstanceUID": "1.2.3.4",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
    "ViewPosition": "PA",
}
ITS_OWN = {
    "serve": "answers until it is told to end: test_a_server_prints_one_json_value_until_it_ends",
    "bench engines": "measures database servers that tests start: tests/scripts/benches/test_engines.py",
    "follow": "follows until it is told to end: test_it_counts_for_prometheus_and_ends_when_it_is_told_to",
    "import dicomweb": "asks a PACS: test_nothing_that_is_said_or_written_under_pseudonyms_names_a_patient",
}
"""Why a verb has no words above."""
SLOW = {"encoder quantize", "doctor", "phantom"}
LONG = {"bench living", "bench encode", "bench export", "bench serve", "bench train"}
"""What these print is read as JSON by their own tests, in tests/scripts/benches."""
UNSOUND = [
    (f"export {{new}}/torn.parquet {FILMS} --runtime torch --out {{new}}/out", 3, '"failed": 1'),
    (f"add {{new}}/index {{new}}/torn.parquet {FILMS} --runtime torch --replace", 3, '"failed": 1'),
    ("verify {new}/bent", 1, "faults"),
    ("verify {new}/no-index", 1, "no-index"),
    ("doctor {new}/bent", 1, "fault"),
    ("import dicom films --out {new}/studies.parquet", 1, "error"),
    ("token create alice --scope read --tokens tokens.json", 1, "alice"),
    ("token revoke nobody --tokens tokens.json", 1, "nobody"),
    ("audit verify export.json", 1, "export.json"),
    ("snapshot index index", 1, "index"),
    ("search", 2, "INDEX"),
    ("token create", 2, "NAME"),
    ("index", 2, "EMBEDDINGS"),
    ("no-such-verb", 2, "no-such-verb"),
    ("", 2, "--json"),
]
"""Words, the exit code, and what the JSON says."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with one of everything that the verbs take."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for line in MADE:
            done(*line.split())
        rng = np.random.default_rng(0)
        save_drawn(Path("drawn"), rng, 100)
        save_drawn(Path("arrived"), rng, 20, "new")
        done("index", "drawn", "--out", "drawn-index")
        film = next(Path("films").rglob("*frontal.jpg"))
        shutil.copy(film, "film.jpg")
        Path("nih.csv").write_text(NIH)
        Path("mine.csv").write_text("path\na.png\n")
        Path("dicom").mkdir()
        Path("dicom/film.dcm").write_bytes(dicom(**NAMED))
        Path("export.json").write_text("{}")
        log = AuditLog(Path("audit.jsonl"))
        log.append({"event": "call", "status": 200, "studies": ["patient00001/study1"]})
        log.close()
    return folder


@pytest.fixture
def new(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of the test's own with what a verb may change; the test runs in the world."""
    monkeypatch.chdir(world)
    shutil.copytree("index", tmp_path / "index")
    shutil.copytree("index", tmp_path / "bent")
    with next((tmp_path / "bent").glob("studies-*.parquet")).open("ab") as file:
        file.write(b"more")
    for name in ("encoder.safetensors", "tokens.json"):
        shutil.copy(name, tmp_path)
    table = load_studies(Path("studies.parquet"))
    paths = pa.array(["train.csv", *table["frontal_path"].to_pylist()[1:]], pa.string())
    save_studies(
        table.set_column(table.schema.get_field_index("frontal_path"), "frontal_path", paths), tmp_path / "torn.parquet"
    )
    return tmp_path


def ended(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of the command line."""
    monkeypatch.setattr(sys, "argv", ["precedent", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code if isinstance(end.value.code, int) else int(end.value.code is not None)


def the_json(printed: str) -> Any:
    """Return the one value that was printed, strictly read."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(printed, parse_constant=refuse)


VERBS = sorted(name.removeprefix("precedent ") for name, _ in verbs(precedent, "precedent"))


def test_every_verb_with_json_has_a_case() -> None:
    assert sorted(CASES | ITS_OWN) == VERBS


@pytest.mark.parametrize(
    "verb",
    [
        *(verb for verb in CASES if verb not in SLOW | LONG),
        *(pytest.param(verb, marks=pytest.mark.slow) for verb in sorted(SLOW)),
        *(pytest.param(verb, marks=pytest.mark.long) for verb in sorted(LONG)),
    ],
)
def test_what_a_verb_prints_is_one_json_value(
    verb: str, new: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = ended([*verb.split(), *CASES[verb].format(new=new).split(), "--json"], monkeypatch)
    printed = capfd.readouterr()

    assert code == 0, printed
    assert the_json(printed.out)


@pytest.mark.parametrize("verb", VERBS)
def test_a_word_that_a_verb_does_not_know_is_one_json_value(
    verb: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended([*verb.split(), "--json", "--no-such-option"], monkeypatch) == 2
    assert "no-such-option" in the_json(capfd.readouterr().out)["error"]["message"]


@pytest.mark.parametrize(("words", "code", "said"), UNSOUND)
def test_a_verb_that_finds_fault_or_is_refused_prints_one_json_value(
    words: str, code: int, said: str, new: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ended([*words.format(new=new).split(), "--json"], monkeypatch) == code
    printed = capfd.readouterr()
    assert said in json.dumps(the_json(printed.out)), printed


def test_what_libraries_and_processes_print_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["precedent", "map", "--json"])
    with json_alone():
        print("a library's words")
        subprocess.run(["echo", "a process's words"], check=True)
        say_json({"a": 1})
    print("afterwards")
    out, err = capfd.readouterr()
    assert out == '{"a": 1}\nafterwards\n'
    assert sorted(err.splitlines()) == ["a library's words", "a process's words"]


@pytest.mark.slow  # a server in a process of its own
def test_a_server_prints_one_json_value_until_it_ends(new: Path) -> None:
    words = "serve index --encoder encoder.safetensors --images films --probe probe --port 0 --json"
    command = [sys.executable, "-m", "scripts.cli", *words.split(), "--audit", str(new / "log.jsonl")]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ) as server:
        assert server.stdout is not None
        first = server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        rest = server.stdout.read()
    assert server.returncode == 0
    assert the_json(first + rest)["url"].startswith("http://127.0.0.1:")

"""Artefacts that version 0.1.0 wrote are read by the present one; of another version they are refused with what to do."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from command_line import json_of, refusal
from folders import ROOT
from readme_world import blocks, typed

from index.storage.files import SEAL, save_json
from index.table.studies import VERSION_KEY
from scripts.cli import precedent

ENCODER = ROOT / "scripts" / "demo_encoder.safetensors"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return a copy of what version 0.1.0 wrote with the demo's encoder."""
    return shutil.copytree(ROOT / "tests" / "artefacts" / "0.1.0", tmp_path / "kept")


def test_what_version_0_1_0_wrote_is_current_and_left_as_it_is(kept: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}

    before = content()
    told = {name: json_of("upgrade", kept / name) for name in ("studies.parquet", "embeddings", "index", "probe")}
    told["encoder"] = json_of("upgrade", ENCODER)

    assert {name: one["kind"] for name, one in told.items()} == {
        "studies.parquet": "table of 8 studies",
        "embeddings": "export of 8 studies",
        "index": "index of 7 studies",
        "probe": "probe of 9 findings",
        "encoder": "encoder that prepares films by version 1 of 1 to 2",
    }
    assert all(one["current"] for one in told.values())
    assert content() == before


def test_the_guides_drill_brings_a_backup_back(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(kept)
    [drill] = [one for one in blocks("service/deploy/README.md", "Backup, restore, and a newer Precedent")]

    told = typed(drill)

    assert "7 studies, 0 faults" in told
    assert "index of 7 studies, current" in told


def test_vectors_of_an_earlier_reading_have_to_be_made_anew(kept: Path) -> None:
    manifest = kept / "index" / "manifest.json"
    said = json.loads(manifest.read_text()) | {"reading": 2}
    said.pop(SEAL)
    save_json(manifest, said, sealed=True)

    told = CliRunner().invoke(precedent, ["upgrade", str(kept / "index"), "--json"])

    assert told.exit_code == 1
    assert "export and index again" in json.loads(told.stdout)["older"][0]


def test_what_cannot_be_read_is_refused_with_what_to_do(kept: Path, tmp_path: Path) -> None:
    assert "precedent restore" in refusal("upgrade", kept / "snapshot")
    with closing(sqlite3.connect(kept / "index" / "changes.sqlite")) as changes:
        changes.execute("PRAGMA user_version = 1")
    assert "expected changes of version 2" in refusal("upgrade", kept / "index")
    (kept / "index" / "manifest.json").write_text(json.dumps({"format": "precedent-index", "version": 0}))
    assert "no index of version 1" in refusal("upgrade", kept / "index")
    table = pq.read_table(kept / "studies.parquet")
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: "0"}), kept / "older.parquet")
    assert "expected studies of version 1, got 0; import it again" in refusal("upgrade", kept / "older.parquet")
    assert "expected an encoder file" in refusal("upgrade", tmp_path)

"""`precedent drift`: what it says of studies that are alike and of others, from an export and from a table; refusals."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import done, json_of, refusal
from export_files import drawn_studies, save_drawn, save_export
from served_world import save_world

from encoder.embedder import Embedder
from index.built.collection import load_collection
from index.errors import FingerprintMismatch
from index.judging import drift as tests
from index.table.studies import save_studies
from scripts.verbs.judging import drift


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests, "DEALINGS", 399)
    monkeypatch.setattr(tests, "_TRIALS", 20)


@pytest.fixture
def index(rng: np.random.Generator, tmp_path: Path) -> Path:
    done("index", save_drawn(tmp_path / "embeddings", rng, 200), "--out", tmp_path / "index")
    return tmp_path / "index"


def test_studies_that_are_moved_are_found_and_others_are_not(
    index: Path, rng: np.random.Generator, tmp_path: Path
) -> None:
    alike = json_of("drift", index, save_drawn(tmp_path / "alike", rng, 60, "new"))
    shown = done("drift", index, save_drawn(tmp_path / "moved", rng, 60, "new", 2.0), "--out", tmp_path / "out").stdout
    page = (tmp_path / "out" / "report.html").read_text()

    assert alike["moved"] == []
    assert (alike["patients"], alike["held_back"], len(alike["measures"])) == (60, 100, 9)
    assert 0 < alike["power"]["shift"] < 3
    for text in (shown, page):
        assert "differ from the collection in: " in text
        assert "would be found four times in five" in text
    assert "<svg" in page
    assert (tmp_path / "out" / "metrics.json").is_file()


@pytest.mark.slow
def test_a_table_is_embedded_by_the_way(tmp_path: Path, tiny_embedder: Embedder) -> None:
    world = save_world(tmp_path, tiny_embedder, studies=60)
    studies = load_collection(world / "index").studies.drop_columns(["views"])
    save_studies(studies, world / "studies.parquet")
    words = ("--encoder", world / "encoder.safetensors", "--images", world)
    said = refusal("drift", world / "index", world / "studies.parquet", *words)
    assert "at least 10 patients of the collection alone" in said  # they are the same ones


def test_what_cannot_be_compared_is_refused(index: Path, rng: np.random.Generator, tmp_path: Path) -> None:
    few = save_drawn(tmp_path / "few", rng, 5, "new")
    assert "at least 10 patients arriving" in refusal("drift", index, few)
    assert CliRunner().invoke(drift.command, [str(index), str(few), "--images", str(tmp_path)]).exit_code == 2
    studies, vectors = drawn_studies(np.ones(20), np.ones(20), rng, "new"), np.eye(20, dtype=np.float32)
    with pytest.raises(FingerprintMismatch, match="export it with the encoder"):
        json_of("drift", index, save_export(tmp_path / "other", studies, vectors, "e"))

"""The layouts kept beside an index: which they are, and distances and percentiles against brute force."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from index.built.collection import build_collection, load_collection
from index.export.layouts import LayoutGate, are_alike, sample_layouts
from index.export.shards import ExportPlan, ShardFolder, load_embeddings
from index.vectors import Embeddings

Layouts = npt.NDArray[np.int8]


@pytest.fixture
def layouts(rng: np.random.Generator) -> Layouts:
    """Return 60 layouts (60, 12) of as many films, of columns with unlike spreads."""
    return np.rint(rng.normal(size=(60, 12)) * np.arange(1, 13) * 3).astype(np.int8)


def table(layouts: Layouts, patients: list[str]) -> pa.Table:
    return pa.table({"patient_id": patients, "layout": [row.tobytes() for row in layouts]})


def save_export(folder: Path, studies: pa.Table, vectors: Embeddings, told: list[list[bytes] | None]) -> Path:
    """Write an export of two shards; a shard of which nothing is told has no layouts."""
    plan = ExportPlan("f" * 64, vectors.shape[1], "0" * 64, studies.num_rows, studies.num_rows // 2)
    shards = ShardFolder(folder, plan)
    for shard in range(plan.shard_count):
        part = plan.slice_of(shard)
        rows = studies.slice(part.start, part.stop - part.start)
        films = [film for film in told[part] if film is not None] or None
        views = [["frontal", "lateral"][: len(film or "one")] for film in told[part]]
        shards.save_shard(shard, rows, views, vectors[part], [], films)
    shards.finish(image_root="")
    return folder


def test_a_percentile_is_the_share_of_films_as_far_from_other_patients(layouts: Layouts) -> None:
    patients = [f"p{n // 2}" for n in range(60)]
    gate = LayoutGate.build(table(layouts, patients))
    scaled = layouts.astype(float) / (layouts.astype(float).std(axis=0) + 1)
    apart = np.linalg.norm(scaled[:, None] - scaled, axis=2)
    own = np.where(np.arange(60)[:, None] // 2 == np.arange(60) // 2, np.inf, apart).min(axis=1)
    assert gate is not None
    for film in range(0, 60, 7):
        assert gate.percentile(layouts[film], patients[film]) == pytest.approx(100 * np.mean(own >= own[film] - 1e-4))


def test_only_another_patients_films_are_neighbours(layouts: Layouts) -> None:
    gate = LayoutGate.build(table(layouts, [f"p{n}" for n in range(60)]))
    assert gate is not None
    assert gate.percentile(layouts[3]) == 100
    assert gate.percentile(layouts[3], "p3") < 100
    assert gate.percentile(np.full(12, 127, dtype=np.int8)) == 0


def test_films_of_one_patient_give_nothing_to_compare(layouts: Layouts) -> None:
    assert LayoutGate.build(None) is None
    assert LayoutGate.build(table(layouts, ["p"] * 60)) is None


def test_a_collection_keeps_the_films_of_a_sample_and_no_column_of_them(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    told: list[list[bytes] | None] = [[bytes([n, 1]), bytes([n, 2])][: 1 + n % 2] for n in range(200)]
    folder = save_export(tmp_path / "export", studies, unit_vectors, told)
    built = build_collection(folder, tmp_path / "index")
    loaded = load_collection(tmp_path / "index").layouts
    owners = {(row[0], studies["patient_id"][row[0]].as_py()) for films in told for row in films or ()}
    few = sample_layouts(folder, sample=50)

    assert loaded is not None
    assert loaded.equals(built.layouts)
    assert {(row["layout"][0], row["patient_id"]) for row in loaded.to_pylist()} == owners
    assert loaded.num_rows == 300
    assert all(row["view"] == ("frontal" if row["layout"][1] == 1 else "lateral") for row in loaded.to_pylist())
    assert few is not None
    assert len({row["layout"][0] for row in few.to_pylist()}) == 50
    assert "layouts" not in load_embeddings(folder)[0].column_names


@pytest.mark.parametrize(("without", "kept"), [(100, 100), (200, None)])
def test_shards_of_an_older_export_have_no_layouts(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, without: int, kept: int | None
) -> None:
    told: list[list[bytes] | None] = [None if n < without else [bytes([n])] for n in range(200)]
    found = build_collection(save_export(tmp_path / "export", studies, unit_vectors, told), tmp_path / "index")

    assert (found.layouts and found.layouts.num_rows) == kept
    assert ("layouts" in found.manifest["files"]) is (kept is not None)
    assert load_collection(tmp_path / "index").manifest == found.manifest


@pytest.mark.parametrize(("laterals", "seen"), [(30, ("frontal", "lateral")), (19, (None, None))])
def test_a_film_is_of_the_view_that_those_nearest_to_it_are_of(
    rng: np.random.Generator, laterals: int, seen: tuple[str | None, ...]
) -> None:
    frontal, lateral = np.zeros(12), np.r_[np.full(6, 60), np.zeros(6)]
    places = np.vstack([np.tile(frontal, (60, 1)), np.tile(lateral, (laterals, 1))])
    rows = np.rint(places + rng.normal(size=places.shape) * 4).astype(np.int8)
    named = table(rows, [f"p{n}" for n in range(len(rows))])
    gate = LayoutGate.build(named.append_column("view", pa.array(["frontal"] * 60 + ["lateral"] * laterals)))
    unnamed = LayoutGate.build(named)

    asked = [place.astype(np.int8) for place in (frontal, lateral)]
    assert gate is not None
    assert unnamed is not None
    assert [gate.view_of(one) for one in asked] == list(seen)
    assert [unnamed.view_of(one) for one in asked] == [None, None]


def test_layouts_of_one_film_written_anew_are_alike(layouts: Layouts) -> None:
    assert are_alike(layouts[0], layouts[0] + np.int8(3))
    assert not are_alike(np.full(12, 127, np.int8), np.full(12, -128, np.int8))
    assert not are_alike(layouts[0], layouts[1])

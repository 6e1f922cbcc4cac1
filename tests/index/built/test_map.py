"""The map of a collection: its plane, how it is kept beside the index, and when it is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from command_line import done, refusal
from export_files import save_export
from unit_vectors_world import DIM

from index.built.collection import build_collection
from index.built.map import Plane, build_map, load_map
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, VectorsError
from index.table.studies import FINDINGS
from index.vectors import Embeddings


@pytest.fixture
def folder(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    build_collection(save_export(tmp_path / "embeddings", studies, unit_vectors), tmp_path / "index")
    return tmp_path / "index"


def test_the_plane_holds_as_much_of_the_variance_as_two_axes_can(unit_vectors: Embeddings) -> None:
    plane = Plane.of(VectorIndex.build(unit_vectors, "flat"))

    centred = unit_vectors.astype(np.float64) - unit_vectors.mean(axis=0)
    variances = np.linalg.svd(centred, compute_uv=False) ** 2
    np.testing.assert_allclose(plane.shares, variances[:2] / variances.sum(), rtol=1e-5)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)


def test_places_are_distances_from_the_mean_along_the_axes(unit_vectors: Embeddings) -> None:
    plane = Plane.of(VectorIndex.build(unit_vectors, "flat"))
    places = plane.project(unit_vectors)

    np.testing.assert_allclose(places.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(places.var(axis=0) / unit_vectors.var(axis=0).sum(), plane.shares, rtol=1e-4)
    assert (plane.axes[[0, 1], np.abs(plane.axes).argmax(axis=1)] > 0).all()


def test_studies_that_are_all_alike_stand_on_one_point_without_nan() -> None:
    same = np.tile(np.eye(1, DIM, dtype=np.float32), (5, 1))
    plane = Plane.of(VectorIndex.build(same, "flat"))

    assert plane.shares == (0.0, 0.0)
    np.testing.assert_array_equal(plane.project(same), 0)


def test_vectors_of_one_dimension_have_no_plane() -> None:
    with pytest.raises(VectorsError, match="2 dimensions or more, got 1"):
        Plane.of(VectorIndex.build(np.ones((3, 1), np.float32), "flat"))


def test_a_kept_map_is_the_one_that_was_built_row_for_row(folder: Path, studies: pa.Table) -> None:
    built = build_map(folder)
    loaded = load_map(folder)

    assert loaded is not None
    assert loaded.points.equals(built.points)
    assert loaded.points["study_id"].to_pylist() == studies["study_id"].to_pylist()
    assert loaded.findings == list(FINDINGS)
    np.testing.assert_array_equal(loaded.plane.axes, built.plane.axes)


def test_building_again_gives_the_same_file_and_leaves_no_other(folder: Path) -> None:
    build_map(folder)
    first = {path.name for path in folder.iterdir()}
    build_map(folder)

    assert {path.name for path in folder.iterdir()} == first
    assert len(list(folder.glob("map-*.parquet"))) == 1


def test_without_a_map_there_is_none(folder: Path) -> None:
    assert load_map(folder) is None


def test_a_map_of_another_state_of_the_index_is_refused(
    folder: Path, tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    build_map(folder)
    build_collection(save_export(tmp_path / "fewer", studies.slice(0, 50), unit_vectors[:50]), folder)

    with pytest.raises(ArtefactError, match="another state of the index; run: precedent map"):
        load_map(folder)


def test_a_changed_map_is_refused_before_it_is_parsed(folder: Path) -> None:
    build_map(folder)
    with next(folder.glob("map-*.parquet")).open("ab") as file:
        file.write(b"x")

    with pytest.raises(ArtefactError, match="has changed since it was written"):
        load_map(folder)


def test_the_verb_says_what_the_axes_hold(folder: Path) -> None:
    assert "200 studies on two axes that hold" in done("map", folder).output
    assert load_map(folder) is not None


def test_the_verb_refuses_a_folder_without_an_index(tmp_path: Path) -> None:
    assert "run: precedent index" in refusal("map", tmp_path)

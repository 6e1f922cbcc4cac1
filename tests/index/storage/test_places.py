"""Addresses that stand where paths do; an object store in the memory of this process keeps what they mean."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from export_files import save_export

from encoder.errors import ImageError
from encoder.films.image import read_image
from index.built.collection import build_collection
from index.errors import ArtefactError, BackendUnavailable, PlaceError
from index.export.shards import load_embeddings
from index.importing.mapped import import_table
from index.importing.mapping import load_mapping
from index.living.collection import LivingCollection
from index.living.verification import verify
from index.storage.files import load_json, save_json
from index.storage.places import Place, below, place, store_errors
from index.table.studies import load_studies, save_studies
from index.vectors import Embeddings


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an address of this test's own; copies of what lies there are kept below its folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return place(f"memory://{tmp_path.parent.name}/{tmp_path.name}")


@pytest.fixture
def index(bucket: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    """Return the address of an index, built of an export at another."""
    build_collection(save_export(bucket / "embeddings", studies, unit_vectors), bucket / "index")
    return bucket / "index"


def exact_file(index: Path) -> Path:
    return next(iter(index.glob("exact-*")))


def overwrite(target: Path, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(content)
    target.upload(tmp_path / "other")


def test_a_text_without_a_scheme_is_a_path_and_an_address_is_none() -> None:
    assert place("embeddings/") == Path("embeddings")
    assert place("file:///srv/films") == Path("/srv/films")
    assert [isinstance(place(text), Place) for text in ("s3:/b", "memory://b/x")] == [False, True]


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("s3://", "an address such as s3://bucket/folder"),
        ("nowhere://bucket/films", "an address such as s3://bucket/folder"),
        ("http://host/films", "an address such as s3://bucket/folder"),
        ("s3://key:hush-hush@bucket/films", "AWS_SECRET_ACCESS_KEY"),
        ("s3://bucket/films?signature=hush-hush", "AWS_SECRET_ACCESS_KEY"),
        ("zip://films.zip::s3://bucket/hush-hush", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_and_no_secret_is_repeated(address: str, sentence: str) -> None:
    with pytest.raises(PlaceError, match=sentence) as refused:
        place(address)
    assert "hush" not in str(refused.value)


def test_a_package_that_is_missing_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_words: object, **_options: object) -> None:
        raise ImportError("no such package")

    monkeypatch.setattr("fsspec.url_to_fs", missing)
    with pytest.raises(PlaceError, match=r"pip install 'cxr-precedent\[s3\]'"):
        place("s3://bucket/films")


@pytest.mark.parametrize("fault", [PermissionError("hush"), TimeoutError("hush"), ConnectionError("hush"), EOFError()])
def test_a_store_out_of_reach_is_no_missing_file_and_its_words_are_not_repeated(fault: Exception) -> None:
    with (
        pytest.raises(BackendUnavailable, match="run the same command again") as refused,
        store_errors("s3://bucket/x"),
    ):
        raise fault
    assert "hush" not in str(refused.value)


def test_an_object_answers_as_a_file_does(bucket: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("grün")
    (bucket / "a" / "text.txt").upload(tmp_path / "text")
    found = next((bucket / "a").iterdir())
    assert (found.name, found.stem, found.suffix, found.parent) == ("text.txt", "text", ".txt", bucket / "a")
    assert (found.read_text(), found.open("rb").read().decode(), found.stat().st_size) == ("grün", "grün", 5)
    assert (found.is_file(), found.is_dir(), found.parent.is_dir()) == (True, False, True)
    assert [str(one.relative_to(bucket)) for one in (bucket / "a").glob("*.txt")] == ["a/text.txt"]
    found.unlink()
    found.unlink(missing_ok=True)
    assert (found.exists(), list((bucket / "a").glob("*")), bucket.files_below()) == (False, [], [])
    with pytest.raises(FileNotFoundError, match="no such object"):
        found.read_bytes()


def test_a_path_that_climbs_out_is_not_below(bucket: Path) -> None:
    assert (bucket / "films" / "a" / ".." / "b").resolve().is_relative_to(bucket / "films")
    assert not (bucket / "films" / ".." / "b").resolve().is_relative_to(bucket / "films")


def test_tables_and_manifests_are_kept_at_an_address(bucket: Path, studies: pa.Table, tmp_path: Path) -> None:
    save_studies(studies, bucket / "studies.parquet")
    assert load_studies(str(bucket / "studies.parquet")).equals(load_studies(bucket / "studies.parquet"))
    save_json(bucket / "facts.json", {"a": 1}, sealed=True)
    assert load_json(bucket / "facts.json", "facts", "mend them") == {"a": 1}
    damaged = (bucket / "studies.parquet").read_bytes().replace(b"patient00001", b"patient90001", 1)
    overwrite(bucket / "studies.parquet", damaged, tmp_path)
    with pytest.raises(ArtefactError, match="import it again"):
        load_studies(bucket / "studies.parquet")


def test_an_index_at_an_address_answers_as_the_one_on_the_disk_does(
    index: Path, bucket: Path, studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    export = save_export(tmp_path / "embeddings", studies, unit_vectors)
    build_collection(export, tmp_path / "index")
    assert load_embeddings(bucket / "embeddings")[1].tobytes() == load_embeddings(export)[1].tobytes()
    here, there = LivingCollection(tmp_path / "index"), LivingCollection(index)
    asked = studies["study_id"][7].as_py()
    assert there.similar(asked, 20) == here.similar(asked, 20)
    assert there.manifest == here.manifest
    assert there.built_at


def test_an_index_at_an_address_is_searched_and_not_changed(index: Path, studies: pa.Table) -> None:
    living = LivingCollection(index)
    for change in (living.compact, lambda: living.delete([studies["study_id"][0].as_py()])):
        with pytest.raises(PlaceError, match="searched and not changed; copy it here first"):
            change()
    assert len(living) == 200


def test_an_index_that_was_changed_before_it_was_copied_is_refused(index: Path, tmp_path: Path) -> None:
    overwrite(index / "changes.sqlite", b"deletions", tmp_path)
    with pytest.raises(ArtefactError, match="precedent compact"):
        LivingCollection(index)


def test_copies_are_fetched_once_kept_private_and_mended(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = LivingCollection(index)
    exact = exact_file(first.folder)
    assert (tmp_path / "home/.cache/precedent").stat().st_mode & 0o777 == 0o700
    content, before = exact.read_bytes(), exact.stat().st_ino
    assert exact_file(LivingCollection(index).folder).stat().st_ino == before
    shutil.copy(exact, tmp_path / "damaged")
    exact.unlink()
    exact.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert exact_file(LivingCollection(index).folder).read_bytes() == content


def test_an_index_put_in_the_place_of_another_leaves_nothing_of_it(
    index: Path, bucket: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    served, before = LivingCollection(index), exact_file(index)
    build_collection(save_export(bucket / "fewer", studies.slice(0, 50), unit_vectors[:50]), index)
    assert not before.exists()
    assert len(served) == 200
    served.reload()
    assert len(served) == 50
    assert {path.name for path in served.folder.iterdir()} == {path.name for path in index.iterdir()}


def test_an_object_that_has_changed_is_refused_and_verify_looks_at_the_store(index: Path, tmp_path: Path) -> None:
    LivingCollection(index)  # a sound copy is at hand
    assert verify(index).faults == []
    overwrite(exact_file(index), b"something else", tmp_path)
    assert "has changed since it was written" in verify(index).faults[0]
    shutil.rmtree(tmp_path / "home")
    with pytest.raises(ArtefactError, match=f"'{exact_file(index)}' has changed"):
        LivingCollection(index)


def test_an_export_is_no_index(index: Path, bucket: Path) -> None:
    with pytest.raises(ArtefactError, match="no index manifest"):
        LivingCollection(bucket / "embeddings")
    with pytest.raises(ArtefactError, match="no index manifest"):
        LivingCollection(bucket / "nothing")


def test_images_are_found_by_name_at_an_address_in_the_order_of_the_disk(bucket: Path, tmp_path: Path) -> None:
    names = ("00000001_000.png", "00000002_000.png")
    paths = [f"images_{part}/images/{name}" for part in ("002", "001") for name in names] + [names[0]]
    for path in paths:
        (tmp_path / "films" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "films" / path).write_bytes(b"film")
        (bucket / "films" / path).upload(tmp_path / "films" / path)
    header = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    lines = [header, *(f"{name},No Finding,{int(name[:8])},60,F,PA" for name in names)]
    (tmp_path / "nih.csv").write_text("\n".join(lines) + "\n")
    (bucket / "nih.csv").upload(tmp_path / "nih.csv")
    nih = load_mapping("nih")
    here, there = (
        import_table(nih, root, images=root / "films", tables=[root / "nih.csv"]) for root in (tmp_path, bucket)
    )
    assert there.table["frontal_path"].to_pylist() == [names[0], f"images_001/images/{names[1]}"]
    assert (there.table, there.notices) == (here.table, here.notices)


def test_a_film_at_an_address_is_read_as_a_file_is(bucket: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "film.png"), np.random.default_rng(0).integers(0, 255, (80, 72), dtype=np.uint8))
    (bucket / "film.png").upload(tmp_path / "film.png")
    assert np.array_equal(read_image(bucket / "film.png"), read_image(tmp_path / "film.png"))
    for missing in (bucket / "lost.png", tmp_path / "lost.png"):
        with pytest.raises(ImageError, match=r"^'lost': expected a JPEG, PNG or DICOM file, got nothing at this path"):
            read_image(missing, name="lost")


@pytest.mark.parametrize(
    "relative", ["/etc/passwd", "../secret.png", "a/../../secret.png", "out/secret.png", "loop/x", "a\0b", "", "."]
)
def test_a_film_s_path_does_not_lead_out_of_the_image_root(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "films"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to("loop")

    with pytest.raises(PlaceError, match="leads out of it"):
        below(root, relative)
    assert below(root, "a/film.png") == root.resolve() / "a" / "film.png"

"""`precedent import dicom --pseudonymise`: copies that are pixels and nothing else, and what it refuses to begin."""

import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import done, refusal
from film_files import RAMP, dicom, picture

from encoder.films.image import read_image
from index.importing.pseudonyms import make_key
from index.table.studies import load_studies
from scripts.cli import precedent
from scripts.work.bare_copies import copy_untagged


def chunks(png: bytes) -> set[bytes]:
    place, found = 8, set()
    while place < len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        found.add(kind)
        place += 12 + length
    assert place == len(png)
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder of two studies of one patient, the second film without contrast."""
    folder = tmp_path / "scans/archive"
    folder.mkdir(parents=True)
    for number, (name, changes) in enumerate({"whole": {}, "blank": {"PixelData": bytes(RAMP.nbytes)}}.items()):
        ids = {"PatientID": "P1", "StudyInstanceUID": f"1.2.{number}", "SOPInstanceUID": f"1.2.{number}.1"}
        (folder / name).write_bytes(dicom(ViewPosition="PA", **ids, **changes))
    return folder


def test_a_copy_reads_as_its_film_and_holds_nothing_but_pixels(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(dicom(PhotometricInterpretation="MONOCHROME1", WindowCenter=1500, WindowWidth=1111))

    assert list(copy_untagged(tmp_path / "copies", [(film, "p/s/f")])) == ["p/s/f.png"]

    copy = tmp_path / "copies/p/s/f.png"
    np.testing.assert_allclose(read_image(copy), read_image(film), atol=0.51 / 65535)
    assert chunks(copy.read_bytes()) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_film_that_cannot_be_read_has_no_copy(tmp_path: Path) -> None:
    for name, content in {"a": picture(np.zeros((64, 64), np.uint8)), "b": b"text", "c": dicom()}.items():
        (tmp_path / name).write_bytes(content)

    copies = copy_untagged(tmp_path, [(tmp_path / name, f"to/{name}") for name in "abc"])

    assert list(copies) == [None, None, "to/c.png"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["c.png"]


def test_a_copy_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "film").write_bytes(dicom())
    list(copy_untagged(tmp_path, [(tmp_path / "film", "f")]))
    before = (tmp_path / "f.png").stat()

    assert list(copy_untagged(tmp_path, [(tmp_path / "gone", "f")])) == ["f.png"]
    assert (tmp_path / "f.png").stat() == before


def test_no_films_are_copied_into_no_files(tmp_path: Path) -> None:
    assert list(copy_untagged(tmp_path / "copies", [])) == []


def test_an_import_makes_a_key_copies_films_and_repeats_itself(archive: Path, tmp_path: Path) -> None:
    words = ["--pseudonymise", tmp_path / "site.key", "--copy-to", tmp_path / "films"]
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    first = done("import", "dicom", archive, "--out", tmp_path / "one/studies.parquet", *words, "--new-key")
    second = done("import", "dicom", archive, "--out", tmp_path / "two/studies.parquet", *words)

    table = load_studies(tmp_path / "one/studies.parquet")
    assert table.equals(load_studies(tmp_path / "two/studies.parquet"))
    assert (tmp_path / "films" / table["frontal_path"][0].as_py()).is_file()
    assert all("their picture cannot be read: 1\n" in told.stderr for told in (first, second))
    assert "the paths are the copies' below their folder" in first.stdout


def test_paths_are_kept_only_where_that_is_said(archive: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "site.key")
    (tmp_path / "out").mkdir()
    words = [
        "import",
        "dicom",
        archive,
        "--out",
        tmp_path / "out/studies.parquet",
        "--pseudonymise",
        tmp_path / "site.key",
    ]

    done(*words, "--keep-paths")

    assert set(load_studies(tmp_path / "out/studies.parquet")["frontal_path"].to_pylist()) == {"whole", "blank"}


@pytest.mark.parametrize(
    ("key", "out", "copies", "sentence"),
    [
        ("scans/archive/key", "out/t", "copies", "expected 'key' outside"),
        ("out/key", "out/t", "copies", "expected 'key' outside"),
        ("copies/deep/key", "out/t", "copies", "expected 'key' outside"),
        ("key", "out/t", "scans/archive/copies", "expected 'copies' outside"),
        ("key", "out/t", "scans", "expected 'archive' outside"),
        ("nowhere", "out/t", "copies", "make one with --new-key"),
    ],
)
def test_a_key_or_copies_in_a_wrong_place_are_refused_before_anything_is_written(
    archive: Path, tmp_path: Path, key: str, out: str, copies: str, sentence: str
) -> None:
    (tmp_path / "out").mkdir()
    if key == "key":
        make_key(tmp_path / key)
    before = sorted(tmp_path.rglob("*"))

    words = ["--out", tmp_path / out, "--pseudonymise", tmp_path / key, "--copy-to", tmp_path / copies]

    assert sentence in refusal("import", "dicom", archive, *words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--new-key"], "expected --pseudonymise KEYFILE"),
        (["--copy-to", "films"], "expected --pseudonymise KEYFILE"),
        (["--pseudonymise", "key"], "expected one of --copy-to and --keep-paths"),
        (["--pseudonymise", "key", "--copy-to", "films", "--keep-paths"], "expected one of --copy-to and --keep-paths"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(precedent, ["import", "dicom", str(tmp_path), "--out", str(tmp_path / "t"), *words])

    assert (result.exit_code, sentence in result.stderr) == (2, True)

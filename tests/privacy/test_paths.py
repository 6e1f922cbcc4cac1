"""No log record and no answer of the service holds a path of its films or of its index, whatever goes wrong."""

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from canary_films import MARKER, commented_jpeg, film_pixels, hidden_png
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo
from service_world import build_app, build_client
from werkzeug.test import TestResponse

from index.errors import ArtefactError, CollectionError
from service.errors import TABLE
from service.paths import without_paths
from service.watch.logs import JsonLines, TextLines

FILM = "/srv/films of 2019/O'BRIEN^JANE 19310203/view1_frontal.dcm"
STORED = "patient00001/study1"


@pytest.fixture(params=[JsonLines, TextLines])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Yield what the service's own log writes, in either form, while everything is logged."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(request.param())
    root = logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(before)


def answer_of(fail: Callable[[], object]) -> TestResponse:
    """Return what the application answers where a route fails so."""
    app = build_app()
    [open_route] = [rule.endpoint for rule in app.url_map.iter_rules() if rule.rule == "/healthz"]
    app.view_functions[open_route] = fail
    return app.test_client().get("/healthz")


@pytest.mark.parametrize("kind", [*TABLE, ValueError, KeyError, OSError, MemoryError, ArtefactError])
def test_no_refusal_tells_a_path_in_its_answer_or_its_log(kind: type[Exception], log: io.StringIO) -> None:
    def fail() -> None:
        try:
            raise FileNotFoundError(2, "No such file or directory", FILM)
        except OSError as cause:
            raise kind(f"{FILM!r}: expected a film, got none; see {Path(FILM).parent}") from cause

    answer = answer_of(fail)

    assert answer.status_code == TABLE[kind].status if kind in TABLE else answer.status_code >= 500
    told = answer.get_data(as_text=True) + str(answer.headers) + log.getvalue()
    assert [word for word in ("/srv", "BRIEN", "JANE", "1931", "view1") if word in told] == []


def test_a_refusal_of_an_artefact_still_says_what_to_do_in_the_log(log: io.StringIO) -> None:
    def fail() -> None:
        raise CollectionError(f"'lists.faiss' is missing from {'/srv/index'!r}; run: precedent index")

    answer = answer_of(fail)

    assert answer.get_json()["error"]["message"] == "the collection cannot be read at present; see the log"
    assert "'lists.faiss' is missing from [path]; run: precedent index" in log.getvalue()


def test_a_warning_of_another_library_may_quote_a_header_and_is_left_out(log: io.StringIO) -> None:
    logging.getLogger("pydicom").warning("Invalid value for PatientName: %s", MARKER)

    assert MARKER not in log.getvalue()
    assert "words of another library" in log.getvalue()


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        (f"{FILM!r} is gone", "[path] is gone"),
        ("'/srv/a\\'b\"c/x' is gone", "[path] is gone"),
        ("run: chmod 600 /srv/O'BRIEN, JANE/key; then start", "run: chmod 600 [path]; then start"),
        ("expected one of 2 / 3", "expected one of 2 / 3"),
        ("no index at ./my index/ (old); make one", "no index at [path]; make one"),
        ("~/films/x.dcm", "[path]"),
        (f"no study {STORED!r} in this index", f"no study {STORED!r} in this index"),
        ("expected multipart/form-data or application/json", "expected multipart/form-data or application/json"),
    ],
)
def test_a_path_is_left_out_of_a_sentence_and_a_study_is_not(sentence: str, told: str) -> None:
    assert without_paths(sentence) == told


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "png", "palette"])
def test_a_stored_picture_is_shown_without_its_comments_and_its_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{STORED}/view1_frontal.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(named_picture(kind))

    answer = build_client(tmp_path).get(f"/v1/studies/{STORED}/image")

    assert MARKER not in answer.data.decode("latin-1") + str(answer.headers)
    assert "view1_frontal" not in str(answer.headers)
    with Pillow.open(io.BytesIO(path.read_bytes())) as stored, Pillow.open(io.BytesIO(answer.data)) as shown:
        assert shown.tobytes() == stored.convert("L").tobytes()


def named_picture(kind: str) -> bytes:
    if kind == "jpeg":
        return commented_jpeg(film_pixels(1))
    if kind == "palette":
        return hidden_png(film_pixels(1))
    file, told = io.BytesIO(), PngInfo()
    told.add_text("Patient", MARKER, zip=True)
    told.add_itxt("Comment", MARKER)
    options = {"pnginfo": told} if kind == "png" else {"progressive": True, "comment": MARKER}
    Pillow.fromarray(film_pixels(1)).save(file, "PNG" if kind == "png" else "JPEG", **options)
    return file.getvalue()

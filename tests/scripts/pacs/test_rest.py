"""A PACS that answers what no PACS should: nothing is written of it, and nothing of it is quoted."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from canary_films import MARKER

from index.errors import BackendUnavailable, CollectionError
from scripts.pacs import rest
from scripts.pacs.dicomweb import films, studies
from scripts.pacs.rest import NotThere, Pacs, PacsError

MULTI = {"Content-Type": "multipart/related; type=application/dicom; boundary=line"}


class Scripted(HTTPServer):
    """Answers each request with the next of `answers`: status, headers and body; the last one for ever."""

    answers: list[tuple[int, dict[str, str], bytes]]


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        answers = self.server.answers
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def pacs(server: Scripted) -> Pacs:
    return Pacs(f"http://127.0.0.1:{server.server_port}", retries=1)


@pytest.mark.parametrize(
    ("body", "film"),
    [
        (b"--line\r\nContent-Type: application/dicom\r\n\r\na film\r\n--line--\r\n", b"a film"),
        (b"a word before\r\n--line\r\n\r\n\r\n--lin\r\n--line--", b"\r\n--lin"),
        (b"--line\r\n\r\na film\r\n--line\r\n\r\nanother\r\n--line--", b"a film"),
    ],
)
def test_the_first_part_of_an_answer_is_written_to_the_byte(
    body: bytes, film: bytes, server: Scripted, pacs: Pacs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_PIECE", 3)
    server.answers = [(200, MULTI, body)]
    pacs.save("/film", tmp_path / "film")
    assert (tmp_path / "film").read_bytes() == film


UNUSABLE: list[tuple[int, dict[str, str], bytes, type[CollectionError]]] = [
    (200, MULTI, b"--line\r\n\r\na film that has no end", BackendUnavailable),
    (200, MULTI | {"Content-Length": "900"}, b"--line\r\n\r\ncut", BackendUnavailable),
    (200, MULTI, b"--line\r\n" + 100 * b"a: b\r\n", BackendUnavailable),
    (200, MULTI, b"--line\r\n\r\n" + bytes(2000), PacsError),
    (200, {"Content-Type": "text/html"}, b"<p>please log in", PacsError),
    (200, {"Content-Type": f"multipart/related; boundary={80 * 'x'}"}, b"", PacsError),
    (302, {"Location": f"http://{MARKER}.example"}, b"", PacsError),
    (404, {}, MARKER.encode(), NotThere),
    (503, {}, MARKER.encode(), BackendUnavailable),
]


@pytest.mark.parametrize(("status", "headers", "body", "refused"), UNUSABLE, ids=map(str, range(len(UNUSABLE))))
def test_a_film_that_is_cut_too_large_or_none_is_not_there_afterwards(
    status: int,
    headers: dict[str, str],
    body: bytes,
    refused: type[CollectionError],
    server: Scripted,
    pacs: Pacs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rest, "MOST_FILM", 1000)
    server.answers = [(status, headers, body)]
    with pytest.raises(refused) as told:
        pacs.save(f"/{MARKER}", tmp_path / "film")
    assert list(tmp_path.iterdir()) == []
    assert MARKER not in str(told.value)


@pytest.mark.parametrize("body", [b"[", b"[" * 100_000, b'{"a": NaN}', bytes(5000)])
def test_what_is_no_json_of_a_sensible_size_is_refused(
    body: bytes, server: Scripted, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "MOST_JSON", 200_000 if b"[" in body else 4000)
    server.answers = [(200, {}, body)]
    with pytest.raises(PacsError, match=r"(of|from) the PACS"):
        pacs.json("/studies")


def test_a_pacs_that_is_busy_is_asked_again(server: Scripted, pacs: Pacs) -> None:
    server.answers = [(503, {}, b""), (200, {}, b"[1]")]
    assert pacs.json("/changes") == [1]


@pytest.mark.parametrize("uid", ["../../etc", "1.2/3", "1..2", "", "1" * 65, "1.2\\1.3", MARKER])
def test_a_uid_that_is_none_becomes_no_path_and_no_address(uid: str, server: Scripted, pacs: Pacs) -> None:
    named = f'[{{"0020000D": {{"Value": [{uid!r}]}}}}, {{"0020000D": []}}, {{}}]'.replace("'", '"')
    server.answers = [(200, {}, named.encode()), (200, {}, b"[]")]
    assert list(studies(pacs, {})) == []


def test_a_series_that_has_no_end_is_refused(server: Scripted, pacs: Pacs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.pacs.dicomweb.MOST_INSTANCES", 3)
    server.answers = [(200, {}, f'[{{"0020000E": {{"Value": ["1.{page}"]}}}}]'.encode()) for page in range(6)]
    with pytest.raises(PacsError, match="at most 3"):
        list(films(pacs, "1.2"))

"""A PACS as it is asked over HTTP: no answer is larger or slower than it may be, and no refusal quotes one.

`requests` does HTTP and TLS. `dicomweb-client` would hold an answer of any size in memory, and give a film back as it
understood it, not as it was sent.
"""

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from index.errors import BackendUnavailable, CollectionError, PlaceError
from index.storage.files import parse_json, written_whole

MOST_JSON = 1 << 24
"""Bytes of an answer in JSON: a page of studies has some 100,000."""
MOST_FILM = 1 << 28
"""Bytes of a film: one of 16 bits of the largest detectors has 40 million."""
MOST_SECONDS = 600.0
"""That an answer may take from its first byte to its last."""
_WAIT = (10.0, 60.0)
"""Seconds for a connection, and between two pieces of an answer."""
_MOST_HEAD = 1 << 16
_PIECE = 1 << 20
_PASSING = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


class PacsError(CollectionError):
    """A PACS that refuses, or whose answer cannot be used; to ask again would not help."""


class NotThere(PacsError):
    """What was asked for is not in the PACS, or is no longer."""


class Pacs:
    """The PACS at an address. Safe under threads."""

    def __init__(
        self, url: str, *, retries: int = 3, threads: int = 4, count: Callable[[str], None] = lambda status: None
    ) -> None:
        """Take an address and, from the environment, who asks.

        `PRECEDENT_PACS_TOKEN` is a bearer token, `PRECEDENT_PACS_USER` and `PRECEDENT_PACS_PASSWORD` are for basic
        authentication, `PRECEDENT_PACS_CA` is a file of certificates to trust in place of the system's, and
        `PRECEDENT_PACS_CERT` one with our own certificate and its key, for a PACS that asks for it.

        Args:
            retries: of a call that was not answered, with waits of 0.5 s, 1 s, 2 s and so on between them.
            count: is given the status of each answer, or "none" where there is none.

        Raises:
            PlaceError: no http:// or https:// address, one with a password in it, or a password that would be sent
                unencrypted to another machine.
        """
        self.url = _checked(url)
        self.host = urlsplit(self.url).netloc
        self._session = requests.Session()
        self._session.trust_env = False  # no .netrc, no proxy, no other certificates than those named here
        self._session.headers.update({"Accept-Encoding": "identity", "User-Agent": "precedent"})
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=threads))
        self._retries, self._count = retries, count
        self._authenticate()

    def json(self, path: str, asked: Mapping[str, str] | None = None, accept: str = "application/json") -> Any:
        """Return what an answer in JSON says; None where there is no content.

        Raises:
            PacsError: it refuses, or answers no JSON of at most `MOST_JSON` bytes. NotThere.
            BackendUnavailable: it does not answer now, or not to the end.
        """
        with self._answer(path, accept, asked) as answer:
            if answer.status_code == HTTPStatus.NO_CONTENT:
                return None
            content = b"".join(self._pieces(answer, MOST_JSON))
        try:
            return parse_json(content)
        except ValueError:
            raise PacsError(
                f"expected JSON from the PACS {self.host}, got something else; is {self.url!r} its address?"
            ) from None

    def save(self, path: str, to: Path, accept: str = "application/dicom") -> None:
        """Write one film to a file, as it is sent; the file is whole and on the disk, or not there.

        Raises:
            PacsError, NotThere: it refuses, or answers no film of at most `MOST_FILM` bytes.
            BackendUnavailable: it does not answer now, or stops in the middle of the film.
            OSError: the disk does not take it.
        """
        with written_whole(to) as partial, partial.open("wb") as file:
            self.write(path, file, accept)

    def write(self, path: str, file: BinaryIO, accept: str = "application/dicom") -> None:
        """Write one film to an open file, whole where nothing is raised. Raises as `save`."""
        with self._answer(path, accept, None) as answer:
            pieces, boundary = self._pieces(answer, MOST_FILM), self._boundary(answer)
            if boundary is None:
                file.writelines(pieces)
            elif not _save_part(pieces, boundary, file):
                raise BackendUnavailable(f"the PACS {self.host} stopped in the middle of a film; ask again later")

    def store(self, path: str, content: bytes) -> None:
        """Send one DICOM object by STOW-RS (PS3.18, section 10.5); it is stored then.

        Raises:
            PacsError, NotThere: it refuses the object, or us. BackendUnavailable: it does not answer now.
        """
        boundary = secrets.token_hex(16)
        part = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        with (
            self._faults_told(),
            self._session.post(
                f"{self.url}{path}",
                data=part + content + f"\r\n--{boundary}--\r\n".encode(),
                headers={
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                    "Accept": "application/dicom+json",
                },
                stream=True,
                allow_redirects=False,
                timeout=_WAIT,
            ) as answer,
        ):
            kept = answer.status_code != HTTPStatus.CONFLICT
            if kept:
                self._require_success(answer)
                kept = not _refused(b"".join(self._pieces(answer, MOST_JSON)))
        if not kept:
            raise PacsError(f"the PACS {self.host} does not store the object; its log says why")

    @contextmanager
    def _answer(self, path: str, accept: str, asked: Mapping[str, str] | None) -> Iterator[requests.Response]:
        """Yield an answer whose status is one of success. What breaks while it is read is raised as ours, too."""
        with self._faults_told(), self._asked(path, accept, asked) as answer:
            yield answer

    def _asked(self, path: str, accept: str, asked: Mapping[str, str] | None) -> requests.Response:
        """Ask until there is an answer; not by urllib3's own means, which log the address with all that is asked."""
        for wait in (*(0.5 * 2**number for number in range(self._retries)), None):
            try:
                with self._faults_told():
                    answer = self._session.get(
                        f"{self.url}{path}",
                        params=asked,
                        headers={"Accept": accept},
                        stream=True,
                        allow_redirects=False,
                        timeout=_WAIT,
                    )
                self._require_success(answer)
            except BackendUnavailable:
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                break
        return answer

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        try:
            yield
        except requests.exceptions.SSLError:
            self._count("none")
            raise PacsError(
                f"the certificate of the PACS {self.host} is not one to trust for that name; name the file of the "
                "authority that signed it in PRECEDENT_PACS_CA, or the PACS as its certificate does"
            ) from None
        except requests.exceptions.RequestException as fault:
            self._count("none")
            kind = "stopped in the middle of an answer" if _is_cut(fault) else "does not answer"
            raise BackendUnavailable(f"the PACS {self.host} {kind}; is it running?") from None

    def _require_success(self, answer: requests.Response) -> None:
        self._count(str(answer.status_code))
        if (status := answer.status_code) < 300:
            return
        answer.close()
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise PacsError(
                f"the PACS {self.host} refuses us (HTTP {status}); set PRECEDENT_PACS_TOKEN, or "
                "PRECEDENT_PACS_USER and PRECEDENT_PACS_PASSWORD"
            )
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            raise NotThere(
                f"the PACS {self.host} has nothing at the address that was asked; is {self.url!r} its address?"
            )
        if status in _PASSING or status >= 500:
            raise BackendUnavailable(f"the PACS {self.host} cannot answer now (HTTP {status}); ask again later")
        raise PacsError(f"expected an answer of the PACS {self.host}, got HTTP {status}; is {self.url!r} its address?")

    def _pieces(self, answer: requests.Response, most: int) -> Iterator[bytes]:
        """Yield the bytes of an answer, at most so many and for at most `MOST_SECONDS`."""
        ends, left = time.monotonic() + MOST_SECONDS, most
        for piece in answer.iter_content(_PIECE):
            left -= len(piece)
            if left < 0:
                raise PacsError(f"expected at most {most:,} bytes in an answer of the PACS {self.host}, got more")
            if time.monotonic() > ends:
                raise BackendUnavailable(f"the PACS {self.host} takes too long over an answer; ask again later")
            yield piece

    def _boundary(self, answer: requests.Response) -> bytes | None:
        """Return what parts an answer of several parts (RFC 2387); None where it is one film and nothing else."""
        kind, _, options = answer.headers.get("Content-Type", "").partition(";")
        if kind.strip().lower() == "application/dicom":
            return None
        named = dict(part.strip().partition("=")[::2] for part in options.split(";"))
        boundary = named.get("boundary", "").strip('"')
        if kind.strip().lower() != "multipart/related" or not 0 < len(boundary) <= 70:
            raise PacsError(
                f"expected a film from the PACS {self.host}, got something else; is {self.url!r} its address?"
            )
        return boundary.encode("latin-1", "replace")

    def _authenticate(self) -> None:
        given = {name: os.environ.get(f"PRECEDENT_PACS_{name}", "") for name in ("TOKEN", "USER", "PASSWORD")}
        if any(given.values()) and not _is_private(self.url):
            raise PlaceError(
                f"expected https:// in {self.url!r}, for the token or password would be read by others on the way"
            )
        if given["TOKEN"]:
            self._session.headers["Authorization"] = f"Bearer {given['TOKEN']}"
        elif given["USER"]:
            self._session.auth = HTTPBasicAuth(given["USER"].encode(), given["PASSWORD"].encode())
        self._session.verify = os.environ.get("PRECEDENT_PACS_CA") or True
        self._session.cert = os.environ.get("PRECEDENT_PACS_CERT") or None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.hostname and not parts.query and (parts.port or 1)
    except ValueError:
        fits = False
    if not fits:
        raise PlaceError("expected the address of a PACS such as https://pacs:8042/dicom-web, got something else")
    if parts.username is not None or parts.password is not None:
        raise PlaceError(
            "expected an address without a password, which lists of processes would show; set PRECEDENT_PACS_USER and "
            "PRECEDENT_PACS_PASSWORD"
        )
    return url.rstrip("/")


def _is_private(url: str) -> bool:
    """Return whether nobody else can read what is sent to an address."""
    parts = urlsplit(url)
    try:
        return parts.scheme == "https" or parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _is_cut(fault: Exception) -> bool:
    return isinstance(fault, requests.exceptions.ChunkedEncodingError | requests.exceptions.ContentDecodingError)


def _save_part(pieces: Iterator[bytes], boundary: bytes, file: BinaryIO) -> bool:
    """Write the first part, less its head; return whether its end was there."""
    held, end = b"\r\n", b"\r\n--" + boundary
    for piece in pieces:
        held += piece
        start = held.find(end)
        if start >= 0 and (head := held.find(b"\r\n\r\n", start)) >= 0:
            held = held[head + 4 :]
            break
        if len(held) > _MOST_HEAD + _PIECE:
            return False
    else:
        return False
    while True:
        if (at := held.find(end)) >= 0:
            file.write(held[:at])
            return True
        keep = len(end) - 1
        file.write(held[:-keep])
        held = held[-keep:]
        if not (piece := next(pieces, b"")):
            return False
        held += piece


def _refused(said: bytes) -> bool:
    """Return whether an answer to STOW-RS has something in FailedSOPSequence; Orthanc's status is 200 then, too."""
    try:
        answer = parse_json(said)
    except ValueError:  # of a PACS that answers in another form: its status counts
        return False
    failed = answer.get("00081198") if isinstance(answer, dict) else None
    return isinstance(failed, dict) and bool(failed.get("Value"))

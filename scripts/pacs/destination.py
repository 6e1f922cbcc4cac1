"""Where results are sent: a PACS by STOW-RS or by C-STORE, or a folder to look at them first."""

import os
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from pydicom.dataset import Dataset

from index.errors import BackendUnavailable, PlaceError
from index.storage.files import written_whole
from scripts.pacs.rest import Pacs
from scripts.pacs.results import Result, ResultError, unquoted

OUR_AET = "PRECEDENT"
_TLS = "tls://"
STORED, THERE = "stored", "was there already"
_AET = re.compile(r"([!-\[\]-~](?:[ -\[\]-~]{0,14}[!-\[\]-~])?)@([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_SECONDS = 60.0
"""That a PACS may take over one answer by DICOM."""
_DUPLICATE = 0x0111  # of C-STORE: the instance is there (PS3.7, annex C.5.7)


class Destination(Protocol):
    """Takes results, each of which is there afterwards, once."""

    def send(self, results: Sequence[Result]) -> list[str]:
        """Return what became of each. Raises ResultError, BackendUnavailable: of one at least, nothing did."""


def parse_destination(text: str, our_aet: str = OUR_AET) -> Destination:
    """Return the destination that a text names: https://PACS/dicom-web, AET@HOST:PORT, or a folder that is there.

    tls://AET@HOST:PORT is sent to over TLS alone: `PRECEDENT_PACS_CA` is a file of certificates to trust in place of
    the system's, `PRECEDENT_PACS_CERT` one with our own certificate and its key, for a PACS that asks for it.

    Raises:
        ResultError: none of these. PlaceError: an address with a password in it, or certificates that cannot be used.
    """
    if text.lower().startswith(("http://", "https://")):
        return ByWeb(Pacs(text))
    secured = text.lower().startswith(_TLS)
    if (match := _AET.fullmatch(text[len(_TLS) :] if secured else text)) and 0 < int(match[3]) < 1 << 16:
        return ByDicom(match[1], match[2].strip("[]"), int(match[3]), our_aet, _trust() if secured else None)
    if text and Path(text).is_dir():
        return Folder(Path(text))
    raise ResultError(
        f"expected where to send results as https://PACS/dicom-web, AET@HOST:PORT or an existing folder, got {text!r}"
    )


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path

    def send(self, results: Sequence[Result]) -> list[str]:
        """Write what is not there yet, as UID.dcm."""
        return [self._save(result) for result in results]

    def _save(self, result: Result) -> str:
        file = self.path / f"{result.uid}.dcm"
        if file.exists():
            return THERE
        with written_whole(file) as partial:
            partial.write_bytes(as_bytes(result.dataset))
        return STORED


@dataclass(frozen=True)
class ByWeb:
    """A PACS by STOW-RS (PS3.18, section 10.5). It is asked first what it has, so that nothing is sent twice."""

    pacs: Pacs

    def send(self, results: Sequence[Result]) -> list[str]:
        """Send what is not there yet, one after the other."""
        return [self._send(result) for result in results]

    def _send(self, result: Result) -> str:
        study = str(result.dataset.StudyInstanceUID)
        asked = {"SOPInstanceUID": result.uid, "limit": "1"}
        if self.pacs.json(f"/studies/{study}/instances", asked, "application/dicom+json"):
            return THERE
        self.pacs.store(f"/studies/{study}", as_bytes(result.dataset))
        return STORED


@dataclass(frozen=True)
class ByDicom:
    """A PACS by C-STORE (PS3.4, annex B). What is sent again has the same UID, by which a PACS knows it."""

    aet: str
    host: str
    port: int
    our_aet: str = OUR_AET
    tls: ssl.SSLContext | None = None
    """Whom to trust, and who we are."""

    def send(self, results: Sequence[Result]) -> list[str]:
        """Send all over one association."""
        associate, syntaxes = self._prepared()
        with unquoted(), ExitStack() as stack:
            association = associate({str(result.dataset.SOPClassUID): syntaxes for result in results}, stack)
            try:
                return [self._store(association, result) for result in results]
            finally:
                if association.is_established:
                    association.release()

    def _prepared(self) -> tuple[Callable[[dict[str, list[str]], ExitStack], Any], list[str]]:
        try:
            from pynetdicom import AE, evt
        except ModuleNotFoundError:
            raise ResultError(
                "expected pynetdicom to send by C-STORE, it is not installed; run: pip install 'cxr-precedent[pacs]'"
            ) from None
        from pydicom.uid import ExplicitVRLittleEndian

        def associate(contexts: dict[str, list[str]], stack: ExitStack) -> Any:
            def closed(event: Any) -> None:  # pynetdicom leaves open what the other side has closed
                stack.callback(event.assoc.dul.socket.socket.close)

            entity = AE(self.our_aet)
            entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = _SECONDS
            for sop_class, syntaxes in contexts.items():
                entity.add_requested_context(sop_class, syntaxes)
            secured = None if self.tls is None else (self.tls, self.host)
            handlers: list[Any] = [(evt.EVT_CONN_OPEN, closed)]
            association = entity.associate(
                self.host, self.port, ae_title=self.aet, tls_args=secured, evt_handlers=handlers
            )
            if association.is_established:
                return association
            self._require_trusted()
            if association.is_rejected:
                raise ResultError(
                    f"the PACS {self.aet}@{self.host}:{self.port} refuses an association with {self.our_aet}; is the "
                    "called AE title its own, and is ours known to it?"
                )
            raise BackendUnavailable(f"the PACS {self.aet}@{self.host}:{self.port} does not answer; is it running?")

        return associate, [str(ExplicitVRLittleEndian)]

    def _require_trusted(self) -> None:
        """Raise ResultError where hands cannot be shaken over TLS, of which pynetdicom says nothing."""
        if self.tls is None:
            return
        try:
            with socket.create_connection((self.host, self.port), _SECONDS) as plain:
                self.tls.wrap_socket(plain, server_hostname=self.host).close()
        except ssl.SSLError:
            raise ResultError(
                f"no TLS with the PACS {self.aet}@{self.host}:{self.port}: its certificate is not one to trust for "
                "that name, or it does no TLS; name the authority that signed it in PRECEDENT_PACS_CA"
            ) from None
        except OSError:
            return

    def _store(self, association: Any, result: Result) -> str:
        try:
            answer = association.send_c_store(result.dataset)
        except (ValueError, RuntimeError, AttributeError):
            raise ResultError(
                f"the PACS {self.aet}@{self.host}:{self.port} takes no object of the kind {result.kind!r}; have it "
                "accept the SOP class in Explicit VR Little Endian"
            ) from None
        status = answer.get("Status") if answer else None
        if status is None:
            raise BackendUnavailable(f"the PACS {self.aet}@{self.host}:{self.port} stopped in the middle; send again")
        if status == _DUPLICATE:
            return THERE
        if status != 0 and status >> 12 != 0xB:  # a warning: it is stored
            raise ResultError(
                f"the PACS {self.aet}@{self.host}:{self.port} refuses the object of the kind {result.kind!r}, "
                f"status 0x{status:04X}"
            )
        return STORED


def _trust() -> ssl.SSLContext:
    """Return whom to trust and who we are, by the environment. Raises PlaceError."""
    try:
        context = ssl.create_default_context(cafile=os.environ.get("PRECEDENT_PACS_CA") or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if ours := os.environ.get("PRECEDENT_PACS_CERT"):
            context.load_cert_chain(ours)
    except (OSError, ssl.SSLError) as error:
        raise PlaceError(
            "expected certificates in the files of PRECEDENT_PACS_CA and PRECEDENT_PACS_CERT, got what cannot be used: "
            f"{error.strerror or error}"
        ) from None
    return context


def as_bytes(dataset: Dataset) -> bytes:
    """Return a result as a file of DICOM."""
    content = BytesIO()
    with unquoted():
        dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()

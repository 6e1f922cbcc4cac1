"""A C-STORE SCP (PS3.4, annex B): films that a PACS or a device sends of itself are taken into an inbox.

A film is confirmed once it is on the disk; where the disk does not take it, its sender is told so (0xA700), and keeps
it. Whatever can be read as DICOM is confirmed, for to send it again would not help: what is refused is in the log.
"""

import logging
import secrets
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, VerificationPresentationContexts, evt

from encoder.films.dicom_elements import read_header
from index.errors import CollectionError, PlaceError, WriteFailed
from index.importing.dicom_header import read_film
from scripts.pacs.inbox import Inbox
from scripts.pacs.rest import MOST_FILM

log = logging.getLogger("precedent.follow")
SYNTAXES = (
    *("1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"),
    *("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"),
    *("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.5"),
)
"""Uncompressed, deflated, JPEG, JPEG-LS, JPEG 2000, HTJ2K and RLE."""
MOST_ASSOCIATIONS = 16
MOST_PDU = 1 << 17
"""Bytes that a sender is told to put into one PDU at most."""
_LONGEST_PDU = 1 << 20  # the request of an association is no longer either
_SECONDS = 60.0  # that a sender may be silent
_SUCCESS, _NO_ROOM, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_UID_LENGTHS = set(range(1, 65))


@dataclass(frozen=True)
class Listening:
    """Where to listen, and to whom: senders by their titles, anybody's where there are none."""

    title: str
    host: str
    port: int
    senders: tuple[str, ...] = ()
    certificate: Path | None = None  # ours, with its key
    authority: Path | None = None  # that has signed the senders'


def parse_listening(text: str, host: str = "127.0.0.1") -> Listening:
    """Return where AET@PORT listens. Raises CollectionError where it is none (PS3.5, section 6.2: 16 characters)."""
    title, _, port = text.rpartition("@")
    if not is_title(title) or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise CollectionError(
            f"expected AET@PORT such as PRECEDENT@11112, with 1 to 16 characters before @, got {text!r}"
        )
    return Listening(title, host, int(port))


def is_title(text: str) -> bool:
    """Return whether a text can be the title of an application entity."""
    return 0 < len(text) <= 16 and text.isascii() and text.isprintable() and text.strip() == text and "\\" not in text


@contextmanager
def listening(
    where: Listening,
    inbox: Inbox,
    count: Callable[[str], None] = lambda what: None,
    ours: Callable[[str], bool] | None = None,
) -> Iterator[int]:
    """Take what is sent while this is open; yield the port.

    Args:
        count: is given a word for each film that came, was there, had no room, was no DICOM or ours, and each
            association that was refused.
        ours: tells by its UID whether an instance is a result that returned from here: it is confirmed, and no news.

    Raises:
        PlaceError: the port is taken, or the certificate cannot be used.
    """
    entity = AE(ae_title=where.title)
    entity.require_called_aet = True
    entity.require_calling_aet = list(where.senders)
    entity.maximum_associations, entity.maximum_pdu_size = MOST_ASSOCIATIONS, MOST_PDU
    entity.network_timeout = entity.dimse_timeout = entity.acse_timeout = _SECONDS
    for context in (*AllStoragePresentationContexts, *VerificationPresentationContexts):
        entity.add_supported_context(str(context.abstract_syntax), list(SYNTAXES))
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, _bound),
        (evt.EVT_C_STORE, lambda event: _store(event, inbox, count, ours)),
        (evt.EVT_REJECTED, lambda event: _refused(event, count)),
    ]
    try:
        server: Any = entity.start_server(
            (where.host, where.port), block=False, ssl_context=_tls(where), evt_handlers=handlers
        )
    except (OSError, ssl.SSLError) as error:
        raise PlaceError(
            f"cannot listen as {where.title!r} on {where.host}:{where.port}: {error.strerror or error}"
        ) from None
    try:
        yield server.server_address[1]
    finally:
        entity.shutdown()


class _Tls(ssl.SSLContext):
    """Shakes hands in the thread of the association: a caller that is silent would keep all others waiting."""

    def wrap_socket(self, *words: Any, **options: Any) -> ssl.SSLSocket:
        return super().wrap_socket(*words, **(options | {"do_handshake_on_connect": False}))


def _tls(where: Listening) -> ssl.SSLContext | None:
    if where.certificate is None:
        return None
    context = _Tls(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(where.certificate)
    if where.authority is not None:
        context.load_verify_locations(where.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _bound(event: evt.Event) -> None:
    """Have a connection end where a sender announces a PDU, or sends a film, that is larger than any may be.

    pynetdicom reads as much as the first bytes say, up to 4 GB, and does so before it has looked at who calls.
    """
    association: Any = event.assoc
    association.bytes_of_film = 0
    receive = association.dul.socket.recv

    def bounded(count: int) -> bytearray:
        association.bytes_of_film += count
        if count > _LONGEST_PDU or association.bytes_of_film > MOST_FILM:
            raise OSError("more bytes than any film has")
        try:
            received: bytearray = receive(count)
        except ssl.SSLError:  # the library leaves the connection open
            association.dul.socket.close()
            raise
        return received

    association.dul.socket.recv = bounded


def _store(event: evt.Event, inbox: Inbox, count: Callable[[str], None], ours: Callable[[str], bool] | None) -> int:
    """Return the status of one C-STORE: the film is on the disk, or its sender is to keep it."""
    association: Any = event.assoc
    association.bytes_of_film = 0
    file = inbox.folder / "came" / f"{secrets.token_hex(16)}.coming"
    try:
        file.write_bytes(event.encoded_dataset())
        header = read_film(file, read_header)
        if header is None or header.too_large or not {len(header.study), len(header.instance)} <= _UID_LENGTHS:
            count("no film")
            return _NOT_UNDERSTOOD
        if ours is not None and ours(header.instance):
            count("ours")
            return _SUCCESS
        count("came" if inbox.take(header.study, {header.instance: file}) else "came again")
    except (OSError, WriteFailed):
        log.error("a film that was sent finds no room on the disk; its sender was told to keep it")
        count("no room")
        return _NO_ROOM
    finally:
        file.unlink(missing_ok=True)
    return _SUCCESS


def _refused(event: evt.Event, count: Callable[[str], None]) -> None:
    log.warning("an association was refused: another title was called, or who called is not allowed to send")
    count("refused")

"""Films that are sent by C-STORE, by a real Orthanc, DCMTK and pynetdicom: taken from those who may send, and kept."""

import gc
import socket
import ssl
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from follow_world import Followed
from full_disk import files_up_to
from pacs_world import certificate, film, lateral, needs_orthanc, orthanc, slice_of_ct
from pynetdicom import AE, StoragePresentationContexts, evt

from encoder.embedder import Embedder
from index.errors import CollectionError, PlaceError
from scripts.pacs.listener import Listening, listening, parse_listening

pytestmark = [
    needs_orthanc,
    pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning"),  # pynetdicom leaves those of a refusal to the
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # garbage collector
]
HERE = Listening("PRECEDENT", "127.0.0.1", 0, senders=("SENDER", "DCMSEND"))


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Have what the library leaves open collected before another test is blamed for it."""
    yield
    gc.collect()


@pytest.fixture
def followed(tmp_path: Path, tiny_embedder: Embedder) -> Followed:
    return Followed(tmp_path, tiny_embedder)


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def port(followed: Followed, counts: Counter[str]) -> Iterator[int]:
    with listening(HERE, followed.inbox, lambda what: counts.update([what])) as found:
        yield found


def sent(
    port: int,
    *films: bytes,
    calling: str = "SENDER",
    called: str = "PRECEDENT",
    tls: ssl.SSLContext | None = None,
    handlers: list[Any] | None = None,
) -> list[int]:
    """Send films over one association; return their statuses, none where the association is refused."""
    entity = AE(ae_title=calling)
    entity.requested_contexts = StoragePresentationContexts[:120]
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 120
    tls_args = None if tls is None else (tls, "localhost")
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls_args, evt_handlers=handlers)
    if not association.is_established:
        return []
    statuses = [int(association.send_c_store(pydicom.dcmread(BytesIO(one))).get("Status", -1)) for one in films]
    association.release()
    return statuses


def test_what_orthanc_and_dcmtk_send_is_in_the_collection(
    followed: Followed, counts: Counter[str], port: int, tmp_path: Path
) -> None:
    (tmp_path / "film.dcm").write_bytes(film())
    us = {"precedent": {"AET": "PRECEDENT", "Host": "127.0.0.1", "Port": port}}
    with orthanc(tmp_path / "orthanc", DicomAet="SENDER", DicomModalities=us) as server:
        server.put(lateral(), slice_of_ct(), film("P2", "1.2.2"))
        server.ask("POST", "/modalities/precedent/store", data=server.ask("GET", "/studies")[0])
        server.ask("POST", "/modalities/precedent/store", data=server.ask("GET", "/studies")[1])
    subprocess.run(["dcmsend", "-aec", "PRECEDENT", "127.0.0.1", str(port), tmp_path / "film.dcm"], check=True)

    followed.settle()

    assert followed.ids() == ["P1/1.2.1", "P2/1.2.2"]
    assert followed.study("P1/1.2.1").views == ("frontal", "lateral")
    assert followed.fates() == {"added": 3, "refused: modality": 1}
    assert counts == {"came": 4}


def test_who_calls_another_title_or_is_not_allowed_is_refused(
    counts: Counter[str], port: int, followed: Followed
) -> None:
    assert sent(port, film(), called="ANOTHER") == []
    assert sent(port, film(), calling="STRANGER") == []
    echo = ["echoscu", "-aet", "STRANGER", "-aec", "PRECEDENT", "127.0.0.1", str(port)]
    assert subprocess.run(echo, capture_output=True).returncode != 0
    assert subprocess.run([*echo[:2], "SENDER", *echo[3:]], capture_output=True).returncode == 0
    assert counts == {"refused": 3}
    assert followed.fates() == {}


def test_films_that_are_sent_again_corrected_or_moved_are_there_once(followed: Followed, port: int) -> None:
    assert sent(port, film(), lateral(), film()) == [0, 0, 0]
    followed.settle()
    first = followed.study("P1/1.2.1")
    assert sent(port, film(), film(seed="other"), film("P1", "1.2.2")) == [0, 0, 0]
    followed.settle()
    assert followed.study("P1/1.2.1").frontal_path != first.frontal_path

    moved = {"StudyInstanceUID": "1.2.2", "PatientID": "P7"}
    assert sent(port, lateral(**moved)) == [0]  # to the study of another patient, as a mistake is mended
    followed.settle()

    assert followed.ids() == ["P1/1.2.1", "P1/1.2.2", "P7/1.2.2"]
    assert followed.study("P1/1.2.1").views == ("frontal",)
    assert sent(port, film("P7", "1.2.2")) == [0]
    followed.settle()
    assert followed.ids() == ["P1/1.2.1", "P7/1.2.2"]
    assert followed.study("P7/1.2.2").views == ("frontal", "lateral")


def test_a_sender_that_stops_in_the_middle_of_a_film_leaves_nothing_and_sends_it_again(
    followed: Followed, counts: Counter[str], port: int
) -> None:
    large = film(EncapsulatedDocument=bytes(600_000))
    pdus = []

    def stop(event: evt.Event) -> None:
        pdus.append(event.pdu)
        if len(pdus) == 4:  # the request, the command, and of the film a first and a second
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

    assert sent(port, large, handlers=[(evt.EVT_PDU_SENT, stop)]) == [-1]
    assert sent(port, film("P2", "1.2.2")) == [0]  # by which the first association has ended
    followed.settle()
    assert followed.ids() == ["P2/1.2.2"]
    assert sent(port, large) == [0]
    followed.settle()
    assert (followed.ids(), counts) == (["P1/1.2.1", "P2/1.2.2"], {"came": 2})
    assert list((followed.inbox.folder / "came").iterdir()) == []


def test_a_full_disk_leaves_a_film_with_its_sender(followed: Followed, counts: Counter[str], port: int) -> None:
    with files_up_to(2000):
        assert sent(port, film()) == [0xA700]
    assert list((followed.inbox.folder / "came").iterdir()) == []
    assert sent(port, film()) == [0]
    followed.settle()
    assert (followed.ids(), counts) == (["P1/1.2.1"], {"no room": 1, "came": 1})


def test_what_has_no_uids_or_is_larger_than_any_film_is_not_taken(
    followed: Followed, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sent(port, film(StudyInstanceUID="")) == [0xC000]
    monkeypatch.setattr("scripts.pacs.listener.MOST_FILM", 100_000)  # the request of an association has some 20,000
    assert sent(port, film(RedPaletteColorLookupTableData=bytes(200_000))) == [-1]
    with socket.create_connection(("127.0.0.1", port)) as hostile:
        hostile.sendall(struct.pack(">BBL", 1, 0, 2**32 - 1))  # a request for an association of 4 GB
        hostile.settimeout(60)
        assert hostile.recv(100) == b""
    assert followed.fates() == {}


def test_many_at_once_are_all_there(followed: Followed, port: int) -> None:
    studies = [f"1.2.{number}" for number in range(1, 25)]

    def send(some: list[str]) -> list[int]:
        return sent(port, *(film(f"P{study[4:]}", study) for study in some))

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(send, [studies[start::6] for start in range(6)]))

    assert statuses == [[0] * 4] * 6
    followed.settle()
    assert followed.ids() == sorted(f"P{study[4:]}/{study}" for study in studies)


def test_with_tls_only_who_has_a_certificate_that_is_trusted_can_send(followed: Followed, tmp_path: Path) -> None:
    (ours, ours_both), (theirs, theirs_both) = certificate(tmp_path, "localhost"), certificate(tmp_path, "sender")
    secured = replace(HERE, certificate=ours_both, authority=theirs)
    with listening(secured, followed.inbox) as port:
        trusting = ssl.create_default_context(cafile=str(ours))
        assert sent(port, film()) == []  # without TLS
        assert sent(port, film(), tls=trusting) == []  # without a certificate
        assert sent(port, film(), tls=ssl.create_default_context()) == []  # who does not trust ours
        silent = socket.create_connection(("127.0.0.1", port))  # and shakes no hands, which keeps nobody waiting
        trusting.load_cert_chain(theirs_both)
        assert sent(port, film(), tls=trusting) == [0]
        silent.close()


@pytest.mark.parametrize("text", ["PRECEDENT", "@11112", "PRECEDENT@", "A" * 17 + "@1", "A@99999", "A@x", " A@1"])
def test_where_to_listen_is_a_title_and_a_port(text: str) -> None:
    with pytest.raises(CollectionError, match="expected AET@PORT"):
        parse_listening(text)


def test_a_port_that_is_taken_is_refused(followed: Followed, port: int) -> None:
    with pytest.raises(PlaceError, match="cannot listen as"), listening(replace(HERE, port=port), followed.inbox):
        pass

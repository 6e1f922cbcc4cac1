"""A real Orthanc on loopback, and films as a hospital's devices would send them to it.

Orthanc binds every address of the machine, whatever it is told: here it refuses who does not ask from this machine, and
its DICOM port is shut unless a test sends to it.
"""

import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import requests
from film_files import dicom
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, JPEGBaseline8Bit

from scripts.benches.bombs import BOMBS

PLUGINS = Path("/usr/share/orthanc/plugins")
TOOLS = ("Orthanc", "dcmsend", "openssl")
needs_orthanc = pytest.mark.skipif(
    not all(map(shutil.which, TOOLS)) or not (PLUGINS / "libOrthancDicomWeb.so").exists(),
    reason="no Orthanc; run: apt-get install --no-install-recommends orthanc orthanc-dicomweb orthanc-gdcm dcmtk",
)
_PATIENCE = 20.0  # seconds


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


def until_listening(port: int) -> None:
    """Return once somebody listens on a port of this machine."""
    ends = time.monotonic() + _PATIENCE
    while time.monotonic() < ends:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on port {port}")


def film(patient: str = "P1", study: str = "1.2.1", instance: str = "1", **elements: Any) -> bytes:
    """Return a film with the UIDs of its study, `study`.1 its series and `study`.1.`instance` itself."""
    seed = abs(hash_of(f"{study}.{instance}{elements.pop('seed', '')}"))
    pixels = np.random.default_rng(seed).integers(0, 4000, (60, 50), dtype=np.uint16)
    uid = f"{study}.1.{instance}"
    told: dict[str, Any] = {
        "SOPClassUID": DigitalXRayImageStorageForPresentation,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.1",
        "PatientID": patient,
        "PatientSex": "F",
        "PatientAge": "061Y",
        "StudyDate": "20260301",
        "Modality": "DX",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "InstanceNumber": "".join(sign for sign in instance if sign.isdigit())[:6],
    }
    return dicom(pixels, **(told | elements))


def hash_of(text: str) -> int:
    """Return a number that is the same in every process."""
    return int.from_bytes(text.encode()[-7:], "big")


def lateral(patient: str = "P1", study: str = "1.2.1", instance: str = "2", **elements: Any) -> bytes:
    """Return a lateral film."""
    return film(patient, study, instance, **({"ViewPosition": "LL"} | elements))


def slice_of_ct(study: str = "1.2.1", instance: str = "9", **elements: Any) -> bytes:
    """Return one slice of a CT of the study, in a series of its own."""
    series = f"{study}.7"
    told = {"Modality": "CT", "SeriesInstanceUID": series, "SOPInstanceUID": f"{series}.{instance}"}
    return film(study=study, instance=instance, **(told | {"SOPClassUID": CTImageStorage} | elements))


def bomb(patient: str, study: str) -> bytes:
    """Return a film of a kilobyte that claims four billion pixels, and its JPEG as many."""
    claimed = pydicom.dcmread(BytesIO(film(patient, study, "6", Rows=65535, Columns=65535, BitsAllocated=8)))
    claimed.BitsStored, claimed.HighBit = 8, 7
    claimed.add_new("PixelData", "OB", encapsulate([BOMBS["JPEG of 65,535 x 65,535"][0]()]))
    claimed.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    content = BytesIO()
    claimed.save_as(content)
    return content.getvalue()


class Orthanc:
    """One Orthanc with its storage in a folder; it can be stopped and started again."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder, self.port, self.dicom_port = folder, free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        told = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.port,
            "DicomPort": self.dicom_port,
            "DicomServerEnabled": False,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "StableAge": 1,
            "Plugins": [str(PLUGINS / name) for name in ("libOrthancDicomWeb.so", "libOrthancGdcm.so")],
        }
        (folder / "orthanc.json").write_text(json.dumps(told | options))

    @property
    def url(self) -> str:
        """The address of its own interface; that of DICOMweb is below it."""
        return f"http://localhost:{self.port}"

    @property
    def dicomweb(self) -> str:
        """The address of DICOMweb."""
        return f"{self.url}/dicom-web"

    def start(self) -> None:
        """Start it and wait until it answers."""
        log = (self.folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(["Orthanc", str(self.folder / "orthanc.json")], stdout=log, stderr=log)
        until_listening(self.port)

    def stop(self, *, kill: bool = False) -> None:
        """End it, by its own process."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(_PATIENCE)
            self._process = None

    def put(self, *films: bytes) -> list[dict[str, Any]]:
        """Give it films; return what it says of each."""
        return [self.ask("POST", "/instances", data=one) for one in films]

    def get(self, path: str) -> requests.Response:
        """Return its answer of any kind."""
        answer = requests.get(f"{self.url}{path}", timeout=_PATIENCE)
        answer.raise_for_status()
        return answer

    def ask(self, method: str, path: str, **what: Any) -> Any:
        """Return what it answers."""
        answer = requests.request(method, f"{self.url}{path}", timeout=_PATIENCE, **what)
        answer.raise_for_status()
        return answer.json()


class Between:
    """A proxy before a PACS: it rewrites what is asked, and cuts what is answered after so many bytes.

    Of TLS where it has a certificate: Debian's Orthanc 1.10.1 ends with a segmentation fault where it does TLS itself.
    """

    def __init__(
        self,
        port: int,
        *,
        asked: Callable[[bytes], bytes] = lambda data: data,
        cut_after: int | None = None,
        certificate: Path | None = None,
    ) -> None:
        self._target, self._asked, self.cut_after = port, asked, cut_after
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if certificate else None
        if self._tls is not None and certificate is not None:
            self._tls.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._welcome, daemon=True).start()

    def _welcome(self) -> None:
        with suppress(OSError):
            while True:
                here = self._listener.accept()[0]
                if self._tls is not None:
                    try:
                        here = self._tls.wrap_socket(here, server_side=True)
                    except OSError:  # who asks does not trust us
                        continue
                there = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._pump, args=(here, there, self._asked, None), daemon=True).start()
                threading.Thread(target=self._pump, args=(there, here, bytes, self.cut_after), daemon=True).start()

    def _pump(
        self, here: socket.socket, there: socket.socket, change: Callable[[bytes], bytes], left: int | None
    ) -> None:
        with suppress(OSError), here, there:
            while data := here.recv(1 << 16):
                there.sendall(change(data if left is None else data[:left]))
                left = None if left is None else left - len(data)
                if left is not None and left <= 0:
                    there.shutdown(socket.SHUT_RDWR)
                    return
            there.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Welcome nobody any more."""
        self._listener.close()


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Return the files of a certificate of that name, signed by itself, and of the certificate with its key."""
    key, cert, both = folder / f"{name}.key", folder / f"{name}.crt", folder / f"{name}.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2"]
    words += ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return cert, both


@contextmanager
def orthanc(folder: Path, **options: Any) -> Iterator[Orthanc]:
    """Yield an Orthanc that runs."""
    server = Orthanc(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()

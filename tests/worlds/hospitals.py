"""Hospitals with collections of one encoder: a server process each, behind TLS, in a network of its own where that can be."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from folders import ROOT
from service_world import study_row

from encoder.films.image import READING
from index.built.collection import Collection, save_collection
from index.built.vector_index import VectorIndex
from index.importing.pseudonyms import make_key
from index.search.retriever import Retriever
from index.table.studies import as_studies, studies_schema
from service.guard.tokens import create_token

DIM, STUDIES, PATIENTS = 16, 40, 25
OURS, THEIRS = "a" * 64, "b" * 64
"""Fingerprints of two encoders."""
POLICY = {"ids": "hashed", "key": "own.key", "patients_key": "../shared.key", "columns": ["sex", "Number"], "ages": 10}
POLICY |= {"decimals": 6, "least_patients": 1, "most_hits": 100}


@dataclass(frozen=True)
class Network:
    """What runs a command in one hospital's network, and the address that others reach it by."""

    words: tuple[str, ...]
    address: str
    port: int


class Hospital(NamedTuple):
    """Its name among the others, its network, and the folder of what it serves."""

    name: str
    network: Network
    folder: Path


def studies_of(number: int) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return rows and vectors of a hospital; some patients and some vectors are those of other hospitals too."""
    rng, shared = np.random.default_rng(number), np.random.default_rng(99)
    vectors = np.concatenate([shared.standard_normal((8, DIM)), rng.standard_normal((STUDIES - 8, DIM))])
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    rows = []
    for at in range(STUDIES):
        patient = f"patient{(at * 7) % PATIENTS + (0 if at % 3 else 1000 * number):05d}"
        facts = {"sex": ("Female", "Male")[at % 2], "age": 40.0 + at, "Number": 1000 * number + at}
        rows.append(study_row(f"{patient}/study{at}", patient_id=patient, **facts))
    return rows, vectors


def retriever(rows: Sequence[Mapping[str, Any]], vectors: np.ndarray, fingerprint: str = OURS) -> Retriever:
    """Return the real retriever over rows."""
    schema = studies_schema([pa.field("Etiology", pa.string()), pa.field("Number", pa.int64())])
    manifest = {"fingerprint": fingerprint, "kind": "flat", "recall_at_10": 1.0}
    studies = as_studies(pa.Table.from_pylist(list(rows), schema))
    return Retriever(Collection(manifest, studies, VectorIndex.build(vectors, "flat")))


def joined(names: Mapping[str, int]) -> Retriever:
    """Return one collection of several hospitals, whose ids begin with the names of these."""
    each = {name: studies_of(number) for name, number in names.items()}
    rows = [row | {"study_id": f"{name}/{row['study_id']}"} for name, (some, _) in each.items() for row in some]
    return retriever(rows, np.concatenate([vectors for _, vectors in each.values()]))


def save_hospital(folder: Path, number: int, fingerprint: str = OURS) -> Path:
    """Write index, policy and keys of a hospital into a new folder."""
    rows, vectors = studies_of(number)
    whole = retriever(rows, vectors, fingerprint)
    (folder / "index").mkdir(parents=True)
    facts = {"fingerprint": fingerprint, "image_root": None, "reading": READING}
    save_collection(folder / "index", VectorIndex.build(vectors), whole._studies, None, **facts)
    make_key(folder / "own.key")
    (folder / "policy.toml").write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in POLICY.items()))
    return folder


def certify(folder: Path, *addresses: str) -> None:
    """Write an authority, `ca.pem`, and a certificate of it for the addresses, `site.pem` with `site.key`."""
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("authority", "site")]
    for at, extension in enumerate(
        (
            x509.BasicConstraints(ca=True, path_length=None),
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(one)) for one in addresses]),
        )
    ):
        made = x509.CertificateBuilder().subject_name(names[at]).issuer_name(names[0]).public_key(keys[at].public_key())
        made = made.serial_number(x509.random_serial_number()).add_extension(extension, critical=True)
        today = datetime.now(UTC)
        made = made.not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=2))
        signed = made.sign(keys[0], hashes.SHA256())
        (folder / f"{('ca', 'site')[at]}.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    pem = keys[1].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    (folder / "site.key").write_bytes(pem)


@contextmanager
def networks(count: int) -> Iterator[list[Network]]:
    """Yield so many networks, each in a namespace of its own; where that is not allowed, this machine's loopback."""
    with ExitStack() as stack:
        try:
            yield [stack.enter_context(_namespace(at)) for at in range(count)]
        except PermissionError:
            yield [Network((), "127.0.0.1", _free_port()) for _ in range(count)]


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@contextmanager
def _namespace(at: int) -> Iterator[Network]:
    """Yield a network namespace with one cable to ours. Raises PermissionError where it cannot be made."""
    name, near, far = f"hospital{os.getpid()}-{at}", f"hn{os.getpid() % 10**6}-{at}", f"hf{os.getpid() % 10**6}-{at}"
    subnet = f"10.213.{os.getpid() % 64 * 4 + at}"
    steps = [
        f"ip netns add {name}",
        f"ip link add {near} type veth peer name {far} netns {name}",
        f"ip addr add {subnet}.1/24 dev {near}",
        f"ip link set {near} up",
        f"ip -n {name} addr add {subnet}.2/24 dev {far}",
        f"ip -n {name} link set {far} up",
        f"ip -n {name} link set lo up",
    ]
    try:
        if shutil.which("ip") is None or os.geteuid() != 0:
            raise PermissionError("a namespace needs ip and root")
        for step in steps:
            if subprocess.run(step.split(), capture_output=True, check=False).returncode:
                raise PermissionError(step)
        yield Network(("ip", "netns", "exec", name), f"{subnet}.2", 8443)
    finally:
        if shutil.which("ip") is not None:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@contextmanager
def started(*words: str | Path, network: tuple[str, ...] = ()) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Yield a server process with these words and the address it listens on in its network."""
    command = [*network, sys.executable, "-u", "-m", "scripts.cli", "serve", *map(str, words), "--port", "0"]
    with _process(command) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, f"the server did not start: {line}"
        yield process, line.split()[-1]


@contextmanager
def hospital(place: Hospital, authority: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a saved hospital behind TLS, with an audit log, and yield its server's process."""
    words = [place.folder / "index", "--tokens", place.folder / "tokens.json", "--audit", place.folder / "audit.jsonl"]
    words += ["--remote-policy", place.folder / "policy.toml", "--public-name", place.network.address]
    with started(*words, network=place.network.words) as (server, plain):
        relay = [*place.network.words, sys.executable, str(ROOT / "tests" / "worlds" / "tls_relay.py")]
        relay += [place.network.address, str(place.network.port), str(authority / "site.pem")]
        with _process([*relay, str(authority / "site.key"), plain.rpartition(":")[2]]) as near:
            assert near.stdout is not None
            assert near.stdout.readline() == "listening\n"
            yield server


@contextmanager
def _process(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def write_sites(folder: Path, hospitals: Sequence[Hospital], authority: Path, seconds: float) -> Path:
    """Write the file by which one more hospital asks these, with a token of each, and return it."""
    lines = ['here = "south"', 'patients_key = "shared.key"', f"seconds = {seconds}"]
    for one in hospitals:
        token = folder / f"{one.name}.token"
        token.write_text(create_token(one.folder / "tokens.json", "south", ["remote"]))
        token.chmod(0o600)
        lines += ["[[site]]", f'name = "{one.name}"', f'token_file = "{token.name}"', f'ca = "{authority / "ca.pem"}"']
        lines += [f'url = "https://{one.network.address}:{one.network.port}"']
    (folder / "sites.toml").write_text("\n".join(lines) + "\n")
    return folder / "sites.toml"

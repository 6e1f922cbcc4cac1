"""Artefacts of somebody else's: whatever their JSON says, and whatever lies in a file's place, one sentence answers."""

import copy
import json
import os
import random
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from artefacts import KINDS, REFUSALS, World
from artefacts_growing import GROWING

from encoder.embedder import Embedder
from encoder.errors import CheckpointError
from encoder.network.checkpoint import load_encoder
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, CollectionError
from index.importing.mapping import SourceTable
from index.importing.source_files import read_files
from index.living.changes import Changes
from index.living.changes_file import digest, summed
from index.storage.files import load_json, save_json, seal_of, sha256_of
from index.storage.parquet import read_parquet
from index.table.splits import load_parts
from index.vectors import Embeddings
from service.audit.chain import verify as verify_log
from service.errors import AuditError, TokensError
from service.guard.tokens import read_tokens

EVERY = KINDS | GROWING
GONE = object()
STRANGE = [
    GONE,
    None,
    True,
    -1,
    1 << 70,
    1.5,
    1e300,
    "",
    "x",
    "../../etc/passwd",
    "\x1b[2J",
    [],
    [[[]]],
    {},
    {"a": {"b": []}},
    "f" * 64,
    "A" * 5000,
]
PATIENCE = 60
WITH_JSON = {
    "export": "_manifest.json",
    "index": "manifest.json",
    "map": "map.json",
    "snapshot": "snapshot/snapshot.json",
}


@pytest.fixture
def world(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, tiny_embedder: Embedder) -> World:
    return World(tmp_path, studies, unit_vectors, tiny_embedder)


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """End a test of which one answer waits, for a pipe or an endless file, for a minute."""

    def ring(*_: object) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value within a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here for key, one in items for here in [(*path, key), *paths_of(one, (*path, key))]]


def changed(content: Any, path: tuple[Any, ...], to: Any) -> Any:
    """Return a JSON value with another in one place of it, or with none there."""
    found = copy.deepcopy(content)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    if to is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return found


def told_or_answered(answer: Callable[[], Any]) -> str:
    """Return refused or answered; anything else fails, and so does an answer that waits."""
    signal.alarm(PATIENCE)
    try:
        answer()
    except REFUSALS:
        return "refused"
    return "answered"


@pytest.mark.parametrize("kind", WITH_JSON)
@pytest.mark.parametrize("most", [3, pytest.param(len(STRANGE), marks=pytest.mark.slow)])
def test_whatever_a_manifest_says_it_is_refused_in_a_sentence_or_answers(most: int, kind: str, world: World) -> None:
    make, answer = EVERY[kind]
    make(world)
    path, source = world.folder / WITH_JSON[kind], random.Random(0)
    content = load_json(path, "it", "mend it")
    outcomes = []
    for place in paths_of(content):
        for strange in source.sample(STRANGE, most):
            save_json(path, changed(content, place, strange), sealed=True)
            outcomes.append(told_or_answered(lambda: answer(world.folder)))
    assert outcomes.count("refused") > len(outcomes) / 3


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": 1, "a": 2}',
        b"\xef\xbb\xbf{}",
        b"\xff\xfe",
        b"null",
        b"3",
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"",
    ],
)
@pytest.mark.parametrize("kind", WITH_JSON)
def test_what_is_no_json_object_of_ours_is_refused(text: bytes, kind: str, world: World) -> None:
    make, answer = EVERY[kind]
    make(world)
    (world.folder / WITH_JSON[kind]).write_bytes(text)
    with pytest.raises(CollectionError):
        answer(world.folder)


@pytest.mark.parametrize("kind", EVERY)
def test_what_is_no_file_is_refused_and_not_waited_for(kind: str, world: World) -> None:
    make, answer = EVERY[kind]
    if kind == "runtime":
        pytest.importorskip("openvino", reason="OpenVINO is not installed")
    for path in (world.folder / name for name in make(world)):
        away = path.rename(world.folder.with_name("away"))
        for put in (os.mkfifo, os.mkdir, listen, lambda one: one.symlink_to("/dev/zero")):
            put(path)
            if kind not in ("map", "run", "probe"):
                assert told_or_answered(lambda: answer(world.folder)) == "refused", path.name
            else:
                told_or_answered(lambda: answer(world.folder))
            path.rmdir() if path.is_dir() else path.unlink()
        away.rename(path)


def listen(path: Path) -> None:
    """Leave a socket at a path."""
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have some hundred bytes
    with closing(socket.socket(socket.AF_UNIX)) as one:
        one.bind(path.name)
    os.chdir(before)


def repeated(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "t.parquet", compression="zstd", store_schema=False)
    return folder / "t.parquet"


@pytest.mark.parametrize("column", ["text", "numbers", "blanks", "lists"])
def test_a_small_table_that_would_take_gigabytes_is_refused_from_its_footer(column: str, tmp_path: Path) -> None:
    rows = {
        "text": lambda: pa.DictionaryArray.from_arrays(pa.array(np.zeros(8000, np.int32)), pa.array(["A" * 1_000_000])),
        "numbers": lambda: pa.array(np.zeros(40_000_000, np.int8)),
        "blanks": lambda: pa.nulls(40_000_000, pa.int8()),
        "lists": lambda: pa.ListArray.from_arrays(
            [0, 3000], pa.DictionaryArray.from_arrays(pa.array(np.zeros(3000, np.int32)), pa.array(["A" * 1_000_000]))
        ),
    }[column]()
    path = repeated(tmp_path, a=rows)
    assert path.stat().st_size < 200_000
    before = pa.total_allocated_bytes()
    with pytest.raises(ArtefactError, match="MiB in memory"):
        read_parquet(path, path.name, "import it again")
    assert pa.default_memory_pool().max_memory() - before < 1 << 30


def test_a_table_of_other_types_than_texts_and_numbers_is_refused(tmp_path: Path) -> None:
    path = repeated(tmp_path, a=pa.array([[[1]]]))
    with pytest.raises(ArtefactError, match="expected texts and numbers"):
        read_parquet(path, path.name, "import it again")


@pytest.mark.parametrize("kind", ["ivf", "ivf-pq4", "hnsw"])
def test_row_numbers_beyond_the_rows_are_refused(kind: str, unit_vectors: Embeddings, tmp_path: Path) -> None:
    index = VectorIndex.build(unit_vectors, kind)
    quick = index._approximate
    if kind == "hnsw":
        links = quick.hnsw.neighbors
        faiss.rev_swig_ptr(links.data(), links.size())[0] = 10**9
    else:
        lists = faiss.extract_index_ivf(quick).invlists
        faiss.rev_swig_ptr(lists.get_ids(0), lists.list_size(0))[0] = 10**9
    index.save(tmp_path / "e", tmp_path / "q")
    with pytest.raises(ArtefactError, match=r"cannot read|leads out of it|do not hold each row once"):
        VectorIndex.load(tmp_path / "e", tmp_path / "q", kind)


def shorten_matrix(codes: faiss.Index) -> None:
    faiss.downcast_VectorTransform(codes.chain.at(0)).A.resize(8)


def shift(codes: faiss.Index) -> None:
    turn = faiss.downcast_VectorTransform(codes.chain.at(0))
    turn.have_bias = True
    turn.b.resize(3)


def shorten_quantizer(codes: faiss.Index) -> None:
    faiss.downcast_index(codes.index).pq.centroids.resize(8)


def forget_middles(codes: faiss.Index) -> None:
    faiss.downcast_index(codes.index).by_residual = False


@pytest.mark.parametrize("harm", [shorten_matrix, shift, shorten_quantizer, forget_middles])
def test_codes_of_other_sizes_than_they_are_read_by_are_refused(
    harm: Callable[[faiss.Index], None], unit_vectors: Embeddings, tmp_path: Path
) -> None:
    index = VectorIndex.build(unit_vectors, "ivf-pq4")
    harm(index._approximate)
    index.save(tmp_path / "e", tmp_path / "q")
    with pytest.raises(ArtefactError, match=r"cannot read|of other sizes|another by_residual"):
        VectorIndex.load(tmp_path / "e", tmp_path / "q", "ivf-pq4")


@pytest.mark.parametrize(("role", "told"), [("e", "another index than of vectors"), ("q", "FAISS cannot read")])
def test_lists_that_are_said_to_lie_in_another_file_are_refused_before_that_is_opened(
    role: str, told: str, unit_vectors: Embeddings, tmp_path: Path
) -> None:
    VectorIndex.build(unit_vectors, "ivf").save(tmp_path / "e", tmp_path / "q")
    centres = faiss.IndexFlatIP(16)
    index = faiss.IndexIVFFlat(centres, 16, 2, faiss.METRIC_INNER_PRODUCT)
    index.train(unit_vectors)
    apart = faiss.OnDiskInvertedLists(2, index.code_size, str(tmp_path / "apart"))
    index.replace_invlists(apart, False)
    index.add(unit_vectors)
    faiss.write_index(index, str(tmp_path / role))
    (tmp_path / "apart").write_bytes(b"mine")  # mapped, it ends the process where its end is passed

    with pytest.raises(ArtefactError, match=told):
        VectorIndex.load(tmp_path / "e", tmp_path / "q", "ivf")


def test_vectors_that_claim_more_than_their_file_has_take_no_memory(unit_vectors: Embeddings, tmp_path: Path) -> None:
    VectorIndex.build(unit_vectors, "flat").save(tmp_path / "e", tmp_path / "q")
    content = bytearray((tmp_path / "e").read_bytes())
    content[37:45] = (1 << 33).to_bytes(8, "little")  # of 4 bytes each
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(ArtefactError, match="FAISS"):
        VectorIndex.load(tmp_path / "e", None, "flat")


def changes_in(world: World) -> sqlite3.Connection:
    EVERY["changes"][0](world)
    return sqlite3.connect(world.folder / "changes.sqlite", isolation_level=None)


def write_change(connection: sqlite3.Connection, number: int, row: Any, embedding: Any) -> None:
    """Put other content into a change, with its own digest, sum and seal as we would write them."""
    study = connection.execute("SELECT study_id FROM changes WHERE sequence = ?", (number,)).fetchone()[0]
    kept = (row, embedding, digest(number, study, row, embedding), number)
    connection.execute("UPDATE changes SET row = ?, embedding = ?, sha256 = ? WHERE sequence = ?", kept)
    facts = dict(connection.execute("SELECT name, value FROM facts WHERE name != 'seal'"))
    facts["sum"] = summed("0" * 64, [one for (one,) in connection.execute("SELECT sha256 FROM changes")])
    connection.executemany("REPLACE INTO facts VALUES (?, ?)", [*facts.items(), ("seal", seal_of(facts))])


def test_whatever_a_change_says_it_is_refused_in_a_sentence_or_answers(world: World) -> None:
    with closing(changes_in(world)) as connection:
        asked = "SELECT sequence, row, embedding FROM changes WHERE row IS NOT NULL LIMIT 1"
        number, text, vector = connection.execute(asked).fetchone()
        row, source = json.loads(text), random.Random(0)
        rows = [
            json.dumps(changed(row, place, strange)) for place in paths_of(row) for strange in source.sample(STRANGE, 2)
        ]
        pairs = [(one, vector) for one in [*rows, "null", "[]", "3", "{", "[" * 90_000, '{"a": NaN}', text + " "]]
        pairs += [(text, vector[:-4]), (text, b""), (text, b"\xff" * len(vector)), (None, vector), (text, None)]
        outcomes = []
        for one, embedding in pairs:
            write_change(connection, number, one, embedding)
            outcomes.append(told_or_answered(lambda: EVERY["changes"][1](world.folder)))
    assert outcomes[-5:] == ["refused"] * 5
    assert outcomes.count("refused") > len(outcomes) / 3


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER DELETE ON changes BEGIN DELETE FROM facts; END",
        "CREATE TABLE another (a)",
        "DROP TABLE changes; CREATE VIEW changes AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS sequence, 'a' AS study_id, NULL AS row, NULL AS embedding, 'x' AS sha256 FROM n",
    ],
)
def test_a_file_of_changes_with_other_tables_than_ours_is_refused_before_they_are_asked(
    statement: str, world: World
) -> None:
    with closing(changes_in(world)) as connection:
        connection.executescript(statement)
    manifest = load_json(world.folder / "manifest.json", "manifest", "")
    with pytest.raises(ArtefactError, match="tables that Precedent did not write"):
        Changes.open(world.folder, manifest["fingerprint"], manifest["embedding_dim"])


def rewritten(path: Path, **metadata: Any) -> None:
    """Say other things of the tensors of a file, without a seal."""
    with safetensors.safe_open(path, framework="pt") as file:
        told = {name: text for name, text in file.metadata().items() if "seal" not in name}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    safetensors.torch.save_file(tensors, path, told | metadata)


@pytest.mark.parametrize("part", ["config", "preprocessing"])
def test_whatever_an_encoder_says_of_itself_it_is_refused_in_a_sentence_or_loads(part: str, world: World) -> None:
    path = world.folder / EVERY["encoder"][0](world)[0]
    with safetensors.safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()[part])
    source, huge = random.Random(0), [10**9, 100_000, [10**6] * 1000, "vit_gigantic_patch14_clip_224"]
    for place in paths_of(content):
        for strange in source.sample([*STRANGE, [None], *huge], 6):
            rewritten(path, **{part: json.dumps(changed(content, place, strange))})
            told_or_answered(lambda: load_encoder(path))
    for text in ("[" * 90_000, "null", "3", "{", '{"backbone": NaN}'):
        rewritten(path, **{part: text})
        with pytest.raises(CheckpointError):
            load_encoder(path)


def test_a_network_that_is_larger_than_its_file_is_refused_before_it_is_built(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = world.folder / EVERY["encoder"][0](world)[0]
    with safetensors.safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    rewritten(path, config=json.dumps(config | {"backbone": "vit_gigantic_patch14_clip_224"}))
    built: list[str] = []
    monkeypatch.setattr("torch.nn.Module.load_state_dict", lambda *_: built.append("network"))
    with pytest.raises(CheckpointError, match="are missing or of another shape"):
        load_encoder(path)
    assert built == []


def test_whatever_a_probe_says_of_itself_it_is_refused_in_a_sentence_or_answers(world: World) -> None:
    make, answer = EVERY["probe"]
    path, source = world.folder / make(world)[0], random.Random(0)
    with safetensors.safe_open(path, framework="pt") as file:
        content = json.loads(file.metadata()["details"])
    for place in paths_of(content):
        for strange in source.sample(STRANGE, 5):
            rewritten(path, details=json.dumps(changed(content, place, strange)))
            told_or_answered(lambda: answer(world.folder))


@pytest.mark.parametrize("reader", ["split", "csv", "tokens", "log"])
def test_what_others_hand_us_is_no_pipe_no_device_and_not_endless(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "given"
    (tmp_path / "given.head").write_text(f"{0:020d}:{64 * '0'}\n")
    read: Callable[[], Any] = {
        "split": lambda: load_parts(path, ["a"]),
        "csv": lambda: read_files(SourceTable(file=["given"]), [(path, path.name, {})]),
        "tokens": lambda: read_tokens(path),
        "log": lambda: verify_log(path),
    }[reader]
    os.mkfifo(path)
    with pytest.raises((CollectionError, TokensError, AuditError), match=r"expected a file|expected a readable"):
        read()
    path.unlink()
    with path.open("wb") as file:
        file.truncate(20 << 30)  # of one line, with hardly a block on the disk
    path.chmod(0o600)
    with pytest.raises((CollectionError, TokensError, AuditError)):
        read()


def test_a_file_that_is_larger_than_any_of_ours_is_not_read_to_its_end(world: World) -> None:
    names = EVERY["index"][0](world)
    with (world.folder / names[0]).open("r+b") as file:
        file.truncate(1 << 40)
    manifest = load_json(world.folder / "manifest.json", "manifest", "")
    with pytest.raises(ArtefactError, match="to have at most"):
        EVERY["index"][1](world.folder)
    assert manifest["files"]["exact"]["sha256"] != sha256_of(world.folder / "manifest.json")

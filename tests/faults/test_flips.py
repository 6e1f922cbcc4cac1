"""One bit of an artefact flipped, or its end cut off: it is refused in a sentence, or answers as before."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from artefacts import KINDS, REFUSALS, World
from artefacts_growing import GROWING

from encoder.embedder import Embedder
from encoder.runtime.runtimes import _converted, convert
from index.errors import ArtefactError
from index.export.shards import ExportPlan, ShardFolder
from index.vectors import Embeddings

SHORT, LONG = 12, 1_000
EVERY = KINDS | GROWING


@pytest.fixture
def world(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, tiny_embedder: Embedder) -> World:
    return World(tmp_path, studies, unit_vectors, tiny_embedder)


def outcome(answer: Callable[[Path], Any], folder: Path, expected: Any) -> str:
    """Return refused or right; anything else fails."""
    try:
        found = answer(folder)
    except REFUSALS:
        return "refused"
    assert found == expected, "a wrong answer"
    return "right"


@pytest.mark.parametrize("kind", EVERY)
@pytest.mark.parametrize("count", [SHORT, pytest.param(LONG, marks=pytest.mark.long)])
def test_an_artefact_with_a_flipped_bit_is_refused_or_answers_as_before(count: int, kind: str, world: World) -> None:
    make, answer = EVERY[kind]
    source, counts = random.Random(count), Counter[str]()
    for path in (world.folder / name for name in make(world)):
        content, expected = path.read_bytes(), answer(world.folder)
        for _ in range(count):
            flipped = bytearray(content)
            place = source.randrange(source.choice([len(content), min(len(content), 300)]))
            flipped[source.choice([place, -1 - place])] ^= 1 << source.randrange(8)
            path.write_bytes(flipped)
            counts[f"{path.suffix} {outcome(answer, world.folder, expected)}"] += 1
        path.write_bytes(content)
    print(f"{kind}: {dict(counts)}")
    assert counts.total() >= count
    assert any("refused" in name for name in counts)


@pytest.mark.parametrize("kind", EVERY)
def test_an_artefact_that_is_cut_short_empty_or_missing_is_refused_or_answers_as_before(
    kind: str, world: World
) -> None:
    make, answer = EVERY[kind]
    for path in (world.folder / name for name in make(world)):
        content, expected = path.read_bytes(), answer(world.folder)
        for length in (len(content) - 1, len(content) // 2, 7, 0):
            path.write_bytes(content[:length])
            outcome(answer, world.folder, expected)
        path.write_bytes(content)
        away = path.rename(world.folder.with_name("away"))
        if kind not in ("map", "run"):  # these may be begun without
            outcome(answer, world.folder, expected)
        away.rename(path)
    assert outcome(answer, world.folder, expected) == "right"


def test_a_shard_that_changed_before_the_export_was_finished_is_not_vouched_for(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    plan = ExportPlan("f" * 64, 16, "0" * 64, 200, 100)
    ShardFolder(tmp_path, plan).save_shard(0, studies.slice(0, 100), [["frontal"]] * 100, unit_vectors[:100], [])
    shard = tmp_path / "shard-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[content.find(unit_vectors[3].tobytes()) + 1] ^= 4  # one vector, hardly turned

    shard.write_bytes(content)

    with pytest.raises(ArtefactError, match="has changed since it was written; remove it and run the export again"):
        ShardFolder(tmp_path, plan)


def test_a_conversion_that_changed_is_made_anew(
    tmp_path: Path, tiny_embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    model = convert(tiny_embedder.encoder, 0, 64)
    monkeypatch.setattr("encoder.runtime.runtimes.convert", lambda *_: made.append(1) or model)
    kept = tmp_path / "f-0-fp32.xml"
    for expected in (1, 1):
        _converted(tiny_embedder.encoder, 0, 64, kept, "fp32")
        assert len(made) == expected
    whole = kept.with_suffix(".bin").read_bytes()
    kept.with_suffix(".bin").write_bytes(bytes(len(whole)))
    for expected in (2, 2):
        _converted(tiny_embedder.encoder, 0, 64, kept, "fp32")
        assert len(made) == expected
    assert kept.with_suffix(".bin").read_bytes() == whole

"""A collection that lives against one that was indexed whole: the same answers, and nothing acknowledged is lost."""

import pydoc
import secrets
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from living_world import addition, build, build_of, ids_of, unit, units
from unit_vectors_world import DIM, retriever_of

from index.built.kinds import KINDS
from index.built.map import build_map, load_map
from index.errors import ArtefactError, CollectionError, StudiesError, StudyExists, StudyNotFound, VectorsError
from index.living.additions import Addition, as_rows
from index.living.collection import LivingCollection
from index.living.verification import verify
from index.search.answer import Answer
from index.search.retriever import Retriever
from index.vectors import Embeddings

FEMALE = {"must": [{"key": "sex", "match": {"value": "Female"}}]}


@pytest.fixture
def folder(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    """Return an index of the first 150 of 200 studies."""
    return build(tmp_path / "index", studies.slice(0, 150), unit_vectors[:150])


def found(answer: Answer) -> list[tuple[str, float]]:
    return [(hit.study.study_id, hit.similarity) for hit in answer.hits]


def test_an_added_study_is_the_next_search_s_first_hit(folder: Path, rng: np.random.Generator) -> None:
    living, new = LivingCollection(folder), addition("patient90001/study1", unit(rng))
    assert living.add([new]) == [True]
    assert living.search(new.embedding, 1).hits[0].study == new.study
    assert (len(living), living.study("patient90001/study1")) == (151, new.study)
    np.testing.assert_array_equal(living.embedding("patient90001/study1"), new.embedding)


def test_a_deleted_study_is_found_by_nothing(folder: Path) -> None:
    living = LivingCollection(folder)
    first = living.search(np.eye(1, DIM)[0], 1).hits[0].study
    living.delete([first.study_id])
    assert first.study_id not in dict(found(living.search(np.eye(1, DIM)[0], 150)))
    assert (len(living), living.moved) == (149, {first.study_id})
    for asked in (living.study, living.embedding, living.similar):
        with pytest.raises(StudyNotFound):
            asked(first.study_id)


def test_the_same_content_again_writes_nothing_and_other_content_only_replaces(
    folder: Path, rng: np.random.Generator
) -> None:
    living, new = LivingCollection(folder), addition("patient90001/study1", unit(rng))
    older = replace(new, study=replace(new.study, age=80.0))
    living.add([new])
    sequence = living.now().sequence
    assert (living.add([new]), living.now().sequence) == ([False], sequence)
    for other in (older, replace(new, embedding=unit(rng))):
        with pytest.raises(StudyExists, match="patient90001/study1"):
            living.add([other])
    assert living.add([older], replace=True) == [True]
    living.compact()
    assert (living.add([older]), living.study("patient90001/study1").age) == ([False], 80.0)


def test_several_are_added_or_deleted_all_or_none(folder: Path, rng: np.random.Generator) -> None:
    living = LivingCollection(folder)
    known = living.search(unit(rng), 1).hits[0].study.study_id
    with pytest.raises(StudyExists):
        living.add([addition("patient90001/study1", unit(rng)), addition(known, unit(rng))])
    with pytest.raises(StudyNotFound):
        living.delete([known, "ghost"])
    assert (len(living), living.now().sequence) == (150, 0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"extra": {"Etiology": None, "Ward": "3"}}, StudiesError, "no column 'Ward'"),
        ({"extra": {"frontal_path": "another/film.png"}}, StudiesError, "no column 'frontal_path'"),
        ({"extra": {"study_id": "patient00001/study1"}}, StudiesError, "no column 'study_id'"),
        ({"extra": {"Etiology": 7}}, StudiesError, "types of this collection"),
        ({"findings": {"Edema": 4}}, StudiesError, "Edema: expected a label"),
        ({"findings": {"Edema": 400}}, StudiesError, "types of this collection"),
        ({"study_id": ""}, StudiesError, "expected a study_id"),
        ({"frontal_path": None}, StudiesError, "expected a frontal or a lateral path"),
        ({"frontal_path": "../x.png"}, StudiesError, "below the image root"),
    ],
)
def test_a_row_that_no_import_would_have_made_is_refused(
    changes: dict[str, Any], error: type[CollectionError], words: str, folder: Path, rng: np.random.Generator
) -> None:
    new = addition("patient90001/study1", unit(rng))
    with pytest.raises(error, match=words):
        LivingCollection(folder).add([replace(new, study=replace(new.study, **changes))])


def test_a_vector_of_another_length_or_norm_is_refused(folder: Path, rng: np.random.Generator) -> None:
    for vector in (unit(rng, DIM + 1), 2 * unit(rng)):
        with pytest.raises(VectorsError):
            LivingCollection(folder).add([addition("patient90001/study1", vector)])


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spare")


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_collection_that_grew_answers_as_one_that_was_built_whole(seed: int, spare: Path) -> None:
    rng = np.random.default_rng(seed)
    with closing(grown(rng, spare / secrets.token_hex(8))) as living:
        whole = whole_of(living)
        options: dict[str, Any] = {
            "where": [None, FEMALE][rng.integers(2)],
            "group_by": [None, "patient"][rng.integers(2)],
            "min_similarity": [None, 0.2, -1.0][rng.integers(3)],
            "exact": bool(rng.integers(2)),
        }
        for query in (*np.eye(DIM, dtype=np.float32)[:4], unit(rng)):
            k = int(rng.integers(1, 12))
            assert living.search(query, k, **options) == whole.search(query, k, **options)
        for study_id in whole._studies["study_id"].to_pylist():
            assert living.similar(study_id, 5, **options) == whole.similar(study_id, 5, **options)
        assert len(living) == len(whole)


def grown(rng: np.random.Generator, folder: Path, kind: str = "flat", of: int = 40) -> LivingCollection:
    """Return a collection after adds, deletes and now and then a compaction; four vectors are of many studies."""
    vectors = np.where(
        rng.random((of, 1)) < 0.5, np.eye(DIM, dtype=np.float32)[rng.integers(4, size=of)], units(rng, of)
    )
    given = [addition(f"patient{one // 3:02d}/study{one}", vectors[one], rng) for one in range(of)]
    living = LivingCollection(build_of(folder, given[: of // 2], kind))
    living.add(given[of // 2 :])
    for _ in range(rng.integers(4)):
        living.add([replace(given[one], embedding=unit(rng)) for one in rng.permutation(of)[:4]], replace=True)
        there = [one.study.study_id for one in given if one.study.study_id in living.now()]
        living.delete([there[one] for one in rng.permutation(len(there))[:3]])
        if rng.random() < 0.3:
            living.compact()
    return living


def whole_of(living: LivingCollection, kind: str = "flat") -> Retriever:
    """Return a retriever of what a collection holds now, indexed anew."""
    ids = ids_of(living)
    vectors = np.stack([living.embedding(one) for one in ids])
    rows = as_rows([Addition(living.study(one), ("frontal",), living.embedding(one)) for one in ids], living.schema)
    return retriever_of(pa.Table.from_pylist(rows, living.schema), vectors, kind)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "flat"])
def test_an_approximate_index_lives_as_well(kind: str, tmp_path: Path, rng: np.random.Generator) -> None:
    with closing(grown(rng, tmp_path / "index", kind, of=200)) as living:
        whole = whole_of(living, kind)
        for study_id in list(whole._studies["study_id"].to_pylist())[:20]:
            assert living.similar(study_id, 5, exact=True) == whole.similar(study_id, 5, exact=True)
            assert living.similar(study_id, 5).hits[0] == living.similar(study_id, 5, exact=True).hits[0]
        living.compact()
        assert living.manifest["kind"] == kind
        assert living.similar(study_id, 5, exact=True) == whole.similar(study_id, 5, exact=True)


def test_an_index_without_what_was_compacted_is_refused(folder: Path, rng: np.random.Generator) -> None:
    before = (folder / "manifest.json").read_bytes()
    living = LivingCollection(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".faiss", ".parquet")}
    living.add([addition("patient90001/study1", unit(rng))])
    living.compact()
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    (folder / "manifest.json").write_bytes(before)
    with pytest.raises(ArtefactError, match="lacks studies that were added"):
        LivingCollection(folder)


@pytest.mark.parametrize(
    "moment",
    [
        "index.storage.files.sha256_of",
        "index.built.collection.VectorIndex.load",
        "index.built.collection.read_parquet",
        "os.open",
    ],
)
@pytest.mark.parametrize("opening", ["open", "add", "verify", "load"])
def test_a_compaction_between_two_steps_of_an_opening_is_not_noticed(
    folder: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, moment: str, opening: str
) -> None:
    other, reader = LivingCollection(folder), LivingCollection(folder)
    other.add([addition("patient90001/study1", unit(rng))])
    room, _, name = moment.rpartition(".")
    real, left = getattr(pydoc.locate(room), name), [1]

    def slow(path: Any, *words: Any, **named: Any) -> Any:
        if left and str(path).startswith(f"{folder}/") and not str(path).startswith(f"{folder}/."):
            left.clear()
            with closing(LivingCollection(folder)) as third:
                third.compact()
        return real(path, *words, **named)

    if opening == "add":
        other.compact()  # of which the reader has not heard: it reads anew
        other.add([addition("patient90002/study1", unit(rng))])
    monkeypatch.setattr(pydoc.locate(room), name, slow)
    if opening == "add":
        reader.add([addition("patient90003/study1", unit(rng))])
    verdict = verify(folder) if opening == "verify" else None
    if opening == "load":
        assert len(Retriever.load(folder)) == 151
    count = 153 if opening == "add" else 151

    assert len(LivingCollection(folder)) == count
    assert left == []
    assert verdict is None or (verdict.faults, verdict.studies) == ([], 151)


CUT_OFF = """
import os, sys
import numpy as np
from pathlib import Path
from index.errors import ArtefactError
from index.living.collection import LivingCollection
folder = Path(sys.argv[1])
living = LivingCollection(folder)
query = np.eye(1, living.embedding_dim, dtype=np.float32)[0]
first = living.search(query, 1).hits[0].study.study_id
os.truncate(next(folder.glob("exact-*.faiss")), 0)
where = {"must": [{"key": "study_id", "match": {"value": first}}]}
for ask in (
    lambda: living.search(query, 1), lambda: living.similar(first), lambda: living.search(query, 1, where=where),
    lambda: living.search(query, 1, exact=True), lambda: living.embedding(first),
):
    try:
        ask()
    except ArtefactError as refusal:
        print(refusal)
"""


@pytest.mark.parametrize("kind", ["flat", "ivf-half"])
def test_vectors_that_were_cut_off_in_place_are_refused_and_end_no_process(
    tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings, kind: str
) -> None:
    folder = build(tmp_path / "index", studies, unit_vectors, kind)
    done = subprocess.run([sys.executable, "-c", CUT_OFF, str(folder)], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.count("was cut short while it was being searched") == 5


MAP_KILLED = """
import os, signal, sys
from pathlib import Path
import index.living.compaction
from index.living.collection import LivingCollection
index.living.compaction.build_map = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
LivingCollection(Path(sys.argv[1])).compact()
"""


def test_a_map_that_a_killed_compaction_left_behind_is_told_and_mended_by_the_next_on_its_own_plane(
    folder: Path, rng: np.random.Generator
) -> None:
    before = build_map(folder)
    LivingCollection(folder).add([addition("patient90001/study1", unit(rng))])
    killed = subprocess.run([sys.executable, "-c", MAP_KILLED, str(folder)])
    assert killed.returncode == -signal.SIGKILL
    verdict = verify(folder)

    assert verdict.faults == []
    assert ["another state of the index; run: precedent map" in note for note in verdict.notes] == [True]
    LivingCollection(folder).compact()
    assert (verify(folder).faults, verify(folder).notes) == ([], [])
    after = load_map(folder)
    assert after is not None
    assert len(after) == 151
    np.testing.assert_array_equal(after.plane.axes, before.plane.axes)

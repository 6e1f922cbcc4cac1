"""Searches by a part of a film, against places that are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from living_world import FINGERPRINT, SCHEMA, addition, units

from encoder.films.image import READING
from index.built.collection import Collection, load_collection, save_collection
from index.built.pairs import PairShare, PairShares
from index.built.regions import Region
from index.built.vector_index import VectorIndex
from index.errors import ArtefactError, RegionError, RegionsMissing
from index.export.film_maps import RegionFormat
from index.export.reliability import Interval
from index.living.additions import as_rows
from index.living.collection import LivingCollection
from index.living.snapshots import restore_snapshot, save_snapshot
from index.living.verification import verify
from index.search.answer import Query, Subject
from index.search.retriever import Retriever

FORMAT = "1:4x4x16"
MARK = 5 * (-1.0) ** np.arange(16)
WHOLE = (0.0, 0.0, 1.0, 1.0)
ROWS = 12
CORNER = Region((0.75, 0.0, 1.0, 0.25))
"""The cell of the first row and last column."""


def records(rng: np.random.Generator, square: tuple[float, ...] = WHOLE) -> Any:
    """Return frontal films of noise; a mark lies in the corner of row 0 and lower left in row 7, none has a lateral."""
    films = np.zeros((ROWS, 2), RegionFormat(FORMAT).record)
    films["square"][:, 0] = square
    films["map"][:, 0] = rng.normal(size=(ROWS, 4, 4, 16)) * 0.1
    films["map"][0, 0, 0, 3] = films["map"][7, 0, 3, 0] = MARK
    return films


def built(folder: Path, rng: np.random.Generator, films: Any = None) -> Path:
    """Return the folder of an index with those maps; two studies a patient."""
    near = units(rng, 1) + 0.1 * units(rng, ROWS)
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    given = [addition(f"p{row // 2}/s{row}", vector) for row, vector in enumerate(near)]
    studies = pa.Table.from_pylist(as_rows(given, SCHEMA), SCHEMA)
    vectors = VectorIndex.build(np.stack([one.embedding for one in given]))
    facts = {"fingerprint": FINGERPRINT, "image_root": None, "reading": READING, "regions": FORMAT}
    folder.mkdir()
    save_collection(folder, vectors, studies, None, [records(rng) if films is None else films], **facts)
    return folder


def asked(study: str = "p0/s0", **options: Any) -> Query:
    return Query(subject=Subject(study_id=study), k=3, **({"region": CORNER} | options))


def test_the_place_that_is_alike_comes_first_and_is_told(tmp_path: Path, rng: np.random.Generator) -> None:
    answer = Retriever.load(built(tmp_path / "index", rng)).answer(asked())

    first = answer.hits[0]
    assert (first.study.study_id, answer.matched_total, answer.regions_missing) == ("p3/s7", ROWS - 2, 0)
    assert first.place is not None
    assert first.place.box == (0.0, 0.75, 0.25, 1.0)
    assert first.place.similarity > 0.99
    assert answer.exact  # all were compared, as there are fewer than candidates


def test_what_similarities_of_whole_films_are_worth_is_not_said_of_a_region(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    collection = load_collection(built(tmp_path / "index", rng))
    step = PairShare(0.5, Interval(0.9, 0.8, 1.0), 999)
    retriever = Retriever(
        replace(collection, manifest=collection.manifest | {"pairs": PairShares((step,), 0.3).fact()})
    )

    assert retriever.answer(asked()).pairs is None
    assert retriever.answer(asked(region=None)).pairs == PairShares((step,), 0.3)


def test_filters_and_patient_rules_hold(tmp_path: Path, rng: np.random.Generator) -> None:
    retriever = Retriever.load(built(tmp_path / "index", rng))
    absent = {"must": [{"key": "sex", "match": {"value": "Male"}}]}

    assert not retriever.answer(asked(where=absent)).hits
    assert "p0" not in {hit.study.patient_id for hit in retriever.answer(asked()).hits}
    patients = [hit.study.patient_id for hit in retriever.answer(asked(group_by="patient")).hits]
    assert (patients[0], len(set(patients))) == ("p3", 3)
    assert retriever.answer(asked(min_similarity=0.999)).hits == []


@pytest.mark.parametrize(
    "text", ["0,0,0,1", "0,0,2,1", "1,2,3", "a,b,c,d", "nan,0,1,1", "0.5,0.5,0.505,0.9", "0.9,0,0.1,1"]
)
def test_a_box_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RegionError, match="expected a region"):
        Region.parse(text)


def test_a_square_with_borders_or_cut_is_mapped_onto_the_film(tmp_path: Path, rng: np.random.Generator) -> None:
    tall = records(rng, (-0.5, 0.0, 1.5, 1.0))  # a film twice as high as wide: cells 1 and 2 across lie on it
    tall["map"][0, 0, 0, 2] = tall["map"][7, 0, 3, 1] = MARK
    tall["map"][4, 0, 1, 0] = MARK  # on the border, where there is no film
    cut = records(rng, (0.25, 0.25, 0.75, 0.75))
    by_border = Retriever.load(built(tmp_path / "tall", rng, tall)).answer(asked(region=Region((0.5, 0, 1, 0.25))))
    retriever = Retriever.load(built(tmp_path / "cut", rng, cut))

    assert by_border.hits[0].place is not None
    assert (by_border.hits[0].study.study_id, by_border.hits[0].place.box) == ("p3/s7", (0.0, 0.75, 0.5, 1.0))
    [first, *_] = retriever.answer(asked(region=Region((0.6, 0.2, 0.8, 0.3)))).hits
    assert first.place is not None
    assert (first.study.study_id, first.place.box) == ("p3/s7", (0.25, 0.625, 0.375, 0.75))
    with pytest.raises(RegionError, match="outside of what the encoder sees"):
        retriever.answer(asked(region=Region((0.0, 0.0, 0.2, 1.0))))


def test_an_index_or_a_film_without_maps_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    retriever = Retriever.load(built(tmp_path / "index", rng))
    plain = load_collection(tmp_path / "index")
    without = Retriever(Collection(plain.manifest, plain.studies, plain.vectors))

    with pytest.raises(RegionsMissing, match="keeps no feature maps"):
        without.answer(asked())
    with pytest.raises(RegionsMissing, match="no lateral film"):
        retriever.answer(asked(region=Region(CORNER.box, "lateral")))
    with pytest.raises(RegionError, match="got a vector or a text"):
        retriever.answer(Query(retriever.embedding("p0/s0"), region=CORNER))
    with pytest.raises(RegionError, match="encoder and version"):
        retriever.answer(asked(region=CORNER.on(WHOLE, np.zeros((5, 5, 16), np.float16))))


def test_added_studies_are_counted_and_compaction_snapshot_and_verify_keep_maps(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    living = LivingCollection(built(tmp_path / "index", rng))
    living.add([addition("p9/new", units(rng, 1)[0])])
    living.delete(["p5/s10"])
    before = living.answer(asked())
    living.compact()
    after = living.answer(asked())
    save_snapshot(tmp_path / "index", tmp_path / "snapshot")
    restore_snapshot(tmp_path / "snapshot", tmp_path / "restored")

    restored = Retriever.load(tmp_path / "restored").answer(asked())
    for answer in (before, after, restored):
        assert (answer.hits[0].study.study_id, answer.matched_total, answer.regions_missing) == ("p3/s7", ROWS - 2, 1)
    with pytest.raises(RegionsMissing):
        living.answer(asked("p9/new"))
    assert not verify(tmp_path / "restored").faults


def test_maps_that_were_changed_or_are_of_another_size_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = built(tmp_path / "index", rng)
    [path] = folder.glob("regions-*.maps")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtefactError, match="has changed"):
        load_collection(folder)
    with pytest.raises(ArtefactError, match="bytes of feature maps"):
        built(tmp_path / "short", rng, records(rng)[:5])


def test_numbers_that_are_none_in_a_map_of_somebody_elses_rank_last(tmp_path: Path, rng: np.random.Generator) -> None:
    films = records(rng)
    films["map"][3] = np.nan
    films["square"][4, 0] = (np.nan, 0, np.inf, 1)
    answer = Retriever.load(built(tmp_path / "index", rng, films)).answer(asked())

    assert answer.hits[0].study.study_id == "p3/s7"
    assert answer.regions_missing == 1
    assert all(hit.place and np.isfinite(hit.place.similarity) for hit in answer.hits)

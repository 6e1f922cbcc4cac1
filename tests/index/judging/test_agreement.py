"""Whether an encoder was trained, how its neighbours agree, and who says so."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from export_files import planted, save_export

from encoder.films.image import READING
from index.built.collection import build_collection, load_collection
from index.errors import ArtefactError
from index.export.reliability import (
    LEAST_QUERIES,
    UNTRAINED,
    Agreement,
    Interval,
    agreement_in,
    facts_of,
    is_trained,
    kept_facts,
    warning_of,
)
from index.export.shards import MANIFEST, load_manifest
from index.judging.agreement import agreement_of
from index.table.studies import FINDINGS, studies_schema

POOR = Agreement(200, Interval(0.31, 0.28, 0.34), 0.30, Interval(0.01, -0.02, 0.04), None, None)


def _studies(count: int, layouts: bool = True) -> pa.Table:
    """Return studies of which every third has an edema, which their layouts show a little."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        layout = rng.integers(-30, 30, size=192).astype(np.int8)
        layout[:8] += 20 * (number % 3 == 0)
        rows.append(
            dict.fromkeys((*studies_schema().names, *FINDINGS))
            | {
                "study_id": f"p{number // 2}/s{number}",
                "patient_id": f"p{number // 2}",
                "frontal_path": f"{number}.png",
            }
            | {"other_paths": [], "Edema": int(number % 3 == 0), "No Finding": int(number % 3 > 0)}
            | ({"layouts": [layout.tobytes()]} if layouts else {})
        )
    schema = studies_schema()
    return pa.Table.from_pylist(rows, schema.append(pa.field("layouts", pa.list_(pa.binary()))) if layouts else schema)


def test_vectors_that_tell_a_finding_agree_more_than_chance_and_more_than_layouts() -> None:
    studies = _studies(240)

    found = agreement_of(studies, planted(studies, "Edema", np.random.default_rng(2), strength=2))

    assert found is not None
    assert found.pixels is not None
    assert found.precision.low > found.pixels.high > found.chance
    assert found.chance == pytest.approx(80 / 240 * 1 / 3 + 160 / 240 * 2 / 3, abs=0.01)
    assert found.fault == ""
    assert warning_of(facts_of(True, found)) is None


def test_vectors_of_chance_are_told_with_their_figures() -> None:
    studies = _studies(240)

    found = agreement_of(studies, planted(studies, "Edema", np.random.default_rng(3), strength=0))

    assert found is not None
    assert found.above_chance.low <= 0
    warning = warning_of(facts_of(True, found))
    assert warning is not None
    for sentence in ("not shown to be more than chance", f"{found.precision}", "precedent train"):
        assert sentence in warning


def test_vectors_no_better_than_a_coarse_look_at_the_films_are_told() -> None:
    studies = _studies(240)
    seen = np.array([np.frombuffer(one[0], np.int8) for one in studies["layouts"].to_pylist()], np.float32)

    found = agreement_of(studies, seen / np.linalg.norm(seen, axis=1, keepdims=True))

    assert found is not None
    assert found.above_pixels == Interval(0, 0, 0)
    assert found.above_chance.low > 0
    assert "coarse look at the films" in found.fault


@pytest.mark.parametrize("count", [0, 1, LEAST_QUERIES - 1])
def test_too_few_studies_are_not_measured(count: int) -> None:
    studies = _studies(count)

    assert agreement_of(studies, planted(studies, "Edema", np.random.default_rng(2))) is None


def test_an_export_without_layouts_is_measured_beside_chance_alone() -> None:
    studies = _studies(240, layouts=False)

    found = agreement_of(studies, planted(studies, "Edema", np.random.default_rng(2), strength=2))

    assert found is not None
    assert (found.pixels, found.above_pixels) == (None, None)
    assert "coarse" not in found.sentence()


def test_an_untrained_encoder_is_told_whatever_was_measured() -> None:
    assert warning_of({"encoder_trained": False}) == UNTRAINED
    assert warning_of({"encoder_trained": None}) is None
    assert warning_of({}) is None
    assert warning_of({}, trained=False) == UNTRAINED  # of an index from before, by the encoder's own file
    assert is_trained({"encoder_trained": False}, True) is True
    assert "Measured: 0.310 (0.280 to 0.340)" in str(warning_of(facts_of(False, POOR)))


def test_a_manifest_keeps_the_facts_and_an_index_takes_them_over(studies: pa.Table, tmp_path: Path) -> None:
    vectors = np.eye(16, dtype=np.float32)[np.arange(studies.num_rows) % 16]
    export = save_export(tmp_path / "export", studies, vectors)
    assert kept_facts(load_manifest(export)) == {"reading": READING}

    (export / MANIFEST).write_text(json.dumps(load_manifest(export) | facts_of(False, POOR)))
    build_collection(export, tmp_path / "index", kind="flat")

    kept = load_collection(tmp_path / "index").manifest
    assert kept["encoder_trained"] is False
    assert agreement_in(kept) == POOR


@pytest.mark.parametrize(
    "facts", [{"encoder_trained": "no"}, {"agreement": 3}, {"agreement": asdict(POOR) | {"precision": "<b>"}}]
)
def test_facts_of_another_shape_are_refused(facts: dict[str, object], studies: pa.Table, tmp_path: Path) -> None:
    export = save_export(tmp_path, studies, np.eye(16, dtype=np.float32)[np.arange(studies.num_rows) % 16])
    (export / MANIFEST).write_text(json.dumps(load_manifest(export) | facts))

    with pytest.raises(ArtefactError, match="manifest"):
        load_manifest(export)

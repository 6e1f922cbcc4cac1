"""Contrast retrieval against a plain reading of the table: sides, matching, what is given up, whose study it is."""

import numpy as np
import pyarrow as pa
import pytest
from unit_vectors_world import retriever_of

from index.errors import FilterError
from index.search.answer import Query, Subject
from index.search.contrast import Counterpart, contrast
from index.search.retriever import Retriever
from index.table.studies import Study, studies_schema
from index.vectors import Embeddings

HERE = np.array([1, 0], np.float32)


def row(name: str, degrees: float, label: int | None, **columns: object) -> dict[str, object]:
    known = {"study_id": f"{name}/study1", "patient_id": name, "frontal_path": "f.jpg", "degrees": degrees}
    return dict.fromkeys(studies_schema().names) | known | {"Edema": label} | columns


def collection(*rows: dict[str, object]) -> Retriever:
    """Return a retriever over vectors of the plane, so many degrees from `HERE`."""
    angles = np.radians([float(str(one.pop("degrees"))) for one in rows])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    return retriever_of(pa.Table.from_pylist(list(rows), studies_schema()), vectors)


def name_of(side: Counterpart | None) -> str | None:
    return side and side.hit.study.patient_id


def test_each_side_is_the_nearest_study_of_its_label() -> None:
    found = contrast(
        collection(row("far", 40, 1), row("near", 20, 1), row("without", 30, 0), row("unsure", 5, -1)),
        Query(HERE),
        "Edema",
    )
    assert (name_of(found.present), name_of(found.absent)) == ("near", "without")
    assert found.present is not None
    assert found.present.hit.similarity == pytest.approx(np.cos(np.radians(20)), abs=1e-6)
    assert (found.present.matched, found.present.relaxed) == ((), ())


def test_a_normal_study_lacks_the_finding_but_not_against_its_own_label() -> None:
    normal = {"No Finding": 1}
    torn = row("torn", 5, 1, **normal), row("unsure", 6, -1, **normal), row("blank", 7, None)
    found = contrast(collection(*torn, row("normal", 20, None, **normal), row("no", 40, 0)), Query(HERE), "Edema")
    assert (name_of(found.present), name_of(found.absent)) == ("torn", "normal")


def test_a_normal_study_is_contrasted_with_a_disease_and_not_with_a_device() -> None:
    rows = (
        row("normal", 10, None, **{"No Finding": 1}),
        row("device", 5, None, **{"Support Devices": 1}),
        row("ill", 20, None, Pneumonia=1),
    )
    found = contrast(collection(*rows), Query(HERE), "No Finding")
    assert (name_of(found.present), name_of(found.absent)) == ("normal", "ill")


def test_the_counterpart_is_matched_where_it_can_be() -> None:
    like = {"sex": "Female", "age": 60.0, "projection": "PA"}
    rows = (
        row("man", 5, 1, **(like | {"sex": "Male"})),
        row("old", 6, 1, **(like | {"age": 66.0})),
        row("bed", 7, 1, **(like | {"projection": "AP"})),
        row("both", 8, 1, **like, lateral_path="l.jpg"),
        row("like", 30, 1, **(like | {"age": 65.0})),
    )
    found = contrast(collection(*rows), Query(HERE, Subject(views=("frontal",), **like)), "Edema")
    assert name_of(found.present) == "like"
    assert found.present is not None
    assert (found.present.matched, found.present.relaxed) == (("views", "projection", "sex", "age"), ())
    assert found.absent is None


def test_demands_are_given_up_in_the_stated_order_and_said() -> None:
    subject = Subject(views=("frontal",), projection="PA", sex="Female", age=60.0)
    ladder = (
        row("view", 5, 1, lateral_path="l.jpg"),
        row("projection", 10, 1, projection="AP", sex="Female", age=60.0),
        row("sex", 20, 1, projection="PA", sex="Male", age=60.0),
        row("age", 30, 1, projection="PA", sex="Female"),
    )
    given_up = ("age", "sex", "projection", "views")
    for count, name in enumerate(("age", "sex", "projection", "view"), start=1):
        found = contrast(collection(*(dict(one) for one in ladder[: 5 - count])), Query(HERE, subject), "Edema").present
        assert name_of(found) == name
        assert found is not None
        assert found.relaxed == given_up[:count]
        assert found.matched == given_up[count:][::-1]


def test_the_querys_own_patient_and_unknown_facts_have_no_part() -> None:
    own = Study("own/study9", "own", "f.jpg", sex="Unknown")
    rows = row("own", 0, 1, sex="Female"), row("other", 50, 1, sex="Male")
    found = contrast(collection(*rows), Query(HERE, Subject.of(own)), "Edema")
    assert name_of(found.present) == "other"
    assert found.present is not None
    assert (found.present.matched, found.present.relaxed) == (("views",), ())


def test_a_stored_study_is_contrasted_as_a_brute_force_says(
    retriever: Retriever, studies: pa.Table, unit_vectors: Embeddings
) -> None:
    rows = studies.to_pylist()
    for query in range(0, 200, 20):
        own = rows[query]
        order = np.argsort(-(unit_vectors @ unit_vectors[query]), kind="stable")
        mates = [rows[n] for n in order if rows[n]["patient_id"] != own["patient_id"] and rows[n]["Edema"] == 1]
        found = contrast(
            retriever, Query(unit_vectors[query], Subject.of(retriever.study(own["study_id"]))), "Edema"
        ).present
        assert found is not None
        same_views = [one for one in mates if (one["lateral_path"] is None) == (own["lateral_path"] is None)]
        kept = [
            one
            for one in same_views
            if all(one[name] == own[name] for name in found.matched if name in ("sex", "projection"))
        ]
        kept = [one for one in kept if "age" not in found.matched or abs((one["age"] or 999) - own["age"]) <= 5]
        assert found.hit.study.study_id == kept[0]["study_id"]


def test_a_finding_without_a_column_of_labels_is_refused(retriever: Retriever, unit_vectors: Embeddings) -> None:
    with pytest.raises(FilterError, match="no column 'Asthma'"):
        contrast(retriever, Query(unit_vectors[0]), "Asthma")
    with pytest.raises(FilterError, match="expected text for column 'Etiology'"):
        contrast(retriever, Query(unit_vectors[0]), "Etiology")

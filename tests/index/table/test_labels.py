"""Policies, targets and classes, and every label that is refused."""

import json

import numpy as np
import pyarrow as pa
import pytest

from index.errors import FilterError, StudiesError
from index.table.labels import KNOWN_GOOD, Labelling, LabelPolicy, class_targets, finding_targets, label_columns

NAN = np.nan


def table_of(**columns: pa.Array) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"study_id": [f"s{row}" for row in range(rows)], **columns})


EDEMA = pa.array([1, 0, -1, None], pa.int8())


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("ignore", "ignore", [1, 0, NAN, NAN]),
        ("ignore", "zeros", [1, 0, NAN, 0]),
        ("zeros", "ones", [1, 0, 0, 1]),
        ("ones", "zeros", [1, 0, 1, 0]),
    ],
)
def test_a_policy_says_what_uncertain_and_blank_count_for(uncertain: str, blank: str, expected: list[float]) -> None:
    targets = finding_targets(table_of(Edema=EDEMA), ["Edema"], LabelPolicy(uncertain, blank))
    assert targets.dtype == np.float32
    assert np.array_equal(targets[:, 0], np.array(expected, np.float32), equal_nan=True)


def test_a_finding_of_the_table_of_choices_goes_its_own_way() -> None:
    policy = LabelPolicy.named("known-good")
    table = table_of(Edema=EDEMA, Consolidation=EDEMA, Fracture=EDEMA)
    targets = finding_targets(table, ["Edema", "Consolidation", "Fracture"], policy)
    assert policy.per_label == KNOWN_GOOD
    assert np.array_equal(targets[2], [1, 0, NAN], equal_nan=True)


def test_a_text_names_a_policy_and_the_findings_that_go_their_own_way() -> None:
    policy = LabelPolicy.parse("known-good,Consolidation=ones,Pleural Effusion=zeros", "zeros,Edema=ignore")
    table = table_of(Edema=EDEMA, Consolidation=EDEMA, Fracture=EDEMA)
    targets = finding_targets(table, ["Edema", "Consolidation", "Fracture"], policy)
    expected = [[1, 1, 1], [0, 0, 0], [1, 1, NAN], [NAN, 0, 0]]
    assert np.array_equal(targets, np.array(expected, np.float32), equal_nan=True)
    assert policy.sentence() == (
        "uncertain (-1) is ignored; in Edema it counts as present; in Atelectasis it counts as present; in "
        "Consolidation it counts as present; in Pleural Effusion it counts as absent; blank counts as absent; in "
        "Edema it is ignored"
    )


@pytest.mark.parametrize("text", ["Edema=ones", "zeros,Edema", "zeros,=ones", "zeros,Edema=perhaps", "perhaps"])
def test_a_text_that_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(StudiesError, match="expected a policy"):
        LabelPolicy.parse(text)
    with pytest.raises(StudiesError, match="expected a policy"):
        LabelPolicy.parse("zeros", text)


def test_the_policy_says_itself_in_words() -> None:
    assert LabelPolicy("zeros", "ignore", {"Edema": "ones"}).sentence() == (
        "uncertain (-1) counts as absent; in Edema it counts as present; blank is ignored"
    )


def test_how_labels_were_read_comes_back_from_plain_json() -> None:
    for one in (
        Labelling(LabelPolicy.parse("known-good,Mass=ones", "zeros,Edema=ignore")),
        Labelling(classes={"a": ["b=c"]}),
    ):
        assert Labelling.from_object(json.loads(json.dumps(one.as_object()))) == one
    assert Labelling.of_probe(None)[1].endswith("how labels counted in training is not known")
    assert LabelPolicy.parse("zeros,Mass=ones,Edema=ones").of(["Mass"]) == LabelPolicy.parse("zeros,Mass=ones")


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"policy": {}},
        {"policy": {"uncertain": "perhaps"}, "classes": {}},
        {"policy": 1, "classes": {}},
        {"policy": {"per_label": 3}, "classes": {}},
        {"policy": {}, "classes": {"a": 3}},
        "zeros",
        None,
    ],
)
def test_what_does_not_tell_how_labels_were_read_is_refused(told: object) -> None:
    with pytest.raises(StudiesError, match="expected"):
        Labelling.from_object(told)


def test_labels_of_the_table_stay_as_they_are(studies: pa.Table) -> None:
    before = studies["Edema"].to_pylist()
    finding_targets(studies, ["Edema"], LabelPolicy("ones", "ones"))
    assert studies["Edema"].to_pylist() == before


def test_a_further_column_of_labels_is_a_finding_too() -> None:
    table = table_of(Infiltration=EDEMA, Age=pa.array([1, 2, 3, 4], pa.int64()))
    assert label_columns(table)[-1] == "Infiltration"
    assert finding_targets(table, ["Infiltration"], LabelPolicy()).shape == (4, 1)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0, float("nan")], pa.float32()),
        pa.array([1, 2], pa.int8()),
        pa.array([0.5, 1.0], pa.float64()),
        pa.array(["1", "0"]),
    ],
)
def test_a_label_that_is_none_is_refused(column: pa.Array) -> None:
    with pytest.raises(StudiesError, match="Mass: expected"):
        finding_targets(table_of(Mass=column), ["Mass"], LabelPolicy())


def test_an_unknown_finding_or_policy_is_refused(studies: pa.Table) -> None:
    with pytest.raises(StudiesError, match=r"'Gout'.*Edema"):
        finding_targets(studies, ["Gout"], LabelPolicy())
    with pytest.raises(StudiesError, match="'Gout'"):
        finding_targets(studies, ["Edema"], LabelPolicy(per_label={"Gout": "ones"}))
    with pytest.raises(StudiesError, match="expected a policy of ignore, zeros, ones"):
        LabelPolicy("perhaps")  # type: ignore[arg-type]
    with pytest.raises(StudiesError, match="known-good"):
        LabelPolicy.named("perhaps")


def test_classes_are_one_hot_and_a_row_of_no_class_is_blank(studies: pa.Table) -> None:
    classes = {"bacteria": ["Etiology=bacteria"], "virus": ["Etiology=virus"]}
    targets = class_targets(studies, classes)
    expected = {"bacteria": [1, 0], "virus": [0, 1], None: [NAN, NAN]}
    rows = np.array([expected[value] for value in studies["Etiology"].to_pylist()], np.float32)
    assert np.array_equal(targets, rows, equal_nan=True)


def test_all_words_of_a_class_must_hold(studies: pa.Table) -> None:
    targets = class_targets(studies, {"old": ["age>=60", "sex=Male"], "young": ["age<60", "sex=Male"]})
    male = np.array([sex == "Male" for sex in studies["sex"].to_pylist()])
    known = np.array([age is not None for age in studies["age"].to_pylist()])
    assert np.array_equal(~np.isnan(targets[:, 0]), male & known)


def test_classes_that_overlap_are_refused_by_a_study_s_name(studies: pa.Table) -> None:
    with pytest.raises(StudiesError, match=r"patient\d+/study\d+' in adult and old"):
        class_targets(studies, {"adult": ["age>=18"], "old": ["age>=60"]})
    with pytest.raises(StudiesError, match="two classes or more"):
        class_targets(studies, {"adult": ["age>=18"]})
    with pytest.raises(FilterError, match="no column 'nothing'"):
        class_targets(studies, {"a": ["nothing=1"], "b": ["age>=60"]})

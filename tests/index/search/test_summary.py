"""What neighbours have in common is told in words that count labels, and claim nothing about the patient."""

import pytest

from index.search.answer import Hit, Query, Subject
from index.search.summary import SOURCE, summary_of
from index.search.votes import wilson_interval
from index.table.studies import Study


def hits(*findings: dict[str, int], patients: int | None = None) -> list[Hit]:
    """Return hits with these labels, in turn of so many patients."""
    count = patients or len(findings)
    studies = [
        Study(f"p{number % count}/s{number}", f"p{number % count}", None, findings=dict(labels))
        for number, labels in enumerate(findings)
    ]
    return [Hit(rank, 0.9, study) for rank, study in enumerate(studies, 1)]


KNOWN = Query(subject=Subject("p99"))


def test_findings_are_counted_with_the_interval_of_their_share() -> None:
    found = hits(*[{"Edema": 1, "Fracture": 1}] * 3, *[{"Edema": 1, "Fracture": -1}] * 4, *[{"Edema": 0}] * 3)
    low, high = wilson_interval(0.7, 10)
    told = summary_of(found, KNOWN)

    assert told is not None
    assert told.startswith(
        "Of the 10 most similar studies of other patients, labelled as present: 7 (0.40 to 0.89) Edema"
    )
    assert (round(low, 2), round(high, 2)) == (0.40, 0.89)
    assert "and 3 (0.11 to 0.60) Fracture. " + SOURCE in told
    assert "no statement about the patient" in told


def test_studies_of_one_patient_are_no_witnesses_of_each_other() -> None:
    apart, together = (summary_of(hits(*[{"Edema": 1}] * 6, patients=count), KNOWN) for count in (6, 1))

    assert apart is not None
    assert together is not None
    assert "6 (0.61 to 1.00) Edema" in apart
    assert "studies of other patients (1 patient), labelled as present: 6 (0.21 to 1.00) Edema" in together


@pytest.mark.parametrize(
    ("found", "query", "told"),
    [
        (hits({}, {"Edema": 0}), Query(), "Of the 2 most similar studies, none is labelled with a finding."),
        (hits({"Edema": 1}), Query(where={"must": []}), "The most similar study within the filter is labelled Edema."),
        (hits({"Edema": 1}), Query(), "The most similar study is labelled Edema."),
    ],
    ids=["nothing", "one of a filter", "one"],
)
def test_few_hits_are_told_too(found: list[Hit], query: Query, told: str) -> None:
    assert str(summary_of(found, query)).startswith(told)


def test_without_hits_there_is_nothing_to_tell() -> None:
    assert summary_of([], KNOWN) is None

"""The neighbours' vote: weights, effective numbers, intervals, policies, and when it contradicts a probability."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.errors import StudiesError
from index.search.answer import Hit
from index.search.retriever import Retriever
from index.search.votes import Vote, hit_table, neighbour_votes, vote, votes_on, wilson_interval
from index.table.labels import Labelling, LabelPolicy, class_targets, finding_targets
from index.table.studies import FINDINGS, Study
from index.vectors import Embeddings

NAN = float("nan")


def hits_of(*labels: int | None, similarity: float = 0.5) -> list[Hit]:
    studies = [Study(f"p{n}/s1", f"p{n}", "x.jpg", findings={"Edema": label}) for n, label in enumerate(labels)]
    return [Hit(rank, similarity, study) for rank, study in enumerate(studies, start=1)]


def edema_vote(policy: LabelPolicy, *labels: int | None) -> Vote | None:
    table = pa.table({"Edema": pa.array(labels, pa.int8())})
    return neighbour_votes(hits_of(*labels), finding_targets(table, ["Edema"], policy))[0]


def test_a_nearer_neighbour_weighs_more() -> None:
    found = vote(np.array([0.9, 0.3]), ["a", "b"], np.array([1.0, 0.0]))
    assert found is not None
    assert found.share == pytest.approx(0.75)
    assert found.effective == pytest.approx(1.2**2 / (0.9**2 + 0.3**2))
    assert (found.low, found.high) == wilson_interval(found.share, found.effective)


def test_studies_of_one_patient_count_as_one_witness_at_most() -> None:
    apart = vote(np.full(4, 0.5), ["a", "b", "c", "d"], np.array([1.0, 1, 0, 0]))
    together = vote(np.full(4, 0.5), ["a", "a", "a", "a"], np.array([1.0, 1, 0, 0]))
    assert apart
    assert together
    assert (apart.effective, together.effective) == pytest.approx((4, 1))
    assert apart.share == together.share
    assert together.high - together.low > apart.high - apart.low


def test_what_does_not_count_has_no_vote() -> None:
    found = vote(np.array([0.9, 0.8, 0.0, -0.5]), ["a", "b", "c", "d"], np.array([NAN, 1.0, 0.0, 0.0]))
    assert found is not None
    assert (found.neighbours, found.share) == (1, 1)
    assert vote(np.array([0.9, -0.2]), ["a", "b"], np.array([NAN, 1.0])) is None
    assert neighbour_votes([], np.empty((0, 2), np.float32)) == [None, None]


@pytest.mark.parametrize(
    ("policy", "share", "neighbours"),
    [
        (LabelPolicy("ignore", "ignore"), 0.5, 2),
        (LabelPolicy("zeros", "ignore"), 1 / 3, 3),
        (LabelPolicy("ones", "ignore"), 2 / 3, 3),
        (LabelPolicy("ignore", "zeros"), 1 / 3, 3),
        (LabelPolicy("ones", "zeros"), 0.5, 4),
        (LabelPolicy("ignore", "zeros", {"Edema": "ones"}), 0.5, 4),
    ],
)
def test_uncertain_and_blank_count_as_the_policy_says(policy: LabelPolicy, share: float, neighbours: int) -> None:
    found = edema_vote(policy, 1, 0, -1, None)
    assert found is not None
    assert (found.share, found.neighbours) == (pytest.approx(share), neighbours)


def test_no_known_label_is_no_vote() -> None:
    assert edema_vote(LabelPolicy("ignore", "ignore"), -1, None) is None


def test_wilsons_interval_is_the_published_one() -> None:
    assert wilson_interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe, 1998, table I


@given(st.floats(0, 1), st.floats(0.5, 1e4))
def test_an_interval_lies_in_0_to_1_and_holds_its_share(share: float, count: float) -> None:
    low, high = wilson_interval(share, count)
    assert 0 <= low <= share <= high <= 1


@pytest.mark.parametrize(
    ("probability", "threshold", "disagrees"),
    [
        (0.9, 0.5, True),  # outside, and on the other side
        (0.9, 0.1, False),  # outside, both present
        (0.35, 0.25, False),  # inside, though on the other side
        (0.1, 0.15, True),
        (0.02, 0.6, False),  # outside, both absent
    ],
)
def test_a_contradiction_is_outside_the_interval_and_across_the_threshold(
    probability: float, threshold: float, disagrees: bool
) -> None:
    found = Vote(share=0.2, low=0.12, high=0.4, neighbours=20, effective=18.0)
    assert found.disagrees(probability, threshold) is disagrees


def test_the_hits_of_a_search_vote_like_their_rows(retriever: Retriever, unit_vectors: Embeddings) -> None:
    hits = retriever.search(unit_vectors[0], 30).hits
    targets = finding_targets(hit_table(hits, retriever.schema), FINDINGS, LabelPolicy())
    for name, found in zip(FINDINGS, neighbour_votes(hits, targets), strict=True):
        counted = [hit for hit in hits if hit.study.findings[name] != -1 and hit.similarity > 0]
        total = sum(hit.similarity for hit in counted)
        expected = sum(hit.similarity for hit in counted if hit.study.findings[name] == 1) / total
        assert found is not None
        assert (found.share, found.neighbours) == (pytest.approx(expected), len(counted))


def test_votes_follow_how_the_probe_was_taught(retriever: Retriever, unit_vectors: Embeddings) -> None:
    hits, schema = retriever.search(unit_vectors[0], 30).hits, retriever.schema
    classes = Labelling(classes={"viral": ["Etiology=virus"], "bacterial": ["Etiology=bacteria"]})
    elsewhere = Labelling(classes={"a": ["Ward=1"], "b": ["Ward=2"]})
    policy = Labelling(LabelPolicy("ones", "ignore", {"Asthma": "ones"}))

    edema, asthma = (votes_on(hits, schema, ["Edema", "Asthma"], policy)[name] for name in ("Edema", "Asthma"))
    assert (
        edema
        == neighbour_votes(hits, finding_targets(hit_table(hits, schema), ["Edema"], LabelPolicy("ones", "ignore")))[0]
    )
    assert asthma is None
    assert all(votes_on(hits, schema, ["viral", "bacterial"], classes).values())
    assert votes_on(hits, schema, ["a", "b"], elsewhere) == {"a": None, "b": None}


def test_classes_vote_too_and_unknown_findings_are_refused(retriever: Retriever, unit_vectors: Embeddings) -> None:
    hits = retriever.search(unit_vectors[0], 30).hits
    table = hit_table(hits, retriever.schema)
    classes = {"viral": ["Etiology=virus"], "bacterial": ["Etiology=bacteria"]}
    viral, bacterial = neighbour_votes(hits, class_targets(table, classes))
    assert viral is not None
    assert bacterial is not None
    assert viral.share + bacterial.share == pytest.approx(1)
    with pytest.raises(StudiesError, match="'Asthma'"):
        finding_targets(table, ["Asthma"], LabelPolicy())

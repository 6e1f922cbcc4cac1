"""Stored studies are listed page by page, in the order of their ids, and found by what they begin with."""

from pathlib import Path

import numpy as np
import pytest
from service_world import ANGLES, build_client, build_retriever, save_index

from index.errors import BeyondBackend
from index.living.additions import Addition
from index.living.collection import LivingCollection
from index.search.retriever import Retriever
from index.search.searchable import Searchable
from index.table.studies import Study

FIRST, SECOND, THIRD, LAST = ANGLES


def ids(studies: list[Study]) -> list[str]:
    """Return the ids of studies."""
    return [study.study_id for study in studies]


def test_pages_of_a_list_hold_every_study_once_in_order(retriever: Retriever) -> None:
    pages, after = [], ""
    while page := retriever.listed(after=after, limit=7):
        pages.append(ids(page))
        after = page[-1].study_id
    whole = [study for page in pages for study in page]

    assert {len(page) for page in pages[:-1]} == {7}
    assert whole == sorted(whole)
    assert len(set(whole)) == len(retriever)


@pytest.mark.parametrize(
    ("text", "columns", "found"),
    [
        ("patient00001", [], [FIRST, SECOND]),
        ("PATIENT00003", [], [LAST]),
        ("male", ["sex"], [THIRD]),
        ("pneu", ["Pneumonia"], list(ANGLES)),
        ("edem", ["Edema"], []),  # uncertain in all of them
        ("VIR", ["Etiology", "sex"], [THIRD]),
        ("virus", ["sex"], []),
        ("tient", [], []),
        ("pa", ["projection"], [FIRST, SECOND, THIRD, LAST]),  # which their ids begin with, too
        (".*", ["sex", "Etiology"], []),
    ],
)
def test_studies_are_found_by_what_they_begin_with(text: str, columns: list[str], found: list[str]) -> None:
    assert ids(build_retriever().listed(text, columns)) == found


def test_a_list_follows_what_is_added_and_deleted(tmp_path: Path) -> None:
    save_index(tmp_path / "index")
    living = LivingCollection(tmp_path / "index")
    new = Study("patient00001/study9", "patient00001", "f.png", findings={})
    living.add([Addition(new, ("frontal",), np.array([1, 0], np.float32))])
    living.delete([FIRST])

    assert ids(living.now().listed("patient00001")) == [SECOND, "patient00001/study9"]
    assert ids(living.now().listed(after=SECOND, limit=2)) == ["patient00001/study9", THIRD]


def test_the_service_lists_them_with_a_cursor_and_by_no_hidden_column() -> None:
    client = build_client()
    first = client.get("/v1/studies?limit=3").get_json()
    second = client.get("/v1/studies", query_string={"limit": 3, "cursor": first["next"]}).get_json()
    whole = client.get("/v1/studies?prefix=Mal").get_json()
    hidden = client.get("/v1/studies?prefix=view1").get_json()

    assert ids_of(first) == [FIRST, SECOND, THIRD]
    assert (ids_of(second), second["next"]) == ([LAST], None)
    assert (ids_of(whole), hidden["studies"]) == ([THIRD], [])
    assert client.get("/v1/studies?limit=101").status_code == 400


def ids_of(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    """Return the ids in an answer."""
    return [study["study_id"] for study in answer["studies"]]


def test_what_cannot_be_listed_says_so() -> None:
    with pytest.raises(BeyondBackend, match="by its whole name"):
        Searchable.listed(build_retriever())

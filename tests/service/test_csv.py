"""Hits are taken along as files: a table that runs nothing in a spreadsheet, and the answer as JSON."""

import csv
import io

import numpy as np
import pyarrow as pa
from flask.testing import FlaskClient
from service_world import ANGLES, app_over, build_client, build_mounted, build_retriever, film, study_row

from index.built.collection import Collection
from index.built.vector_index import VectorIndex
from index.search.retriever import Retriever
from index.table.studies import as_studies, studies_schema

FIRST, SECOND, THIRD, LAST = ANGLES


def table(client: FlaskClient, address: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    answer = client.get(address)
    assert (answer.status_code, answer.mimetype) == (200, "text/csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="similar-cases.csv"'
    return list(csv.DictReader(io.StringIO(answer.data.decode("utf-8-sig"))))


def test_the_hits_of_an_address_are_a_table_and_json() -> None:
    client = build_client()
    rows = table(client, f"/hits?study={FIRST}&sex=Male")
    whole = client.get(f"/hits?study={FIRST}&sex=Male&form=json").get_json()

    assert [(row["rank"], row["study_id"], row["sex"], row["Edema"], row["Etiology"]) for row in rows] == [
        ("1", THIRD, "Male", "-1", "virus")
    ]
    assert [hit["study_id"] for hit in whole["hits"]] == [THIRD]
    assert whole["summary"].startswith(
        "The most similar study of other patients within the filter is labelled Pneumonia"
    )


def test_the_hits_of_films_that_are_kept_are_a_table_too() -> None:
    client = build_client()
    query = client.post("/v1/queries", data={"frontal": (io.BytesIO(film(0)), "f.png")}).get_json()["query"]

    assert len(table(client, f"/hits?query={query}&k=3&one_a_patient=false")) == 3
    page = client.get(f"/?query={query}&k=3&one_a_patient=false").text
    assert f"/hits?form=csv&amp;query={query}&amp;k=3&amp;one_a_patient=false" in page
    assert client.get("/hits").status_code == 400


def test_no_text_of_a_collection_is_a_formula_in_a_spreadsheet() -> None:
    evil = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(1)", "\t=1", "\uff1d1", "\r=1"]
    ids = [f"=1+{number}/s" for number in range(len(evil))]
    rows = [study_row(one, Etiology=text, sex=text, age=-0.0) for one, text in zip(ids, evil, strict=True)]
    columns = studies_schema([pa.field("Etiology", pa.string()), pa.field("@own", pa.string())])
    studies = as_studies(pa.Table.from_pylist(rows, columns))
    vectors = VectorIndex.build(np.tile(np.array([1, 0], np.float32), (len(rows), 1)), "flat")
    retriever = Retriever(Collection(build_retriever().manifest, studies, vectors))
    client = app_over(build_mounted(retriever=retriever)).test_client()
    rows_told = table(client, "/hits?study=%3D1%2B0/s")

    assert len(rows_told) == len(ids) - 1
    for row in rows_told:
        for name, cell in row.items():
            assert not name.startswith("@")
            assert cell == "" or cell[0] not in "=+@\t\r\uff1d"
            assert not cell.startswith("-") or float(cell) <= 0

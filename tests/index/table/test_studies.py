"""The table of studies: what it refuses, and that Parquet gives back what was saved."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from index.errors import ArtefactError, StudiesError
from index.table.studies import (
    CORE_COLUMNS,
    FINDINGS,
    VERSION_KEY,
    Study,
    as_studies,
    id_fault,
    load_studies,
    save_studies,
    studies_schema,
)

EXTRA = [
    pa.field("Etiology", pa.string()),
    pa.field("Follow-up #", pa.int64()),
    pa.field("Spacing", pa.float64()),
]
text = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
an_id = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"]), min_size=1, max_size=8).filter(
    lambda name: not id_fault(name, "patient_id")
)
path = st.from_regex(r"[a-z0-9]{1,5}/[a-z0-9]{1,5}\.jpg", fullmatch=True)
row = st.fixed_dictionaries(
    {
        "patient_id": an_id,
        "frontal_path": path,
        "lateral_path": st.none() | path,
        "other_paths": st.lists(path, max_size=2),
        "projection": st.none() | text,
        "sex": st.none() | text,
        "age": st.none() | st.floats(0, 120, width=32),
        "split": st.none() | text,
        **{name: st.sampled_from([1, 0, -1, None]) for name in FINDINGS},
        "Etiology": st.none() | text,
        "Follow-up #": st.none() | st.integers(-(2**63), 2**63 - 1),
        "Spacing": st.none() | st.floats(allow_nan=False),
    }
)


def a_row(**changes: object) -> dict[str, object]:
    blank = dict.fromkeys((*CORE_COLUMNS, *FINDINGS))
    return blank | {"study_id": "p1/s1", "patient_id": "p1", "frontal_path": "a.jpg", "other_paths": []} | changes


def a_table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=studies_schema())


@given(st.lists(row, max_size=5))
def test_parquet_gives_back_what_was_saved_nulls_included(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]
) -> None:
    numbered = [{"study_id": f"s{number}", **one} for number, one in enumerate(rows)]
    table = pa.Table.from_pylist(numbered, schema=studies_schema(EXTRA))
    file = tmp_path_factory.mktemp("studies") / "studies.parquet"

    save_studies(table, file)

    assert load_studies(file).equals(table)
    assert load_studies(file).to_pylist() == table.to_pylist()


def test_a_study_knows_its_views_findings_and_extra_columns() -> None:
    row = a_row(
        lateral_path="b.jpg",
        other_paths=["c.jpg"],
        age=float("nan"),
        Edema=-1,
        Etiology="virus",
        embedding=[1.0],
    )

    study = Study.from_row(row)

    assert study.views == ("frontal", "lateral")
    assert study.other_paths == ("c.jpg",)
    assert study.age is None
    assert study.findings["Edema"] == -1
    assert list(study.findings) == list(FINDINGS)
    assert study.extra == {"Etiology": "virus"}


def test_a_study_with_a_lateral_alone_has_one_view() -> None:
    assert Study.from_row(a_row(frontal_path=None, lateral_path="b.jpg")).views == ("lateral",)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([a_row(), a_row()], "each study_id once, got 'p1/s1'"),
        ([a_row(study_id="")], "a study_id in every row, got a blank at row 0"),
        (
            [a_row(), a_row(study_id="p1/s2", patient_id=None)],
            "a patient_id in every row, got a blank at row 1",
        ),
        ([a_row(), a_row(study_id="p1/s2/image")], "last part is not 'image', got 'p1/s2/image'; rename it"),
        ([a_row(study_id="p1/similar")], "last part is not 'similar'"),
        ([a_row(Edema=2)], "Edema: expected a label of 1, 0, -1 or blank, got 2"),
        ([a_row(Edema=-128)], "got -128"),
        ([a_row(frontal_path=None)], "p1/s1: expected a frontal or a lateral path, got neither"),
        ([a_row(frontal_path="/etc/passwd")], "below the image root, got '/etc/passwd'"),
        ([a_row(other_paths=["a/../../b.jpg"])], "below the image root"),
    ],
)
def test_a_row_that_breaks_a_rule_is_refused(rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(StudiesError, match=said):
        as_studies(a_table(*rows))


def test_a_missing_column_is_named() -> None:
    with pytest.raises(StudiesError, match=r"none called sex, Edema"):
        as_studies(a_table(a_row()).drop_columns(["Edema", "sex"]))


@pytest.mark.parametrize("name", ["sex", "Edema", "embedding", "views"])
def test_an_extra_column_may_not_take_one_of_our_names(name: str) -> None:
    with pytest.raises(StudiesError, match=f"other names, got '{name}'"):
        studies_schema([pa.field(name, pa.string())])


def test_an_extra_column_is_text_or_a_number() -> None:
    with pytest.raises(StudiesError, match="expected text or a number, got bool"):
        as_studies(a_table(a_row()).append_column("urgent", pa.array([True])))


def test_columns_come_in_our_order_and_types() -> None:
    shuffled = a_table(a_row(Edema=1, age=40.0))
    shuffled = shuffled.select(shuffled.column_names[::-1]).set_column(0, "Support Devices", pa.array([1.0]))

    assert as_studies(shuffled).schema.equals(studies_schema())


def test_a_fractional_label_is_refused() -> None:
    table = a_table(a_row()).drop_columns(["Edema"]).append_column("Edema", pa.array([0.5]))

    with pytest.raises(StudiesError, match="expected the types of a studies table"):
        as_studies(table)


def test_a_failed_save_leaves_the_old_table(tmp_path: Path) -> None:
    file = tmp_path / "studies.parquet"
    save_studies(a_table(a_row()), file)
    before = file.read_bytes()

    with pytest.raises(StudiesError):
        save_studies(a_table(a_row(), a_row()), file)

    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_missing_truncated_or_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.parquet"
    with pytest.raises(ArtefactError, match="got none; run: precedent import"):
        load_studies(file)
    save_studies(a_table(a_row()), file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ArtefactError, match="import it again"):
        load_studies(file)


def test_a_table_of_another_version_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "studies.parquet"
    pq.write_table(a_table(a_row()).replace_schema_metadata({VERSION_KEY: b"2"}), file)

    with pytest.raises(ArtefactError, match="expected studies of version 1, got 2"):
        load_studies(file)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/evil", "can be an address"),
        ("p1/", "can be an address"),
        ("p1//s1", "can be an address"),
        ("p1/../s1", "can be an address"),
        ("./s1", "can be an address"),
        ("..", "can be an address"),
        ("~/s1", "can be an address"),
        ("p1/s1/similar", "last part is not 'similar'"),
    ],
)
def test_a_study_id_that_is_no_address_is_refused_and_a_patient_may_have_it(name: str, why: str) -> None:
    assert why in id_fault(name, "study_id")
    assert id_fault(name, "patient_id") == ""


@pytest.mark.parametrize("key", ["study_id", "patient_id"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("p1\ns1", r"can be seen, .* got 'p1\\ns1'"),
        ("p1\x1b[31m", "can be seen"),
        ("p1\r", "can be seen"),
        ("p1\u202e1s", "can be seen"),
        ("p1\u200b", "can be seen"),
        ("p1\u3164", "can be seen"),
        ("p1\xa0s1", "can be seen"),
        (" p1", "without spaces at its ends"),
        ("p1 ", "without spaces at its ends"),
        ("p" * 513, "at most 512 characters, got one of 513"),
    ],
)
def test_an_id_that_cannot_be_read_off_and_typed_is_refused(key: str, name: str, why: str) -> None:
    with pytest.raises(StudiesError, match=why):
        as_studies(a_table(a_row(**{key: name})))


@given(
    st.text(st.sampled_from("ap1/.~ é\u200b\n"), min_size=1, max_size=9) | text,
    st.sampled_from(["study_id", "patient_id"]),
)
@example("p/image", "study_id")
def test_ids_are_refused_together_as_each_alone_is(name: str, key: str) -> None:
    table, fault = a_table(a_row(**{key: name})), id_fault(name, key)

    with pytest.raises(StudiesError, match=re.escape(fault)) if fault else nullcontext():
        as_studies(table)


@pytest.mark.parametrize(
    "name", ["[/evil]", "a%2Fb", "what?", "#1", "p 1/s 1", "..p/s..", "é漢/🫁", "p" * 512, "-x", "a~/b"]
)
def test_an_id_may_hold_whatever_can_be_seen(name: str) -> None:
    assert as_studies(a_table(a_row(study_id=name, patient_id=name)))["study_id"].to_pylist() == [name]


def by_pandas(table: pa.Table, path: Path) -> None:
    frame = table.to_pandas().assign(Site=pd.Categorical(["north"] * len(table)))
    frame[frame["study_id"] != "p0/s1"].to_parquet(path)  # with the names of its rows


def by_pyarrow(table: pa.Table, path: Path) -> None:
    site = pa.array(["north"] * len(table)).dictionary_encode()
    pq.write_table(table.append_column("Site", site).slice(1), path)


def by_polars(table: pa.Table, path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.from_arrow(table).with_columns(polars.lit("north").cast(polars.Categorical).alias("Site"))
    frame[1:].write_parquet(path)


def by_duckdb(table: pa.Table, path: Path) -> None:
    selected = "select *, 'north' as Site from studies where study_id <> 'p0/s1'"
    pytest.importorskip("duckdb").from_arrow(table).query("studies", selected).write_parquet(str(path))


@pytest.mark.parametrize("write", [by_pandas, by_pyarrow, by_polars, by_duckdb])
def test_a_table_that_another_program_has_written_is_checked_and_taken(
    write: Callable[[pa.Table, Path], None], tmp_path: Path
) -> None:
    labels = [1, None, -1, 0]
    rows = [
        a_row(study_id=f"p{n}/s1", Edema=labels[n], age=30 + n or None, other_paths=["b.jpg"][:n]) for n in range(4)
    ]
    save_studies(a_table(*rows), tmp_path / "studies.parquet")

    write(pq.read_table(tmp_path / "studies.parquet"), tmp_path / "written.parquet")

    site = pa.field("Site", pa.string())
    taken = [row | {"Site": "north"} for row in rows[1:]]
    assert load_studies(tmp_path / "written.parquet").equals(pa.Table.from_pylist(taken, studies_schema([site])))


def test_a_table_that_another_program_has_written_keeps_the_rules(tmp_path: Path) -> None:
    pd.DataFrame([a_row(Edema=0.5)]).to_parquet(tmp_path / "half.parquet")
    with pytest.raises(StudiesError, match="types of a studies table"):
        load_studies(tmp_path / "half.parquet")
    pd.DataFrame([a_row(), a_row()]).to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(StudiesError, match="each study_id once"):
        load_studies(tmp_path / "twice.parquet")


def test_what_is_not_finite_is_null_in_a_study() -> None:
    study = Study.from_row(a_row(age=float("nan"), Edema=1, Spacing=float("inf"), Dose=-float("inf"), Weight=70.5))
    assert (study.age, study.extra) == (None, {"Spacing": None, "Dose": None, "Weight": 70.5})


def test_a_number_that_is_no_label_is_refused_in_a_column_of_labels() -> None:
    schema = studies_schema([pa.field("Infiltration", pa.int8())])
    table = pa.Table.from_pylist([a_row(Infiltration=5)], schema)

    with pytest.raises(StudiesError, match="Infiltration: expected a label of 1, 0, -1 or blank, got 5; a number that"):
        as_studies(table)
    assert as_studies(table.set_column(len(schema) - 1, "Infiltration", pa.array([5], pa.int16()))).num_rows == 1

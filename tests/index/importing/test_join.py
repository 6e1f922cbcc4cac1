import pyarrow as pa
import pytest

from index.errors import StudiesError
from index.importing.join import join_studies, sets_in_two
from index.table.studies import FILMS_OF_KEY


def test_equal_ids_of_two_archives_stay_two_patients(studies: pa.Table) -> None:
    joined = join_studies({"a": studies, "b": studies.slice(0, 50)})

    assert joined.num_rows == 250
    patients = set(joined["patient_id"].to_pylist())
    assert {name.split("/")[0] for name in patients} == {"a", "b"}
    assert len(patients) == len(set(studies["patient_id"].to_pylist())) + len(
        set(studies.slice(0, 50)["patient_id"].to_pylist())
    )


def test_blank_means_absent_only_in_the_tables_that_say_so_and_in_the_columns_they_use(studies: pa.Table) -> None:
    place = studies.column_names.index("Fracture")
    unused = studies.set_column(place, studies.schema.field("Fracture"), pa.nulls(studies.num_rows, pa.int8()))

    joined = join_studies({"closed": unused, "open": unused}, absent_in=["closed"])

    closed = joined.filter(pa.compute.equal(joined["Source"], "closed"))
    opened = joined.filter(pa.compute.equal(joined["Source"], "open"))
    assert closed["Edema"].null_count == 0
    assert closed["Fracture"].null_count == closed.num_rows
    assert opened["Edema"].to_pylist() == unused["Edema"].to_pylist()


def test_a_column_that_one_table_lacks_is_null_there(studies: pa.Table) -> None:
    joined = join_studies({"a": studies, "b": studies.drop_columns(["Etiology"])})

    assert joined["Etiology"].null_count == studies["Etiology"].null_count + studies.num_rows


@pytest.mark.parametrize(
    ("names", "absent", "sentence"),
    [(["a"], [], "two tables"), (["a", "b/c"], [], "without a slash"), (["a", "b"], ["ghost"], "'ghost'")],
)
def test_what_cannot_be_joined_is_refused(
    studies: pa.Table, names: list[str], absent: list[str], sentence: str
) -> None:
    with pytest.raises(StudiesError, match=sentence):
        join_studies(dict.fromkeys(names, studies), absent)


def test_columns_of_one_name_and_other_types_are_refused(studies: pa.Table) -> None:
    place = studies.column_names.index("Etiology")
    numbers = studies.set_column(place, "Etiology", pa.array(range(studies.num_rows), pa.int32()))

    with pytest.raises(StudiesError, match="different types"):
        join_studies({"a": studies, "b": numbers})


def test_two_tables_of_one_sets_films_are_told(studies: pa.Table) -> None:
    held = {"a": "nih", "b": "chexpert", "c": "nih-lt nih"}
    tables = {name: studies.replace_schema_metadata({FILMS_OF_KEY: sets}) for name, sets in held.items()}

    [told] = sets_in_two(tables)

    assert told.startswith("'a' and 'c' both hold films of nih: one person is two patients")
    joined = join_studies(tables)
    assert joined.schema.metadata[FILMS_OF_KEY] == b"chexpert nih nih-lt"
    assert sets_in_two({"abc": joined, "b": tables["b"]})
    assert sets_in_two({"a": studies, "b": studies}) == []

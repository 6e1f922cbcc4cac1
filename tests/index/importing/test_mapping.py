"""The mapping language: what a mapping may say, what is refused by the name of its key, and that none can hang."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from index.errors import StudiesError
from index.importing.mapping import Template, load_mapping, mapping_names, mapping_text

PLAIN = """
set = "mine"
licence = "mine"
table = [{ file = "t.csv" }]
[film]
path = "{path}"
study = "{study}"
"""


def loaded(tmp_path: Path, text: str) -> str:
    (tmp_path / "m.toml").write_text(text)
    return load_mapping(str(tmp_path / "m.toml")).set_name


@pytest.mark.parametrize("name", mapping_names())
def test_every_shipped_mapping_is_one(name: str) -> None:
    mapping = load_mapping(name)

    assert mapping.licence
    assert mapping_text(name).startswith("set = ")


def test_a_mapping_is_found_by_its_sets_name() -> None:
    assert load_mapping("chexpert") == load_mapping("chexpert-small")


def test_a_table_needs_films_and_studies_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path, PLAIN) == "mine"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("[film]", "sett = 1\n[film]"), "unknown key 'sett'; expected one of set, licence"),
        (("[film]", "[film]\npaths = 'x'"), "unknown key 'film.paths'; expected one of path, find"),
        (("file = ", "fil = 'x', file = "), "unknown key 'table.0.fil'; expected one of file"),
        (('set = "mine"', ""), "expected key 'set', got none"),
        (('study = "{study}"', ""), "expected key 'film.study', got none"),
        (('"{path}"', '"{path"'), "film.path.0: expected braces around names"),
        (('"{path}"', '"{path:x}"'), r"film.path.0: expected \{Column\}"),
        (('path = "{path}"', ""), "film: expected one of path and find"),
        (("t.csv", "../t.csv"), "expected a file below the folder, got '../t.csv'"),
        (("t.csv", "/etc/passwd"), "expected a file below the folder"),
        (("t.csv", "a/../../t.csv"), "expected a file below the folder"),
        (("t.csv", "**/t.csv"), "expected a file below the folder"),
        (("[film]", "parse.path = '('\n[film]"), r"parse.path: '\('"),
        (("[film]", "parse.path = '(?P<a>(?=x))'\n[film]"), "parse.path: .*invalid perl operator"),
        (("[film]", "parse.path = 'x'\n[film]"), "expected named groups"),
        (("[film]", "header = ['PatientName']\n[film]"), "header.0: "),
        (("[film]", "[findings]\nsex = 'x'\n[film]"), "expected another name than 'sex'"),
        (("licence", "films_of = 3\nlicence"), "films_of"),
        (("licence", "= \nlicence"), "expected TOML"),
    ],
)
def test_what_a_mapping_cannot_say_is_refused_by_its_key(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    with pytest.raises(StudiesError, match=said) as refusal:
        loaded(tmp_path, PLAIN.replace(*change))

    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["ghost", "../mappings/nih", "none.toml", "/"])
def test_a_mapping_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(StudiesError, match="expected a mapping"):
        load_mapping(name)


def test_a_mapping_is_sized_before_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(StudiesError, match="expected a mapping"):
        loaded(tmp_path, "#" * (1 << 19))


def test_no_expression_can_hang() -> None:
    """One that goes back where it fails would take longer than the universe is old."""
    found = pc.extract_regex(pa.array(["a" * 100_000 + "b"]), r"^(?P<x>(?:a+)+)$")

    assert found.null_count == 1


def test_a_template_names_columns_cuts_and_fills() -> None:
    template = Template.parse("p{id:.2}/{n:0>8}-{x?}")

    assert [(part.column, part.first, part.width, part.optional) for part in template.columns] == [
        ("id", 2, 0, False),
        ("n", None, 8, False),
        ("x", None, 0, True),
    ]

"""The mapping language: how the tables of a data set become one table of studies, written as TOML.

A mapping may come from anyone. Its expressions are RE2's (through Arrow), which take time in proportion to the text
that they search; its files lie below the folder that is given beside it.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from index.errors import ArtefactError, StudiesError
from index.storage.files import read_regular
from index.table.studies import CORE_COLUMNS, FINDINGS, PATIENTS, SHARD_COLUMNS

MOST_BYTES = 1 << 18
"""Of a mapping."""
FLAT = "flat"
"""The mapping of a table that has our own columns already."""
_TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
_TEMPLATE = re.compile(r"\{([^{}]*)\}")
_FIELD = re.compile(
    r"(?P<column>[^{}:?]+)(?P<optional>\?)?(?::(?:\.(?P<first>\d{1,3})|(?P<fill>.)>(?P<width>\d{1,2})))?"
)


@dataclass(frozen=True)
class Part:
    """A column within a template: all of its text, the first characters, or the text filled up from the left."""

    column: str
    optional: bool = False
    """Whether the table may be without it, and a row, where another column of the template says something."""
    first: int | None = None
    fill: str = ""
    width: int = 0


@dataclass(frozen=True)
class Template:
    """A text with columns in it, such as "p{subject_id:.2}/{file}"."""

    text: str
    parts: tuple[str | Part, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the template. Raises ValueError: something between braces that names no column."""
        pieces = _TEMPLATE.split(text)
        if any(sign in piece for piece in pieces[::2] for sign in "{}"):
            raise ValueError(f"expected braces around names of columns in {text!r}")
        parts: list[str | Part] = []
        for number, piece in enumerate(pieces):
            if number % 2 == 0:
                parts += [piece] if piece else []
                continue
            match = _FIELD.fullmatch(piece)
            if match is None:
                raise ValueError(f"expected {{Column}}, {{Column?}}, {{Column:.2}} or {{Column:0>8}}, got {{{piece}}}")
            first = None if match["first"] is None else int(match["first"])
            parts.append(
                Part(match["column"], bool(match["optional"]), first, match["fill"] or "", int(match["width"] or 0))
            )
        return cls(text, tuple(parts))

    @property
    def columns(self) -> list[Part]:
        """The columns in it."""
        return [part for part in self.parts if isinstance(part, Part)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _template(value: Any) -> Template:
    if not isinstance(value, str) or len(value) > 500:
        raise ValueError("expected a text with columns in braces")
    return Template.parse(value)


def _keys(value: Any) -> Any:
    return (
        {name: name for name in value} if isinstance(value, list) and all(isinstance(n, str) for n in value) else value
    )


def _expression(pattern: str) -> str:
    try:
        kind = pc.extract_regex(pa.array([""]), pattern).type
    except pa.ArrowInvalid as error:
        raise ValueError(f"{pattern!r}: {str(error).splitlines()[0]}; expected named groups (?P<name>...)") from error
    if not kind.num_fields:
        raise ValueError(f"expected named groups (?P<name>...) in {pattern!r}, got none")
    return pattern


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or {"..", "~"} & {*path.parts} or re.search(r"\\|\*\*|://|\0", name):
        raise ValueError(f"expected a file below the folder, got {name!r}")
    return name


Text = Annotated[str, Field(max_length=500)]
Texts = Annotated[list[Text], BeforeValidator(_listed), Field(max_length=1000)]
Templates = Annotated[
    list[Annotated[Template, BeforeValidator(_template)]], BeforeValidator(_listed), Field(max_length=20)
]
Files = Annotated[list[Annotated[Text, AfterValidator(_inside)]], BeforeValidator(_listed), Field(max_length=100)]
Keys = Annotated[dict[Text, Text], BeforeValidator(_keys), Field(max_length=20)]
Expression = Annotated[Text, AfterValidator(_expression)]
Words = Annotated[dict[str, Text], Field(max_length=1000)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SourceTable(_Section):
    """One table of the set: the first has the films, the others are joined to it."""

    file: Files = []
    """All of these that are there, one below the other; `*` stands for any name, `{word}` too and becomes a column."""
    one_of: Files = []
    """The first of these that is there."""
    kind: Annotated[Literal["csv", "json", "parquet", "lines", "film", "text", "xml"] | None, Field(alias="as")] = None
    on: Keys = {}
    """Columns of the table before, and those of this one that they equal."""
    take: Texts | None = None
    each: Texts = []
    """JSON: columns of lists, a row for each of their values. XML: the elements that are rows."""
    columns: Words = {}
    """XML: where each column lies, from the row's element, or after a slash from the file's."""
    repeat: Literal["any", "majority", "first", "none"] | None = None
    """How several rows of one film become one; "none" refuses them, and where nothing is said, "any" is noted."""
    optional: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.file) == bool(self.one_of):
            raise ValueError("expected one of file and one_of")
        return self


class FilmKeys(_Section):
    """Where a film lies and what is known of it; of several templates the first that is not blank counts."""

    path: Templates = []
    """Below the images folder; the first that is a file."""
    find: Templates = []
    """A name that is looked for anywhere below the images folder."""
    study: Templates
    patient: Templates = []
    """Left out or blank, the patient is unknown: each study stands for its own."""
    view: Templates = [Template.parse("frontal")]
    projection: Templates = []
    sex: Templates = []
    age: Templates = []
    split: Templates = []
    year: Templates = []
    born: Templates = []
    name: Templates = []
    """What tells a film from the others of its study, where its path is not that."""
    order: Templates = []
    """By what the films of one view stand, beside their paths; all of the templates count."""
    visit: Templates = []
    """By what the studies of a patient stand; all of the templates count."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.path) == bool(self.find):
            raise ValueError("expected one of path and find")
        if bool(self.year) != bool(self.born) or (self.year and self.age):
            raise ValueError("expected age, or year and born")
        return self


class ViewWords(_Section):
    """Words for each view, in any case; a film of another word is left out and counted."""

    frontal: Texts = []
    lateral: Texts = []
    skip: Texts = []
    unknown: Literal["skip", "frontal"] = "skip"


class LabelWords(_Section):
    """How cells become 1, 0, -1 or blank."""

    codes: Annotated[dict[str, Literal[1, 0, -1]], Field(max_length=1000)] = {}
    """What a cell means; "*" is any other. Where none are given, 1, 0 and -1, with or without ".0"."""
    words: Annotated[Text | None, Field(alias="list")] = None
    """The column whose cells are lists of words."""
    separator: Annotated[str, Field(min_length=1, max_length=10)] = "|"
    """Between words; "python" for a list as Python writes it."""
    cut: Annotated[str, Field(max_length=10)] = ""
    """Where a word ends, such as the slash of "Cardiomegaly/borderline"."""
    absent: Literal[0] | None = None
    """What a finding is whose word is not in a list that names others."""
    ignore: Texts = []
    """Words that are no finding; "*" is any that is not listed."""
    further: bool = False
    """Whether a further column of 1, 0, -1 and blank alone is one of labels."""


class Mapping(_Section):
    """How the tables of one data set become one table of studies."""

    set_name: Annotated[str, Field(alias="set", max_length=100, pattern=r"^[a-z0-9][a-z0-9-]*$")]
    licence: Text
    films_of: Templates | None = None
    """The sets whose films these are, where other names are better known; left out, its own."""
    table: Annotated[list[SourceTable], Field(min_length=1, max_length=20)]
    parse: Annotated[dict[Text, Expression], Field(max_length=20)] = {}
    where: Texts = []
    header: list[Literal["PatientSex", "PatientAge", "PatientID", "StudyInstanceUID", "ViewPosition"]] = []
    further: Texts = []
    """Columns that are kept as they are; "*" is any that nothing else takes."""
    names: Words = {}
    """What further columns are called."""
    film: FilmKeys
    views: ViewWords = ViewWords()
    values: dict[Literal["sex", "age", "split", "projection"], Words] = {}
    labels: LabelWords = LabelWords()
    findings: Annotated[dict[Text, Texts], Field(max_length=1000)] = {}

    @model_validator(mode="after")
    def _plain(self) -> Self:
        for name in self.findings:
            if name in (*CORE_COLUMNS, *SHARD_COLUMNS, PATIENTS):
                raise ValueError(f"findings: expected another name than {name!r}, which is a column of ours")
        for number, table in enumerate(self.table):
            if bool(number) != bool(table.on):
                raise ValueError("table: expected `on` in every table but the first")
        return self

    def templates(self) -> Iterator[tuple[str, Template]]:
        """Yield every template with the key that it stands under."""
        yield from (("films_of", template) for template in self.films_of or ())
        for key in FilmKeys.model_fields:
            yield from ((key, template) for template in getattr(self.film, key))

    def used(self) -> set[str]:
        """Return the columns that become something other than a further column."""
        columns = {
            part.column
            for key, template in self.templates()
            if key not in ("visit", "order")
            for part in template.columns
        }
        columns |= {*self.parse, *(name for table in self.table for pair in table.on.items() for name in pair)}
        if self.labels.words:
            return columns | {self.labels.words}
        return columns | {*FINDINGS, *(name for names in self.findings.values() for name in names)}


def load_mapping(name: str) -> Mapping:
    """Return a shipped mapping by its name or its set's, or one of a TOML file by its path.

    Raises:
        StudiesError: no such mapping, or one that breaks the language; the sentence names the key.
    """
    text = mapping_text(name)
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudiesError(f"{name}: expected TOML, got a fault: {error}") from error
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        raise StudiesError(f"{name}: {_fault(error)}") from None


def mapping_text(name: str) -> str:
    """Return a mapping as it is written. Raises as `load_mapping`."""
    path = Path(name)
    try:
        if path.suffix == ".toml" or (name not in mapping_names() and path.is_file()):
            return read_regular(path, MOST_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError, ArtefactError) as error:
        raise StudiesError(f"expected a mapping in {name!r}, got none that can be read ({error})") from error
    return shipped_text(name)


def shipped_text(name: str) -> str:
    """Return a shipped mapping, by its name or its set's, as it is written. Raises StudiesError: there is none."""
    shipped = mapping_names()
    named = [name] if name in shipped else [known for known in shipped if load_mapping(known).set_name == name]
    if not named:
        raise StudiesError(
            f"expected a mapping's name ({', '.join(shipped)}), a TOML file, or a table {', '.join(_TABLES[:3])}, "
            f"got {name!r}"
        )
    return (_folder() / f"{named[0]}.toml").read_text(encoding="utf-8")


def mapping_names() -> list[str]:
    """Return the names of the shipped mappings."""
    return sorted(item.name.removesuffix(".toml") for item in _folder().iterdir() if item.name.endswith(".toml"))


def is_table(name: str) -> bool:
    """Return whether a name is that of a table, which needs no mapping but `FLAT`."""
    return name.lower().endswith(_TABLES)


def _folder() -> Any:
    return resources.files("index.importing") / "mappings"


def _fault(error: ValidationError) -> str:
    """Return the first fault in a sentence, a key that is misspelt before one that is missing."""
    faults = error.errors(include_url=False, include_input=False)
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    where = ".".join(str(part) for part in first["loc"])[:200] or "the whole"
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; expected one of {', '.join(_known_keys(first['loc']))}"
    if first["type"] == "missing":
        return f"expected key {where!r}, got none"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _known_keys(place: Sequence[str | int]) -> list[str]:
    sections: dict[str | int, type[_Section]] = {
        "table": SourceTable,
        "film": FilmKeys,
        "views": ViewWords,
        "labels": LabelWords,
    }
    section = sections.get(place[0], Mapping) if len(place) > 1 else Mapping
    return [field.alias or name for name, field in section.model_fields.items()]

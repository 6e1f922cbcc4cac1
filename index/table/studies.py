"""The table of studies, one row a study, and the one way it is written to and read from Parquet."""

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from index.errors import ArtefactError, StudiesError
from index.printable import is_visible
from index.storage.files import SEAL, UNSEALED, read_sealed_parquet, seal_parquet, written_whole
from index.storage.parquet import opened_parquet, read_parquet
from index.storage.places import place

SCHEMA_VERSION = "1"
VERSION_KEY = b"precedent.studies.version"

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
COMPETITION_FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")

_CORE_TYPES: dict[str, pa.DataType] = {
    "study_id": pa.string(),
    "patient_id": pa.string(),
    "frontal_path": pa.string(),
    "lateral_path": pa.string(),
    "other_paths": pa.list_(pa.string()),
    "projection": pa.string(),
    "sex": pa.string(),
    "age": pa.float32(),
    "split": pa.string(),
}
CORE_COLUMNS = tuple(_CORE_TYPES)
SHARD_COLUMNS = ("views", "embedding")  # an embedding shard adds these two to the row
PATIENTS = "Patient identity"
"""The further column that says `UNKNOWN` where a source names no patient, so that each study stands for its own."""
STUDY_UID = "StudyInstanceUID"
"""The further column that may hold the UID by which an archive knows a study."""
UNKNOWN = "unknown"
PATIENTS_UNKNOWN = "patients unknown: the same person may answer"
FILMS_OF_KEY = b"precedent.studies.films_of"
"""Key of a table's metadata: the published sets whose films it holds, with spaces between."""
ID_ENDINGS = ("/image", "/similar")
"""What a study_id never ends in: the address of a study's film or of its neighbours would be that of another study."""
ID_LENGTH = 512
"""Characters that an id has at most."""
_NO_ADDRESS = re.compile(r"^/|//|/$|(?:^|/)\.\.?(?:/|$)|^~/")
"""What a browser, a proxy or a server makes another address of, or takes for a path of this machine."""
_DOUBTFUL = r"^$|^ | $|[^ -~]"
"""Found in an id that is blank or may hold what cannot be seen; whatever else is of ASCII, which can."""
_UID = re.compile(r"[0-2](?:\.[0-9]+){2,}")
"""Of DICOM, at most `UID_LENGTH` characters (PS3.5, section 9.1); zeros before a number are forbidden, and are met."""
UID_LENGTH = 64
_ROW_NAMES = re.compile(r"__index_level_\d+__")
"""The column in which pandas writes the names of rows."""
_OUTSIDE_ROOT = r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)"

Value = str | float | int | None


@dataclass(frozen=True)
class Study:
    """One row of the table: age in years, paths relative to the image root, findings 1, 0, -1 or None."""

    study_id: str
    patient_id: str
    frontal_path: str | None = None
    lateral_path: str | None = None
    other_paths: tuple[str, ...] = ()
    projection: str | None = None
    sex: str | None = None
    age: float | None = None
    split: str | None = None
    findings: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(FINDINGS))
    extra: dict[str, Value] = field(default_factory=dict)

    @property
    def views(self) -> tuple[str, ...]:
        """The views that are present, of ("frontal", "lateral"), in that order."""
        paths = {"frontal": self.frontal_path, "lateral": self.lateral_path}
        return tuple(view for view, path in paths.items() if path is not None)

    @property
    def study_uid(self) -> str | None:
        """The UID by which an archive knows the study; None where the table does not say.

        The column `STUDY_UID` says it, or the end of the study_id, as an import of DICOM films makes it.
        """
        named = self.extra.get(STUDY_UID)
        uid = named if isinstance(named, str) else self.study_id.rpartition("/")[2]
        return uid if is_uid(uid) else None

    @classmethod
    def from_row(cls, row: Mapping[str, Any], labels: Sequence[str] = FINDINGS) -> "Study":
        """Return the study of one row as `pa.Table.to_pylist` gives it; what is not finite counts as null.

        Args:
            labels: the label columns of its table, as `label_names` gives them.

        Raises:
            StudiesError: a core column or a finding is absent.
        """
        _require_columns(row)
        known = {*CORE_COLUMNS, *labels, *SHARD_COLUMNS}
        row = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        core = {name: row[name] for name in CORE_COLUMNS} | {"other_paths": tuple(row["other_paths"] or ())}
        findings = {name: row[name] for name in labels}
        return cls(**core, findings=findings, extra={name: row[name] for name in row if name not in known})

    @classmethod
    def from_table(cls, table: pa.Table, labels: Sequence[str] = FINDINGS) -> list["Study"]:
        """Return the studies of all rows of a table. Raises as `from_row` does."""
        return [cls.from_row(row, labels) for row in table.to_pylist()]


def is_uid(text: str) -> bool:
    """Return whether a text can be the UID of a study."""
    return len(text) <= UID_LENGTH and _UID.fullmatch(text) is not None


def studies_schema(extra: Iterable[pa.Field] = ()) -> pa.Schema:
    """Return the schema of a studies table: core columns, the 14 findings as int8, then the extra fields.

    Raises:
        StudiesError: an extra field has a reserved or repeated name, or is neither text nor a number.
    """
    fields = [pa.field(name, kind) for name, kind in _CORE_TYPES.items()]
    fields += [pa.field(name, pa.int8()) for name in FINDINGS]
    taken = {*CORE_COLUMNS, *FINDINGS, *SHARD_COLUMNS}
    for column in extra:
        if column.name in taken:
            raise StudiesError(f"expected extra columns of other names, got {column.name!r}; rename it")
        if not any(fits(column.type) for fits in (pa.types.is_string, pa.types.is_integer, pa.types.is_floating)):
            raise StudiesError(f"extra column {column.name!r}: expected text or a number, got {column.type}")
        taken.add(column.name)
        fields.append(pa.field(column.name, column.type))
    return pa.schema(fields, metadata={VERSION_KEY: SCHEMA_VERSION})


def unknown_patients(studies: pa.Table) -> int:
    """Return the number of studies whose patient is unknown."""
    if PATIENTS not in studies.column_names or not pa.types.is_string(studies.schema.field(PATIENTS).type):
        return 0
    return pc.sum(pc.equal(studies[PATIENTS], UNKNOWN)).as_py() or 0


def label_names(schema: pa.Schema) -> list[str]:
    """Return the label columns of a table: the 14, then the further ones that it keeps as int8.

    The type says it, since Parquet, pandas, polars and DuckDB all keep it; other numbers are of another type.
    """
    return [*FINDINGS, *(column.name for column in schema if column.type == pa.int8() and column.name not in FINDINGS)]


def as_studies(table: pa.Table) -> pa.Table:
    """Return the table with exactly the columns, order and types of `studies_schema`, its rules checked.

    Raises:
        StudiesError: a missing column, a wrong type, a repeated study_id, an id that `id_fault` refuses, a label
            outside {1, 0, -1, null} in a label column, a study without a view, or a path that leaves the image root.
    """
    _require_columns(table.column_names)
    table = _without_nan(table.drop_columns([name for name in table.column_names if _ROW_NAMES.fullmatch(name)]))
    extra = [column for column in table.schema if column.name not in CORE_COLUMNS and column.name not in FINDINGS]
    schema = studies_schema(extra)
    kept = {FILMS_OF_KEY: said} if (said := (table.schema.metadata or {}).get(FILMS_OF_KEY)) else {}
    schema = schema.with_metadata(schema.metadata | kept)
    try:
        checked = table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as cause:
        raise StudiesError(f"expected the types of a studies table, got {cause}") from cause
    _check_ids(checked)
    _check_labels(checked)
    _check_paths(checked)
    return checked


def _without_nan(table: pa.Table) -> pa.Table:
    """Return a table in which NaN is null, as pandas means it, and a further column of nulls alone is one of texts."""
    for number, column in enumerate(table.schema):
        values = table[number]
        if pa.types.is_floating(column.type):
            plain = pc.if_else(pc.fill_null(pc.is_nan(values), False), pa.scalar(None, column.type), values)
            table = table.set_column(number, column, plain)
        elif pa.types.is_null(column.type) and column.name not in (*CORE_COLUMNS, *FINDINGS):
            table = table.set_column(number, pa.field(column.name, pa.string()), values.cast(pa.string()))
    return table


def require_studies(table: pa.Table, name: str) -> pa.Table:
    """Return a table of studies with the views each had, as a shard and an index keep it, its rules checked.

    Raises:
        StudiesError: a rule of `as_studies` is broken; `name` of the file goes into the sentence.
    """
    try:
        as_studies(table.drop_columns([name for name in ("views",) if name in table.column_names]))
    except StudiesError as error:
        raise StudiesError(f"{name!r}: {error}") from error
    return table


def save_studies(table: pa.Table, path: str | os.PathLike[str]) -> None:
    """Write the checked table, whole or not at all.

    Raises:
        StudiesError: the table breaks a rule of `as_studies`. OSError: the file cannot be written.
    """
    checked = as_studies(table)
    checked = checked.replace_schema_metadata(checked.schema.metadata | {SEAL: UNSEALED})
    with written_whole(place(path)) as partial:
        pq.write_table(checked, partial, compression="zstd")
        seal_parquet(partial)


def load_studies(path: str | os.PathLike[str]) -> pa.Table:
    """Return the studies table of a Parquet file that `save_studies` wrote, or another program with the same columns.

    Raises:
        ArtefactError: missing, not Parquet, truncated, of another schema version, or not as `save_studies` sealed it.
        StudiesError: a rule of `as_studies` is broken.
    """
    source = place(path)
    if not source.exists():
        raise ArtefactError(f"expected a studies table at {str(path)!r}, got none; run: precedent import")
    table = read_parquet(read_sealed_parquet(source, "import it again"), source.name, "import it again")
    version = (table.schema.metadata or {}).get(VERSION_KEY, SCHEMA_VERSION.encode()).decode(errors="replace")
    if version != SCHEMA_VERSION:
        raise ArtefactError(
            f"{source.name!r}: expected studies of version {SCHEMA_VERSION}, got {version}; import it again"
        )
    return as_studies(table)


def load_rows(path: str | os.PathLike[str], rows: slice) -> pa.Table:
    """Return some rows of a studies table that was loaded before; only the row groups they lie in are read."""
    start, first = 0, rows.start
    groups: list[int] = []
    with opened_parquet(place(path), str(path), "import it again") as table:
        for group in range(table.metadata.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if start < rows.stop and start + size > rows.start:
                groups.append(group)
                first = min(first, start)
            start += size
        return as_studies(table.read_row_groups(groups).slice(rows.start - first, rows.stop - rows.start))


def _require_columns(present: Iterable[str]) -> None:
    names = set(present)
    missing = [name for name in (*CORE_COLUMNS, *FINDINGS) if name not in names]
    if missing:
        raise StudiesError(f"expected the columns of a studies table, got none called {', '.join(missing)}")


def id_fault(name: str, key: str) -> str:
    """Return why an id cannot be used; "" where tables, addresses and the command line can all carry it.

    Args:
        name: not blank.
        key: study_id, which is a path of an address too, or patient_id.
    """
    expected = f"expected a {key} "
    if len(name) > ID_LENGTH:
        return f"{expected}of at most {ID_LENGTH} characters, got one of {len(name):,}; rename it"
    if not is_visible(name) or name.strip(" ") != name:
        return f"{expected}of characters that can be seen, without spaces at its ends, got {name!r}; rename it"
    if key == "study_id" and _NO_ADDRESS.search(name):
        return f"{expected}that can be an address, without empty, '.', '..' or '~' parts, got {name!r}; rename it"
    if key == "study_id" and name.endswith(ID_ENDINGS):
        return f"{expected}whose last part is not {name.rpartition('/')[2]!r}, got {name!r}; rename it"
    return ""


def _check_ids(table: pa.Table) -> None:
    for key in ("study_id", "patient_id"):
        names = table[key]
        for row in np.flatnonzero(_is_doubtful(names, key)):
            name = names[row].as_py()
            if not name:
                raise StudiesError(f"expected a {key} in every row, got a blank at row {row}")
            if fault := id_fault(name, key):
                raise StudiesError(fault)
    counts = table["study_id"].value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise StudiesError(f"expected each study_id once, got {repeated[0]['values'].as_py()!r} again")


def _is_doubtful(names: pa.ChunkedArray, key: str) -> npt.NDArray[np.bool_]:
    """Return which of the ids (N,) `id_fault` has to look at; it refuses none of the others."""
    doubtful = pc.or_(pc.match_substring_regex(names, _DOUBTFUL), pc.greater(pc.utf8_length(names), ID_LENGTH))
    if key == "study_id":
        doubtful = pc.or_(doubtful, pc.match_substring_regex(names, _NO_ADDRESS.pattern))
        for ending in ID_ENDINGS:
            doubtful = pc.or_(doubtful, pc.ends_with(names, ending))
    return np.array(pc.fill_null(doubtful, True), dtype=bool)


def _check_labels(table: pa.Table) -> None:
    for name in label_names(table.schema):
        outside = pc.filter(table[name], pc.greater(pc.abs(pc.cast(table[name], pa.int16())), 1))
        if len(outside):
            other = "" if name in FINDINGS else "; a number that is no label is kept as int16 or wider"
            raise StudiesError(f"{name}: expected a label of 1, 0, -1 or blank, got {outside[0].as_py()}{other}")


def _check_paths(table: pa.Table) -> None:
    lost = pc.and_(pc.is_null(table["frontal_path"]), pc.is_null(table["lateral_path"]))
    if pc.any(lost).as_py():
        row = pc.index(lost, True).as_py()
        raise StudiesError(f"{table['study_id'][row]}: expected a frontal or a lateral path, got neither")
    others = pc.list_flatten(table["other_paths"])
    for paths in (table["frontal_path"], table["lateral_path"], others):
        outside = pc.filter(paths, pc.fill_null(pc.match_substring_regex(paths, _OUTSIDE_ROOT), False))
        if len(outside):
            raise StudiesError(f"expected paths below the image root, got {outside[0].as_py()!r}")

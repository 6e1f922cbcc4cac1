"""The tables of a data set as one table of studies, as a mapping says. No image is opened but for its DICOM header.

Rows are columns of text, read, joined, cut up and folded as whole columns; labels are ranks of 1, -1, 0 and blank.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from os.path import isfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.errors import StudiesError
from index.importing.dicom_header import ReadHeader, read_film
from index.importing.mapping import FilmKeys, LabelWords, Mapping, SourceTable, Template
from index.importing.source import Imported, NothingUsable, Notices, as_ages, as_text, as_typed, plain_id
from index.importing.source_files import files_of, paths_below, read_files, read_source
from index.storage.places import Place, below
from index.table.filters import filter_mask, parse_where
from index.table.studies import (
    FILMS_OF_KEY,
    FINDINGS,
    PATIENTS,
    PATIENTS_UNKNOWN,
    SHARD_COLUMNS,
    UNKNOWN,
    as_studies,
)
from index.vectors import Mask

FILM_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
_FRONTAL, _LATERAL, _SKIPPED, _NO_VIEW = range(4)
_WORDS_OF_SEX = {"m": "Male", "male": "Male", "f": "Female", "female": "Female"}
_CODES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
_RANKS = {None: 0, 0: 1, -1: 2, 1: 3}
"""Of labels: what any of several is, is what the highest is."""
_LABELS = pa.array([None, 0, -1, 1], pa.int8())
_UNCERTAIN = _RANKS[-1]
_OUTSIDE = r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)"
_PLAIN_ID = r"^[A-Za-z0-9_^.=@+,;()# -]+(?:/[A-Za-z0-9_^.=@+,;()# -]+)*$"
_DOTS = r"(?:^|/)[.]{1,2}(?:/|$)|^ | $"
_PAUSE = "\x1f"
"""Between the parts of a key; no text of a table has it."""

Ranks = npt.NDArray[np.int8]
Numbers = npt.NDArray[np.int64]
Watch = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class _Rows:
    """Columns of text, all of one length, "" for blank."""

    columns: dict[str, pa.Array]
    count: int
    own: tuple[str, ...]
    """The names that the files have, the keys by which others were joined left out; not all of them are read."""

    def take(self, rows: Numbers) -> "_Rows":
        """Return those rows, in that order."""
        if len(rows) == self.count and (rows == np.arange(self.count)).all():
            return self
        wanted = pa.array(rows)
        return _Rows({name: column.take(wanted) for name, column in self.columns.items()}, len(rows), self.own)

    def plus(self, columns: dict[str, pa.Array], own: Iterable[str] = ()) -> "_Rows":
        """Return the rows with further columns."""
        return _Rows(self.columns | columns, self.count, (*self.own, *own))

    def column(self, name: str) -> pa.Array:
        """Return a column without spaces around a text, blank where there is none."""
        values = self.columns.get(name)
        return pa.repeat("", self.count) if values is None else pc.utf8_trim_whitespace(values)

    def text(self, template: Template) -> pa.Array:
        """Return what a template says of each row; blank where all of its columns are, or one that may not be."""
        pieces: list[pa.Array | pa.Scalar] = []
        blank: list[pa.Array] = []
        needed: list[pa.Array] = []
        for part in template.parts:
            if isinstance(part, str):
                pieces.append(pa.scalar(part))
                continue
            column = self.column(part.column)
            blank.append(pc.equal(column, ""))
            needed += [] if part.optional else blank[-1:]
            column = column if part.first is None else pc.utf8_slice_codeunits(column, 0, part.first)
            pieces.append(pc.utf8_lpad(column, part.width, part.fill) if part.fill else column)
        if not blank:
            return pa.repeat(template.text, self.count)
        joined = pieces[0] if len(pieces) == 1 else pc.binary_join_element_wise(*pieces, "")
        return pc.if_else(reduce(pc.or_, needed) if needed else reduce(pc.and_, blank), "", joined)

    def first(self, templates: Sequence[Template]) -> pa.Array:
        """Return what the first of several templates says that is not blank."""
        texts = pa.repeat("", self.count)
        for template in templates:
            texts = pc.if_else(pc.equal(texts, ""), self.text(template), texts)
        return texts


def import_table(
    mapping: Mapping,
    folder: Path,
    *,
    images: Path | None = None,
    tables: Sequence[Path] = (),
    strict: bool = False,
    check_images: bool = True,
    read_header: ReadHeader | None = None,
    watch: Watch = iter,
) -> Imported:
    """Return one row a study of the films that the tables of a data set name.

    The first film of each view is the study's frontal or lateral, by `film.order`, then by path with digits as
    numbers; further ones go to `other_paths`. Labels, sex, age and further columns are those of the first frontal, of
    the lateral where there is none. Studies stand in the order of their first rows, those of a patient together by
    `film.visit` where the mapping has it. Where no patient is named, each study stands for its own and column
    `Patients` says so. The sets whose films these are stand in the table's metadata.

    Noted and got over, or refused when `strict`: a row whose study or path is not known, a view that is no word of
    the mapping's or that two columns say differently, films without a row of a joined table, a word that is no
    finding, an age that is none, rows of one study that differ, an image that is not there or there twice, and a
    study that loses its last film by it.

    Args:
        folder: of the tables.
        images: that the paths lead from; None for the folder itself.
        tables: files to read in the place of the mapping's first table.
        check_images: look whether the images are there; else the first path of the mapping is taken, or that by which
            one of the first films is there.
        read_header: reads the headers of films that the mapping names columns of; None leaves these blank.
        watch: is given the paths of films whose headers are read, and gives them back one by one.

    Raises:
        StudiesError: an unreadable table, a column that is not there, keys that match twice, a label of no known code,
            two rows for one film, one study of two patients or in two splits, or a path out of the folder.
        NothingUsable: no row that can be used. PlaceError: a link out of the folder. FilterError: `where` does not fit.
    """
    images = folder if images is None else images
    notices = Notices(strict)
    rows = _joined(mapping, folder, images, tables, notices)
    _require_columns(mapping, rows, notices)
    studies = rows.first(mapping.film.study)
    films = _keys_of_films(mapping.film, rows, studies)
    offered = len(films.unique())
    kept = _where(mapping.where, rows, notices)
    rows, films = rows.take(kept), films.take(pa.array(kept))
    firsts, ranks = _folded(mapping.table[0], films, _ranks(mapping, rows, notices), notices)
    rows = rows.take(firsts)
    rows, views, ranks = _usable(mapping, rows, ranks, offered, notices)
    rows, paths, there, layout = _located(mapping.film, rows, images, check_images, offered, notices)
    views, ranks = views[there], {name: rank[there] for name, rank in ranks.items()}
    if mapping.header:
        rows = rows.plus(_headers(mapping.header, paths, images if check_images else None, read_header, watch))
    table = _studies(mapping, rows, paths, views, ranks, notices)
    return Imported(table, tuple(notices.met), offered, layout)


def _joined(mapping: Mapping, folder: Path, images: Path, tables: Sequence[Path], notices: Notices) -> _Rows:
    """Return the rows of the first table with the columns of the others and of `parse` beside them."""
    wanted = None
    if not (mapping.where or "*" in mapping.further):
        wanted = mapping.used() | {*mapping.further, *(name for table in mapping.table for name in table.take or ())}
        wanted |= {part.column for _, template in mapping.templates() for part in template.columns}
    first, *others = mapping.table
    if tables:
        source, own = read_files(first, [(table, table.name, {}) for table in tables], wanted)
    else:
        source, own = read_source(first, images if first.kind == "film" else folder, wanted)
    rows = _Rows(_arrays(source), len(source), tuple(own))
    left = dict(mapping.parse)
    rows = _parsed(rows, left)
    for other in others:
        rows = _beside(rows, other, folder, wanted, notices)
        rows = _parsed(rows, left)
    if left:
        raise _no_column(next(iter(left)), rows)
    return rows


def _arrays(table: pa.Table) -> dict[str, pa.Array]:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {
        name: pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        for name, column in columns.items()
    }


def _parsed(rows: _Rows, left: dict[str, str]) -> _Rows:
    """Return the rows with what the expressions find in columns that are there, which are taken out of `left`."""
    for name in [name for name in left if name in rows.columns]:
        groups_of = pc.extract_regex(rows.columns[name], left.pop(name))
        groups = {field.name: group for field, group in zip(groups_of.type, groups_of.flatten(), strict=True)}
        if clash := [group for group in groups if group in rows.columns]:
            raise StudiesError(f"parse: expected another name for the group {clash[0]!r}, which is a column already")
        rows = rows.plus({group: pc.fill_null(values, "") for group, values in groups.items()})
    return rows


def _beside(rows: _Rows, table: SourceTable, folder: Path, wanted: Iterable[str] | None, notices: Notices) -> _Rows:
    """Return the rows with the columns of a table in which each key stands once, blank where a row's does not."""
    name = (table.one_of or table.file)[0]
    if table.optional and not files_of(table, folder):
        words = re.findall(r"\{(\w+)\}", " ".join(table.file + table.one_of))
        return rows.plus({word: pa.repeat("", rows.count) for word in [*words, *(table.take or ())]})
    source, own = read_source(table, folder, None if wanted is None else {*wanted})
    theirs = _Rows(_arrays(source), len(source), tuple(own))
    for ours, other in table.on.items():
        for column, where in ((ours, rows), (other, theirs)):
            if column not in where.columns:
                raise _no_column(column, where, name)
    taken = [column for column in table.take or theirs.columns if column not in table.on.values()]
    for column in taken:
        if column not in theirs.columns:
            raise _no_column(column, theirs, name)
        if column in rows.columns:
            raise StudiesError(
                f"{name!r}: column {column!r} stands in a table before it too; say which to take: table.take"
            )
    wanted_keys, keys = (
        _key([side.column(column) for column in named])
        for side, named in ((rows, table.on.keys()), (theirs, table.on.values()))
    )
    coded = keys.dictionary_encode()
    codes = coded.indices.to_numpy()
    firsts = _first_rows(codes, len(coded.dictionary))
    _require_one_row(name, theirs, taken, keys, firsts[codes])
    places = pc.index_in(wanted_keys, value_set=coded.dictionary)
    has_row = np.asarray(pc.is_valid(places)) & np.asarray(pc.not_equal(pc.utf8_trim(wanted_keys, _PAUSE), ""))
    if not has_row.any():
        shown = f"{wanted_keys[0].as_py()!r} and {keys[0].as_py()!r}".replace("\\x1f", " ")
        raise StudiesError(f"{name!r}: expected keys that films have, got not one of {len(keys):,}, such as {shown}")
    lost = wanted_keys.filter(pa.array(~has_row))
    notices.add("joined", f"films without a row in {name!r}", pc.replace_substring(lost, _PAUSE, " ").to_pylist())
    at = pa.array(firsts[np.asarray(pc.fill_null(places, 0))], mask=~has_row)
    columns = {column: pc.fill_null(theirs.columns[column].take(at), "") for column in taken}
    return rows.plus(columns, [column for column in taken if column in own])


def _key(columns: Sequence[pa.Array]) -> pa.Array:
    return columns[0] if len(columns) == 1 else pc.binary_join_element_wise(*columns, _PAUSE)


def _first_rows(codes: Numbers, kinds: int) -> Numbers:
    """Return the first row of each code."""
    firsts = np.zeros(kinds, np.int64)
    firsts[codes[::-1]] = np.arange(len(codes))[::-1]
    return firsts


def _require_one_row(name: str, theirs: _Rows, taken: Sequence[str], keys: pa.Array, firsts: Numbers) -> None:
    differs = np.zeros(theirs.count, bool)
    for column in taken:
        values = theirs.columns[column]
        differs |= np.asarray(pc.not_equal(values, values.take(pa.array(firsts))))
    if differs.any():
        twice = keys.filter(pa.array(differs)).unique()
        shown = twice[0].as_py().replace(_PAUSE, " ")
        raise StudiesError(
            f"{name!r}: expected each key once, got {len(twice):,} with rows that differ, the first {shown!r}; name "
            "the columns to take, or join by more columns"
        )


def _no_column(name: str, rows: _Rows, file: str = "") -> StudiesError:
    where = f"{file!r}: " if file else ""
    known = ", ".join(dict.fromkeys((*rows.own, *rows.columns)))
    return StudiesError(
        f"{where}expected column {name!r}, got {known[:500]}; take the mapping of this layout (precedent import table "
        "--list), or change it"
    )


def _require_columns(mapping: Mapping, rows: _Rows, notices: Notices) -> None:
    parts = [part for _, template in mapping.templates() for part in template.columns]
    absent = {part.column: part.optional for part in parts if part.column not in (*rows.columns, *mapping.header)}
    for name, optional in absent.items():
        if not optional:
            raise _no_column(name, rows)
    notices.add("columns", "columns that the table has not, left blank", absent)
    words = mapping.labels.words
    if words is not None and words not in rows.columns:
        raise _no_column(words, rows)
    for names in mapping.findings.values() if words is None else ():
        if not any(name in rows.columns for name in names):
            raise _no_column(names[0], rows)
    for name in mapping.further:
        if name != "*" and name not in rows.columns:
            raise _no_column(name, rows)


def _keys_of_films(film: FilmKeys, rows: _Rows, studies: pa.Array) -> pa.Array:
    """Return what is equal in rows of one film; a row without is a film of its own."""
    keys = rows.first(film.path or film.find)
    if film.name:
        named = rows.first(film.name)
        keys = pc.binary_join_element_wise(studies, named, _PAUSE)
        keys = pc.if_else(pc.or_(pc.equal(studies, ""), pc.equal(named, "")), "", keys)
    blank = pc.equal(keys, "")
    if pc.any(blank).as_py():
        keys = pc.if_else(blank, pa.array([f"{_PAUSE}{row}" for row in range(rows.count)]), keys)
    return keys


def _where(words: Sequence[str], rows: _Rows, notices: Notices) -> Numbers:
    if not words:
        return np.arange(rows.count)
    table = pa.table({name: as_text(column) for name, column in rows.columns.items()})
    passing = filter_mask(parse_where(words, table.schema), table)
    dropped = [f"row {row + 1}" for row in np.flatnonzero(~passing)]
    notices.add("where", f"rows left out, of which {' and '.join(words)} does not hold", dropped, expected=True)
    return np.flatnonzero(passing)


def _ranks(mapping: Mapping, rows: _Rows, notices: Notices) -> dict[str, Ranks]:
    """Return the rank of each finding's label in each row."""
    labels = mapping.labels
    if labels.words is not None:
        return _ranks_of_words(mapping, rows, notices)
    theirs = {name: [name] for name in FINDINGS if name in rows.columns} | mapping.findings
    ranks: dict[str, Ranks] = {}
    for ours, names in theirs.items():
        columns = [_ranks_of_codes(ours, name, labels, rows, mapping) for name in names if name in rows.columns]
        ranks[ours] = np.maximum.reduce(columns)
    return ranks


def _ranks_of_codes(ours: str, name: str, labels: LabelWords, rows: _Rows, mapping: Mapping) -> Ranks:
    codes = labels.codes or _CODES
    coded = rows.column(name).dictionary_encode()
    texts: list[str] = coded.dictionary.to_pylist()
    other = codes.get("*")
    known = [codes.get(text, None if text == "" else other) for text in texts]
    strange = np.array([value is None and text != "" for value, text in zip(known, texts, strict=True)], bool)
    at = coded.indices.to_numpy()
    if strange.any() and (outside := strange[at]).any():
        row = int(np.argmax(outside))
        film = rows.first(mapping.film.path or mapping.film.find)[row].as_py()
        expected = "1, 0, -1" if codes is _CODES else ", ".join(codes)
        raise StudiesError(
            f"{name}: expected {expected} or blank, got {texts[at[row]]!r} at {film} (such cells: "
            f"{int(outside.sum()):,} of {rows.count:,}); say what it means: labels.codes"
        )
    return np.array([_RANKS[value] for value in known], np.int8)[at]


def _ranks_of_words(mapping: Mapping, rows: _Rows, notices: Notices) -> dict[str, Ranks]:
    labels = mapping.labels
    coded = rows.columns[labels.words or ""].dictionary_encode()
    at = coded.indices.to_numpy()
    lists = [_words(text, labels) for text in coded.dictionary.to_pylist()]
    named = {word for words in lists for word in words}
    theirs = {name: [name] for name in FINDINGS if name.casefold() in named} | mapping.findings
    known = {word.casefold() for words in (*theirs.values(), labels.ignore) for word in words}
    strange = (
        {} if "*" in known else {number: [*(words - known)] for number, words in enumerate(lists) if words - known}
    )
    if strange:
        met = [word for number in at[np.isin(at, [*strange])] for word in strange[number]]
        notices.add("word", f"words of {labels.words!r} that are no finding", met)
    ranks: dict[str, Ranks] = {}
    for ours, words in theirs.items():
        wanted = {word.casefold() for word in words}
        absent = _RANKS[labels.absent]
        of_list = [(_RANKS[1] if words & wanted else absent) if words else 0 for words in lists]
        ranks[ours] = np.array(of_list, np.int8)[at] if of_list else np.zeros(rows.count, np.int8)
    return ranks


_QUOTED = re.compile(r"'([^'\\]*)'|\"([^\"\\]*)\"")


def _words(text: str, labels: LabelWords) -> set[str]:
    """Return the words of a cell, in small letters."""
    if labels.separator == "python":
        words: Iterable[str] = (single or double for single, double in _QUOTED.findall(text))
    else:
        words = text.split(labels.separator)
    if labels.cut:
        words = (word.partition(labels.cut)[0] for word in words)
    return {word.strip().casefold() for word in words} - {""}


def _folded(
    table: SourceTable, films: pa.Array, ranks: dict[str, Ranks], notices: Notices
) -> tuple[Numbers, dict[str, Ranks]]:
    """Return the first row of each film, and its labels over all of its rows."""
    coded = films.dictionary_encode()
    kinds, codes = len(coded.dictionary), coded.indices.to_numpy()
    if kinds == len(codes):
        return np.arange(kinds), ranks
    counts = np.bincount(codes, minlength=kinds)
    twice = coded.dictionary.filter(pa.array(counts > 1))
    shown = pc.replace_substring(twice, _PAUSE, " ").to_pylist()
    if table.repeat == "none":
        raise StudiesError(
            f"expected one row a film, got two for {shown[0]} ({len(twice):,} films); leave one out, or say how they "
            "become one: table.repeat"
        )
    if table.repeat is None:
        notices.add("repeated", "films of several rows, any of which gives a label", shown)
    order = np.argsort(codes, kind="stable")
    starts = np.cumsum(counts) - counts
    if table.repeat == "first":
        return order[starts], {name: rank[order[starts]] for name, rank in ranks.items()}
    if table.repeat == "majority":
        return order[starts], {name: _majority(rank, codes, kinds) for name, rank in ranks.items()}
    return order[starts], {name: np.maximum.reduceat(rank[order], starts) for name, rank in ranks.items()}


def _majority(ranks: Ranks, codes: Numbers, kinds: int) -> Ranks:
    """Return what most rows of each film say, uncertain where as many say another; a blank does not count."""
    votes = np.stack([np.bincount(codes[ranks == rank], minlength=kinds) for rank in range(1, len(_LABELS))])
    most = votes.max(axis=0)
    winner = (votes.argmax(axis=0) + 1).astype(np.int8)
    winner[(votes == most).sum(axis=0) > 1] = _UNCERTAIN
    winner[most == 0] = 0
    return winner


def _usable(
    mapping: Mapping, rows: _Rows, ranks: dict[str, Ranks], offered: int, notices: Notices
) -> tuple[_Rows, Numbers, dict[str, Ranks]]:
    """Return the rows whose study, path and view are known, with the views."""
    film = mapping.film
    at = rows.first(film.path or film.find)
    usable = np.asarray(pc.not_equal(rows.first(film.study), "")) & np.asarray(pc.not_equal(at, ""))
    notices.add("path", "rows skipped, their study or path is not known", at.filter(pa.array(~usable)).to_pylist())
    views, words = _views(mapping, rows.take(np.flatnonzero(usable)), at.filter(pa.array(usable)), notices)
    shown = pc.binary_join_element_wise(at.filter(pa.array(usable)), words, " ")
    skipped, lost = views == _SKIPPED, views == _NO_VIEW
    notices.add("skipped view", "films left out, as their view says", shown.filter(skipped).to_pylist(), expected=True)
    notices.add("unknown view", "films left out, of no known view", shown.filter(lost).to_pylist())
    kept = np.flatnonzero(usable)[~(skipped | lost)]
    if not len(kept):
        raise NothingUsable("expected rows whose study, path and view are known, got none", offered, notices.met)
    return rows.take(kept), views[~(skipped | lost)], {name: rank[kept] for name, rank in ranks.items()}


def _views(mapping: Mapping, rows: _Rows, at: pa.Array, notices: Notices) -> tuple[Numbers, pa.Array]:
    """Return the view of each row, and the word that the first template has for it."""
    words = mapping.views
    codes = {"frontal": _FRONTAL, "lateral": _LATERAL}
    codes |= {word.casefold(): _SKIPPED for word in words.skip}
    codes |= {word.casefold(): _LATERAL for word in words.lateral}
    codes |= {word.casefold(): _FRONTAL for word in words.frontal}
    there = [
        template
        for template in mapping.film.view
        if not template.columns or any(p.column in rows.columns for p in template.columns)
    ]
    there = there or mapping.film.view
    said = [rows.text(template) for template in there]
    seen = []
    for texts in said:
        coded = texts.dictionary_encode()
        known = [codes.get(text.strip().casefold(), _NO_VIEW) for text in coded.dictionary.to_pylist()]
        seen.append(np.array([*known, _NO_VIEW], np.int64)[coded.indices.to_numpy()])
    views = seen[0].copy()
    for other in seen[1:]:
        views = np.where(views == _NO_VIEW, other, views)
    if len(seen) > 1:
        first, *others = there
        differs = (seen[0] == _NO_VIEW) & (views != _NO_VIEW)
        for other in seen[1:]:
            differs |= (other != views) & (other < _SKIPPED)
        rest = " or ".join(template.text for template in others)
        sentence = f"films whose view {first.text} does not say, or says other than {rest}"
        notices.add("view", sentence, at.filter(pa.array(differs)).to_pylist())
    if words.unknown == "frontal":
        strange = (views == _NO_VIEW) & np.asarray(pc.not_equal(said[0], ""))
        notices.add("unknown view", "films of no known view, taken for frontals", at.filter(strange).to_pylist())
        views = np.where(views == _NO_VIEW, _FRONTAL, views)
    return views, said[0]


def _located(
    film: FilmKeys, rows: _Rows, images: Path, check_images: bool, offered: int, notices: Notices
) -> tuple[_Rows, pa.Array, Numbers, str]:
    """Return the rows whose films are there, their paths, which rows these were, and how the paths were found."""
    names = rows.text(film.find[0]) if film.find else None
    if names is not None:
        layout = "the images were found by name below the images folder"
        paths = _by_name(names, images, notices) if check_images else names
        if not check_images:
            layout = "the images were not looked for; the paths are the table's own names"
    else:
        candidates = [_plain_paths(rows.text(template)) for template in film.path]
        paths, taken = _by_path(candidates, images, check_images)
        layout = "the paths lead from the images folder as " + " or ".join(film.path[number].text for number in taken)
        if not check_images:
            layout += "; whether the images are there was not looked for"
        names = rows.first(film.path)
    there = np.asarray(pc.not_equal(paths, ""))
    lost = names.filter(pa.array(~there)).to_pylist()
    notices.add("missing image", f"films left out of {rows.count:,}, as no image of theirs is below the folder", lost)
    if not there.any():
        raise NothingUsable(
            f"expected the images of the table below {str(images)!r}, such as {names[0].as_py()}, got not one of them; "
            "give the folder that the paths lead from, or import without looking for the images",
            offered,
            (),
        )
    studies = rows.first(film.study)
    left = studies.filter(pa.array(there))
    gone = studies.filter(pc.invert(pc.is_in(studies, value_set=left))).unique()
    if len(studies.unique()) < len(studies):  # else each film that is lost is a study
        notices.add("study without image", "studies left out, not one of their images is there", gone.to_pylist())
    kept = np.flatnonzero(there)
    return rows.take(kept), paths.take(pa.array(kept)), kept, layout


def _plain_paths(paths: pa.Array) -> pa.Array:
    """Return paths without "./" and "../". Raises StudiesError: one that leads out of the folder."""
    if pc.any(pc.match_substring_regex(paths, r"(?:^|/)\.{1,2}/|//")).as_py():
        paths = pc.replace_substring_regex(paths, r"/(?:\./|/)+", "/")
        paths = pc.replace_substring_regex(paths, r"^(?:\./)+", "")
        for _ in range(8):
            up = r"(^|/)([^/.][^/]*|\.[^/.][^/]*|\.\.[^/]+)/\.\./"
            paths = pc.replace_substring_regex(paths, up, r"\1")
    outside = paths.filter(pc.match_substring_regex(paths, _OUTSIDE))
    if len(outside):
        raise StudiesError(f"expected paths below the image root, got {outside[0].as_py()!r} ({len(outside):,} rows)")
    return paths


def _by_path(candidates: Sequence[pa.Array], images: Path, check_images: bool) -> tuple[pa.Array, list[int]]:
    """Return the first of each film's paths that is a file, "" where none is; and which of them were taken."""
    if not check_images:
        asked = 1 if isinstance(images, Place) else 100
        some = (any((images / path).is_file() for path in paths[:asked].to_pylist()) for paths in candidates)
        chosen = next((number for number, there in enumerate(some) if there), 0)
        return candidates[chosen], [chosen]
    listing = pa.array(images.files_below(), pa.string()) if isinstance(images, Place) else None
    located = pa.repeat("", len(candidates[0]))
    taken: list[int] = []
    for number, paths in enumerate(candidates):
        left = np.flatnonzero(np.asarray(pc.and_(pc.equal(located, ""), pc.not_equal(paths, ""))))
        there = left[_are_files(paths.take(pa.array(left)), images, listing)]
        if len(there):
            mask = np.zeros(len(paths), bool)
            mask[there] = True
            located = pc.if_else(pa.array(mask), paths, located)
            taken.append(number)
    return located, taken or [0]


def _are_files(paths: pa.Array, images: Path, listing: pa.Array | None) -> Mask:
    if listing is not None:  # of a store, where a question a film would be as many requests
        return np.asarray(pc.is_in(paths, value_set=listing))
    root = f"{images}/"
    return np.fromiter((isfile(root + path) for path in paths.to_pylist()), dtype=bool, count=len(paths))


def _by_name(names: pa.Array, images: Path, notices: Notices) -> pa.Array:
    """Return where each name lies below the folder, under any suffix of a film; the first of several in path order."""
    paths = [path for path in paths_below(images) if path.lower().endswith(FILM_SUFFIXES)]
    there = pa.array(paths, pa.string())
    whole = pa.array([path.rpartition("/")[2] for path in paths], pa.string())
    stems = pc.replace_substring_regex(whole, r"\.[^.]*$", "")
    wanted_stems = pc.replace_substring_regex(names, r"\.[^.]*$", "")
    places = pc.coalesce(pc.index_in(names, value_set=whole), pc.index_in(wanted_stems, value_set=stems))
    located = pc.fill_null(there.take(places), "")
    counts = whole.value_counts()
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    several = pc.is_in(names, value_set=twice)
    notices.add(
        "several images", "images that are there more than once, the first taken", located.filter(several).to_pylist()
    )
    return located


def _headers(
    wanted: Sequence[str], paths: pa.Array, images: Path | None, read_header: ReadHeader | None, watch: Watch
) -> dict[str, pa.Array]:
    """Return columns of the DICOM headers of films, blank of other pictures, or where none are looked for."""
    said: dict[str, list[str]] = {name: [] for name in wanted}
    for path in watch(paths.to_pylist()):
        header = read_film(below(images, path), read_header) if images and read_header else None
        values = (
            {}
            if header is None
            else {
                "PatientSex": header.sex,
                "PatientAge": "" if header.age is None else f"{header.age:g}",
                "PatientID": header.patient,
                "StudyInstanceUID": header.study,
                "ViewPosition": header.projection,
            }
        )
        for name, column in said.items():
            column.append(values.get(name, ""))
    return {name: pa.array(column, pa.string()) for name, column in said.items()}


def _studies(
    mapping: Mapping, rows: _Rows, paths: pa.Array, views: Numbers, ranks: dict[str, Ranks], notices: Notices
) -> pa.Table:
    film = mapping.film
    ids = _ids(rows.first(film.study))
    coded = ids.dictionary_encode()
    codes, kinds = coded.indices.to_numpy().astype(np.int64), len(coded.dictionary)
    order = np.lexsort((*_film_order(film, rows, paths, codes, views)[::-1], views, codes))
    rows, ranks = rows.take(order), {name: rank[order] for name, rank in ranks.items()}
    paths, views, codes, ids = paths.take(pa.array(order)), views[order], codes[order], ids.take(pa.array(order))
    first = np.flatnonzero(np.diff(codes, prepend=-1))  # row n is the leading film of study n
    patients = _patients(film, rows, notices)
    unknown = np.asarray(pc.equal(patients, ""))
    patients = _ids(pc.if_else(pa.array(unknown), ids, patients))
    values = {key: _value(mapping, key, rows) for key in ("projection", "sex", "age", "split")}
    lead = first[codes]
    _require_alike("patient", ids, patients, lead, "put the patient into film.study")
    _require_alike("split", ids, values["split"], lead, "import them apart")
    further = _further_names(mapping, rows)
    compared = {"sex": values["sex"], "age": values["age"]} | {name: rows.columns[name] for name in further}
    _note_differences(ids, lead, compared, ranks, notices)
    lead_views = codes * 2 + views
    chosen = np.diff(lead_views, prepend=-1) != 0
    leads, at = rows.take(first), pa.array(first)
    core = {
        "study_id": ids.take(at),
        "patient_id": patients.take(at),
        "frontal_path": _one_path(paths, codes, chosen & (views == _FRONTAL), kinds),
        "lateral_path": _one_path(paths, codes, chosen & (views == _LATERAL), kinds),
        "other_paths": _lists(paths, codes, ~chosen, kinds),
        "projection": as_text(values["projection"].take(at)),
        "sex": as_text(values["sex"].take(at)),
        "age": as_ages(values["age"].take(at), ids.take(at), notices),
        "split": as_text(values["split"].take(at)),
    }
    labels = {name: pa.nulls(kinds, pa.int8()) for name in FINDINGS}
    labels |= {name: _LABELS.take(pa.array(rank[first])) for name, rank in ranks.items()}
    names = [mapping.names.get(name, name) for name in further]
    kept = {
        name: _further(leads.columns[column], mapping.labels.further)
        for name, column in zip(names, further, strict=True)
    }
    who = {}
    if unknown[first].any():
        who = {PATIENTS: as_text(pc.if_else(pa.array(unknown[first]), UNKNOWN, ""))}
        notices.add(
            "patients", PATIENTS_UNKNOWN, core["study_id"].filter(pa.array(unknown[first])).to_pylist(), expected=True
        )
    taken = {*core, *labels, *who, *SHARD_COLUMNS}
    if clash := [name for number, name in enumerate(names) if name in taken or name in names[:number]]:
        raise StudiesError(
            f"expected further columns of other names, got {clash[0]!r}; say what it is under [findings], rename it "
            "under [names], or take another mapping (precedent import table --list)"
        )
    table = as_studies(pa.table(core | labels | kept | who))
    if sets := _sets(mapping, rows):
        table = table.replace_schema_metadata(table.schema.metadata | {FILMS_OF_KEY: sets})
    return table.take(pa.array(_by_visit(film, leads, core["patient_id"])))


def _sets(mapping: Mapping, rows: _Rows) -> str:
    """Return the sets whose films these are, with spaces between; a table may be of a set's layout and not of it."""
    if mapping.films_of is None:
        return mapping.set_name
    named = {word for template in mapping.films_of for word in rows.text(template).unique().to_pylist()}
    return " ".join(sorted(word.replace(" ", "-") for word in named - {""}))


def _film_order(film: FilmKeys, rows: _Rows, paths: pa.Array, codes: Numbers, views: Numbers) -> list[Numbers]:
    """Return by what films of one study and view stand: `film.order`, then their paths with digits as numbers."""
    keys = [_sortable(rows.text(template)) for template in film.order]
    groups = codes * 2 + views
    several = np.flatnonzero(np.bincount(groups)[groups] > 1)
    ranks = np.zeros(len(codes), np.int64)
    natural = pc.replace_substring_regex(paths.take(pa.array(several)), r"(\d+)", "0" * 20 + r"\1")
    natural = pc.replace_substring_regex(natural, r"\d*(\d{20})", r"\1")
    ranks[several[np.asarray(pc.array_sort_indices(natural)).astype(np.int64)]] = np.arange(len(several))
    return [*keys, ranks]


def _sortable(texts: pa.Array) -> Numbers:
    """Return ranks of texts: of numbers where all of them are, else as texts; blank before all."""
    typed = as_typed(texts)
    unique = typed.unique().drop_null()
    ordered = unique.take(pc.array_sort_indices(unique))
    return np.asarray(pc.fill_null(pc.index_in(typed, value_set=ordered), -1)).astype(np.int64)


def _by_visit(film: FilmKeys, leads: _Rows, patients: pa.Array) -> Numbers:
    """Return the studies in order: of a patient together, where the mapping says by what these stand."""
    if not film.visit:
        return np.arange(leads.count)
    keys = [_sortable(leads.text(template)) for template in film.visit]
    whose = patients.dictionary_encode().indices.to_numpy()
    return np.lexsort((np.arange(leads.count), *keys[::-1], whose))


def _ids(texts: pa.Array) -> pa.Array:
    """Return ids as addresses and tables can carry them; most are so already."""
    odd = pc.or_(pc.invert(pc.match_substring_regex(texts, _PLAIN_ID)), pc.match_substring_regex(texts, _DOTS))
    if not pc.any(odd).as_py():
        return texts
    coded = texts.dictionary_encode()
    return pa.array([plain_id(text) for text in coded.dictionary.to_pylist()], pa.string()).take(coded.indices)


def _patients(film: FilmKeys, rows: _Rows, notices: Notices) -> pa.Array:
    """Return who each film is of, "" where it is unknown; noted where two templates say differently."""
    patients = rows.first(film.patient)
    for template in film.patient[1:]:
        other = rows.text(template)
        differs = pc.and_(pc.not_equal(other, ""), pc.not_equal(other, patients))
        pairs = pc.binary_join_element_wise(patients.filter(differs), other.filter(differs), " and ")
        notices.add(
            "patient", f"films of two patients as the table says, {film.patient[0].text} taken", pairs.to_pylist()
        )
    return patients


def _value(mapping: Mapping, key: str, rows: _Rows) -> pa.Array:
    film = mapping.film
    texts = rows.first(getattr(film, key))
    if key == "age" and film.year:
        texts = _years_between(rows.first(film.born), rows.first(film.year))
    words: dict[str, str] = mapping.values.get(key, {})  # type: ignore[call-overload]
    if not words and key != "sex":
        return texts
    coded = texts.dictionary_encode()
    known = [
        words.get(text, _WORDS_OF_SEX.get(text.lower(), text) if key == "sex" else text)
        for text in coded.dictionary.to_pylist()
    ]
    return pa.array(known, pa.string()).take(coded.indices)


def _years_between(born: pa.Array, year: pa.Array) -> pa.Array:
    def number(texts: pa.Array) -> pa.Array:
        kept = pc.match_substring_regex(texts, r"^\d{4}$")
        return pc.if_else(kept, texts, pa.scalar(None, pa.string())).cast(pa.int32())

    return pc.fill_null(pc.subtract(number(year), number(born)).cast(pa.string()), "")


def _require_alike(what: str, ids: pa.Array, values: pa.Array, lead: Numbers, remedy: str) -> None:
    torn = ids.filter(pc.not_equal(values, values.take(pa.array(lead)))).unique()
    if len(torn):
        raise StudiesError(
            f"expected a study in one {what}, got {torn[0].as_py()} in two ({len(torn):,} studies); {remedy}"
        )


def _note_differences(
    ids: pa.Array, lead: Numbers, texts: dict[str, pa.Array], ranks: dict[str, Ranks], notices: Notices
) -> None:
    differs = {name: np.asarray(pc.not_equal(values, values.take(pa.array(lead)))) for name, values in texts.items()}
    differs |= {name: rank != rank[lead] for name, rank in ranks.items()}
    differing: dict[str, list[str]] = {}
    for name, mask in differs.items():
        for study in ids.filter(pa.array(mask)).unique().to_pylist() if mask.any() else ():
            differing.setdefault(study, []).append(name)
    lines = [f"{study}: {' + '.join(names)}" for study, names in differing.items()]
    notices.add("rows differ", "studies whose rows differ, the first frontal's kept", lines)


def _further_names(mapping: Mapping, rows: _Rows) -> list[str]:
    named = [name for name in mapping.further if name != "*"]
    if "*" not in mapping.further:
        return named
    taken = {*mapping.used(), *named}
    rest = [name for name in rows.own if name not in taken and name in rows.columns]
    start = mapping.further.index("*")
    return [*named[:start], *rest, *named[start:]]


def _further(texts: pa.Array, labels: bool) -> pa.Array:
    """Return a further column, as labels where it has these alone and they are looked for."""
    if labels:
        coded = pc.utf8_trim_whitespace(texts).dictionary_encode()
        words = coded.dictionary.to_pylist()
        if words != [""] and all(word in _CODES or word == "" for word in words):
            return pa.array([_CODES.get(word) for word in coded.dictionary.to_pylist()], pa.int8()).take(coded.indices)
    return as_typed(texts)


def _one_path(paths: pa.Array, codes: Numbers, chosen: Mask, kinds: int) -> pa.Array:
    rows = np.full(kinds, -1)
    rows[codes[chosen]] = np.flatnonzero(chosen)
    return paths.take(pa.array(rows, mask=rows < 0))


def _lists(paths: pa.Array, codes: Numbers, rest: Mask, kinds: int) -> pa.Array:
    counts = np.bincount(codes[rest], minlength=kinds)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), paths.filter(pa.array(rest)))

"""`precedent search`: the studies most similar to a stored one, to a film or to a text.

precedent search index/ --study patient00001/study1 --where 'age>=60' --where 'Pneumonia=1'
"""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE
from rich.console import JustifyMethod
from rich.table import Table

from encoder.errors import EncoderError
from encoder.films.dicom_elements import read_header
from encoder.films.image import READING
from index.built.regions import Region, RegionPlace, missing_maps
from index.errors import CollectionError
from index.export.film_maps import VIEWS
from index.export.reliability import warning_of
from index.importing.pairing import require_one_patient
from index.living.additions import Writable
from index.opening import Address
from index.printable import visible
from index.search.answer import Answer, Hit, Query, Subject
from index.search.familiarity import FamiliarityGate
from index.search.summary import summary_of
from index.search.texts import UNTESTED, Texts
from index.storage.files import parse_json
from index.storage.places import below
from index.table.filters import parse_where
from index.table.studies import Study
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, device_option, opened
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, Here
from scripts.reports.familiarity import familiarity_line, notices_of
from scripts.terminal import FAILED_EXIT_CODE, say, say_json, say_warning, show
from service.api.answers import HitAnswer, SearchAnswer

_LONGEST = 1 << 16
"""Characters of a line that names a query."""
_NAMED = {"study", "frontal", "lateral", "patient"}


@click.command()
@click.argument("index", type=CollectionAddress())
@click.option("--study", help="A stored study, e.g. patient00001/study1.")
@click.option("--frontal", type=Anywhere(), help="A frontal film (needs --encoder).")
@click.option("--lateral", type=Anywhere(), help="A lateral film (needs --encoder).")
@click.option(
    "--queries",
    type=Here(dir_okay=False, allow_dash=True),
    help="Several queries, a line each, - for stdin: a stored study, or JSON such as "
    '{"frontal": "film.dcm", "patient": "p1"}. A line of JSON is printed for each.',
)
@click.option(
    "--images",
    type=Here(exists=True, file_okay=False),
    default=".",
    show_default=True,
    help="With --queries: folder that films lie below.",
)
@click.option("--text", metavar="WORDS", help="A text (needs --texts), matched by a model that was not tested here.")
@click.option("--texts", type=Here(), help="Texts with vectors of the index's model, as import texts writes them.")
@click.option(
    "--region",
    metavar="X0,Y0,X1,Y1",
    help="Part of the film to search by, in shares of its width and height: 0,0,0.5,1 is its left half. "
    "Needs an index with the maps of export --regions.",
)
@click.option(
    "--region-view",
    type=click.Choice(VIEWS),
    default="frontal",
    show_default=True,
    help="The film that --region is a part of.",
)
@click.option("--encoder", type=EncoderFile(), help="The encoder file that the index was built with, or: builtin.")
@ignored_parts
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Number of hits.")
@click.option(
    "--where", multiple=True, help="Filter, e.g. 'sex=Female', 'age>=60', 'Pneumonia=1'. Repeatable: all must hold."
)
@click.option("--patient", help="The patient's id, so that earlier studies of the same patient are left out.")
@click.option("--same-patient", is_flag=True, help="Include other studies of the query's own patient.")
@click.option("--group-by", type=click.Choice(["patient"]), help="At most one hit for each patient.")
@click.option("--min-similarity", type=float, help="Leave out hits with a cosine similarity below this.")
@click.option("--exact", is_flag=True, help="Compare the query with every vector, even in an approximate index.")
@device_option("cpu", "What compares vectors; copying them to a GPU takes longer than one search.")
@click.option("--summary", is_flag=True, help="Also count the labels of the hits, in sentences to be pasted.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(
    index: Address,
    study: str | None,
    frontal: Path | None,
    lateral: Path | None,
    queries: Path | None,
    images: Path,
    text: str | None,
    texts: Path | None,
    region: str | None,
    region_view: str,
    encoder: Path | None,
    ignored: frozenset[str],
    k: int,
    where: tuple[str, ...],
    patient: str | None,
    same_patient: bool,
    device: str,
    summary: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the studies in INDEX, a folder or an address, that are most similar to a stored study, a film or a text.

    \b
    precedent search index/ --study patient00001/study1 -k 5
    precedent search milvus+http://localhost:19530/cases --study patient00001/study1
    precedent search index/ --frontal film.dcm --encoder encoder.safetensors --where 'sex=Female'
    precedent search index/ --queries studies.txt -k 5 > answers.jsonl
    precedent search index/ --text 'pleural effusion' --texts texts.parquet
    """
    films = frontal is not None or lateral is not None
    if (study is not None) + films + (queries is not None) + (text is not None) != 1:
        raise click.UsageError("give one of --study, --frontal and/or --lateral, --queries, and --text")
    if (text is None) != (texts is None):
        raise click.UsageError("give --text and --texts together")
    if queries is not None and patient is not None:
        raise click.UsageError("--patient is for a single query; with --queries, name a film's patient in its line")
    searcher = _Searcher(opened(index, device), encoder, ignored)
    if region is not None:
        options["region"] = Region.parse(region, region_view)
    query = Query(k=k, where=parse_where(where, searcher.here.schema), exclude_same_patient=not same_patient, **options)
    if queries is not None:
        _answer_each(searcher, query, queries, images)
        return
    given = {"frontal": frontal, "lateral": lateral} if films else None
    query = replace(query, subject=Subject(patient, study))
    if text is not None and texts is not None:
        known = Texts.load(texts)
        searcher.here.require_fingerprint(known.fingerprint)
        query = replace(query, vector=known.vector(text))
    answer = searcher.answer(query, given)
    if text is not None:
        answer = replace(answer, pairs=None, warning=" ".join(filter(None, (UNTESTED, answer.warning))))
    if as_json:
        say_json(_LocalAnswer.of(answer))
        return
    if study is not None:
        say(f"similar to {study}: {_findings(searcher.here.study(study))}")
    show(as_table(answer))
    if answer.pairs is not None:
        say(answer.pairs.sentence)
    if films:
        say(familiarity_line(answer.familiarity), *answer.film_notices)
    if answer.regions_missing:
        say(missing_maps(answer.regions_missing))
    if summary and answer.summary is not None:
        say(answer.summary)
    say_warning(answer.warning)


class _Searcher:
    """Searches a collection as it is when this is made."""

    def __init__(self, collection: Writable, encoder: Path | None, ignored: frozenset[str]) -> None:
        """Take the encoder where films are to be asked about. Raises FingerprintMismatch: it is another."""
        self.here = collection.now()
        self._collection, self._ignored = collection, ignored
        self._embedder = None if encoder is None else self._load(encoder)

    def answer(self, query: Query, films: Mapping[str, Path | None] | None = None) -> Answer:
        """Return what a query finds, by its stored study or by films, and all that is told beside.

        Args:
            films: by view.

        Raises:
            StudyNotFound, MixedPatients, ImageError, FingerprintMismatch, OSError.
        """
        started, trained = time.perf_counter(), None
        if films is None:
            query, _ = self.here.resolved(query)  # whose patient the summary names
            answer = self.here.answer(query)
        else:
            require_one_patient(films["frontal"], films["lateral"], read_header)
            if self._embedder is None:
                raise click.UsageError("a film needs --encoder, the encoder file the index was built with")
            from encoder.films.layout import study_layouts
            from encoder.maps.region_maps import read_region

            read = self._embedder.read_films(films["frontal"], films["lateral"])
            if (region := query.region) is not None:
                if (film := films[region.view]) is None:
                    raise click.UsageError(f"--region is of the {region.view} film; give --{region.view} too")
                query = replace(query, region=region.on(*read_region(self._embedder, film, region.view)))
            layouts, trained = study_layouts(read), self._embedder.trained
            query = replace(query, vector=self._embedder.embed([read])[0])
            answer = self.here.answer(query).judged(self._gate, query, layouts)
            answer = replace(answer, film_notices=tuple(notices_of(self._gate, films, layouts, self._ignored)))
        reasons = warning_of(self.here.manifest, trained, READING), self.here.patients_warning
        took_ms = round(1000 * (time.perf_counter() - started), 2)
        warning = " ".join(filter(None, reasons)) or None
        return replace(answer, summary=summary_of(answer.hits, query), warning=warning, took_ms=took_ms)

    def _load(self, encoder: Path) -> Any:
        from encoder.embedder import Embedder  # a search by stored study needs no torch

        embedder = Embedder.load(encoder, runtime="auto", ignored_parts=self._ignored)
        self.here.require_fingerprint(embedder.fingerprint)
        return embedder

    @cached_property
    def _gate(self) -> FamiliarityGate:
        return self._collection.gate()


def _answer_each(searcher: _Searcher, query: Query, queries: Path, images: Path) -> None:
    """Print a line of JSON for each query of a file, in its order: the answer, or why there is none."""
    failed = 0
    for line in _lines(queries):
        try:
            named, subject, films = _parse_query(line, images)
            answered = _LocalAnswer.of(searcher.answer(replace(query, subject=subject), films))
        except (CollectionError, EncoderError, OSError) as refusal:
            failed += 1
            named, answered = line, {"error": {"message": visible(str(refusal))}}
        say_json({"query": named, **answered})
    if failed:
        say(f"{failed:,} queries have no answer", err=True)
        sys.exit(FAILED_EXIT_CODE)


def _lines(queries: Path) -> Iterator[str]:
    """Yield the lines of a file, or of stdin, that are not blank. Raises CollectionError: one is too long."""
    with click.open_file(str(queries), encoding="utf-8", errors="backslashreplace") as file:
        while line := file.readline(_LONGEST + 1):
            if len(line) > _LONGEST:
                raise CollectionError(f"expected queries of at most {_LONGEST:,} characters, a line each, got more")
            if line.strip():
                yield line.strip()


def _parse_query(line: str, images: Path) -> tuple[Any, Subject, dict[str, Path | None] | None]:
    """Return how a line names its query, the query's subject, and its films, if it is of films.

    Raises:
        CollectionError: it is neither the name of a study nor JSON of one or of films below that folder.
    """
    if not line.startswith("{"):
        return line, Subject(study_id=line), None
    try:
        named = parse_json(line)
    except ValueError as error:
        raise CollectionError(f"expected a study, or an object in JSON, got text that is neither: {error}") from None
    if not set(named) <= _NAMED or not all(isinstance(value, str) for value in named.values()):
        raise CollectionError(f"expected texts named {', '.join(sorted(_NAMED))}, got {', '.join(named)[:200]}")
    films = {view: below(images, named[view]) if view in named else None for view in ("frontal", "lateral")}
    if ("study" in named) == any(films.values()) or ("study" in named and "patient" in named):
        raise CollectionError("expected either a study, or films with or without their patient")
    subject = Subject(named.get("patient"), named.get("study"))
    return named, subject, None if "study" in named else films


class _LocalHit(HitAnswer):
    """A hit with the files of its study, which only who has the collection at hand is told."""

    frontal_path: str | None
    lateral_path: str | None
    other_paths: list[str]


class _LocalAnswer(SearchAnswer):
    """What the service answers, and the files of each hit, relative to the image root."""

    hits: list[_LocalHit]  # type: ignore[assignment]  # a list is read here, not added to


def as_table(answer: Answer) -> Table:
    """Return the hits as a table, with how many studies qualified."""
    scan = "exact" if answer.exact else "approximate"
    caption = f"{len(answer.hits)} of {answer.matched_total:,} studies that qualify ({scan} search)"
    table = Table(caption=caption, box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("rank", "similarity", "study", "views", "sex", "age", "findings"):
        justify: JustifyMethod = "right" if heading in ("rank", "similarity", "age") else "left"
        table.add_column(heading, justify=justify, no_wrap=True)
    by_region = any(hit.place is not None for hit in answer.hits)
    if by_region:
        table.add_column("place", justify="right", no_wrap=True)
        table.add_column("where", no_wrap=True)
    for hit in answer.hits:
        table.add_row(*_cells(hit), *(_place(hit.place) if by_region else ()))
    return table


def _place(place: RegionPlace | None) -> tuple[str, str]:
    """Return how similar a place is, and where it lies in shares of the film."""
    if place is None:
        return "", ""
    return f"{place.similarity:.4f}", ",".join(f"{side:.2f}" for side in place.box)


def _cells(hit: Hit) -> tuple[str, ...]:
    study = hit.study
    age = "" if study.age is None else f"{study.age:.0f}"
    views = "+".join(view[0].upper() for view in study.views)
    return (
        str(hit.rank),
        f"{hit.similarity:.4f}",
        study.study_id,
        views,
        study.sex or "",
        age,
        _findings(study),
    )


def _findings(study: Study) -> str:
    """Return the findings that are present, then the uncertain ones with a question mark."""
    present = [name for name, label in study.findings.items() if label == 1]
    uncertain = [f"{name}?" for name, label in study.findings.items() if label == -1]
    return ", ".join(present + uncertain) or "none named"

"""`precedent search`: the studies most similar to a stored one or to a film.

precedent search index/ --study patient00001/study1 --where 'age>=60' --where 'Pneumonia=1'
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE
from rich.console import JustifyMethod
from rich.table import Table

from encoder.films.image import READING
from index.export.reliability import warning_of
from index.importing.pairing import require_one_patient
from index.opening import Address
from index.search.answer import Answer, Hit, Query, Subject
from index.search.familiarity import Layout
from index.search.searchable import Searchable
from index.table.filters import parse_where
from index.table.studies import Study
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, device_option, opened
from scripts.options.places import Anywhere, Here
from scripts.reports.familiarity import familiarity_line, notices_of
from scripts.terminal import say, say_json, say_warning, show
from service.api.answers import HitAnswer, SearchAnswer

_PATH = Here()


@click.command()
@click.argument("index", type=CollectionAddress())
@click.option("--study", help="A stored study, e.g. patient00001/study1.")
@click.option("--frontal", type=Anywhere(), help="A frontal film (needs --encoder).")
@click.option("--lateral", type=Anywhere(), help="A lateral film (needs --encoder).")
@click.option("--encoder", type=_PATH, help="The encoder file that the index was built with.")
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
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(
    index: Address,
    study: str | None,
    frontal: Path | None,
    lateral: Path | None,
    encoder: Path | None,
    ignored: frozenset[str],
    k: int,
    where: tuple[str, ...],
    patient: str | None,
    same_patient: bool,
    device: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Find the studies in INDEX, a folder or an address, that are most similar to a stored study or to a film.

    \b
    precedent search index/ --study patient00001/study1 -k 5
    precedent search milvus+http://localhost:19530/cases --study patient00001/study1
    precedent search index/ --frontal film.dcm --encoder encoder.safetensors --where 'sex=Female'
    """
    films = frontal is not None or lateral is not None
    if (study is not None) == films:
        raise click.UsageError("give either --study, or --frontal and/or --lateral")
    collection = opened(index, device)
    here, started, trained = collection.now(), time.perf_counter(), None
    query = Query(
        subject=Subject(patient, study),
        k=k,
        where=parse_where(where, here.schema),
        exclude_same_patient=not same_patient,
        **options,
    )
    if films:
        given = {"frontal": frontal, "lateral": lateral}
        vector, layouts, trained = _read(here, given, encoder, ignored)
        query, gate = replace(query, vector=vector), collection.gate()
        answer = here.answer(query).judged(gate, query, layouts)
        answer = replace(answer, film_notices=tuple(notices_of(gate, given, layouts, ignored)))
    else:
        answer = here.answer(query)
    warning = " ".join(filter(None, (warning_of(here.manifest, trained, READING), here.patients_warning))) or None
    answer = replace(answer, warning=warning, took_ms=round(1000 * (time.perf_counter() - started), 2))
    if as_json:
        say_json(_LocalAnswer.of(answer))
        return
    if study is not None:
        say(f"similar to {study}: {_findings(here.study(study))}")
    show(as_table(answer))
    if films:
        say(familiarity_line(answer.familiarity), *answer.film_notices)
    say_warning(warning)


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
    for hit in answer.hits:
        table.add_row(*_cells(hit))
    return table


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


def _read(
    here: Searchable, given: Mapping[str, Path | None], encoder: Path | None, ignored: frozenset[str]
) -> tuple[npt.NDArray[np.float32], list[Layout], bool | None]:
    """Return the embedding (D,) of the films, their layouts, and whether the encoder was trained."""
    require_one_patient(given["frontal"], given["lateral"])
    if encoder is None:
        raise click.UsageError("a film needs --encoder, the encoder file the index was built with")
    from encoder.embedder import Embedder  # a search by stored study needs no torch
    from encoder.films.layout import study_layouts

    embedder = Embedder.load(encoder, runtime="auto", ignored_parts=ignored)
    here.require_fingerprint(embedder.fingerprint)
    films = embedder.read_films(given["frontal"], given["lateral"])
    return embedder.embed([films])[0], study_layouts(films), embedder.trained

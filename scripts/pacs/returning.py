"""What is found in a study, made into the results that return to it: a report, heat maps and similar cases.

highdicom, which makes the files, is imported only here, and only when a result is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from encoder.embedder import Embedder
from encoder.films.body_part import is_elsewhere
from encoder.films.dicom_elements import read_header
from encoder.films.image import READING
from encoder.films.layout import study_layouts
from encoder.findings.predict import Options, predict_embedding
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import DEFAULT_METHOD, VIEWS, Explainer, OpenStudy
from index.export.reliability import warning_of
from index.importing.dicom import import_dicom
from index.importing.pseudonyms import Pseudonyms
from index.importing.source import NothingUsable
from index.living.additions import Writable
from index.search.answer import Answer, Query, Subject
from index.search.reading import Reading, read_findings
from index.storage.places import below
from index.table.labels import Labelling
from index.table.studies import Study
from scripts.pacs.results import KINDS, KOS, SC, SR, Result, ResultError, SourceFilm, plain_text, unquoted

if TYPE_CHECKING:
    from scripts.pacs.rest import Pacs

NO_WAY_BACK = (
    "expected similar cases whose films say which instances of the PACS they are, got pictures or copies under "
    "pseudonyms: from these there is no way back without the crosswalk that their import wrote"
)
WayBack = Callable[[Study], tuple[SourceFilm, ...]]
"""Leads to the headers of a stored study's own films, or to none. Raises ResultError, OSError: nor there."""


@dataclass(frozen=True)
class GivenFilms:
    """The study that is asked about: its films by view, and under which ids an import would know it."""

    films: Mapping[str, Path]
    subject: Subject
    headers: Mapping[str, SourceFilm] = field(default_factory=dict)
    """Of films whose files are pictures, by view."""


class ResultMaker:
    """Makes results with one encoder, for as many studies as come."""

    def __init__(
        self,
        embedder: Embedder,
        probe: LinearProbe | None = None,
        collection: Writable | None = None,
        ways: Sequence[WayBack] = (),
        k: int = 5,
    ) -> None:
        """Take what the results are made with.

        Args:
            probe: what predicts, for SR and SC. collection: where similar cases are looked for, for KOS; with it,
                nothing is called on a study that is unlike all of them.
            ways: back to the films of a stored study; the first that leads there is taken.
            k: similar cases that are pointed at.

        Raises:
            ResultError: highdicom is not installed. EncoderError, FingerprintMismatch: of another encoder.
        """
        try:
            import highdicom  # noqa: F401
        except ModuleNotFoundError:
            raise ResultError(
                "expected highdicom to make results with, it is not installed; run: pip install 'cxr-precedent[pacs]'"
            ) from None
        if probe is not None:
            probe.require_fingerprint(embedder.fingerprint)
        if collection is not None:
            collection.require_fingerprint(embedder.fingerprint)
        self._embedder, self._probe, self._collection = embedder, probe, collection
        self._ways, self._k = tuple(ways), k

    def make(self, given: GivenFilms, kinds: Sequence[str], finding: str | None = None) -> list[Result]:
        """Return the results of those kinds, each a whole DICOM object; a heat map a film.

        Args:
            finding: that the heat maps are of; the most probable, where none is named.

        Raises:
            ResultError: what they need is missing, or there is no way back to any of the similar cases.
            ImageError, EncoderError, CollectionError: as `precedent predict` raises them.
        """
        require_parts(kinds, probe=self._probe is not None, collection=self._collection is not None)
        study = OpenStudy.read(self._embedder, given.films.get("frontal"), given.films.get("lateral"))
        sources = [
            given.headers.get(view) or SourceFilm.read(given.films[view], view) for view in VIEWS if view in given.films
        ]
        if len({film.study_uid for film in sources}) > 1:
            raise ResultError(
                "expected films of one study, got films of two studies; return the results of each study by itself"
            )
        vector = self._embedder.embed([study.films])[0]
        answer = self._answer(Query(vector, given.subject, self._k), study)
        reading = None if self._probe is None else self._read(self._probe, vector, answer)
        made: list[Result] = []
        with unquoted():
            if SR in kinds and reading is not None:
                made.append(Result(SR, _structured_report(sources, reading)))
            if SC in kinds and reading is not None:
                made += self._heat_maps(study, sources, reading, finding)
            if KOS in kinds and answer is not None:
                made.append(self._key_objects(sources, answer))
        return made

    def _answer(self, query: Query, study: OpenStudy) -> Answer | None:
        if self._collection is None:
            return None
        return self._collection.now().answer(query).judged(self._collection.gate(), query, study_layouts(study.films))

    def _read(self, probe: LinearProbe, vector: npt.NDArray[np.float32], answer: Answer | None) -> Reading:
        predictions = predict_embedding(probe, vector)
        schema = None if self._collection is None else self._collection.schema
        labelling, labels = Labelling.of_probe(probe.labels) if answer is not None else (None, None)
        manifest = {} if self._collection is None else self._collection.manifest
        return Reading(
            read_findings([prediction.finding for prediction in predictions], predictions, answer, schema, labelling),
            (self._embedder.fingerprint,),
            Options(),
            labels=labels,
            familiarity=None if answer is None else answer.familiarity,
            warning=warning_of(manifest, self._embedder.trained, READING if manifest else None),
        )

    def _heat_maps(
        self, study: OpenStudy, sources: Sequence[SourceFilm], reading: Reading, finding: str | None
    ) -> Iterator[Result]:
        from scripts.pacs.secondary_capture import HeatMap, secondary_capture

        assert self._probe is not None
        wanted = finding or reading.predictions[0].finding
        maps = Explainer(self._embedder).why_finding(study, self._probe, wanted).maps
        chance = next(prediction.probability for prediction in reading.predictions if prediction.finding == wanted)
        for number, film in enumerate(sources):
            heat = HeatMap(
                study.images[film.view], maps[film.view], wanted, chance or 0.0, DEFAULT_METHOD, reading.fingerprint
            )
            yield Result(SC, secondary_capture(sources, number, heat))

    def _key_objects(self, sources: Sequence[SourceFilm], answer: Answer) -> Result:
        from scripts.pacs.key_objects import Similar, key_objects

        if not answer.hits:
            raise ResultError("expected similar cases to point at, got none: no study of the index qualifies")
        cases = [
            Similar(hit.rank, hit.similarity, films)
            for hit in answer.hits
            if (films := self._films(hit.study)) and films[0].study_uid != sources[0].study_uid
        ]
        if not cases:
            raise ResultError(NO_WAY_BACK)
        lost = len(answer.hits) - len(cases)
        note = f"{lost} of {len(answer.hits)} similar cases left out: there is no way back to them" if lost else None
        return Result(KOS, key_objects(sources, cases, (self._embedder.fingerprint,)), note)

    def _films(self, study: Study) -> tuple[SourceFilm, ...]:
        for way in self._ways:
            try:
                if films := way(study):
                    return films
            except (ResultError, OSError):
                continue
        return ()


def _structured_report(sources: Sequence[SourceFilm], reading: Reading) -> Dataset:
    from scripts.pacs.structured_report import structured_report

    return structured_report(sources, reading)


def require_parts(kinds: Sequence[str], *, probe: bool, collection: bool) -> None:
    """Raise ResultError unless there is a probe where something predicts, and a collection where cases are shown."""
    for kind in kinds:
        if kind not in KINDS:
            raise ResultError(f"expected results of {', '.join(KINDS)}, got {kind!r}")
        if kind in (SR, SC) and not probe:
            raise ResultError(f"expected a probe for {KINDS[kind]}, got none; name it with --probe")
        if kind == KOS and not collection:
            raise ResultError(f"expected an index for {KINDS[kind]}, got none; name it")


def films_below(root: Path | None) -> WayBack:
    """Return the way back to films that lie below a folder as the PACS gave them."""

    def way(study: Study) -> tuple[SourceFilm, ...]:
        if root is None:
            return ()
        paths = {"frontal": study.frontal_path, "lateral": study.lateral_path}
        return tuple(SourceFilm.read(below(root, path), view) for view, path in paths.items() if path is not None)

    return way


def films_in(pacs: "Pacs", origin: Callable[[str], str | None] | None = None) -> WayBack:
    """Return the way back to films that a PACS has.

    Args:
        origin: gives what a pseudonymised study was called before, by its study_id: that of a crosswalk.
    """
    from scripts.pacs.dicomweb import films
    from scripts.pacs.rest import NotThere

    def way(study: Study) -> tuple[SourceFilm, ...]:
        uid = (origin(study.study_id) if origin is not None else None) or study.study_uid
        try:
            return () if uid is None else tuple(map(SourceFilm.in_pacs, films(pacs, uid)))
        except NotThere:  # deleted since it was imported
            return ()

    return way


@contextmanager
def films_of(
    source: Path, ignored_parts: frozenset[str] = frozenset(), pseudonyms: Pseudonyms | None = None
) -> Iterator[GivenFilms]:
    """Yield the films of the one study in a DICOM file or below a folder, chosen as an import chooses them.

    Results that were returned before are left out.

    Args:
        pseudonyms: of the collection that it is compared with, where its ids are pseudonyms.

    Raises:
        ResultError: nothing that can be used, or films of several studies.
    """
    options: dict[str, Any] = {
        "keep_burned_in": True,
        "pseudonyms": pseudonyms,
        "elsewhere": partial(is_elsewhere, ignored=ignored_parts),
    }
    with TemporaryDirectory(prefix="precedent-") as own:
        folder, patient = _linked(source, Path(own)), True
        try:
            try:
                imported = import_dicom(folder, read_header, **options)
            except NothingUsable as refusal:
                if "identity" not in {notice.kind for notice in refusal.notices}:
                    raise
                imported = import_dicom(folder, read_header, ids_from="{patient}/*", **options)
                patient = False  # of nobody known
        except NothingUsable as refusal:
            reasons = "; ".join(f"{notice.sentence}: {notice.count}" for notice in refusal.notices) or "no file"
            raise ResultError(
                f"expected a study of chest films in {str(source)!r}, got none that can be used: {reasons}"
            ) from None
        if len(imported.table) > 1:
            raise ResultError(
                f"expected films of one study in {str(source)!r}, got of {len(imported.table)}; name the folder of one"
            )
        row = imported.table.to_pylist()[0]
        films = {view: folder / path for view in VIEWS if (path := row[f"{view}_path"]) is not None}
        known = Subject(row["patient_id"], row["study_id"]) if patient else Subject()
        yield GivenFilms(films, replace(known, projection=row["projection"], sex=row["sex"], age=row["age"]))


def _linked(source: Path, own: Path) -> Path:
    """Return a folder with a link to each file, for whose names nobody is told; all in one folder below it."""
    folder = own / "films"
    folder.mkdir()
    files = sorted(file for file in source.rglob("*") if file.is_file()) if source.is_dir() else [source]
    for number, file in enumerate(files):
        (folder / f"{number:06d}").symlink_to(file.resolve())
    return own


def parse_kinds(text: str) -> list[str]:
    """Return the kinds that a text such as `sr,sc` names, each once. Raises ResultError."""
    kinds = list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not kinds or set(kinds) - set(KINDS):
        raise ResultError(f"expected some of {','.join(KINDS)}, got {plain_text(text)!r}")
    return kinds

"""What reads films beyond finding their neighbours: probabilities, votes, contrast, maps, and whether they fit in.

It brings torch along, so it is imported only where films are served.
"""

import base64
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import cv2
import numpy as np
import numpy.typing as npt

from encoder.embedder import Embedder
from encoder.films.dicom import reading_notices
from encoder.films.dicom_elements import read_header
from encoder.films.layout import Layout, study_layouts
from encoder.films.mend import MENDS, mended_layouts
from encoder.films.study import StudyFilms
from encoder.films.variants import PLAIN, TEST_TIME
from encoder.findings.predict import Options, Prediction, Predictor, predict_embedding
from encoder.findings.probe import LinearProbe
from encoder.maps.explain import VIEWS, Explainer, Explanation, OpenStudy
from encoder.maps.overlay import as_png
from encoder.maps.region_maps import read_region
from index.built.regions import Region
from index.importing.pairing import SWAPPED
from index.search.answer import Query, Subject
from index.search.contrast import Contrast, contrast
from index.search.familiarity import FamiliarityGate, paired
from index.search.reading import Reading, read_findings
from index.search.searchable import Searchable
from index.table.labels import Labelling, LabelPolicy
from index.table.studies import label_names
from service.errors import EncoderMissing
from service.guard.disclosure import disclosed
from service.served.batching import BatchingEmbedder
from service.served.embedder import Embedder as Embeds
from service.watch.metrics import stage

LONGEST = 1024
"""Longest side of a map in pixels: a map is smooth, and the page lays it over the film at any size."""
Sources = Mapping[str, bytes]
"""The films of a study by view."""


@dataclass(frozen=True)
class Look:
    """A study as it was read: its vector, and the layout of each of its films."""

    vector: npt.NDArray[np.float32]
    """(D,)."""
    layouts: Sequence[Layout] = ()
    """None of a stored study, whose films are not read."""
    notices: Sequence[str] = ()
    """What a reader should know of the films: two of one view, one in the other's place, one read with a note, ..."""
    mends: Sequence["Mend"] = ()


@dataclass(frozen=True)
class Mend:
    """What would set films right."""

    mend: str
    """exchange, or one of `encoder.films.mend.MENDS`."""
    view: str | None
    """Of the film; None of both."""
    sentence: str


@dataclass(frozen=True)
class GivenStudy:
    """One study that is asked about: its films, and its vector where it is stored."""

    sources: Sources
    subject: Subject
    stored: npt.NDArray[np.float32] | None = None
    look: Look | None = None
    """At the films, where they were looked at before."""


@dataclass(frozen=True)
class Network:
    """An encoder whose file is here."""

    embedder: Embedder
    batches: BatchingEmbedder[StudyFilms]
    """Of the films of all requests."""
    explainer: Explainer

    @classmethod
    def of(cls, embedder: Embedder, batches: BatchingEmbedder[StudyFilms]) -> Self:
        """Return the network of an embedder."""
        return cls(embedder, batches, Explainer(embedder))


class Reader:
    """One collection's reader. Safe under threads: nothing in it changes after construction."""

    def __init__(
        self,
        network: "Network | None",
        embeds: Embeds,
        retriever: Searchable,
        gate: FamiliarityGate,
        probe: LinearProbe | None = None,
        ignored_parts: Container[str] = (),
    ) -> None:
        """Read with a network, whose batches all readers share, or where there is none have others embed.

        Raises:
            EncoderError: the probe belongs to another encoder. StudiesError: it does not say how labels were read.
        """
        if probe is not None:
            probe.require_fingerprint(retriever.fingerprint)
        self.probe, self.retriever, self.gate = probe, retriever, gate
        self._network, self._embeds, self._ignored_parts = network, embeds, ignored_parts
        self._labelling = _labelling_of(probe)

    @property
    def explains(self) -> bool:
        """Whether there is a network, without which there are no maps and no averages over versions of films."""
        return self._network is not None

    def require_network(self) -> "Network":
        """Return the network. Raises EncoderMissing."""
        if self._network is None:
            raise EncoderMissing(
                "this service was started without the encoder's file, which heat maps and averages over versions of a "
                "film need"
            )
        return self._network

    def look(self, frontal: bytes | None, lateral: bytes | None) -> Look:
        """Return vector, layouts and notices of the films of one study. Raises ImageError, Busy, ClientGone."""
        given = {view: film for view, film in zip(VIEWS, (frontal, lateral), strict=True) if film is not None}
        if self._network is None:
            return Look(self._embeds.embed_study(frontal, lateral), (), self._notices(given, ()))
        films, vector = self._network.batches.read_and_embed(frontal, lateral)
        layouts = study_layouts(films)
        notices = self._notices(given, layouts)
        mends = [Mend("exchange", None, notice) for notice in notices if notice == SWAPPED]
        for view, layout in zip(given, layouts, strict=True):
            mend = self.gate.best_mend(layout, mended_layouts(getattr(films, view)))
            mends += [Mend(mend, view, _sentence(view, mend))] if mend is not None else []
        return Look(vector, layouts, [*notices, *(mend.sentence for mend in mends if mend.view)], mends)

    def layouts(self, frontal: bytes | None, lateral: bytes | None) -> Sequence[Layout]:
        """Return the layout of each film of a study, the frontal first. Raises ImageError, EncoderMissing."""
        network = self.require_network()
        with network.batches.films.slot():
            return study_layouts(network.embedder.read_films(frontal, lateral))

    def on_film(self, region: Region, film: bytes) -> Region:
        """Return a region on a film, with the film's feature map. Raises ImageError, EncoderMissing, Busy."""
        network = self.require_network()
        with network.batches.films.slot():
            return region.on(*read_region(network.embedder, film, region.view))

    def predict(
        self, query: GivenStudy, *, k: int, tta: bool, passes: int, finding: str | None, mapped: bool = False
    ) -> Reading:
        """Return predictions, votes, familiarity and, for one finding, the contrast.

        Where they are to be mapped, also the maps of the first prediction; that needs a probe and the films.
        """
        look = self._look(query)
        asked, here = Query(look.vector, query.subject, k), self.retriever.now()
        with stage("search"):
            answer = here.answer(asked)
        answer = disclosed(answer).judged(self.gate, asked, look.layouts)
        options = Options(TEST_TIME if tta else (PLAIN,), passes)
        predictions = self._predicted(query, look.vector, options)
        schema, (labelling, labels) = here.schema, self._labelling
        findings = [prediction.finding for prediction in predictions] or label_names(schema)
        read = read_findings(findings, predictions, answer, schema, labelling)
        return Reading(
            read,
            (self.retriever.fingerprint,),
            options,
            notice=None if predictions else "No probe is loaded: only the neighbours vote.",
            labels=labels,
            familiarity=answer.familiarity,
            contrast=_contrasted(here, asked, finding) if finding else None,
            film_notices=tuple(look.notices),
            maps=tuple(_maps("query", self._why(self._open(query), read[0].finding))) if mapped else (),
        )

    def explain(
        self,
        query: GivenStudy,
        hit: GivenStudy | None,
        *,
        finding: str | None,
        method: str,
        stage: int | None,
        trust: bool,
    ) -> dict[str, Any]:
        """Return the maps of a finding, or of the query and a hit. Raises EncoderError."""
        study = self._open(query)
        options: dict[str, Any] = {"method": method, "stage": stage, "trust": trust}
        if hit is None:
            assert finding is not None
            sides = {"query": self._why(study, finding, **options)}
        else:
            pair = self.require_network().explainer.why_similar(study, self._open(hit), **options)
            sides = dict(zip(("query", "hit"), pair, strict=True))
        notices = self._notices(query.sources, study_layouts(study.films)) if query.stored is None else []
        return {
            "method": method,
            "stage": stage,
            "value": sides["query"].value,
            "film_notices": notices,
            "maps": [picture for side, explanation in sides.items() for picture in _maps(side, explanation)],
            "fingerprint": self.retriever.fingerprint,
        }

    def _notices(self, films: Sources, layouts: Sequence[Layout]) -> list[str]:
        """Return what a reader should know of films, each with its layout."""
        gate = self.gate if layouts else None
        return [*paired(gate, films, layouts, read_header), *reading_notices(films, self._ignored_parts)]

    def _why(self, study: OpenStudy, finding: str, **options: Any) -> Explanation:
        assert self.probe is not None
        return self.require_network().explainer.why_finding(study, self.probe, finding, **options)

    def _open(self, query: GivenStudy) -> OpenStudy:
        network = self.require_network()
        frontal, lateral = (query.sources.get(view) for view in VIEWS)
        with network.batches.films.slot():
            return OpenStudy.read(network.embedder, frontal, lateral, query.subject.projection)

    def _look(self, query: GivenStudy) -> Look:
        if query.stored is not None:
            return Look(query.stored)
        if query.look is not None:
            return query.look
        return self.look(query.sources.get("frontal"), query.sources.get("lateral"))

    def _predicted(self, query: GivenStudy, vector: npt.NDArray[np.float32], options: Options) -> Sequence[Prediction]:
        if self.probe is None:
            return []
        if options.variants == (PLAIN,) and not options.passes:
            return predict_embedding(self.probe, vector)
        network = self.require_network()
        predictor = Predictor([(network.embedder, self.probe)])
        with network.batches.films.slot():
            films = predictor.read_films(
                query.sources.get("frontal"), query.sources.get("lateral"), projection=query.subject.projection
            )
        return predictor.predict(films, options)


def _sentence(view: str, mend: str) -> str:
    turns, inverted = MENDS[mend]
    faults = [*(["be turned"] if turns else []), *(["be a negative"] if inverted else [])]
    return f"The {view} film seems to {' and to '.join(faults)}, beside this collection's films."


def _contrasted(collection: Searchable, query: Query, finding: str) -> Contrast:
    with stage("search"):
        return contrast(collection, query, finding)


def _labelling_of(probe: LinearProbe | None) -> tuple[Labelling, str]:
    """Return how the neighbours' labels are read, and that in words."""
    if probe is not None:
        return Labelling.of_probe(probe.labels)
    usual = Labelling(LabelPolicy.named("known-good"))
    return usual, usual.sentence()


def _maps(side: str, explanation: Explanation) -> list[dict[str, Any]]:
    answers = []
    for view, heat in explanation.maps.items():
        factor = min(1.0, LONGEST / max(heat.shape))
        size = (max(1, round(heat.shape[1] * factor)), max(1, round(heat.shape[0] * factor)))
        shown = cv2.resize(heat, size, interpolation=cv2.INTER_AREA) if factor < 1 else heat
        trust = asdict(explanation.trust[view]) if view in explanation.trust else {}
        answers.append(
            {
                "side": side,
                "view": view,
                "width": size[0],
                "height": size[1],
                "png": base64.b64encode(as_png(np.asarray(shown, dtype=np.float32))).decode(),
                **trust,
            }
        )
    return answers

"""The shapes of answers, as the OpenAPI document shows them, and how our values become them.

Pure: no request object, no index and no encoder is touched here.
"""

import math
from collections.abc import Iterable
from typing import Any, Literal

from flask.json.provider import DefaultJSONProvider
from pydantic import BaseModel, Field

from index.search.retriever import Answer, Hit
from index.storage.files import finite
from index.table.studies import CORE_COLUMNS, SHARD_COLUMNS, Study

Plain = str | int | float | bool | None
FILM_NOTICES = "what a reader should know of the films that were sent: two of one view, one read with a note, ..."


class FiniteJSON(DefaultJSONProvider):
    """Answers as JSON, which has no NaN and no infinity: null stands for each."""

    def dumps(self, obj: Any, **options: Any) -> str:
        """Return the text of a value."""
        return super().dumps(finite(obj), allow_nan=False, **options)


class VoteAnswer(BaseModel):
    """The neighbours' vote on a finding."""

    share: float
    low: float
    high: float
    neighbours: int
    effective: float


class EvidenceAnswer(BaseModel):
    """How well the probe tells a finding apart in patients that did not teach it."""

    positives: int = Field(description="studies with it that it was judged on")
    negatives: int
    auroc: float | None
    low: float | None = Field(description="of the 95 % interval")
    high: float | None


class PredictionAnswer(BaseModel):
    """What is said of one finding."""

    finding: str
    probability: float | None = Field(description="calibrated; null without a probe")
    spread: float | None
    call: Literal["ruled in", "possible", "ruled out"] | None = Field(description="null where it cannot be believed")
    no_call: str | None = Field(description="why there is none")
    meaning: str | None = Field(description="what the call says of probability and threshold")
    evidence: EvidenceAnswer | None = Field(description="null without a probe, or of one that does not tell")
    thresholds: dict[str, float] | None
    vote: VoteAnswer | None
    disagrees: bool = Field(description="probe and vote lead to different decisions")


class FamiliarityAnswer(BaseModel):
    """How near the films are to the collection, beside how near its own studies are to each other."""

    percentile: float
    unfamiliar: bool
    sentence: str


class MapAnswer(BaseModel):
    """One map on one film's own geometry, at most 1024 pixels a side."""

    side: Literal["query", "hit"]
    view: Literal["frontal", "lateral"]
    width: int
    height: int
    png: str = Field(description="grey 8-bit PNG in base64; white is where it speaks most for the value")
    deletion: float | None = None
    insertion: float | None = None
    random_deletion: float | None = None
    random_insertion: float | None = None


class PredictAnswer(BaseModel):
    """Predictions, the most probable first."""

    predictions: list[PredictionAnswer]
    notice: str | None
    labels: str
    familiarity: FamiliarityAnswer | None
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    contrast: dict[str, Any] | None
    maps: list[MapAnswer] = Field(description="of the first prediction, where they were asked for")
    fingerprint: str


class ExplainAnswer(BaseModel):
    """The maps, and the logit or cosine that they explain."""

    method: str
    stage: int | None
    value: float
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    maps: list[MapAnswer]
    fingerprint: str


class StudyAnswer(BaseModel):
    """One stored study."""

    study_id: str
    patient_id: str
    views: list[str]
    projection: str | None
    age: float | None
    sex: str | None
    split: str | None
    findings: dict[str, int | None] = Field(description="1 present, 0 absent, -1 uncertain, null not mentioned")
    extra: dict[str, Plain]


class HitAnswer(StudyAnswer):
    """One similar study."""

    rank: int
    similarity: float = Field(description="cosine, higher is nearer")


class SearchAnswer(BaseModel):
    """The similar studies, most similar first."""

    hits: list[HitAnswer]
    matched_total: int = Field(description="studies that passed the filter and the exclusions")
    exact: bool
    fingerprint: str
    took_ms: float
    familiarity: "FamiliarityAnswer | None" = Field(
        None, description="how near the query is to the collection; null where a filter hides what is nearest"
    )
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    warning: str | None = Field(None, description="of the collection, as /info states it")


class EmbeddingAnswer(BaseModel):
    """The vector of the films: health data, for it can identify a patient."""

    embedding: list[float]
    fingerprint: str
    embedding_dim: int


class CollectionAnswer(BaseModel):
    """One mounted collection."""

    name: str
    studies: int
    embedding_dim: int
    kind: str | None = Field(description="of its index")
    consistency: str | None = Field(
        description="on Milvus: session finds changes of other processes within seconds, strong at once"
    )
    recall_at_10: float | None = Field(description="of its index against an exact one, measured when it was built")
    images: bool = Field(description="whether its image root is known, so that films and maps can be answered")
    map: bool
    built_at: str | None
    columns: list[str] = Field(description="what a filter may name: what answers show")
    findings: list[str] = Field(description="the label columns in which any study has a label")
    sexes: list[str]
    projections: list[str]
    encoder_trained: bool | None = Field(
        description="false: its layers above the backbones are random; null: not known"
    )
    warning: str | None = Field(description="why its neighbours are not to be relied on, and what to do; else null")


class InfoAnswer(BaseModel):
    """What is served; the first collection answers where a request names none."""

    name: str
    version: str
    fingerprint: str
    embedding_dim: int
    collections: list[CollectionAnswer]
    limits: dict[str, int]


class LifeAnswer(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class ReadyAnswer(BaseModel):
    """The service can do its work."""

    status: Literal["ready"]
    embed_ms: float
    search_ms: dict[str, float] = Field(description="by collection")
    cosine_to_start: float = Field(description="of the test film's vector to the one it had when the service started")


class ErrorDetail(BaseModel):
    """What was refused and why."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The one body of every refusal."""

    error: ErrorDetail


def _plain(value: Any) -> Plain:
    """JSON knows no NaN and no dates."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def shown_columns(columns: Iterable[str]) -> list[str]:
    """Return those of a collection's columns whose values answers show; the names of a study's files are not."""
    hidden = {*CORE_COLUMNS, *SHARD_COLUMNS}.difference(StudyAnswer.model_fields)
    return [name for name in columns if name not in hidden]


def study_answer(study: Study) -> dict[str, Any]:
    """Return a study as JSON holds it; its paths stay here."""
    return {
        "study_id": study.study_id,
        "patient_id": study.patient_id,
        "views": list(study.views),
        "projection": study.projection,
        "age": _plain(study.age),
        "sex": study.sex,
        "split": study.split,
        "findings": dict(study.findings),
        "extra": {name: _plain(value) for name, value in study.extra.items()},
    }


def hit_answer(hit: Hit) -> dict[str, Any]:
    """Return a hit as JSON holds it."""
    return {"rank": hit.rank, "similarity": hit.similarity, **study_answer(hit.study)}


def search_answer(answer: Answer, fingerprint: str, seconds: float) -> dict[str, Any]:
    """Return a whole answer as JSON holds it."""
    return {
        "hits": [hit_answer(hit) for hit in answer.hits],
        "matched_total": answer.matched_total,
        "exact": answer.exact,
        "fingerprint": fingerprint,
        "took_ms": round(1000 * seconds, 2),
    }

"""The answers as JSON: each model makes its answer of a value and describes it in the OpenAPI document.

The service and the command line answer through the same models.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, AliasGenerator, AliasPath, BaseModel, BeforeValidator, ConfigDict, Field

from index.table.studies import CORE_COLUMNS, SHARD_COLUMNS
from service.viewer import viewer_url

Plain = str | int | float | bool | None
FILM_NOTICES = "what a reader should know of the films that were sent: two of one view, one read with a note, ..."


def _is_there(value: object) -> bool:
    return value is not None


IsThere = Annotated[bool, BeforeValidator(_is_there)]
"""Whether there is one, of what is not answered itself."""

InViewer = Annotated[str | None, BeforeValidator(viewer_url)]
"""Where the hospital's viewer shows the study of that UID."""


MOST_REMOTE_HITS = 100
MOST_PICTURE = 1 << 17
"""Characters of a small picture that another hospital lets out."""
HashedId = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
HexDigits = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Short = Annotated[str, Field(max_length=512)]
Told = Annotated[str, Field(max_length=4096)] | int | float | bool | None


_OF_HIT = frozenset({"rank", "similarity", "place", "site", "ages", "pictures"})


def _of_hit(field: str) -> str | AliasPath:
    """Return where a field of a hit lies: its own, or its study's."""
    return field if field in _OF_HIT else AliasPath("study", field)


class _Answer(BaseModel):
    """An answer that is made from the value of the same name, attribute by attribute."""

    model_config = ConfigDict(from_attributes=True, frozen=True)

    @classmethod
    def of(cls, value: Any) -> dict[str, Any]:
        """Return a value as JSON holds it: what HTTP answers, and what a verb prints."""
        return cls.model_validate(value).model_dump()


class VoteAnswer(_Answer):
    """The neighbours' vote on a finding."""

    share: float
    low: float
    high: float
    neighbours: int
    effective: float


class EvidenceAnswer(_Answer):
    """How well the probe recognises a finding, in patients that it was not trained on."""

    positives: int = Field(description="number of studies with the finding that the probe was tested on")
    negatives: int
    auroc: float | None
    low: float | None = Field(description="one end of the 95 % interval")
    high: float | None


class ThresholdsAnswer(_Answer):
    """The thresholds behind a call, on the probability."""

    youden: float = Field(description="threshold with the largest sum of sensitivity and specificity")
    rule_out: float = Field(description="highest threshold with a sensitivity of at least 0.90")
    rule_in: float = Field(description="lowest threshold with a specificity of at least 0.90")


class PredictionAnswer(_Answer):
    """The prediction for one finding."""

    finding: str
    probability: float | None = Field(description="calibrated probability; null without a probe")
    spread: float | None
    call: Literal["ruled in", "possible", "ruled out"] | None = Field(
        description="one of ruled in, ruled out and possible; null if the probe is not reliable here"
    )
    no_call: str | None = Field(description="why there is no call; else null")
    meaning: str | None = Field(description="the call in words, with probability and threshold")
    evidence: EvidenceAnswer | None = Field(description="null without a probe, or if the probe does not hold them")
    thresholds: ThresholdsAnswer | None
    vote: VoteAnswer | None
    disagrees: bool = Field(description="whether probability and vote contradict each other")


class FamiliarityAnswer(_Answer):
    """How similar the films are to the collection, compared with how similar its own studies are to each other."""

    similarity: float | None = Field(description="cosine to the most similar study of another patient, if searched for")
    percentile: float
    reference: int = Field(description="number of films or studies that the percentile is computed over")
    measure: Literal["layout", "embedding"] = Field(
        description="what is compared: the coarse looks of films, or their vectors"
    )
    unfamiliar: bool
    bar: float = Field(description="the percentile below which a film is unfamiliar")
    sentence: str


class MapAnswer(_Answer):
    """One map on one film's own geometry: over HTTP at most 1024 pixels a side, in `png`; of a verb in its `file`."""

    side: Literal["query", "hit"]
    view: Literal["frontal", "lateral"]
    width: int
    height: int
    png: str | None = Field(
        None, description="over HTTP: a grey 8-bit PNG in base64; white is where it speaks most for the value"
    )
    file: str | None = Field(
        None, description="of `precedent explain` and `predict --maps`: the film with the map over it"
    )
    deletion: float | None = None
    insertion: float | None = None
    random_deletion: float | None = None
    random_insertion: float | None = None


class StudyAnswer(_Answer):
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
    viewer_url: InViewer = Field(
        None,
        validation_alias=AliasChoices("study_uid", AliasPath("study", "study_uid")),  # of a study, or of a hit's
        description="where the hospital's viewer shows it; null without --viewer-url or a StudyInstanceUID",
    )


class StudiesAnswer(_Answer):
    """Some of the stored studies, in the order of their ids."""

    studies: list[StudyAnswer]
    next: str | None = Field(description="cursor of the next page; null at the end")


class CounterpartAnswer(_Answer):
    """The most similar study with, or without, the finding."""

    study: StudyAnswer = Field(validation_alias=AliasPath("hit", "study"))
    similarity: float = Field(validation_alias=AliasPath("hit", "similarity"))
    matched: list[str] = Field(description="which of views, projection, sex and age match those of the query")
    relaxed: list[str] = Field(
        description="facts of the query that could not be matched, in the order they were given up"
    )


class ContrastAnswer(_Answer):
    """The most similar study with a finding and the one without; null where no other patient has one."""

    finding: str
    present: CounterpartAnswer | None
    absent: CounterpartAnswer | None


class OptionsAnswer(_Answer):
    """Which versions of the films were averaged, and how many dropout passes were made."""

    variants: list[str]
    passes: int = Field(description="number of Monte-Carlo dropout passes; 0 for none")
    seed: int = Field(description="seed of the Monte-Carlo dropout")


class PredictAnswer(_Answer):
    """Predictions, the most probable first."""

    predictions: list[PredictionAnswer]
    notice: str | None
    labels: str | None = Field(
        description="how labels of the neighbours were counted; null if no collection was searched"
    )
    familiarity: FamiliarityAnswer | None
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    contrast: ContrastAnswer | None
    maps: list[MapAnswer] = Field(description="heat maps of the first prediction, if asked for")
    fingerprint: str
    fingerprints: list[str] = Field(description="fingerprints of the encoders: one, or several in an ensemble")
    options: OptionsAnswer
    warning: str | None = Field(
        None, description="why results of this encoder and collection are unreliable; else null"
    )


class ExplainAnswer(_Answer):
    """The maps, and the logit of the finding or the cosine to the hit that they explain."""

    method: str
    stage: int | None
    finding: str | None
    hit: str | None = Field(description="id of the stored study; null where a finding is explained")
    value: float
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    maps: list[MapAnswer]
    fingerprint: str
    warning: str | None = Field(
        None, description="why results of this encoder and collection are unreliable; else null"
    )


class IntervalAnswer(_Answer):
    """A share with its 95 % interval."""

    value: float
    low: float
    high: float


class PairShareAnswer(_Answer):
    """How often pairs of one range of similarity share a finding."""

    least: float = Field(description="similarity that the range begins with; it ends where the next begins")
    share: IntervalAnswer
    pairs: int = Field(description="number of pairs that it was measured on")


class PairSharesAnswer(_Answer):
    """What similarities are worth in this collection, on pairs of different patients of which one has a finding."""

    steps: list[PairShareAnswer] = Field(description="from the lowest similarity up")
    chance: float = Field(description="share of any such pairs that has a finding in common")
    above_chance_from: float | None = Field(
        description="similarity from which on pairs share a finding more often than that; null: none do"
    )
    sentence: str


class RegionPlaceAnswer(_Answer):
    """The place of a hit's film that is most like the region searched by."""

    view: Literal["frontal", "lateral"]
    box: tuple[float, float, float, float] = Field(
        description="x0, y0, x1, y1 in shares of the film's width and height, from its upper left corner"
    )
    similarity: float = Field(description="cosine of the two places' features, each less what is usual there")


class HitAnswer(StudyAnswer):
    """One similar study."""

    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_of_hit))

    rank: int
    similarity: float = Field(description="cosine, higher is nearer")
    place: RegionPlaceAnswer | None = Field(None, description="where a region was searched by; it ranks the hits then")
    site: str | None = Field(None, description="of a search across hospitals: whose study it is")
    ages: tuple[int, int | None] | None = Field(
        None, description="years from which and up to which, not included, where another hospital lets out bands"
    )
    pictures: dict[str, str] | None = Field(
        None, description="another hospital's, small JPEGs in base64 by view; null where the films are here"
    )


class SiteOutcomeAnswer(_Answer):
    """What became of the question to one hospital."""

    name: str
    state: Literal["answered", "withheld", "slow", "away", "refused", "unusable", "resting", "not asked", "unknown"]
    reason: str
    hits: int
    matched: int | None = Field(description="studies that passed there, rounded as it lets them out")
    shares_patients: bool = Field(description="whether its patients can be told to be those of other hospitals")
    took_ms: float


class SearchAnswer(_Answer):
    """The similar studies, most similar first."""

    hits: list[HitAnswer]
    matched_total: int = Field(description="number of studies that passed the filter and the exclusions")
    exact: bool
    fingerprint: str
    took_ms: float
    familiarity: "FamiliarityAnswer | None" = Field(
        None, description="how similar the query is to the collection; null if a filter hides the nearest studies"
    )
    film_notices: list[str] = Field(default_factory=list, description=FILM_NOTICES)
    pairs: PairSharesAnswer | None = Field(
        None, description="measured when the index was built; null where it was not, and of a region, a text or sites"
    )
    regions_missing: int = Field(
        0, description="studies that could not be ranked by a region: no such film, or no map of it is kept"
    )
    summary: str | None = Field(
        None, description="labels of the hits, counted in words to be pasted; null without hits, or where not asked for"
    )
    warning: str | None = Field(
        None, description="why results of this encoder and collection are unreliable; else null"
    )
    sites: list[SiteOutcomeAnswer] | None = Field(None, description="of a search across hospitals: each that was asked")


class WorkAnswer(_Answer):
    """Something that is being computed about a query."""

    work: Literal["predict", "explain"]
    state: Literal["waiting", "running"] = Field(description="waiting for its turn, or running")
    passes: int = Field(description="of the network, that are done")


class MendAnswer(_Answer):
    """What would set films right."""

    mend: str = Field(description="exchange of both films, turns clockwise, or inversion")
    view: str | None
    sentence: str


class QueryAnswer(_Answer):
    """A query that is kept, by the id under which it is asked about again."""

    query: str = Field(validation_alias="id")
    collection: str
    study_id: str | None = Field(description="of a stored study; null of films")
    views: list[str] = Field(description="of the films that are kept")
    sex: str | None = Field(validation_alias=AliasPath("facts", "sex"), description="as a DICOM header says; else null")
    age: float | None = Field(validation_alias=AliasPath("facts", "age"), description="years")
    projection: str | None = Field(validation_alias=AliasPath("facts", "projection"))
    mends: list[MendAnswer] = Field(description="what `POST /v1/queries/{id}/mend` can do where films look wrong")
    stored_as: str | None = Field(description="a stored study of the same films; null if none is")
    patient_known: bool = Field(
        description="whether the patient, whose stored studies are left out, was told or stands in a header"
    )
    kept_s: int = Field(description="seconds that it is kept after it was asked about last")
    working: list[WorkAnswer] = Field(description="what is being computed about it at the moment")


class SearchesAnswer(_Answer):
    """The answers to several searches, in their order; one that is refused does not keep others from an answer."""

    answers: list["SearchAnswer | ErrorBody"]


class EmbeddingAnswer(_Answer):
    """The vector of the films: health data, for it can identify a patient."""

    embedding: list[float]
    fingerprint: str
    embedding_dim: int


class RemoteHitAnswer(_Answer):
    """One similar study, as much of it as the policy lets out."""

    rank: int = Field(ge=1)
    similarity: float = Field(ge=-1, le=1, description="cosine, rounded as the policy says")
    study: HashedId | None = Field(description="the study's id as this asker alone knows it")
    patient: HashedId | None = Field(description="the patient's, or that of every hospital with the same key")
    ages: tuple[int, int | None] | None = Field(description="years from which and up to which, not included")
    findings: dict[Short, Literal[1, 0, -1] | None] = Field(max_length=256)
    facts: dict[Short, Told] = Field(max_length=256, description="further columns")
    pictures: dict[Literal["frontal", "lateral"], Annotated[str, Field(max_length=MOST_PICTURE)]] = Field(
        default_factory=dict, description="small JPEGs in base64"
    )


class RemotePolicyAnswer(_Answer):
    """What is let out here, in the words of the policy file."""

    ids: Literal["absent", "hashed"]
    shares_patients: bool = Field(description="whether patients are hashed under a key that hospitals share")
    columns: list[Short] = Field(max_length=512)
    ages: int
    pictures: bool
    decimals: int
    least_patients: int
    most_hits: int
    queries: Literal["vectors", "films", "both"]


class RemoteInfoAnswer(_Answer):
    """What another hospital may search here, and what it is told."""

    fingerprint: HexDigits
    embedding_dim: int = Field(ge=1)
    studies: int = Field(ge=0, description="rounded down as every count is")
    policy: RemotePolicyAnswer
    queries_today: int = Field(ge=0, description="different ones of this token")
    queries_a_day: int


class RemoteAnswer(_Answer):
    """The similar studies that another hospital is told of, most similar first."""

    fingerprint: HexDigits
    exact: bool
    matched: int | None = Field(
        ge=0, description="studies that passed, rounded down; null where too few patients pass, and nothing is let out"
    )
    shares_patients: bool
    hits: list[RemoteHitAnswer] = Field(max_length=MOST_REMOTE_HITS)


class CollectionAnswer(_Answer):
    """One mounted collection."""

    name: str
    studies: int = Field(validation_alias="rows")
    embedding_dim: int = Field(validation_alias=AliasPath("retriever", "embedding_dim"))
    kind: str | None = Field(description="of its index")
    consistency: str | None = Field(
        description="on Milvus: session finds changes of other processes within seconds, strong at once"
    )
    recall_at_10: float | None = Field(description="of its index against an exact one, measured when it was built")
    images: IsThere = Field(
        validation_alias="image_root", description="whether its image root is known, so that films can be answered"
    )
    embeds: bool = Field(description="whether films can be sent; without an encoder they are answered no_encoder")
    texts: list[str] = Field(
        validation_alias="text_names", description="texts that can be searched by, the first thousand"
    )
    map: IsThere
    built_at: str | None
    columns: list[str] = Field(description="what a filter may name: what answers show")
    findings: list[str] = Field(
        validation_alias=AliasPath("choices", "findings"),
        description="the label columns in which any study has a label",
    )
    sexes: list[str] = Field(validation_alias=AliasPath("choices", "sexes"))
    projections: list[str] = Field(validation_alias=AliasPath("choices", "projections"))
    encoder_trained: bool | None = Field(
        validation_alias="trained", description="false: its layers above the backbones are random; null: not known"
    )
    warning: str | None = Field(description="why its results are unreliable, and what to do; else null")


class SiteAnswer(_Answer):
    """Another hospital that is searched here: what became of the last question, and what it says of itself."""

    name: str = Field(validation_alias=AliasPath("last", "name"))
    state: str = Field(validation_alias=AliasPath("last", "state"))
    reason: str = Field(validation_alias=AliasPath("last", "reason"))
    about: RemoteInfoAnswer | None


class SitesAnswer(_Answer):
    """Other hospitals, and the name by which they are searched with the first collection."""

    name: str
    sites: list[SiteAnswer] = Field(validation_alias=AliasPath("sites", "remotes"))


class InfoAnswer(_Answer):
    """What is served; the first collection answers where a request names none."""

    name: str
    version: str
    fingerprint: str
    embedding_dim: int
    collections: list[CollectionAnswer]
    sites: SitesAnswer | None = Field(description="other hospitals that are searched here")
    remote: RemotePolicyAnswer | None = Field(description="what other hospitals are told that search here")
    limits: dict[str, int]


class LifeAnswer(_Answer):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ReadyAnswer(_Answer):
    """The service can do its work."""

    status: Literal["ready"] = "ready"
    embed_ms: float | None = Field(description="null without an encoder")
    search_ms: dict[str, float] = Field(description="by collection")
    cosine_to_start: float | None = Field(
        description="cosine of the test film's vector to the one at the service's start; null without an encoder"
    )


class ActivationAnswer(_Answer):
    """What is served now."""

    name: str
    studies: int = Field(validation_alias="rows")
    fingerprint: str
    built_at: str | None


class CollectionMapAnswer(_Answer):
    """A map as columns, an entry a point."""

    rows: int = Field(description="studies of the map; more than are answered where the map was thinned")
    absent: int = Field(description="studies added or replaced since it was made, which have no place on it yet")
    study_ids: list[str]
    x: list[float]
    y: list[float]
    labels: list[int | None] = Field(description="of the finding: 1 present, 0 absent, -1 uncertain; or empty")
    findings: list[str] = Field(description="what points can be coloured by")
    shares: list[float] = Field(description="of the variance that each axis holds")
    fingerprint: str


class PlaceAnswer(_Answer):
    """A place on the map: two numbers of a vector, which stays here."""

    x: float
    y: float
    fingerprint: str


class ErrorDetail(BaseModel):
    """What was refused and why."""

    code: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


def shown_columns(columns: Iterable[str]) -> list[str]:
    """Return those of a collection's columns whose values answers show; the names of a study's files are not."""
    hidden = {*CORE_COLUMNS, *SHARD_COLUMNS}.difference(StudyAnswer.model_fields)
    return [name for name in columns if name not in hidden]

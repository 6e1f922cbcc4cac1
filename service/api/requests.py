"""The shapes of requests, as the OpenAPI document shows them, and how a body, multipart or JSON, becomes one.

Each refusal is one sentence.
"""

import json
from io import BytesIO
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar

from flask import Request
from pydantic import (
    Base64Bytes,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from werkzeug.exceptions import UnsupportedMediaType

from encoder.films.dicom_elements import read_header
from index.importing.pairing import require_one_patient
from index.table.filters import MAX_CONDITIONS, MAX_VALUES
from index.table.studies import ID_LENGTH
from service.context import call
from service.errors import RequestError
from service.limits import MAX_HITS, MAX_JSON_VALUES, MAX_LISTED, MAX_SEARCHES

VIEWS = ("frontal", "lateral")
MULTIPART = "multipart/form-data"
JSON = "application/json"
MAX_PASSES = 50
"""Most Monte-Carlo dropout passes of one request: a spread of 50 draws is known to a tenth of itself."""

Model = TypeVar("Model", bound=BaseModel)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: no JSON, nested too deeply, or holding NaN, Infinity or half of a surrogate pair; of more values
            than MAX_JSON_VALUES, which is told from its commas and brackets before any is made.
    """
    raw = text if isinstance(text, bytes) else text.encode(errors="surrogatepass")
    if sum(map(raw.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise ValueError(f"more than {MAX_JSON_VALUES:,} values")
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _from_text(what: str) -> BeforeValidator:
    """A form and a URL carry it as text, a JSON body carries it as an object."""

    def parse(value: Any) -> Any:
        try:
            parsed = parse_json(value) if isinstance(value, str) else value
            json.dumps(parsed, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            raise ValueError(f"expected a {what} in JSON, got {error}") from None
        return parsed

    return BeforeValidator(parse)


Filter = Annotated[dict[str, Any], _from_text("filter")]
StudyId = Annotated[str, Field(min_length=1, max_length=ID_LENGTH)]
Finding = Annotated[str, Field(max_length=512)]
Text = Annotated[str, Field(max_length=65_535)]
"""Of a study, in a column of the collection's own: every hit answers it whole. Milvus keeps no longer one."""
OF_QUERY = "id of a query that `POST /v1/queries` answered: its films or its study are asked about, not sent again"
Number = Annotated[FiniteFloat, Field(strict=True)]
"""Neither a text nor true or false: a vector is never carried by a form."""
QueryId = Annotated[str, Field(min_length=1, max_length=64)]
"""Of films or a stored study that were sent to `POST /v1/queries`."""
EXAMPLE = "patient00001/study1"
"""A study of CheXpert and of the demo, so that the document's examples can be tried."""


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"example": fields})


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InCollection(_Request):
    """Which of the served collections is searched."""

    collection: str | None = Field(
        None, max_length=64, description="name of a collection as listed by /info; default: the first"
    )


class SearchOptions(InCollection):
    """How to search, whatever the query is."""

    k: int = Field(10, ge=1, le=MAX_HITS, description="number of hits")
    filter: Filter | None = Field(
        None,
        description='e.g. {"must": [{"key": "sex", "match": {"value": "Female"}}]}; as JSON text in a form. It names '
        f"columns that /info lists, in at most {MAX_CONDITIONS} conditions with {MAX_VALUES:,} values",
    )
    exclude_same_patient: bool = Field(True, description="leave out studies of the query's own patient")
    group_by: Literal["patient"] | None = Field(None, description="one hit a patient, the most similar")
    min_similarity: FiniteFloat | None = Field(None, ge=-1, le=1, description="cosine")
    exact: bool = Field(False, description="whether to compare every vector, even in an approximate index")
    region: str | None = Field(
        None,
        max_length=200,
        description="part of the film to search by: x0,y0,x1,y1 in shares of its width and height from the upper left "
        "corner, such as 0,0.5,0.5,1. Needs a collection with the feature maps of `precedent export --regions`",
    )
    region_view: Literal["frontal", "lateral"] = Field("frontal", description="the film that the region is a part of")


class FilmOptions(SearchOptions):
    """How to search with films or a vector, whose patient only the caller knows."""

    patient_id: StudyId | None = Field(None, description="id of the query's patient, whose stored studies are left out")


class GivenFilms(InCollection):
    """One study as base64, with at least one view."""

    frontal: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")
    lateral: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")

    @model_validator(mode="after")
    def _one_view(self) -> Self:
        if self.frontal is None and self.lateral is None:
            raise ValueError("expected 'frontal', 'lateral' or both, got neither")
        return self


class Search(FilmOptions):
    """A search by exactly one of: a stored study, a query that is kept, a vector, a text, films."""

    model_config = _example(study_id=EXAMPLE, k=5)

    study_id: StudyId | None = None
    query: QueryId | None = Field(None, description=OF_QUERY)
    embedding: list[Number] | None = Field(None, min_length=1, description="unit vector of the encoder")
    text: str | None = Field(
        None,
        min_length=1,
        max_length=ID_LENGTH,
        description="a text that the service has a vector of, or that its remote embedder makes one of; text and film "
        "are matched by a model that was not tested here",
    )
    frontal: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")
    lateral: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        films = self.frontal is not None or self.lateral is not None
        ways = (self.study_id, self.query, self.embedding, self.text)
        if (given := sum(way is not None for way in ways) + films) != 1:
            raise ValueError(f"expected exactly one query (study_id, query, embedding, text, or films), got {given}")
        if self.study_id is not None and self.patient_id is not None:
            raise ValueError(
                "expected patient_id only with films or an embedding; for a stored study its own patient is used"
            )
        return self

    @classmethod
    def of(cls, options: SearchOptions, study_id: str | None = None, query: str | None = None) -> Self:
        """Return the search by a stored study or by a query that is kept, as the options say."""
        given = {name: getattr(options, name) for name in SearchOptions.model_fields}
        return cls.model_construct(study_id=study_id, query=query, **given)


class RemoteSearch(_Request):
    """A search of another hospital, by a vector or by films."""

    model_config = _example(embedding=[1.0, 0.0], k=5)

    embedding: list[Number] | None = Field(None, min_length=1, description="unit vector of the encoder")
    frontal: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")
    lateral: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")
    k: int = Field(10, ge=1, le=MAX_HITS, description="number of hits, of which the policy may let out fewer")
    filter: Filter | None = Field(None, description="over the columns that are let out; ages in whole bands")
    group_by: Literal["patient"] | None = Field(None, description="one hit a patient, the most similar")
    patient: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")] | None = Field(
        None, description="hash of the query's patient under a key that hospitals share; his studies are left out"
    )
    exact: bool = Field(False, description="whether to compare every vector, even in an approximate index")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if (self.embedding is not None) == (self.frontal is not None or self.lateral is not None):
            raise ValueError("expected either an embedding, or frontal and/or lateral")
        return self


class Searches(InCollection):
    """Several searches of one collection, each as a search alone; films in base64."""

    model_config = _example(searches=[{"study_id": EXAMPLE, "k": 5}, {"study_id": "patient00002/study1"}])

    searches: list[Search] = Field(
        min_length=1, max_length=MAX_SEARCHES, description=f"together for at most {MAX_HITS:,} hits"
    )

    @model_validator(mode="after")
    def _of_one_collection(self) -> Self:
        if any(search.collection is not None for search in self.searches):
            raise ValueError("expected the collection beside 'searches', got one in a search")
        if (hits := sum(search.k for search in self.searches)) > MAX_HITS:
            raise ValueError(f"expected k of at most {MAX_HITS:,} in sum, got {hits:,}")
        return self


class NewStudy(_Request):
    """The facts of a study to be added, in the form in which `GET /v1/studies/{study_id}` answers them."""

    study_id: StudyId
    patient_id: StudyId
    projection: str | None = Field(None, max_length=64, description="projection of the frontal film: AP, PA, ...")
    sex: str | None = Field(None, max_length=64)
    age: FiniteFloat | None = Field(None, ge=0, le=150, description="years")
    split: str | None = Field(None, max_length=64)
    findings: dict[str, Literal[1, 0, -1] | None] = Field(default_factory=dict, description="by column")
    extra: dict[str, Text | int | FiniteFloat | None] = Field(
        default_factory=dict, description="further columns of the collection, by name"
    )


class StudyOptions(InCollection):
    """A study to be added, beside its films."""

    study: Annotated[NewStudy, _from_text("study")] = Field(description="as JSON text in a form")
    replace: bool = Field(False, description="whether to replace a stored study with the same id")


class AddStudy(StudyOptions, GivenFilms):
    """A study to be added, with its films."""


class _AboutFilms(InCollection):
    patient_id: StudyId | None = Field(
        None, description="id of the patient on the films, whose stored studies are left out"
    )


class _StudyOrFilms(_AboutFilms):
    """A stored study, or films, of which at least one is there."""

    study_id: StudyId | None = None
    frontal: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")
    lateral: Base64Bytes | None = Field(None, description="JPEG, PNG or DICOM")

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        films = self.frontal is not None or self.lateral is not None
        ways = (self.study_id, getattr(self, "query", None))
        if sum(way is not None for way in ways) + films != 1:
            raise ValueError("expected either study_id, or query, or frontal and/or lateral")
        return self


class _AboutStudy(_StudyOrFilms):
    """A stored study, a query that is kept, or films."""

    query: QueryId | None = Field(None, description=OF_QUERY)


class QueryOptions(_AboutFilms):
    """What is said of films that are to be kept."""

    sort: bool = Field(False, description="whether films change places where their DICOM headers say the other view")


class NewQuery(QueryOptions, _StudyOrFilms):
    """A stored study or films that are to be asked about, by an id."""

    model_config = _example(study_id=EXAMPLE)


class PlaceOptions(_AboutFilms):
    """Whose place on the map is asked for, beside the films."""


class Place(PlaceOptions, _AboutStudy):
    """A stored study, or films, whose position on the map is wanted."""

    model_config = _example(study_id=EXAMPLE)


class PredictOptions(_AboutFilms):
    """What to predict, beside the films."""

    k: int = Field(
        20, ge=1, le=MAX_HITS, description="number of similar studies that the neighbours' vote is taken over"
    )
    tta: bool = Field(False, description="whether to average five versions of the films (test-time augmentation)")
    dropout_passes: int = Field(
        0, ge=0, le=MAX_PASSES, description="number of Monte-Carlo dropout passes, to report a spread; 0, or 2 and more"
    )
    finding: Finding | None = Field(
        None, description="a finding: adds the most similar study with it and the one without it"
    )
    map: bool = Field(False, description="whether to add the heat map of the most probable finding for each film")

    @field_validator("dropout_passes")
    @classmethod
    def _not_one(cls, passes: int) -> int:
        if passes == 1:
            raise ValueError("expected 0 or at least 2 dropout passes, got 1")
        return passes


class Predict(PredictOptions, _AboutStudy):
    """A stored study or films to predict."""

    model_config = _example(study_id=EXAMPLE)


class ExplainOptions(_AboutFilms):
    """What to explain in the films: a finding of the probe, or the similarity to a stored study."""

    finding: Finding | None = None
    hit: StudyId | None = Field(None, description="a stored study")
    method: Literal["gradcam", "gradcam++", "layercam", "integrated_gradients", "gradient_shap"] = "gradcam++"
    stage: int | None = Field(
        None,
        ge=0,
        le=4,
        description="stage of the network to use, 0 for half the input's resolution; default: the last",
    )
    trust: bool = Field(True, description="whether to compute deletion and insertion scores, and those of a random map")

    @model_validator(mode="after")
    def _one_aim(self) -> Self:
        if (self.finding is None) == (self.hit is None):
            raise ValueError("expected either a finding or a hit to explain")
        return self


class Explain(ExplainOptions, _AboutStudy):
    """A stored study or films to explain."""

    model_config = _example(study_id=EXAMPLE, hit="patient00002/study1")


class StudyPath(BaseModel):
    """The slash of a study id may stand as it is or as %2F."""

    study_id: StudyId = Field(json_schema_extra={"example": EXAMPLE})


class StudiesQuery(InCollection):
    """Which stored studies are listed."""

    prefix: str = Field(
        "",
        max_length=ID_LENGTH,
        description="what the id, the patient's id or a text in a column begins with; or the name of a finding that is "
        "present",
    )
    cursor: str = Field("", max_length=ID_LENGTH, description="the answer's `next`, to go on behind it")
    limit: int = Field(20, ge=1, le=MAX_LISTED)


class QueryPath(BaseModel):
    """A query that is kept."""

    query_id: QueryId


class MendRequest(_Request):
    """What sets the films of a query right, as its answer names it in `mends`."""

    model_config = _example(mend="invert", view="frontal")

    mend: Literal[
        "exchange", "turn90", "turn180", "turn270", "invert", "invert-turn90", "invert-turn180", "invert-turn270"
    ]
    view: Literal["frontal", "lateral"] | None = Field(None, description="of the film; not of an exchange")


class ImageQuery(InCollection):
    """Which film of a study."""

    view: Literal["frontal", "lateral"] = "frontal"


class FilmQuery(ImageQuery):
    """Which film of a study, and at which depth."""

    depth: Literal["8", "own"] = Field(
        "8",
        description="own: the stored values, without loss and in their own 8 or 16 bits, with presets and spacing "
        "of the header as deflated JSON in a chunk viEw of the PNG",
    )


class QueryImage(_Request):
    """Which film of a query, at which depth, and how large."""

    view: Literal["frontal", "lateral"] = "frontal"
    depth: Literal["8", "own"] = Field("8", description="as of a stored study's film")
    small: bool = Field(False, description="whether to get a JPEG of at most 640 pixels a side in place of a PNG")


class InMemory(Request):
    """A request whose files are kept in memory, where they are read from in any case; none is written out here."""

    def _get_file_stream(self, *_: Any, **__: Any) -> BytesIO:
        return BytesIO()


def parse_search(request: Request) -> Search:
    """Return the search that a multipart or JSON body asks for.

    Raises:
        RequestError: a body that breaks the syntax.
        UnsupportedMediaType: a body that is neither multipart nor JSON.
        MixedPatients: its films are of two patients.
    """
    if request.mimetype != MULTIPART:
        return _of_one_patient(_parse(Search, _json_object(request)))
    options = _parse(FilmOptions, _fields(request))
    return _of_one_patient(Search.model_construct(**options.model_dump(), **_films(request)))


def parse_searches(request: Request) -> Searches:
    """Return the searches that a JSON body asks for; errors as `parse_search`, but for films of two patients."""
    return _parse(Searches, _json_object(request))


def parse_remote(request: Request) -> RemoteSearch:
    """Return the search that another hospital asks for; errors as `parse_search`."""
    asked = _of_one_patient(_parse(RemoteSearch, _json_object(request)))
    call.fields = {}  # of which the audit log would look for studies that are named
    return asked


def parse_query(request: Request, form: type[BaseModel], whole: type[Model]) -> Model:
    """Return a question about a stored study or films; `form` holds the fields beside the files of a multipart body.

    Errors as `parse_search`.
    """
    if request.mimetype != MULTIPART:
        return _of_one_patient(_parse(whole, _json_object(request)))
    fields = _fields(request)
    films = {} if {"study_id", "query"}.intersection(fields) else _films(request)
    if not films:
        return _parse(whole, fields)
    return _of_one_patient(whole.model_construct(**_parse(form, fields).model_dump(), **films))


def parse_films(request: Request) -> GivenFilms:
    """Return the films of a multipart or JSON body; errors as `parse_search`."""
    if request.mimetype != MULTIPART:
        return _of_one_patient(_parse(GivenFilms, _json_object(request)))
    options = _parse(InCollection, _fields(request))
    return _of_one_patient(GivenFilms.model_construct(**options.model_dump(), **_films(request)))


def parse_addition(request: Request) -> AddStudy:
    """Return the study that a multipart or JSON body wants added, with its films; errors as `parse_search`."""
    if request.mimetype != MULTIPART:
        asked = _parse(AddStudy, _json_object(request))
    else:
        options = _parse(StudyOptions, _fields(request))
        asked = AddStudy.model_construct(**dict(options), **_films(request))
    call.fields = {"collection": asked.collection, "study_id": asked.study.study_id}
    return _of_one_patient(asked)


def refuse_validation(error: ValidationError) -> NoReturn:
    """Raise the first finding of pydantic as one sentence."""
    raise RequestError(_sentence(error.errors(include_url=False)[0])) from None


def _of_one_patient(asked: Model) -> Model:
    """Return a request whose films are of one patient, as far as their headers say. Raises MixedPatients."""
    require_one_patient(getattr(asked, "frontal", None), getattr(asked, "lateral", None), read_header)
    return asked


def _parse(model: type[Model], value: Any) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        refuse_validation(error)


def _sentence(finding: ErrorDetails) -> str:
    """Turn pydantic's finding into: field, expected, got."""
    place = ".".join(str(part) for part in finding["loc"])
    prefix = f"{place}: " if place else ""
    if finding["type"] == "extra_forbidden":
        return f"{prefix}expected a field of this request, got an unknown name"
    text = finding["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    if finding["type"] == "value_error":
        return prefix + text
    return f"{prefix}{text[:1].lower()}{text[1:]}, got {_shortened(finding['input'])}"


def _shortened(value: Any) -> str:
    if isinstance(value, bytes | list | dict):
        return f"{type(value).__name__} of length {len(value)}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else text[:57] + "..."


def _require_plain(request: Request) -> None:
    """Refuse a compressed body by its header: nothing here inflates what was sent."""
    if encoding := request.headers.get("Content-Encoding", "").strip():
        raise UnsupportedMediaType(f"expected a body without compression, got Content-Encoding {_shortened(encoding)}")


def _json_object(request: Request) -> Any:
    _require_plain(request)
    if request.mimetype != JSON:
        raise UnsupportedMediaType(f"expected {MULTIPART} or {JSON}, got {request.mimetype or 'no content type'}")
    try:
        value = parse_json(request.get_data())
    except ValueError as error:
        raise RequestError(f"expected a JSON object, got text that is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"expected a JSON object, got {_shortened(value)}")
    call.fields = value  # the audit log names the studies that were asked about
    return value


def _fields(request: Request) -> dict[str, str]:
    """A browser sends an empty text where nothing was entered."""
    _require_plain(request)
    for view in VIEWS:
        if view in request.form:
            raise RequestError(f"{view}: expected a file part, got a text field; in curl: -F {view}=@film.png")
    given = {name: value for name, value in request.form.items() if value != ""}
    call.fields = dict(given)
    return given


def _films(request: Request) -> dict[str, Any]:
    """Return the bytes of each view; a part without a file name is a file input left empty."""
    films: dict[str, Any] = dict.fromkeys(VIEWS)
    for name, parts in request.files.lists():
        chosen = [part for part in parts if part.filename]
        if name not in VIEWS or len(chosen) > 1:
            raise RequestError(f"{name}: expected one file 'frontal' and one 'lateral', got {len(parts)} {name!r}")
        if chosen:
            films[name] = chosen[0].read()
    if not any(film is not None for film in films.values()):
        raise RequestError("expected a file 'frontal', 'lateral' or both, got neither")
    return films

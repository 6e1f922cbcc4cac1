"""A request's body, multipart or JSON, as the models of `service.api.requests`; each refusal is one sentence."""

from io import BytesIO
from typing import Any, NoReturn, TypeVar

from flask import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from werkzeug.exceptions import UnsupportedMediaType

from index.importing.pairing import require_one_patient
from service.api.requests import AddStudy, FilmOptions, Films, InCollection, Search, StudyOptions, parse_json
from service.context import call
from service.errors import RequestError

VIEWS = ("frontal", "lateral")
MULTIPART = "multipart/form-data"
JSON = "application/json"

Model = TypeVar("Model", bound=BaseModel)


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


def parse_query(request: Request, form: type[BaseModel], whole: type[Model]) -> Model:
    """Return a question about a stored study or films; `form` holds the fields beside the files of a multipart body.

    Errors as `parse_search`.
    """
    if request.mimetype != MULTIPART:
        return _of_one_patient(_parse(whole, _json_object(request)))
    fields = _fields(request)
    films = {} if "study_id" in fields else _films(request)
    if not films:
        return _parse(whole, fields)
    return _of_one_patient(whole.model_construct(**_parse(form, fields).model_dump(), **films))


def parse_films(request: Request) -> Films:
    """Return the films of a multipart or JSON body; errors as `parse_search`."""
    if request.mimetype != MULTIPART:
        return _of_one_patient(_parse(Films, _json_object(request)))
    options = _parse(InCollection, _fields(request))
    return _of_one_patient(Films.model_construct(**options.model_dump(), **_films(request)))


def parse_addition(request: Request) -> AddStudy:
    """Return the study that a multipart or JSON body wants added, with its films; errors as `parse_search`."""
    if request.mimetype != MULTIPART:
        asked = _parse(AddStudy, _json_object(request))
    else:
        options = _parse(StudyOptions, _fields(request))
        asked = AddStudy.model_construct(**dict(options), **_films(request))
    call().fields = {"collection": asked.collection, "study_id": asked.study.study_id}
    return _of_one_patient(asked)


def refuse_validation(error: ValidationError) -> NoReturn:
    """Raise the first finding of pydantic as one sentence."""
    raise RequestError(_sentence(error.errors(include_url=False)[0])) from None


def _of_one_patient(asked: Model) -> Model:
    """Return a request whose films are of one patient, as far as their headers say. Raises MixedPatients."""
    require_one_patient(getattr(asked, "frontal", None), getattr(asked, "lateral", None))
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
        raise UnsupportedMediaType(f"expected a body as it is, got one in Content-Encoding {_shortened(encoding)}")


def _json_object(request: Request) -> Any:
    _require_plain(request)
    if request.mimetype != JSON:
        raise UnsupportedMediaType(f"expected {MULTIPART} or {JSON}, got {request.mimetype or 'no content type'}")
    try:
        value = parse_json(request.get_data())
    except ValueError as error:
        raise RequestError(f"expected a JSON object, got text that cannot be read as one: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"expected a JSON object, got {_shortened(value)}")
    call().fields = value  # the audit log names the studies that were asked about
    return value


def _fields(request: Request) -> dict[str, str]:
    """A browser sends an empty text where nothing was entered."""
    _require_plain(request)
    for view in VIEWS:
        if view in request.form:
            raise RequestError(f"{view}: expected a file part, got a text field; in curl: -F {view}=@film.png")
    given = {name: value for name, value in request.form.items() if value != ""}
    call().fields = dict(given)
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

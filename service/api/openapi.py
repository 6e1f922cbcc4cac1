"""Pieces of the OpenAPI document that no model can say alone: two body forms of one route, refusals.

It describes requests and must not read one.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from flask.json.provider import DefaultJSONProvider
from flask_openapi3 import APIBlueprint, Tag
from flask_openapi3.models.path_item import PathItem
from pydantic import BaseModel

from index.storage.files import finite
from service.api.answers import ErrorBody

SEARCH = Tag(name="search", description="Similar cases of films, of a vector, of a stored study")
STUDIES = Tag(name="studies", description="The stored studies and their films")
SERVICE = Tag(name="service", description="State of the service, and its pages")

_FILM = {"type": "string", "format": "binary", "description": "JPEG, PNG or DICOM"}


class FiniteJSON(DefaultJSONProvider):
    """Answers as JSON, which has no NaN and no infinity: null stands for each."""

    def dumps(self, obj: Any, **options: Any) -> str:
        """Return the text of a value."""
        try:
            return super().dumps(obj, allow_nan=False, **options)
        except ValueError:  # a number that is not finite, which is rare
            return super().dumps(finite(obj), allow_nan=False, **options)


def refusals(*statuses: int) -> dict[str | int, Any]:
    """Return the response entries of the given statuses, each with the one error body."""
    return dict.fromkeys(statuses, ErrorBody)


def pages(*statuses: int) -> dict[str | int, Any]:
    """Return the response entries of a page that says what is wrong; only what is no request for it is JSON."""
    described = content("text/html")["content"] | {
        "application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
    }
    return {status: {"content": described} for status in statuses}


def every_path(rooms: Iterable[APIBlueprint]) -> dict[str, PathItem]:
    """Return the operations of all rooms by path; left alone, a room's would replace another's of the same path."""
    paths: dict[str, PathItem] = {}
    for room in rooms:
        for path, item in room.paths.items():
            own = {method: getattr(item, method) for method in item.model_fields_set}
            paths[path] = paths.get(path, PathItem()).model_copy(update=own)
    return paths


def content(*mimetypes: str) -> dict[str, Any]:
    """Return a response entry that is no JSON model."""
    kinds = {
        name: {"type": "string", **({} if name.startswith("text/") else {"format": "binary"})} for name in mimetypes
    }
    return {"content": {name: {"schema": schema} for name, schema in kinds.items()}}


def form_body(form: type[BaseModel]) -> dict[str, Any]:
    """Return an operation's requestBody: a form, in the encoding that a page sends or as multipart."""
    schema = {"schema": form.model_json_schema()}
    media = dict.fromkeys(("application/x-www-form-urlencoded", "multipart/form-data"), schema)
    return {"requestBody": {"required": True, "content": media}}


def with_scopes(document: dict[str, Any], scopes: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a document that says which scope of a bearer token each operation asks for, and how it is refused.

    Args:
        scopes: of "GET /path"; None is open.
    """
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}}
    sentences = {"401": "No valid token", "403": "The token lacks the scope", "429": "Too many requests with the token"}
    refused = {status: {"description": sentence, **error} for status, sentence in sentences.items()}
    paths = {
        path: {
            method: operation
            if (scope := scopes[f"{method.upper()} {path}"]) is None
            else operation | {"security": [{"bearer": [scope]}], "responses": refused | operation["responses"]}
            for method, operation in operations.items()
        }
        for path, operations in document["paths"].items()
    }
    schemes = {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}}
    return document | {"paths": paths, "components": document["components"] | schemes}


def json_body(body: type[BaseModel]) -> dict[str, Any]:
    """Return an operation's requestBody: `body` as JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": _schema(body)}}}}


def film_body(form: type[BaseModel] | None = None, body: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return an operation's requestBody: files and the fields of `form` as multipart, `body` as JSON."""
    fields = _schema(form) if form else {"properties": {}}
    multipart = {**fields, "type": "object", "properties": {"frontal": _FILM, "lateral": _FILM, **fields["properties"]}}
    media: dict[str, Any] = {"multipart/form-data": {"schema": multipart}}
    if body:
        media["application/json"] = {"schema": _schema(body)}
    return {"requestBody": {"required": True, "content": media}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a model, those of models in it set in: the document has no place for them."""
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})

    def whole(field: Any) -> Any:
        if isinstance(field, list):
            return [whole(item) for item in field]
        if not isinstance(field, dict):
            return field
        own = {name: whole(value) for name, value in field.items() if name != "$ref"}
        return whole(inner[field["$ref"].rsplit("/", 1)[-1]]) | own if "$ref" in field else own

    inlined: dict[str, Any] = whole(schema)
    return inlined

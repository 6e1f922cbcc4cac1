"""Pieces of the OpenAPI document that no model can say alone: two body forms of one route, refusals.

It describes requests and must not read one.
"""

from typing import Any

from flask_openapi3 import Tag
from pydantic import BaseModel

from service.answers import ErrorBody

SEARCH = Tag(name="search", description="Similar cases of films, of a vector, of a stored study")
STUDIES = Tag(name="studies", description="The stored studies and their films")
SERVICE = Tag(name="service", description="State of the service, and its pages")

_FILM = {"type": "string", "format": "binary", "description": "JPEG, PNG or DICOM"}


def refusals(*statuses: int) -> dict[str | int, Any]:
    """Return the response entries of the given statuses, each with the one error body."""
    return dict.fromkeys(statuses, ErrorBody)


def content(*mimetypes: str) -> dict[str, Any]:
    """Return a response entry that is no JSON model."""
    kinds = {
        name: {"type": "string", **({} if name.startswith("text/") else {"format": "binary"})} for name in mimetypes
    }
    return {"content": {name: {"schema": schema} for name, schema in kinds.items()}}


def film_body(form: type[BaseModel] | None = None, body: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return an operation's requestBody: files and the fields of `form` as multipart, `body` as JSON."""
    fields = form.model_json_schema()["properties"] if form else {}
    multipart = {"type": "object", "properties": {"frontal": _FILM, "lateral": _FILM, **fields}}
    media: dict[str, Any] = {"multipart/form-data": {"schema": multipart}}
    if body:
        media["application/json"] = {"schema": body.model_json_schema()}
    return {"requestBody": {"required": True, "content": media}}

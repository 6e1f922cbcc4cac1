"""The page's own scripts and style sheets: compressed, and kept by a browser until they are others."""

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from werkzeug.exceptions import NotFound

YEAR = 365 * 24 * 3600
_KINDS = {".js": "text/javascript", ".svg": "image/svg+xml"}
"""Which a machine's own table may name otherwise."""


@dataclass(frozen=True)
class StaticFiles:
    """All of them, in memory: a hundred kilobytes, the same for everybody."""

    version: str
    """Stands in their addresses, so that scripts which import each other are all of one version."""
    contents: dict[str, bytes]
    compressed: dict[str, bytes]

    @classmethod
    def of(cls, folder: Path) -> "StaticFiles":
        """Return the files below a folder."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        digest = hashlib.sha256()
        for name, content in contents.items():
            digest.update(f"{name}\0{len(content)}\0".encode() + content)
        compressed = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
        return cls(digest.hexdigest()[:16], contents, compressed)

    def send(self, filename: str) -> Response:
        """Return a file by its name, behind the version or without: then a browser asks each time whether it is new.

        Raises:
            NotFound: no such file, or one of another version.
        """
        version, _, name = filename.partition("/")
        kept = version == self.version
        name = name if kept else filename
        if name not in self.contents:
            raise NotFound
        packed = request.accept_encodings["gzip"] > 0
        kind = _KINDS.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
        response = Response((self.compressed if packed else self.contents)[name], mimetype=kind)
        if packed:
            response.content_encoding = "gzip"
        response.vary.add("Accept-Encoding")
        response.set_etag(f"{self.version}-{'gzip' if packed else 'plain'}")
        response.cache_control.public = True
        if kept:
            response.cache_control.max_age, response.cache_control.immutable = YEAR, True
        else:
            response.cache_control.no_cache = True
        response.make_conditional(request)
        return response


@cache
def _own() -> StaticFiles:
    return StaticFiles.of(Path(str(files("service") / "static")))


def register(app: Flask) -> None:
    """Have an application's static files be sent from here, and its addresses of them name their version."""
    own = _own()
    app.view_functions["static"] = own.send

    @app.url_defaults
    def _versioned(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["filename"] = f"{own.version}/{values['filename']}"

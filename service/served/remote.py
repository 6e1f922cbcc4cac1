"""An encoder behind an address, asked over HTTP: it is sent the pixels of a film, and its answers are untrusted.

It is the only machine that films are ever sent to, and each film is sent once: what fails is told and not tried again.
"""

import base64
import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol
from urllib.parse import SplitResult

import numpy as np
import numpy.typing as npt

from encoder.films.image import read_image
from index.errors import FingerprintMismatch, VectorsError
from index.importing.imported_vectors import Source
from index.importing.vector_files import MOST_DIM
from index.search.answer import Query
from index.search.searchable import Searchable
from index.table.studies import Study
from service.api.requests import parse_json
from service.errors import EmbedderUnavailable, MountError
from service.served.concurrency import ConcurrencyLimit
from service.served.decoding import Decoding
from service.served.outbound import ask, parse_address
from service.served.pictures import as_png, drawn_film
from service.watch.metrics import Metrics

SECONDS = 30.0
"""That one question may take, from the connection to the last byte of the answer."""
MOST_ANSWER = 1 << 20
"""Bytes of an answer: 4,096 numbers as text take a tenth of that."""
LEAST_COSINE = 0.999
"""Of a stored study's vector to the one that the remote encoder makes of its films now."""
_CANDIDATES = 64
"""Stored studies among which one is looked for whose films are at hand."""

Vector = npt.NDArray[np.float32]


class ParsedAnswer(NamedTuple):
    """What a server has answered: a vector, and which encoder made it."""

    embedding: Any
    source: Source | None
    fingerprint: str | None = None


class Shape(Protocol):
    """How servers of one kind are asked, and how they answer. What does not fit raises LookupError or TypeError."""

    about: str | None
    """The path of what a server says of itself, where its answers do not say it."""

    def film(self, png: bytes) -> tuple[bytes, str]:
        """Return body and content type of the question for a film's vector."""

    def text(self, words: str) -> tuple[bytes, str]:
        """Return those for a text's."""

    def parsed(self, answer: Any, about: Any) -> ParsedAnswer:
        """Return what an answer says, beside what the server says of itself."""


def _json(value: Any) -> tuple[bytes, str]:
    return json.dumps(value).encode(), "application/json"


class Own:
    """Our contract: a PNG, or {"text"}, is answered by {"embedding", "model", "fingerprint"}, the last if any."""

    about: str | None = None

    def film(self, png: bytes) -> tuple[bytes, str]:
        """Return the picture itself."""
        return png, "image/png"

    def text(self, words: str) -> tuple[bytes, str]:
        """Return the words by name."""
        return _json({"text": words})

    def parsed(self, answer: Any, about: Any) -> ParsedAnswer:
        """Return the three members."""
        fingerprint = answer.get("fingerprint")
        return ParsedAnswer(
            answer["embedding"], Source.parse(answer["model"]) if not fingerprint else None, fingerprint
        )


class Tei:
    """Hugging Face's text-embeddings-inference, POST /embed: {"inputs": [...]} is answered by a list of vectors."""

    about: str | None = "/info"

    def film(self, png: bytes) -> tuple[bytes, str]:
        """Return the picture as a data: URL."""
        return _json({"inputs": ["data:image/png;base64," + base64.b64encode(png).decode()]})

    def text(self, words: str) -> tuple[bytes, str]:
        """Return the words as they are."""
        return _json({"inputs": [words]})

    def parsed(self, answer: Any, about: Any) -> ParsedAnswer:
        """Return the only vector, of the model that /info names."""
        [embedding] = answer
        return ParsedAnswer(embedding, Source(about["model_id"], about.get("model_sha") or ""))


class KServe:
    """KServe's and Triton's v2 protocol, POST /v2/models/MODEL/infer: one tensor of bytes in, one of numbers out."""

    about: str | None = None

    def film(self, png: bytes) -> tuple[bytes, str]:
        """Return the picture in base64, as the protocol has bytes in JSON."""
        return self._tensor("image", base64.b64encode(png).decode())

    def text(self, words: str) -> tuple[bytes, str]:
        """Return the words as bytes."""
        return self._tensor("text", words)

    def parsed(self, answer: Any, about: Any) -> ParsedAnswer:
        """Return the first output, of the model and version that the answer names."""
        return ParsedAnswer(
            answer["outputs"][0]["data"], Source(answer["model_name"], answer.get("model_version") or "")
        )

    def _tensor(self, name: str, value: str) -> tuple[bytes, str]:
        return _json({"inputs": [{"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}]})


class Vertex:
    """Vertex AI's prediction, POST .../endpoints/ID:predict: {"instances"} is answered by {"predictions"}."""

    about: str | None = None

    def film(self, png: bytes) -> tuple[bytes, str]:
        """Return the picture in base64."""
        return _json({"instances": [{"image": {"bytesBase64Encoded": base64.b64encode(png).decode()}}]})

    def text(self, words: str) -> tuple[bytes, str]:
        """Return the words by name."""
        return _json({"instances": [{"text": words}]})

    def parsed(self, answer: Any, about: Any) -> ParsedAnswer:
        """Return the vector under any of the names that models give it, of the model that the answer names."""
        prediction = answer["predictions"][0]
        names = [name for name in ("embedding", "imageEmbedding", "textEmbedding") if name in prediction]
        model = answer.get("model") or answer["deployedModelId"]
        return ParsedAnswer(prediction[names[0]], Source(model, answer.get("modelVersionId") or ""))


SHAPES: dict[str, Callable[[], Shape]] = {"own": Own, "tei": Tei, "kserve": KServe, "vertex": Vertex}


@dataclass(frozen=True)
class Address:
    """Where a remote encoder is asked, in which shape, and by which token."""

    url: SplitResult
    shape: Shape
    token: str = ""

    @classmethod
    def parse(cls, text: str, shape: str = "own", token: str = "") -> "Address":
        """Return the address that a text names. Raises MountError."""
        if shape not in SHAPES:
            raise MountError(f"expected a kind of embedder of {', '.join(SHAPES)}, got {shape!r}")
        url = parse_address(text, "films of patients", "a token is taken from PRECEDENT_EMBEDDER_TOKEN")
        return cls(url, SHAPES[shape](), token)

    def ask(self, path: str, body: bytes | None, content_type: str) -> Any:
        """Return the JSON that one question is answered by. Raises EmbedderUnavailable."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            reply = ask(self.url, path, body, headers, seconds=SECONDS, most_bytes=MOST_ANSWER)
            if reply.status != 200 or len(reply.content) > MOST_ANSWER:
                raise EmbedderUnavailable(
                    f"expected 200 and at most {MOST_ANSWER:,} bytes from the remote embedder, got {reply.status} "
                    f"and {len(reply.content):,}"
                )
            return parse_json(reply.content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise EmbedderUnavailable(f"the remote embedder did not answer ({type(error).__name__})") from error


class RemoteEmbedder:
    """An encoder behind an address. It is a `service.served.embedder.Embedder`, and safe under threads."""

    def __init__(self, address: Address, films: Decoding, metrics: Metrics, places: int) -> None:
        """Ask once, with a drawn film, which encoder it is.

        Args:
            films: where they are decoded. places: studies that may be on their way at a time.

        Raises:
            EmbedderUnavailable: it does not answer, or not in its shape.
        """
        self._address, self._films, self._metrics = address, films, metrics
        self._places = ConcurrencyLimit("studies to embed", places)
        about = address.shape.about
        self._about = None if about is None else address.ask(about, None, "application/json")
        vector, parsed = self._vector(*address.shape.film(drawn_film()))
        self.embedding_dim = len(vector)
        self.fingerprint = self._fingerprint_of(parsed, self.embedding_dim)

    def embed_study(self, frontal: bytes | None, lateral: bytes | None, projection: str | None = None) -> Vector:
        """Return the (D,) unit vector of one study: the mean direction of its films'.

        Raises:
            ImageError: a view that is not usable. Busy: too many are asked about. EmbedderUnavailable.
        """
        given = {view: film for view, film in (("frontal", frontal), ("lateral", lateral)) if film is not None}
        with self._places, self._metrics.uploads.track_inprogress():
            with self._films.slot(), self._metrics.stage("decode"):
                pictures = [self._picture(film, view) for view, film in given.items()]
            with self._metrics.stage("encode"):
                vectors = [self._known(*self._address.shape.film(picture)) for picture in pictures]
        return _unit(np.sum(vectors, axis=0))

    def embed_text(self, words: str) -> Vector:
        """Return the (D,) unit vector of a text, as the same model has it. Raises EmbedderUnavailable, Busy."""
        with self._places:
            return self._known(*self._address.shape.text(words))

    def _picture(self, film: bytes, view: str) -> bytes:
        """Return a film as a grey PNG of 8 bits, bone bright, of its own size: nothing of its file but the pixels."""
        return as_png(read_image(film, name=view, ignored_parts=self._films.ignored_parts))

    def _known(self, body: bytes, content_type: str) -> Vector:
        """Return a vector, of the encoder that it was at the start."""
        vector, parsed = self._vector(body, content_type)
        if len(vector) != self.embedding_dim or self._fingerprint_of(parsed, len(vector)) != self.fingerprint:
            raise EmbedderUnavailable("the remote embedder is another than at the start; restart the service")
        return vector

    def _vector(self, body: bytes, content_type: str) -> tuple[Vector, ParsedAnswer]:
        answer = self._address.ask(self._address.url.path or "/", body, content_type)
        try:
            parsed = self._address.shape.parsed(answer, self._about)
            return _unit(_numbers(parsed.embedding)), parsed
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise EmbedderUnavailable(
                f"expected a vector and the name of its model from the remote embedder, got other JSON "
                f"({type(error).__name__}); is it of the kind that --embedder-kind says?"
            ) from error

    def _fingerprint_of(self, parsed: ParsedAnswer, dim: int) -> str:
        if parsed.source is not None:
            return parsed.source.fingerprint(dim)
        if not isinstance(parsed.fingerprint, str) or len(parsed.fingerprint) != 64:
            raise EmbedderUnavailable("expected a fingerprint of 64 hex digits from the remote embedder, got another")
        return parsed.fingerprint


def _numbers(values: Any) -> npt.NDArray[np.float64]:
    if not isinstance(values, list) or not 1 <= len(values) <= MOST_DIM:
        raise TypeError(f"expected a list of 1 to {MOST_DIM} numbers")
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise TypeError("expected numbers")
    return np.array([float(value) for value in values], np.float64)


def _unit(vector: npt.NDArray[Any]) -> Vector:
    """Return a vector by its own norm. Raises VectorsError where it has none."""
    norm = float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
    if not 0 < norm < np.inf:
        raise VectorsError("expected a vector of finite length above 0, got another")
    return np.asarray(vector / norm, np.float32)


def require_same_vector(
    embedder: RemoteEmbedder, here: Searchable, films_of: Callable[[Study], dict[str, bytes]]
) -> None:
    """Refuse a remote encoder that makes another vector of a stored study's films than the one that is stored.

    Args:
        films_of: returns the films of a study by view, none where one is not at hand.

    Raises:
        FingerprintMismatch: it does, or no stored study has its films at hand. EmbedderUnavailable.
    """
    middle = np.full(here.embedding_dim, here.embedding_dim**-0.5, np.float32)
    studies = [hit.study for hit in here.answer(Query(middle, k=_CANDIDATES)).hits]
    for study in sorted(studies, key=lambda stored: len(stored.views) + len(stored.other_paths)):
        if films := films_of(study):
            break
    else:
        raise FingerprintMismatch(
            "expected a stored study whose films are at hand, to see whether the remote embedder makes its vector, got "
            "none; name their folder with --images"
        )
    cosine = float(embedder.embed_study(films.get("frontal"), films.get("lateral")) @ here.embedding(study.study_id))
    if not cosine >= LEAST_COSINE:
        raise FingerprintMismatch(
            f"the remote embedder makes another vector of study {study.study_id!r} than the index holds (cosine "
            f"{cosine:.4f}, expected at least {LEAST_COSINE}); does it prepare films as when the vectors were made?"
        )

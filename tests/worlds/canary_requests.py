"""All that a server offers, asked rightly and wrongly by a client whose films and file names tell who the patient is."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence

from canary_films import MARKER, commented_jpeg, film_pixels, hidden_png, named_film
from pydicom.dataset import Dataset

_TAKING_FILMS = (
    "/",
    "/v1/search",
    "/v1/searches",
    "/v1/embeddings",
    "/v1/queries",
    "/v1/predict",
    "/v1/explain",
    "/v1/studies",
)
_AIMS = {
    "/": {"patient_id": MARKER},
    "/v1/search": {"patient_id": MARKER},
    "/v1/queries": {"patient_id": MARKER},
    "/v1/explain": {"trust": "false", "patient_id": MARKER},
    "/v1/predict": {"map": "true", "patient_id": MARKER},
}


def asked(url: str, names: Dataset, studies: Sequence[str], secret: str) -> Iterator[tuple[str, bytes]]:
    """Yield each request with that token, in words, and its whole answer."""
    own = {"Authorization": f"Bearer {secret}"}
    document = json.loads(_answer("GET", f"{url}/openapi.json", None, own).partition(b"\r\n\r\n")[2])
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    kind, film = _multipart(named_film(names, 5), {"patient_id": MARKER})
    kept = _answer("POST", f"{url}/v1/queries", film, {"Content-Type": kind, **own})
    yield "a film that is kept", kept
    query = json.loads(kept.partition(b"\r\n\r\n")[2])["query"]
    yield "its page", _answer("GET", f"{url}/?query={query}", None, own)
    offered = sorted(found, key=lambda one: one[0] == "DELETE")  # what is deleted is asked for before
    for method, path in [*offered, *(("GET", page) for page in ("/", "/docs", "/metrics", "/nowhere"))]:
        whole = path.replace("{study_id}", urllib.parse.quote(studies[1], safe="")).replace("{name}", "main")
        whole = whole.replace("{query_id}", query)
        if method == "GET":
            for query in ("", "?view=lateral", "?collection=nowhere", "?collection=kept", "?k=0", "?surprise=1"):
                yield f"GET {whole}{query}", _answer("GET", url + whole + query, None, own)
        for told, kind, body in _bodies(names, studies, path) if method != "GET" else ():
            yield f"{method} {whole} {told}", _answer(method, url + whole, body, {"Content-Type": kind, **own})


def asked_by_strangers(url: str, secrets: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield what is answered to secrets that open nothing, wherever a token can stand, and to none."""
    yield "nobody", _answer("GET", f"{url}/info")
    for number, secret in enumerate(secrets):
        form = urllib.parse.urlencode({"token": secret, "next": "/"}).encode()
        yield f"{number} in the header", _answer("GET", f"{url}/info", None, {"Authorization": f"Bearer {secret}"})
        yield f"{number} in a cookie", _answer("GET", f"{url}/info", None, {"Cookie": f"precedent_session={secret}"})
        yield f"{number} in the address", _answer("GET", f"{url}/info?token={secret}")
        yield f"{number} in the form", _answer("POST", f"{url}/login", form)


def _bodies(names: Dataset, studies: Sequence[str], path: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield requests that carry the names: what each is, its type, its bytes."""
    whole = named_film(names, 5)
    films = {
        "a film": whole,
        "a torn film": whole[:-500],
        "a torn header": whole[:20_000],
        "a photograph": commented_jpeg(film_pixels(2)),
        "a screenshot": hidden_png(film_pixels(3)),
        "a CT": named_film(names, 5, Modality="CT"),
        "a colour film": named_film(names, 5, PhotometricInterpretation=MARKER.upper()),
        "many frames": named_film(names, 5, NumberOfFrames=3),
        "text": MARKER.encode() * 9,
    }
    aim = _AIMS.get(path, {}) | ({"hit": studies[2]} if path == "/v1/explain" else {})
    for number, (told, film) in enumerate(films.items()):
        yield told, *_multipart(film, aim | _new(path, number))
        yield f"{told} for another collection", *_multipart(film, aim | {"collection": "nowhere"})
        if path not in _TAKING_FILMS:
            return
    encoded = {"frontal": base64.b64encode(whole).decode()}
    stored = {"study_id": studies[0], "collection": "kept"}
    asked = ({"study_id": studies[0]}, stored, encoded, encoded | {"finding": "Edema"}, {"frontal": "!!"}, {})
    for number, query in enumerate(asked):
        body = {name: value for name, value in aim.items() if name != "patient_id"} | query | _new(path, 20 + number)
        if path == "/v1/searches":
            body = {"searches": [{name: value for name, value in body.items() if name != "collection"}]} | (
                {"collection": body["collection"]} if "collection" in body else {}
            )
        yield f"JSON {number} of {' and '.join(query)}", "application/json", json.dumps(body).encode()


def _new(path: str, number: int) -> dict[str, str]:
    """A study of its own for each request that adds one."""
    return {"study": json.dumps({"study_id": f"new/{number}", "patient_id": "new"})} if path == "/v1/studies" else {}


def _multipart(film: bytes, fields: dict[str, str]) -> tuple[str, bytes]:
    parts = [f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}' for name, value in fields.items()]
    head = f'--b\r\nContent-Disposition: form-data; name="frontal"; filename="{MARKER}.dcm"\r\n\r\n'
    return "multipart/form-data; boundary=b", "\r\n".join([*parts, head]).encode() + film + b"\r\n--b--\r\n"


def _answer(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, body, headers or {}, method=method), timeout=60)
    except urllib.error.HTTPError as refusal:
        answer = refusal
    with answer:
        return f"{answer.status}\r\n{answer.headers}".replace("\n\n", "").encode() + b"\r\n\r\n" + answer.read()

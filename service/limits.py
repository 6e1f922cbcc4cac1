"""What one request may cost, and by which addresses the service goes.

Every number of `Limits` is a default that a caller of `create_app` can replace. What one film may hold is the reader's
own bound, for every way in: `encoder.films.image`.
"""

from dataclasses import dataclass

MAX_HITS = 1000
"""Largest `k` of a search: a part of the API's contract, so it stands in the OpenAPI document."""

MAX_SEARCHES = 100
"""Searches of one request. Together they ask for at most MAX_HITS hits, as one search may."""

MAX_LISTED = 100
"""Studies of one page of a list."""

MAX_DRAWN = 1100
"""Studies that one request for a map names, to be drawn in any case: no other request names more."""

MAX_JSON_VALUES = 32_000
"""Numbers, texts, lists and objects of one JSON text, films being one each: a filter may match 10,000 values, a vector
has some thousand. Where a model refuses them, each costs some 300 times its bytes."""

BATCH = 16
"""Studies a batch: what `precedent export` takes, beyond which an encoder gains nothing."""


@dataclass(frozen=True)
class Limits:
    """Bounds on a request body and on what is worked on at a time, and the addresses the service goes by."""

    body_bytes: int = 64 * 1024 * 1024
    """A whole request. Two 16-bit films of 4000 x 4000 pixels, uncompressed, are 61 MiB."""

    form_bytes: int = 1024 * 1024
    """All form fields that are not files, together: a filter is some hundred bytes."""

    parts: int = 32
    """Parts of a multipart body: two files and the options."""

    studies: int = 35
    """Uploaded studies on their way to a vector at a time: 32 clients that never pause, and a few more."""

    readings: int = 1
    """Maps and predictions with dropout at a time: one keeps every core busy for a second or more."""

    readings_waiting: int = 7
    """More of them that wait, each on a thread of its own."""

    pictures: int = 18
    """Pictures of films in the making, most of which wait; a browser asks for six at a time."""

    decoding_bytes: int = 1_000_000_000
    """Of films that are being decoded, whatever for: two of the largest, or a dozen of the usual ones."""

    calls_a_second: int = 50
    """Of one token, on and on."""

    calls_at_once: int = 500
    """Of one token after a rest: a page of 96 hits asks for 192 films as it opens."""

    queries_a_day: int = 200
    """Different studies and films that one token without the scope `vectors` may ask about: a reader's day."""

    queries: int = 32
    """Queries of one token that are kept to be asked about again; one more, and the oldest goes."""

    query_bytes: int = 256 * 1024 * 1024
    """Of their films, as they were sent: four of the largest requests."""

    all_query_bytes: int = 1024 * 1024 * 1024
    """Of the films of all tokens, in the memory of one process."""

    hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Accepted Host headers. A foreign web page whose name is re-pointed to the loopback is refused."""

    prefix: str = ""
    """The path below which a proxy shows the service, as `service.prefix.parse_prefix` returns it."""

    viewer: str = ""
    """The address at which the hospital's viewer shows a study, as `service.viewer.parse_viewer` returns it."""


DEFAULT_LIMITS = Limits()

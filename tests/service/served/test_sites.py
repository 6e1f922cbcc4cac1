"""Other hospitals over real HTTP: how their hits are merged, and what becomes of those that fail or cannot be believed."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from service_world import FINGERPRINT, FakeEmbedder, build_mounted, build_retriever, film

from index.importing.pseudonyms import make_key
from index.search.answer import Query, Subject
from service.api.requests import Search
from service.app import create_app
from service.errors import MountError, SitesUnavailable
from service.guard.policy import patient_hash
from service.served.mounted import Mounted
from service.served.sites import (
    FAILURES,
    REST,
    MountedSites,
    Site,
    SiteHit,
    Sites,
    SitesAnswer,
    SitesCollection,
    SitesFile,
)
from service.state import State

EAST = [1.0, 0.0]
KEY = b"k" * 32


def told(rank: int, similarity: float, **facts: Any) -> dict[str, Any]:
    """Return a hit as a site tells it, of a patient of its own."""
    hit = {"rank": rank, "similarity": similarity, "study": f"{rank:032x}", "patient": None, "ages": None}
    return hit | {"findings": {}, "facts": {}, "pictures": {}} | facts


def answer(*similarities: float, **facts: Any) -> dict[str, Any]:
    """Return a site's answer of these hits."""
    hits = [told(rank, similarity) for rank, similarity in enumerate(similarities, start=1)]
    whole = {"fingerprint": FINGERPRINT, "exact": True, "matched": 40, "shares_patients": False, "hits": hits}
    return whole | facts


@dataclass
class Stub:
    """A site that answers what it is told to, and keeps what it was asked."""

    says: Any = None
    status: int = 200
    waits: list[float] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def body(self) -> bytes:
        return self.says if isinstance(self.says, bytes) else json.dumps(self.says or answer(0.9, 0.5)).encode()


@contextmanager
def running(stub: Stub) -> Iterator[Stub]:
    """Run a stub on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stub.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | dict(self.headers))
            wait = stub.waits.pop(0) if stub.waits else 0.0
            time.sleep(wait)
            self.send_response(stub.status)
            self.end_headers()
            self.wfile.write(stub.body())

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who asks may have gone
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        stub.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield stub
        server.shutdown()


@contextmanager
def sites(
    *stubs: Stub, seconds: float = 5.0, clock: Callable[[], float] = time.monotonic, **words: Any
) -> Iterator[Sites]:
    """Yield sites a, b, ... that are the stubs."""
    with ExitStack() as stack:
        each = [stack.enter_context(running(stub)) for stub in stubs]
        named = [Site(chr(ord("a") + at), urlsplit(stub.url), "secret", **words) for at, stub in enumerate(each)]
        yield Sites(SitesFile(tuple(named), seconds=seconds, patients_key=KEY), clock)


def over(some: Sites, own: bool = True) -> SitesCollection:
    return SitesCollection(some, build_retriever() if own else None, FINGERPRINT, 2)


def found(whole: SitesAnswer) -> list[tuple[str, float]]:
    return [(hit.site, hit.similarity) for hit in whole.hits if isinstance(hit, SiteHit)]


def states(whole: SitesAnswer) -> dict[str, str]:
    return {one.name: one.state for one in whole.sites}


def test_hits_are_merged_by_similarity_and_ties_by_the_names_of_sites() -> None:
    with sites(Stub(answer(1.0, 0.95, 0.939693)), Stub(answer(0.939693, 0.939693, 0.2))) as some:
        merged = over(some).answer_about(Query(EAST, k=8))

    near = [("a", 1.0), ("here", 1.0), ("here", 0.984808), ("a", 0.95)]
    assert found(merged) == [*near, ("a", 0.939693), ("b", 0.939693), ("b", 0.939693), ("here", 0.939693)]
    assert [hit.rank for hit in merged.hits] == list(range(1, 9))
    assert (merged.matched_total, merged.exact, states(merged)) == (
        84,
        True,
        dict.fromkeys(("here", "a", "b"), "answered"),
    )


def test_a_patient_known_to_several_hospitals_is_one_patient_and_left_out_of_his_own_query() -> None:
    hashes = [patient_hash(KEY, name) for name in ("patient00002", "patient00001", "patient00009")]
    hits = [told(at, 1 - at / 10, patient=patient) for at, patient in enumerate(hashes, start=1)]
    with sites(Stub(answer(hits=hits, shares_patients=True)), Stub(answer(0.7))) as some:
        grouped = over(some).answer_about(Query(EAST, k=9, group_by="patient"))
        assert found(grouped) == [("here", 1.0), ("here", 0.939693), ("a", 0.7), ("b", 0.7), ("here", 0.0)]

        own = over(some).answer_about(Query(EAST, Subject("patient00001"), k=9))
        assert states(own)["a"] == "unusable"  # it was told to leave this patient out
        assert own.sites[1].reason == "it gave a hit of the query's own patient"
        assert "here" in dict(found(own))


def test_what_travels_is_the_vector_the_options_and_our_token() -> None:
    where = {"must": [{"key": "sex", "match": {"value": "Male"}}]}
    with sites(stub := Stub()) as some:
        over(some).answer_about(Query(EAST, Subject("patient00001"), k=3, where=where, min_similarity=0.8))

    [asked] = stub.asked
    assert asked["Authorization"] == "Bearer secret"
    body = {name: asked[name] for name in ("k", "embedding", "filter", "patient", "exact")}
    assert body == {
        "k": 3,
        "embedding": EAST,
        "filter": where,
        "patient": patient_hash(KEY, "patient00001"),
        "exact": False,
    }
    assert "min_similarity" not in asked  # a bound on what is rounded would tell more than what is rounded


LIES: dict[str, tuple[Any, str]] = {
    "another encoder": (answer(0.9, fingerprint="0" * 64), "its vectors are of encoder 000000000000, ours of ffffff"),
    "too similar": (answer(1.5), "not of the expected form at 'hits'"),
    "not a number": (json.dumps(answer(0.9)).replace("0.9", "NaN").encode(), "is no JSON"),
    "not sorted": (answer(0.5, 0.9), "not in the order"),
    "ranks of its own": (answer(hits=[told(2, 0.9)]), "not in the order"),
    "too many": (answer(0.9, 0.8, 0.7, 0.6), "it gave 4 hits where 3 were asked for"),
    "more than there may be": (answer(*[0.9] * 101), "not of the expected form at 'hits'"),
    "hits it does not give": (answer(0.9, matched=None), "says that it gives none"),
    "an id with a tag": (answer(hits=[told(1, 0.9, study="<b>")]), "not of the expected form at 'hits'"),
    "a label of its own": (answer(hits=[told(1, 0.9, findings={"Edema": 7})]), "not of the expected form at 'hits'"),
    "a long text": (answer(hits=[told(1, 0.9, facts={"sex": "x" * 5000})]), "not of the expected form at 'hits'"),
    "deep": (b"[" * 100_000, "is no JSON"),
    "many values": (b"[" + b"1," * 100_000 + b"1]", "is no JSON"),
    "no JSON": (b"<html>", "is no JSON"),
    "no text": (b"\xff\xfe", "is no JSON"),
    "endless": (b" " * (1 << 26), "more than"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_site_that_lies_is_refused_by_name_and_the_others_answer(lie: str) -> None:
    says, reason = LIES[lie]
    with sites(Stub(says), Stub(answer(0.97))) as some:
        whole = over(some).answer_about(Query(EAST, k=3))

    assert states(whole) == {"here": "answered", "a": "unusable", "b": "answered"}
    assert reason in whole.sites[1].reason
    assert found(whole) == [("here", 1.0), ("here", 0.984808), ("b", 0.97)]


@pytest.mark.parametrize(
    ("status", "code", "state", "reason"),
    [
        (401, "unauthorized", "refused", "it does not know our token"),
        (429, "too_many_requests", "refused", "our token has asked as often as it may"),
        (400, "bad_filter", "refused", "it does not let out what the filter asks for"),
        (418, "<b>tea</b>", "refused", "it answered 418"),
        (503, "stopping", "away", "it answered 503 stopping"),
    ],
)
def test_a_refusal_is_told_in_our_words(status: int, code: str, state: str, reason: str) -> None:
    with sites(Stub({"error": {"code": code, "message": "<script>"}}, status)) as some:
        outcome = over(some).answer_about(Query(EAST)).sites[1]

    assert (outcome.state, outcome.reason) == (state, reason)


def test_a_slow_site_is_named_after_its_time_and_the_others_have_answered() -> None:
    with sites(Stub(waits=[2.0, 2.0]), Stub(), seconds=0.5) as some:
        began = time.monotonic()
        whole = over(some).answer_about(Query(EAST))

    assert states(whole) == {"here": "answered", "a": "slow", "b": "answered"}
    assert time.monotonic() - began < 20  # never the two seconds of each question, one after the other


def test_a_vector_is_asked_about_once_more_where_no_answer_comes_and_films_are_not() -> None:
    with sites(stub := Stub(waits=[30.0]), seconds=4.0) as some:
        whole = over(some).answer_about(Query(EAST))
        assert (states(whole)["a"], len(stub.asked)) == ("answered", 2)
    with sites(films := Stub(waits=[2.0]), seconds=1.0, sends="films") as some:
        whole = over(some).answer_about(Query(EAST), {"frontal": film(0)})
        assert (states(whole)["a"], len(films.asked)) == ("slow", 1)
        assert "embedding" not in films.asked[0]


def test_a_site_that_embeds_itself_is_not_asked_where_there_is_no_film() -> None:
    with sites(stub := Stub(), sends="films") as some:
        whole = over(some).answer_about(Query(EAST))

    assert (states(whole)["a"], stub.asked) == ("not asked", [])


def test_a_site_that_fails_again_and_again_rests_and_is_tried_once_afterwards() -> None:
    clock = [0.0]
    with sites(stub := Stub(b"no"), clock=lambda: clock[0]) as some:
        for expected in [*["unusable"] * FAILURES, "resting"]:
            outcome = over(some).answer_about(Query(EAST)).sites[1]
            assert outcome.state == expected
        assert outcome.reason == f"not asked for {REST:.0f} s more after failing; it was: its answer is no JSON"
        clock[0] = REST + 1
        assert over(some).answer_about(Query(EAST)).sites[1].state == "unusable"
        assert over(some).answer_about(Query(EAST)).sites[1].state == "resting"
        clock[0], stub.says = 2 * REST + 2, None
        assert over(some).answer_about(Query(EAST)).sites[1].state == "answered"


def test_where_no_site_answers_and_there_is_no_collection_here_the_search_says_so() -> None:
    with sites(Stub(b"no")) as some, pytest.raises(SitesUnavailable, match=r"got none \(a: its answer is no JSON\)"):
        over(some, own=False).answer_about(Query(EAST))
    with sites(Stub()) as some:
        assert found(over(some, own=False).answer_about(Query(EAST))) == [("a", 0.9), ("a", 0.5)]


def test_the_page_says_whose_each_hit_is_and_shows_what_a_site_sends_as_text() -> None:
    hits = [told(1, 0.97, facts={"sex": "<script>alert(1)</script>"}, ages=[60, 70]), told(2, 0.96, patient="ab" * 16)]
    with sites(Stub(answer(hits=hits)), Stub(status=500)) as some:
        own = build_mounted()
        across = MountedSites("sites", over(some), FakeEmbedder())
        client = create_app(State.of(Mounted((own,), across))).test_client()
        page = client.get("/", query_string={"study": "patient00001/study1", "collection": "sites"}).text
        answered = client.post("/v1/search", json={"study_id": "patient00001/study1", "collection": "sites"}).get_json()
        info = client.get("/info").get_json()

    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert page.count("a lets no pictures out.") == 2
    assert "60 to 69 years" in page
    assert "<strong>b</strong>\n    away: it answered 500" in page
    assert [(hit["site"], hit["ages"]) for hit in answered["hits"][:2]] == [("a", [60, 70]), ("a", None)]
    assert [(one["name"], one["state"]) for one in answered["sites"]] == [
        ("here", "answered"),
        ("a", "answered"),
        ("b", "away"),
    ]
    assert [one["state"] for one in info["sites"]["sites"]] == ["answered", "away"]


def test_a_picture_is_drawn_anew_and_what_is_none_is_left_out() -> None:
    pictures = {"frontal": base64.b64encode(film(90)).decode(), "lateral": base64.b64encode(b"<svg>").decode()}
    with sites(Stub(answer(hits=[told(1, 0.97, pictures=pictures)]))) as some:
        across = MountedSites("sites", over(some, own=False), FakeEmbedder())
        app = create_app(State.of(Mounted((), across)))
        with app.app_context():
            [hit] = across.answer(Search(embedding=EAST)).hits

    assert isinstance(hit, SiteHit)
    assert hit.pictures is not None
    assert [*hit.pictures] == ["frontal"]
    assert base64.b64decode(hit.pictures["frontal"]).startswith(b"\xff\xd8")


def written(folder: Path, text: str) -> Path:
    (folder / "sites.toml").write_text(text)
    return folder / "sites.toml"


def test_the_file_of_sites_is_read_with_its_tokens_beside_it_or_in_the_environment(tmp_path: Path) -> None:
    make_key(tmp_path / "patients.key")
    (tmp_path / "north.token").write_text("precedent_n\n")
    (tmp_path / "north.token").chmod(0o600)
    text = """
        here = "south"
        patients_key = "patients.key"
        [[site]]
        name = "north"
        url = "https://north.example/precedent"
        token_file = "north.token"
        [[site]]
        name = "west"
        url = "http://127.0.0.1:8080"
        token_env = "WEST_TOKEN"
        sends = "films"
    """
    read = SitesFile.load(written(tmp_path, text), {"WEST_TOKEN": "precedent_w"})

    assert [(one.name, one.token, one.sends) for one in read.sites] == [
        ("north", "precedent_n", "vector"),
        ("west", "precedent_w", "films"),
    ]
    assert (read.here, read.patients_key) == ("south", (tmp_path / "patients.key").read_bytes())
    assert "precedent_" not in repr(read)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ('url = "http://north.example"\ntoken_env = "T"', "expected https:// for 'north.example'"),
        ('url = "https://n.example"', "expected token_file or token_env, got none"),
        ('url = "https://n.example"\ntoken = "secret"', "token: Extra inputs are not permitted"),
        ('url = "https://n.example"\ntoken_env = "EMPTY"', "expected a token where the file says"),
        ('url = "https://n.example"\ntoken_file = "open.token"', "to be its owner's alone, got mode 0644"),
        ('url = "https://n.example"\ntoken_env = "T"\nca = "none.pem"', "expected certificates in 'none.pem'"),
        ('url = "https://u:p@n.example"\ntoken_env = "T"', "without a password"),
    ],
)
def test_a_file_of_sites_that_cannot_be_used_is_refused_with_a_sentence(
    tmp_path: Path, words: str, sentence: str
) -> None:
    (tmp_path / "open.token").write_text("precedent_n")
    (tmp_path / "open.token").chmod(0o644)
    with pytest.raises(MountError, match=sentence) as refused:
        SitesFile.load(written(tmp_path, f'[[site]]\nname = "north"\n{words}\n'), {"T": "t", "EMPTY": ""})
    assert "secret" not in str(refused.value)

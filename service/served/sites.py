"""Other hospitals, searched beside our own collection: each is asked at once, and their hits are merged.

A query's vector, or its films' pixels, goes to each of them, and hits come back as far as its policy lets them out.
What one answers is untrusted; one that is slow, away or not to be believed is named, and the others answer.
"""

import base64
import http.client
import json
import math
import os
import re
import ssl
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import SplitResult

from flask import has_request_context
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from encoder.films.image import read_image
from index.errors import CollectionError, RegionError, StudyNotFound
from index.importing.pseudonyms import load_key
from index.search.answer import Answer, Hit, Query
from index.search.searchable import Choices, Searchable, Stored
from index.storage.files import read_regular
from index.table.studies import FINDINGS, Study, studies_schema
from service.api.answers import MOST_REMOTE_HITS, RemoteAnswer, RemoteHitAnswer, RemoteInfoAnswer
from service.api.requests import Search, parse_json
from service.context import call, request_id, running
from service.errors import MountError, SitesUnavailable
from service.guard.policy import MOST_BYTES, patient_hash
from service.served.decoding import decoding
from service.served.mounted import MountedCollection
from service.served.outbound import Reply, ask, parse_address
from service.served.pictures import as_png, redrawn

ASKED_AS = "X-Asked-As"
"""The header with the number under which our own audit log has the request."""
HEDGED = 0.25
"""Of the time that a site has: after it, one that has not answered a vector is asked a second time, and no third."""
FAILURES = 3
"""In a row, after which a site is not asked for a while."""
REST = 30.0
"""Seconds of that while; then one failure more begins another."""
FRESH = 600.0
"""Seconds for which it is not asked again what may be searched at a site."""
AT_ONCE = 16
"""Questions to one site at a time: further ones wait, so that a slow one holds no thread of the others."""
MOST_ANSWER = 1 << 21
"""Bytes of an answer without pictures."""
MOST_ANSWER_WITH_PICTURES = 1 << 25
MOST_TOKEN = 1 << 10
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_CODE = re.compile(r"[a-z_]{1,40}")

_REFUSALS = {
    "unauthorized": "it does not know our token",
    "forbidden": "our token or its policy does not allow this",
    "too_many_requests": "our token has asked as often as it may",
    "bad_filter": "it does not let out what the filter asks for",
    "no_encoder": "it has no encoder to embed films with",
    "no_remote": "it answers no other hospital",
}
"""What codes of refusals mean, in words."""
_OF_STUDY = ("sex", "projection", "split")
Model = TypeVar("Model", bound=BaseModel)
State = Literal[
    "answered", "withheld", "slow", "away", "refused", "unusable", "resting", "not asked", "ready", "unknown"
]


class _Fault(RuntimeError):
    """A site that gave no answer that can be used, and in which way."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class _SiteWords(BaseModel):
    """One [[site]] of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    url: str
    token_file: Path | None = None
    token_env: str | None = None
    ca: Path | None = None
    sends: Literal["vector", "films"] = "vector"


class _FileWords(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "sites"
    here: str = "here"
    seconds: float = Field(5.0, gt=0, le=60)
    patients_key: Path | None = None
    site: list[_SiteWords] = Field(min_length=1, max_length=64)


@dataclass(frozen=True)
class Site:
    """Where another hospital is asked, and with what."""

    name: str
    url: SplitResult
    token: str = field(repr=False)
    tls: ssl.SSLContext | None = None
    """None trusts the system's certificates."""
    sends: Literal["vector", "films"] = "vector"


@dataclass(frozen=True)
class SitesFile:
    """What `sites.toml` says."""

    sites: tuple[Site, ...]
    name: str = "sites"
    """By which all of them, with our own collection, are asked."""
    here: str = "here"
    """What our own collection is called among them."""
    seconds: float = 5.0
    """That a site has to answer in."""
    patients_key: bytes | None = field(default=None, repr=False)
    """Of the hashes of patients, where hospitals share it."""

    @classmethod
    def load(cls, path: Path, environ: Mapping[str, str]) -> Self:
        """Return what a file says, its paths relative to its folder. Raises MountError."""
        try:
            words = _FileWords.model_validate(tomllib.loads(read_regular(path, MOST_BYTES).decode()))
            key = load_key(path.parent / words.patients_key) if words.patients_key is not None else None
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            raise MountError(f"{str(path)!r}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except (CollectionError, OSError, ValueError) as error:
            raise MountError(
                f"expected a list of sites in {str(path)!r}, got none that can be read: {error}"
            ) from error
        names = [words.here, *(site.name for site in words.site)]
        for name in (words.name, *names):
            if not _NAME.fullmatch(name) or names.count(name) > 1:
                raise MountError(
                    f"{str(path)!r}: expected names of a-z, 0-9, _ and -, each once and of at most 32 characters, got "
                    f"{name!r}"
                )
        sites = tuple(_site(site, path.parent, environ) for site in words.site)
        return cls(sites, words.name, words.here, words.seconds, key)


def _site(words: _SiteWords, folder: Path, environ: Mapping[str, str]) -> Site:
    """Return a site, its token read. Raises MountError."""
    url = parse_address(
        words.url, "what is asked about a patient", f"the token of {words.name!r} is named by token_file or token_env"
    )
    if (words.token_file is None) == (words.token_env is None):
        raise MountError(
            f"site {words.name!r}: expected token_file or token_env, got {'both' if words.token_env else 'none'}"
        )
    token = environ.get(words.token_env, "") if words.token_env else _secret(words.name, folder / str(words.token_file))
    if not re.fullmatch(r"[!-~]+", token):
        raise MountError(f"site {words.name!r}: expected a token where the file says, got none")
    try:
        tls = ssl.create_default_context(cafile=folder / words.ca) if words.ca is not None else None
    except (OSError, ssl.SSLError) as error:
        raise MountError(
            f"site {words.name!r}: expected certificates in {str(words.ca)!r}, got none: {error}"
        ) from error
    return Site(words.name, url, token, tls, words.sends)


def _secret(name: str, path: Path) -> str:
    """Return the token in a file that its owner alone can read. Raises MountError."""
    try:
        with path.open("rb") as file:
            mode, text = os.fstat(file.fileno()).st_mode & 0o777, file.read(MOST_TOKEN)
    except OSError as error:
        raise MountError(f"site {name!r}: cannot read its token in {str(path)!r}: {error.strerror}") from error
    if mode & 0o077:
        raise MountError(
            f"site {name!r}: expected {str(path)!r} to be its owner's alone, got mode {mode:04o}; run: chmod 600 {path}"
        )
    return text.decode("ascii", "replace").strip()


@dataclass(frozen=True)
class SiteHit(Hit):
    """A hit, and whose it is."""

    site: str = ""
    ages: tuple[int, int | None] | None = None
    """Years from which and up to which, not included, where ages are let out in bands."""
    pictures: Mapping[Any, str] | None = None
    """JPEGs in base64, by view; None where the films are here."""
    patient: str | None = None
    """The patient as its site hashes him."""


@dataclass(frozen=True)
class SiteOutcome:
    """What became of the question to one site."""

    name: str
    state: State
    reason: str = ""
    hits: int = 0
    matched: int | None = None
    """Studies that passed there, as it rounds them; of our own collection exactly."""
    shares_patients: bool = False
    took_ms: float = 0.0


@dataclass(frozen=True)
class SitesAnswer(Answer):
    """What a search across hospitals found, and what became of the question to each."""

    sites: tuple[SiteOutcome, ...] = ()


class Question(NamedTuple):
    """What every site is asked."""

    query: Query
    vector: Sequence[float]
    films: Mapping[str, bytes]
    """PNGs by view; empty where the query is a vector or a stored study."""
    patient: str | None
    """Hash of the query's patient, whose studies are left out."""
    fingerprint: str
    asked_as: str = ""

    def body(self, site: Site) -> bytes:
        """Return the question as it goes to one site. Raises _Fault where it takes what there is not."""
        if site.sends == "films" and not self.films:
            raise _Fault("not asked", "it takes films, and the query has none at hand")
        asked: dict[str, Any] = {"k": min(self.query.k, MOST_REMOTE_HITS), "exact": self.query.exact}
        if site.sends == "films":
            asked |= {view: base64.b64encode(film).decode() for view, film in self.films.items()}
        else:
            asked["embedding"] = self.vector
        further = {"filter": self.query.where, "group_by": self.query.group_by, "patient": self.patient}
        return json.dumps(asked | {name: value for name, value in further.items() if value}).encode()


class RemoteSite:
    """One site: asked on threads of its own, and left alone for a while where it fails. Safe under threads."""

    def __init__(self, site: Site, clock: Callable[[], float] = time.monotonic) -> None:
        self.site, self._clock = site, clock
        self._pool = ThreadPoolExecutor(AT_ONCE, f"site-{site.name}")
        self._lock = threading.Lock()
        self._failures, self._rests_until = 0, 0.0
        self.last = SiteOutcome(site.name, "unknown", "it was not asked yet")
        self.about: RemoteInfoAnswer | None = None
        """What it said of itself last."""
        self._looked_at = -math.inf

    def begin(self, question: Question, until: float) -> "Future[RemoteAnswer]":
        """Begin to ask. Raises _Fault where it is not to be asked."""
        left = self._rests_until - self._clock()
        if left > 0:
            raise _Fault("resting", f"not asked for {math.ceil(left)} s more after failing; it was: {self.last.reason}")
        return self._pool.submit(self._ask, question, question.body(self.site), until)

    def note(self, outcome: SiteOutcome) -> None:
        """Keep what became of a question; after several failures in a row the site rests."""
        with self._lock:
            if outcome.state in ("resting", "not asked"):
                return
            failed = outcome.state in ("slow", "away", "unusable")
            self._failures = self._failures + 1 if failed else 0
            if self._failures >= FAILURES:
                self._rests_until = self._clock() + REST
            self.last = outcome

    def look_again(self, fingerprint: str, seconds: float) -> None:
        """Have what is known of the site asked for anew, in the background, where it is not known or no more new."""
        with self._lock:
            known = FRESH if self.about is not None else 1.0 if self.last.state == "answered" else REST
            if self._clock() - self._looked_at < known:
                return
            self._looked_at = self._clock()
        self._pool.submit(self.look, fingerprint, seconds)

    def look(self, fingerprint: str, seconds: float) -> None:
        """Ask what may be searched there, and keep it."""
        try:
            about = self._told(RemoteInfoAnswer, self._reply("/v1/remote", None, seconds, MOST_ANSWER))
            if about.fingerprint != fingerprint:
                raise _Fault("unusable", _of_another_encoder(about.fingerprint, fingerprint))
            self.about, outcome = about, SiteOutcome(self.site.name, "ready", f"{about.studies:,} studies")
        except _Fault as fault:
            outcome = SiteOutcome(self.site.name, fault.state, str(fault))
        with self._lock:
            if self.last.state == "unknown":  # what became of a search says more
                self.last = outcome

    def _ask(self, question: Question, body: bytes, until: float) -> RemoteAnswer:
        """Return an answer that can be used. Raises _Fault."""
        seconds = until - self._clock()
        if seconds <= 0:
            raise _Fault("slow", "too many questions to it wait")
        most = MOST_ANSWER_WITH_PICTURES if self.about is None or self.about.policy.pictures else MOST_ANSWER
        reply = self._reply("/v1/remote/search", body, seconds, most, question.asked_as)
        answer = self._told(RemoteAnswer, reply)
        _require_usable(answer, question)
        return answer

    def _reply(self, path: str, body: bytes | None, seconds: float, most: int, asked_as: str = "") -> bytes:
        headers = {"Accept": "application/json", "Authorization": f"Bearer {self.site.token}"}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        headers |= {ASKED_AS: asked_as} if asked_as else {}
        whole, began = self.site.url.path.rstrip("/") + path, self._clock()
        try:
            reply = ask(self.site.url, whole, body, headers, seconds=seconds, most_bytes=most, tls=self.site.tls)
        except ssl.SSLCertVerificationError as error:
            raise _Fault("away", f"its certificate is not trusted ({error.verify_message})") from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if isinstance(error, TimeoutError) or self._clock() - began >= seconds:
                raise _Fault("slow", "it did not answer in time") from error
            raise _Fault("away", f"it cannot be reached ({type(error).__name__})") from error
        if len(reply.content) > most:
            raise _Fault("unusable", f"its answer has more than {most:,} bytes")
        if reply.status != 200:
            raise _refused(reply)
        return reply.content

    def _told(self, model: type[Model], content: bytes) -> Model:
        try:
            return model.model_validate(parse_json(content))
        except ValidationError as error:
            place = error.errors(include_url=False, include_input=False)[0]["loc"][:1]
            known = f" at {place[0]!r}" if place and place[0] in model.model_fields else ""
            raise _Fault("unusable", f"its answer is not of the expected form{known}") from None
        except ValueError:
            raise _Fault("unusable", "its answer is no JSON") from None


def _refused(reply: Reply) -> _Fault:
    """Return why a site did not answer, of its own words only the code: the rest is a stranger's text."""
    try:
        code = parse_json(reply.content)["error"]["code"]
    except (ValueError, LookupError, TypeError):
        code = ""
    code = code if isinstance(code, str) and _CODE.fullmatch(code) else ""
    words = _REFUSALS.get(code or "", f"it answered {reply.status} {code}".strip())
    return _Fault("away" if reply.status >= 500 else "refused", words)


def _of_another_encoder(theirs: str, ours: str) -> str:
    return f"its vectors are of encoder {theirs[:12]}, ours of {ours[:12]}"


def _require_usable(answer: RemoteAnswer, question: Question) -> None:
    """Refuse an answer that no collection gives to such a question. Raises _Fault."""
    hits, patients = answer.hits, [hit.patient for hit in answer.hits if hit.patient is not None]
    similar = [hit.similarity for hit in hits]
    if answer.fingerprint != question.fingerprint:
        reason = _of_another_encoder(answer.fingerprint, question.fingerprint)
    elif len(hits) > question.query.k:
        reason = f"it gave {len(hits)} hits where {question.query.k} were asked for"
    elif [hit.rank for hit in hits] != list(range(1, len(hits) + 1)) or similar != sorted(similar, reverse=True):
        reason = "its hits are not in the order of their similarities"
    elif hits and answer.matched is None:
        reason = "it gave hits and says that it gives none"
    elif question.query.group_by == "patient" and len(set(patients)) < len(patients):
        reason = "it gave two hits of a patient where one was asked for"
    elif question.patient is not None and answer.shares_patients and question.patient in patients:
        reason = "it gave a hit of the query's own patient"
    else:
        return
    raise _Fault("unusable", reason)


class Sites:
    """All sites of a file, asked at once. Safe under threads."""

    def __init__(self, file: SitesFile, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self._clock = file, clock
        self.remotes = tuple(RemoteSite(site, clock) for site in file.sites)

    def look(self, fingerprint: str) -> None:
        """Have every site asked, in the background, what may be searched there, where that is not known."""
        for remote in self.remotes:
            remote.look_again(fingerprint, self.file.seconds)

    def patient(self, patient_id: str | None) -> str | None:
        """Return the hash by which hospitals know a patient; None where they share no key."""
        if patient_id is None or self.file.patients_key is None:
            return None
        return patient_hash(self.file.patients_key, patient_id)

    def answers(self, question: Question) -> list[tuple[SiteOutcome, RemoteAnswer | None]]:
        """Return what became of a question to each site, and its answer where there is one, in the file's order."""
        began = self._clock()
        until = began + self.file.seconds
        faults: dict[str, _Fault] = {}
        asked: dict[Future[RemoteAnswer], RemoteSite] = {}
        answers: dict[str, tuple[RemoteAnswer, float]] = {}

        def begin(remotes: Iterable[RemoteSite]) -> None:
            for remote in remotes:
                try:
                    asked[remote.begin(question, until)] = remote
                except _Fault as fault:
                    faults.setdefault(remote.site.name, fault)

        def take(done: Iterable[Future[RemoteAnswer]]) -> None:
            for one in done:
                name = asked.pop(one).site.name
                try:
                    answers.setdefault(name, (one.result(), 1000 * (self._clock() - began)))
                except _Fault as fault:
                    faults.setdefault(name, fault)

        begin(self.remotes)
        take(wait(asked, HEDGED * self.file.seconds).done)
        begin([remote for remote in asked.values() if remote.site.sends == "vector"])
        while waited_for := [one for one, remote in asked.items() if remote.site.name not in answers]:
            left = until - self._clock()
            if left <= 0:
                break
            take(wait(waited_for, left, FIRST_COMPLETED).done)
        for one in asked:
            one.cancel()
        outcomes = [self._outcome(remote, question.query.k, answers, faults) for remote in self.remotes]
        self.look(question.fingerprint)
        return outcomes

    def _outcome(
        self,
        remote: RemoteSite,
        k: int,
        answers: Mapping[str, tuple[RemoteAnswer, float]],
        faults: Mapping[str, _Fault],
    ) -> tuple[SiteOutcome, RemoteAnswer | None]:
        name, answer = remote.site.name, None
        if name in answers:
            answer, took_ms = answers[name]
            state: State = "answered" if answer.matched is not None else "withheld"
            reason = "" if answer.matched is not None else "too few patients pass the filter"
            if remote.about is not None and len(answer.hits) == remote.about.policy.most_hits < k:
                reason = f"it gives {len(answer.hits)} hits at most"
            facts = (len(answer.hits), answer.matched, answer.shares_patients, round(took_ms, 1))
            outcome = SiteOutcome(name, state, reason, *facts)
        else:
            fault = faults.get(name, _Fault("slow", f"no answer within {self.file.seconds:g} s"))
            outcome = SiteOutcome(name, fault.state, str(fault))
        remote.note(outcome)
        return outcome, answer


class SitesCollection(Searchable):
    """Our own collection, where there is one, and those of other hospitals, which hold vectors of the same encoder.

    Hits of one similarity stand in the order of their sites' names, and of one site in its own order: as in one
    collection whose ids begin with the name of their site.
    """

    def __init__(self, sites: Sites, own: Searchable | None, fingerprint: str, embedding_dim: int) -> None:
        self.sites, self.own = sites, own
        self.manifest = {}
        self.fingerprint, self.embedding_dim = fingerprint, embedding_dim

    def __len__(self) -> int:
        told = [remote.about.studies for remote in self.sites.remotes if remote.about is not None]
        return sum(told) + (len(self.own) if self.own is not None else 0)

    @property
    def schema(self) -> Any:
        """That of our own studies, or where there are none of the standard columns."""
        return self.own.schema if self.own is not None else studies_schema()

    @property
    def choices(self) -> Choices:
        """What a reader can narrow by: in our own collection, and in the standard columns."""
        standard = Choices(FINDINGS, ("Female", "Male"), ("AP", "PA"))
        return standard if self.own is None else self.own.choices.merged(standard)

    def now(self) -> "SitesCollection":
        """Return the same with our own studies as they are at this moment."""
        own = self.own.now() if self.own is not None else None
        return SitesCollection(self.sites, own, self.fingerprint, self.embedding_dim)

    def stored(self, study_id: str) -> Stored:
        """Return one of our own studies. Raises StudyNotFound."""
        if self.own is None:
            raise StudyNotFound(f"no study {study_id!r} here; studies of other hospitals stay there")
        return self.own.stored(study_id)

    def answer(self, query: Query) -> Answer:
        """Return the most similar studies of all sites that answer; as `Searchable` says, and SitesUnavailable."""
        return self.answer_about(query)

    def answer_about(self, query: Query, films: Mapping[str, bytes] | None = None) -> SitesAnswer:
        """Return the same of a query whose films are at hand, as PNGs by view."""
        query, vector = self.resolved(query)
        if query.region is not None:
            raise RegionError("a part of a film is searched by in one's own collection alone, not at other hospitals")
        patient = self.sites.patient(query.subject.patient_id) if query.exclude_same_patient else None
        number = request_id() if has_request_context() else ""
        question = Question(query, vector.tolist(), films or {}, patient, self.fingerprint, number)
        answered = self.sites.answers(question)
        merged, outcomes = [hit for _, answer in answered for hit in _hits(_, answer)], [one for one, _ in answered]
        exact = all(answer.exact for _, answer in answered if answer is not None)
        if self.own is not None:
            own = self.own.answer(query)
            merged += [self._own_hit(hit) for hit in own.hits]
            exact, here = exact and own.exact, self.sites.file.here
            outcomes.insert(0, SiteOutcome(here, "answered", "", len(own.hits), own.matched_total, True))
        if not any(one.state in ("answered", "withheld") for one in outcomes):
            told = "; ".join(f"{one.name}: {one.reason}" for one in outcomes)
            raise SitesUnavailable(f"expected an answer of at least one site, got none ({told})")
        total = sum(one.matched or 0 for one in outcomes)
        return SitesAnswer(_first(merged, query), total, exact, self.fingerprint, sites=tuple(outcomes))

    def _own_hit(self, hit: Hit) -> SiteHit:
        patient = self.sites.patient(hit.study.patient_id) or f"own {hit.study.patient_id}"
        return SiteHit(hit.rank, hit.similarity, hit.study, site=self.sites.file.here, patient=patient)


def _hits(outcome: SiteOutcome, answer: RemoteAnswer | None) -> list[SiteHit]:
    return [] if answer is None else [_hit(outcome, hit) for hit in answer.hits]


def _hit(outcome: SiteOutcome, told: RemoteHitAnswer) -> SiteHit:
    """Return a hit of a site. Its study is named by the site and the hash, or where no id is let out by its rank."""
    facts = dict(told.facts)
    plain: Any = {name: str(value) if (value := facts.pop(name, None)) is not None else None for name in _OF_STUDY}
    name = f"{outcome.name}/{told.study or told.rank}"
    patient = told.patient if told.patient is None or outcome.shares_patients else f"{outcome.name} {told.patient}"
    study = Study(name, told.patient or "", findings=dict(told.findings), extra=facts, **plain)
    further: Any = {"ages": told.ages, "pictures": told.pictures, "patient": patient}
    return SiteHit(told.rank, told.similarity, study, site=outcome.name, **further)


def _first(hits: Iterable[SiteHit], query: Query) -> list[Hit]:
    """Return the first k hits of all, each with its rank among them."""
    ordered = sorted(hits, key=lambda hit: (-hit.similarity, f"{hit.site}/", hit.rank))
    if query.group_by == "patient":
        nearest: dict[Any, SiteHit] = {}
        for hit in ordered:
            nearest.setdefault(hit.patient or id(hit), hit)
        ordered = list(nearest.values())
    if query.min_similarity is not None:
        ordered = [hit for hit in ordered if hit.similarity >= query.min_similarity]
    return [replace(hit, rank=rank) for rank, hit in enumerate(ordered[: query.k], start=1)]


@dataclass(frozen=True)
class MountedSites(MountedCollection):
    """All hospitals under one name. Predictions, maps and films are those of our own collection."""

    @property
    def sites(self) -> Sites:
        """Those that are asked beside our own collection."""
        collection: SitesCollection = self.retriever  # type: ignore[assignment]  # it is made over no other
        return collection.sites

    @property
    def regions(self) -> bool:
        """No: other hospitals are not asked by a part of a film."""
        return False

    @property
    def judges(self) -> bool:
        """No: how similar studies are to each other is known of each hospital's own alone."""
        return False

    def answer(self, search: Search, look: Callable[[MountedCollection], Any] | None = None) -> Answer:
        """Return the same as one collection, without a sentence of findings: not every site lets them out."""
        return replace(super().answer(search, look), summary=None)

    def _asked(self, here: Searchable, query: Query, search: Search) -> Answer:
        """Return what all sites answer, noted for the audit log, the pictures of hits drawn anew."""
        collection: SitesCollection = here  # type: ignore[assignment]
        films = {}
        if any(remote.site.sends == "films" for remote in self.sites.remotes):
            films = self._pixels(search)
        answer = collection.answer_about(query, films)
        if has_request_context():
            for outcome in answer.sites:
                running.metrics.site_answered(outcome.name, outcome.state)
            call.noted["sites"] = {outcome.name: outcome.state for outcome in answer.sites}
        return replace(answer, hits=[_redrawn(hit) for hit in answer.hits])

    def _pixels(self, search: Search) -> dict[str, bytes]:
        """Return the films of a search as grey PNGs of 8 bits: nothing of their files but the pixels."""
        given = {"frontal": search.frontal, "lateral": search.lateral}
        with decoding().slot():
            return {
                view: as_png(read_image(film, name=view, ignored_parts=decoding().ignored_parts))
                for view, film in given.items()
                if film is not None
            }


def _redrawn(hit: Any) -> Any:
    """Return a hit whose pictures are our own drawings of what a site sent; what is no picture is left out."""
    if not hit.pictures:
        return hit
    drawn = {view: redrawn(picture) for view, picture in hit.pictures.items()}
    return replace(hit, pictures={view: picture for view, picture in drawn.items() if picture is not None})

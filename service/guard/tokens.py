"""Bearer tokens: a file with the hash of each, what its holder may do, and until when.

It knows that file alone.
"""

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from index.errors import ArtefactError
from index.storage.files import open_regular, written_whole
from service.errors import TokensError

SCOPES = {
    "read": "the page, searches, predictions, maps, studies and their films; similarities in two decimals",
    "vectors": "vectors of films, searches by a vector, and exact similarities; all of these can identify patients",
    "write": "add and delete studies",
    "admin": "load a new index",
    "metrics": "/metrics and /readyz, for monitoring",
    "remote": "searches of another hospital, answered as --remote-policy says",
}
"""None holds another."""
SECRET_BYTES = 32
MOST_BYTES = 1 << 24
"""Of a file of tokens: 50,000 of them."""
PREFIX = "precedent_"
"""By which a token that has strayed into a file is found again."""

Clock = Callable[[], datetime]


def _known(scope: str) -> str:
    if scope not in SCOPES:
        raise ValueError(f"expected a scope of {', '.join(SCOPES)}, got {scope!r}")
    return scope


class Token(BaseModel):
    """One token as the file holds it: never the token itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    scopes: Annotated[tuple[Annotated[str, AfterValidator(_known)], ...], Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None

    def state(self, now: datetime) -> Literal["valid", "expired", "revoked"]:
        """Return whether the token opens anything at a time."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "valid"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: Literal[1]
    tokens: list[Token]
    sha256: str
    """Of the tokens: one that was changed by hand, or by a bad disk, is refused."""

    @model_validator(mode="after")
    def _unchanged(self) -> Self:
        if self.sha256 != _sealed(self.tokens):
            raise ValueError("it was edited or damaged")
        return self


def _sealed(tokens: Sequence[Token]) -> str:
    return hashlib.sha256("\n".join(token.model_dump_json() for token in tokens).encode()).hexdigest()


def now() -> datetime:
    """Return the time in UTC, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def read_tokens(path: Path) -> list[Token]:
    """Return the tokens of a file.

    Raises:
        TokensError: no such file, one that others may read or write, or no file of tokens.
    """
    try:
        with open_regular(path) as file:
            mode, text = os.fstat(file.fileno()).st_mode & 0o777, file.read(MOST_BYTES).decode("utf-8")
    except ArtefactError as refusal:
        raise TokensError(str(refusal)) from refusal
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it holds no text"
        raise TokensError(
            f"cannot read the tokens of {str(path)!r}: {reason}; make some: precedent token create NAME --scope read "
            f"--tokens {path}"
        ) from error
    if mode & 0o077:
        raise TokensError(f"expected {str(path)!r} to be its owner's alone, got mode {mode:04o}; run: chmod 600 {path}")
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> list[Token]:
    try:
        tokens = _File.model_validate_json(text).tokens
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise TokensError(f"{str(path)!r} is no file of tokens: {place}: {first['msg']}; make another") from None
    if len({token.name for token in tokens}) < len(tokens):
        raise TokensError(f"expected different names in {str(path)!r}, got one twice; create a new file")
    return tokens


def create_token(
    path: Path, name: str, scopes: Sequence[str], *, lifetime: timedelta | None = None, clock: Clock = now
) -> str:
    """Return a new token of 256 random bits, of which the file, made where there is none, keeps the SHA-256.

    Raises:
        TokensError: a name that is taken (also by a revoked token, which the audit log still names) or not allowed,
            an unknown scope, or a file that cannot be used.
    """
    secret, today = PREFIX + secrets.token_urlsafe(SECRET_BYTES), clock()
    until = today + lifetime if lifetime is not None else None
    try:
        token = Token(
            name=name, scopes=tuple(dict.fromkeys(scopes)), sha256=_hashed(secret), created=today, expires=until
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise TokensError(
            f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
        ) from None
    with _alone(path):
        tokens = read_tokens(path) if path.exists() else []
        if any(token.name == name for token in tokens):
            raise TokensError(f"the name {name!r} is or was in use; choose another name")
        _save(path, [*tokens, token])
    return secret


def revoke_token(path: Path, name: str, clock: Clock = now) -> None:
    """Revoke a token at once; a running service notices. Raises TokensError."""
    with _alone(path):
        tokens = read_tokens(path)
        if not any(token.name == name for token in tokens):
            raise TokensError(f"there is no token {name!r}; there are: {', '.join(token.name for token in tokens)}")
        _save(
            path, [token.model_copy(update={"revoked": clock()}) if token.name == name else token for token in tokens]
        )


def _hashed(secret: str) -> str:
    """A token is 256 random bits, so that no slow hash is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other writers of the folder out, so that none undoes what another has revoked."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise TokensError(f"cannot open the folder of {str(path)!r}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _save(path: Path, tokens: Sequence[Token]) -> None:
    with written_whole(path) as partial:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        if os.geteuid() == 0 and path.exists():  # root's change of a service's tokens leaves them the service's
            os.chown(partial, path.stat().st_uid, path.stat().st_gid)
        content = _File(version=1, tokens=list(tokens), sha256=_sealed(tokens))
        partial.write_text(content.model_dump_json(indent=2) + "\n", encoding="utf-8")


class TokenFile:
    """The tokens of a file as they are at the moment: it is read again when it has changed. Safe under threads."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises TokensError."""
        self.path = path
        self._kept = (self._stamp(), tuple(read_tokens(path)))

    def holder(self, secret: str) -> Token | None:
        """Return the token that hashes like `secret`, whatever its state, compared with all in constant time.

        Raises:
            TokensError: the file is not as it must be any more; nobody is let in then.
        """
        return self.of_hash(_hashed(secret))

    def of_hash(self, sha256: str) -> Token | None:
        """Return the token of a SHA-256, as `holder` does."""
        known = None
        for token in self._current():
            if hmac.compare_digest(token.sha256, sha256):
                known = token
        return known

    def _current(self) -> tuple[Token, ...]:
        stamp, tokens = self._kept
        if (seen := self._stamp()) == stamp and stamp is not None:
            return tokens
        tokens = tuple(read_tokens(self.path))
        self._kept = (seen, tokens)
        return tokens

    def _stamp(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino

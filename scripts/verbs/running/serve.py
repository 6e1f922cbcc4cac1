"""`precedent serve`: the page and the API on a loopback address.

It owns the process: argv, signals, the listening socket; what is served it takes from `service.loader`.
"""

import ctypes
import ipaddress
import logging
import os
import platform
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import click
import pyarrow as pa
from flask import Flask

from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import device_option, trust_option
from scripts.options.encoder_file import EncoderFile
from scripts.terminal import refused_for, say, say_json
from scripts.work.http_server import Server, closed_by_signals, tell_supervisor
from service.served.activation import Activation
from service.state import State, state_of

if TYPE_CHECKING:
    from service.limits import Limits

log = logging.getLogger("precedent.serve")

THREADS = 72
"""32 clients that upload films without a pause, each waiting on a thread of its own, fill 32 of the 35 places that
`limits_for` gives uploads of these; they mostly sleep, for reading films is bounded by the cores, embedding by the
batches. Of the others 8 are for maps and 18 for pictures; the rest answers searches for vectors and pages meanwhile."""
_M_ARENA_MAX = -8  # of malloc.h
_ARENAS = 2
LOADING_SECONDS = 900
"""A large collection may take, of which every byte is read for its SHA-256 on a slow disk."""


@click.command()
@click.argument("indexes", nargs=-1, metavar="[NAME=]INDEX...")
@click.option(
    "--encoder",
    type=EncoderFile(exists=True, dir_okay=False),
    help="The encoder file that the index was built with, or: builtin. Without it stored studies and vectors are "
    "answered, and films are refused.",
)
@click.option(
    "--embedder",
    metavar="URL",
    help="Have a remote encoder turn films into vectors: their pixels are sent there. http:// on this machine, else "
    "https://; its token is taken from PRECEDENT_EMBEDDER_TOKEN.",
)
@click.option(
    "--embedder-kind",
    type=click.Choice(["own", "tei", "kserve", "vertex"]),
    default="own",
    show_default=True,
    help="How that is asked; precedent help service describes it.",
)
@click.option(
    "--texts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Texts to search by, as import texts writes them; matched by a model that was not tested here.",
)
@click.option(
    "--probe",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the probe; without it there are no predictions.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="[NAME=]ROOT",
    help="Image root, if not the one stored in the index: of all collections, or of one.",
)
@trust_option
@ignored_parts
@device_option("auto", "What compares vectors.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="IPv4 address to listen on; any that others can reach needs --tokens.",
)
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes any free one.",
)
@click.option(
    "--threads",
    default=THREADS,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Requests that are answered at the same time.",
)
@click.option(
    "--public-name",
    multiple=True,
    help="Host name or address that clients reach the service by, such as that of a proxy.",
)
@click.option("--prefix", default="", metavar="/PATH", help="Path below which a reverse proxy shows the service.")
@click.option(
    "--viewer-url",
    default="",
    metavar="URL",
    help="Address at which the hospital's viewer shows a study, e.g. "
    "'https://pacs.example/viewer?StudyInstanceUIDs={StudyInstanceUID}'.",
)
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of access tokens, as `precedent token create` writes it.",
)
@click.option(
    "--queries-a-day",
    type=click.IntRange(min=1),
    help="Different studies and films that a token may ask about in a day, unless it has the scope vectors "
    "(default: 200).",
)
@click.option(
    "--sites",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Search other hospitals beside the first index, or with --encoder and no index them alone; precedent help "
    "service describes the file.",
)
@click.option(
    "--remote-policy",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is let out to other hospitals that search here with a token of the scope remote; precedent help "
    "service describes the file.",
)
@click.option(
    "--audit",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Audit log, to which one line is added for each request.",
)
@click.option(
    "--log-format",
    type=click.Choice(["json", "text"]),
    help="Format of the log on stderr (default: on a terminal text, with warnings and errors only; otherwise JSON, "
    "one line for each request).",
)
@click.option("--json", "as_json", is_flag=True, help="Print what is served and its address as JSON.")
def command(
    indexes: tuple[str, ...],
    encoder: Path | None,
    embedder: str | None,
    embedder_kind: str,
    texts: Path | None,
    probe: Path | None,
    images: tuple[str, ...],
    trusted: bool,
    ignored: frozenset[str],
    device: str,
    host: str,
    port: int,
    threads: int,
    public_name: tuple[str, ...],
    prefix: str,
    viewer_url: str,
    tokens: Path | None,
    queries_a_day: int | None,
    sites: Path | None,
    remote_policy: Path | None,
    audit: Path | None,
    log_format: Literal["json", "text"] | None,
    as_json: bool,
) -> None:
    """Serve one or more indexes over HTTP, with a page, until Ctrl-C or SIGTERM.

    Requests choose one of several indexes by NAME, and get the first if they name none. All must be built with the same
    encoder. Without --encoder, stored studies and vectors are answered and films are refused.

    \b
    precedent serve index/ --encoder encoder.safetensors
    precedent serve index/
    precedent serve main=index/ nih=nih-index/ --encoder encoder.safetensors --images nih=nih-films/
    precedent serve index/ --encoder encoder.safetensors --tokens tokens.json --audit audit.jsonl
    """
    from service.audit.log import AuditLog
    from service.errors import AuditError, CollectionNotFound, EmbedderUnavailable, MountError, NotReady, TokensError
    from service.guard.policy import RemotePolicy
    from service.guard.tokens import TokenFile
    from service.limits import Limits
    from service.loader import load
    from service.prefix import parse_prefix
    from service.served.mounts import parse_mounts
    from service.served.sites import SitesFile
    from service.viewer import parse_viewer
    from service.watch.logs import configure

    if encoder is not None and embedder is not None:
        raise click.UsageError("give --encoder or --embedder")
    if not indexes and sites is None:
        raise click.UsageError("Missing argument '[NAME=]INDEX...'.")
    hung_up: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: hung_up.append(number))  # which would end it while it loads
    tell_supervisor(f"EXTEND_TIMEOUT_USEC={LOADING_SECONDS}000000")
    give_memory_back()
    require_tokens(host, tokens, public_name, prefix)
    with refused_for(MountError, TokensError, AuditError):
        below, viewer = parse_prefix(prefix), parse_viewer(viewer_url)
        mounts = parse_mounts(indexes, images, trusted=trusted) if indexes else []
        others = SitesFile.load(sites, os.environ) if sites is not None else None
        known = TokenFile(tokens) if tokens is not None else None
        policy = RemotePolicy.load(remote_policy) if remote_policy is not None else None
        calls = AuditLog(audit) if audit is not None else None
    with bind(host, port) as listener, refused_for(MountError, CollectionNotFound, EmbedderUnavailable):
        configure(log_format or ("text" if sys.stderr.isatty() else "json"))
        hosts = (*Limits.hosts, host, *map(str.lower, public_name))
        limits = replace(limits_for(threads), hosts=hosts, queries_a_day=queries_a_day or Limits.queries_a_day)
        try:
            app = load(
                mounts,
                encoder,
                replace(limits, prefix=below, viewer=viewer),
                probe,
                runtime="auto",
                ignored_parts=ignored,
                tokens=known,
                log=calls,
                device=device,
                embedder=embedder,
                embedder_kind=embedder_kind,
                texts=texts,
                policy=policy,
                sites=others,
            )
        except NotReady as fault:
            raise click.ClickException(f"{fault}: {fault.__cause__}") from None
        serve(app, listener, threads=threads, hung_up=hung_up, as_json=as_json)
    if calls is not None:
        say(f"audit log {audit}: {calls.close()}", err=as_json)
    leave(0)


def give_memory_back() -> None:
    """Have Arrow free what it read tables with, and malloc, where it is glibc's, share its arenas among the threads.

    Apart, the arenas of a few dozen threads hold 0.2 GB that none of them uses.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def require_tokens(host: str, tokens: Path | None, public_name: Sequence[str] = (), prefix: str = "") -> None:
    """Refuse an address or a name by which other machines could ask where nobody is asked for a token."""
    try:
        address = ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise click.ClickException(f"expected an IPv4 address, got {host!r}; name it with --public-name") from None
    if tokens is None and not address.is_loopback:
        raise click.ClickException(
            f"expected a loopback address, got {host!r}, which others can reach; ask them for tokens: precedent token "
            "create NAME --scope read --tokens FILE, and --tokens FILE here"
        )
    if tokens is None and (public_name or prefix):
        raise click.ClickException(
            f"requests for {(*public_name, prefix)[0]!r} come through a proxy and would count as coming from this "
            "machine; use tokens: precedent token create NAME --scope read --tokens FILE, and --tokens FILE here"
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound before the slow loading starts, so that a port in use is reported at once."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException as cause:
        listener.close()
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or str(cause)
        raise click.ClickException(f"cannot listen on {host}:{port}: {reason}; choose another --port") from cause
    return listener


@contextmanager
def renewed_by_signals(activation: Activation | None, hung_up: Sequence[int] = ()) -> Iterator[None]:
    """Have SIGHUP reload the served folders.

    Args:
        hung_up: the signals that came before.
    """
    if activation is None:
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda _signal, _frame: activation.in_background())
    if hung_up:
        activation.in_background()
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def limits_for(threads: int) -> "Limits":
    """Return limits under which uploads, maps and pictures together leave threads for other requests."""
    from service.limits import Limits

    return replace(
        Limits(), studies=max(1, threads // 2 - 1), readings_waiting=threads // 10, pictures=max(1, threads // 4)
    )


def serve(
    app: Flask, listener: socket.socket, *, threads: int = THREADS, hung_up: Sequence[int] = (), as_json: bool = False
) -> None:
    """Serve `app` until SIGINT or SIGTERM; then finish what is in flight, and refuse what comes meanwhile."""
    state = state_of(app)
    server = Server(
        app,
        listener,
        threads=threads,
        body_bytes=state.limits.body_bytes,
        closing=state.closing,
        sender=state.access.sender,
    )
    host, port = listener.getsockname()[:2]
    held = " and ".join(
        f"{len(collection.retriever):,} studies of {collection.name}" for collection in state.served.now.collections
    )
    if (across := state.served.now.sites) is not None:
        held = " and ".join(filter(None, (held, f"other hospitals as {across.name}")))
    with closed_by_signals(state.closing), renewed_by_signals(state.activation, hung_up):
        address = f"http://{host}:{port}{app.config['APPLICATION_ROOT'].rstrip('/')}"
        _say_serving(state, address, held, as_json=as_json)
        log.info("serving %s", held)
        tell_supervisor("READY=1")
        whole = server.run()
    if whole:
        log.info("stopped; every request that had begun was answered")
        return
    log.warning("stopped before every request that had begun was answered")
    leave(1)


def _say_serving(state: State, address: str, held: str, *, as_json: bool) -> None:
    asked, collections = state.access.tokens is not None, state.served.now.collections
    if as_json:
        sizes = {collection.name: len(collection.retriever) for collection in collections}
        warnings = {collection.name: collection.warning for collection in collections if collection.warning is not None}
        embeds = all(collection.embeds for collection in collections)
        say_json({"url": address, "collections": sizes, "embeds": embeds, "tokens": asked, "warnings": warnings})
        return
    say(f"serving {held} on {address}")
    if not all(collection.embeds for collection in collections):
        say("no encoder: stored studies and vectors are answered, films are refused (no_encoder)")
    if not asked:
        say("no tokens: every program on this machine may use the service; --tokens FILE requires a token")
    for collection in collections:
        if collection.warning is not None:
            say(f"WARNING of {collection.name}: {collection.warning}")


def leave(code: int) -> NoReturn:
    """End the process at once: an orderly exit would abort under native threads that still run."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)

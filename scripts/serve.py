"""`precedent serve`: the page and the API on a loopback address, by waitress.

It owns the process: argv, signals, the listening socket; what is served it takes from `service.loader`.
"""

import ipaddress
import logging
import signal
import socket
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import click
from flask import Flask
from waitress.server import create_server

if TYPE_CHECKING:
    from service.limits import Limits

THREADS = 56
"""32 clients that upload films without a pause, each waiting on a thread of its own, fill 32 of the 35 places that
`limits_for` gives uploads of these; they mostly sleep, for reading films is bounded by the cores, embedding by the
batches. The rest answers searches for vectors and pages meanwhile."""
RECEIVED_BYTES = 1 << 18
"""Read from a connection at once: a film of a megabyte comes in four reads, not in a hundred and thirty."""
BODY_SLACK = 4
"""waitress drops a body this many limits long in its own words; below, the service's error body answers."""


@click.command()
@click.argument("indexes", nargs=-1, required=True, metavar="[NAME=]INDEX...")
@click.option("--encoder", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--probe", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Probe of predictions.")
@click.option("--images", multiple=True, metavar="[NAME=]ROOT", help="Image root, of all collections or of one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="0: any free one.")
@click.option("--threads", default=THREADS, show_default=True, type=click.IntRange(1, 256), help="Requests at a time.")
@click.option("--public-name", multiple=True, help="Host name under which a reverse proxy publishes the service.")
def command(
    indexes: tuple[str, ...],
    encoder: Path,
    probe: Path | None,
    images: tuple[str, ...],
    host: str,
    port: int,
    threads: int,
    public_name: tuple[str, ...],
) -> None:
    """Serve page and API of the folders INDEX until Ctrl-C or SIGTERM.

    Several are asked by name, the first where a request names none; all need to be of the one encoder.

    \b
    precedent serve index/ --encoder encoder.safetensors
    precedent serve main=index/ nih=nih-index/ --encoder encoder.safetensors --images nih=nih-films/
    """
    from service.errors import MountError
    from service.limits import Limits
    from service.loader import load
    from service.mounts import parse_mounts

    require_loopback(host)
    try:
        mounts = parse_mounts(indexes, images)
    except MountError as refusal:
        raise click.ClickException(str(refusal)) from None
    with bind(host, port) as listener:
        limits = replace(limits_for(threads), hosts=(*Limits.hosts, host, *public_name))
        app = load(mounts, encoder, limits, probe, runtime="auto")
        serve(app, listener, threads=threads)


def require_loopback(host: str) -> None:
    """Refuse an address that other machines could reach: the service knows no credentials."""
    if host == "localhost":
        return
    try:
        local = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise click.ClickException(
            f"expected an IPv4 loopback address, got {host!r}; the service asks for no credentials, so put a "
            "reverse proxy with authentication in front and name it with --public-name"
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound before the slow loading starts, so that a port in use is told at once."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as cause:
        listener.close()
        reason = cause.strerror or str(cause)
        raise click.ClickException(f"cannot listen on {host}:{port}: {reason}; choose another --port") from cause
    return listener


def limits_for(threads: int) -> "Limits":
    """Return limits under which neither uploads nor maps can take every thread."""
    from service.limits import Limits

    return replace(Limits(), studies=max(1, 5 * threads // 8), readings_waiting=threads // 8)


def serve(app: Flask, listener: socket.socket, *, threads: int = THREADS) -> None:
    """Serve `app` until SIGINT or SIGTERM, and let running requests finish for five seconds."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a page asks for its films all at once
    body = BODY_SLACK * app.config["MAX_CONTENT_LENGTH"]
    server = create_server(
        app, sockets=[listener], threads=threads, max_request_body_size=body, ident=None,
        channel_request_lookahead=1,  # a closed connection is noticed while its request waits
        connection_limit=max(100, 2 * threads), asyncore_use_poll=True,
        recv_bytes=RECEIVED_BYTES,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, _stop)
    host, port = listener.getsockname()[:2]
    held = " and ".join(f"{len(one.retriever):,} studies of {one.name}" for one in app.extensions["precedent"].finders)
    click.echo(f"serving {held} on http://{host}:{port}")
    try:
        server.run()
    finally:
        server.close()


def _stop(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt

"""`precedent follow`: bring the films of a PACS into an index as they come, until it is told to end.

precedent follow https://pacs:8042 index/ --images films/ --encoder encoder.safetensors --state state/
"""

import ipaddress
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Literal

import click

from index.errors import CollectionError, StudiesError
from index.importing.crosswalk import Crosswalk
from index.importing.pseudonyms import Pseudonyms, load_key, make_key, require_apart
from index.opening import Address, address_of
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import opened
from scripts.options.encoder_file import EncoderFile
from scripts.options.pacs import packages_of_pacs
from scripts.options.places import Here
from scripts.terminal import say, say_json

if TYPE_CHECKING:
    from encoder.embedder import Embedder
    from index.living.additions import Writable
    from scripts.pacs.audit import PacsAudit
    from scripts.pacs.destination import Destination
    from scripts.pacs.feed import Feed
    from scripts.pacs.follow import Around
    from scripts.pacs.inbox import Inbox
    from scripts.pacs.listener import Listening
    from scripts.pacs.outbox import Outbox
    from scripts.pacs.sending import Returner
    from scripts.pacs.watch import FollowMetrics

MOST_SHOWN = 20
"""Entries of the log that a status shows."""


@click.command()
@click.argument("words", nargs=-1, metavar="[SOURCE] INDEX")
@click.option("--state", type=Here(), required=True, help="Folder of what has come and what became of it.")
@click.option(
    "--images", type=Here(exists=True, file_okay=False), help="Image root: the folder that the films are kept in."
)
@click.option("--encoder", type=EncoderFile(), help="The encoder file that the index was built with, or: builtin.")
@click.option("--listen", metavar="AET@PORT", help="Listen for films that are sent by C-STORE, in place of a SOURCE.")
@click.option("--host", default="127.0.0.1", show_default=True, help="IPv4 address to listen on.")
@click.option("--allow", multiple=True, metavar="AET", help="Title of one who may send. Repeatable.")
@click.option("--tls", type=Here(), metavar="FILE", help="Our certificate with its key: listen with TLS alone.")
@click.option("--tls-senders", type=Here(), metavar="FILE", help="Certificate of the authority of those who may send.")
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="A study is looked at once no film of it has come for so long.",
)
@click.option(
    "--list-every",
    type=click.FloatRange(0.1),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="All studies of SOURCE are listed as often, to see which are gone.",
)
@ignored_parts
@click.option(
    "--keep-burned-in", is_flag=True, help="Keep films whose header says that text is burned into the picture."
)
@click.option(
    "--pseudonymise",
    "key_file",
    type=Here(),
    metavar="KEYFILE",
    help="Replace patient and study ids by hashes under the secret key in this file, and ages over 89 by 90.",
)
@click.option("--new-key", is_flag=True, help="Create KEYFILE with a new key.")
@click.option(
    "--crosswalk",
    type=Here(),
    metavar="FILE",
    help="Note in this file, encrypted under the key, which StudyInstanceUID each pseudonym stands for.",
)
@click.option("--device", default="auto", show_default=True, help="Where the encoder runs: auto, cpu or cuda.")
@click.option("--runtime", default="auto", show_default=True, help="What runs its backbones; as of precedent export.")
@click.option(
    "--return",
    "kinds",
    metavar="KIND[,KIND]",
    help="What returns to each study as it is added: sr, sc or kos, as of precedent return. Nothing does unless named.",
)
@click.option("--to", metavar="DESTINATION", help="Where that is sent, as of precedent return.")
@click.option("--our-aet", default="PRECEDENT", show_default=True, help="Our AE title, for C-STORE to DESTINATION.")
@click.option("--probe", type=Here(), help="Folder of the encoder's probe, for sr and sc.")
@click.option(
    "--metrics", type=click.IntRange(0, 65535), metavar="PORT", help="Answer /metrics on this port of loopback."
)
@click.option(
    "--audit",
    type=Here(),
    metavar="FILE",
    help="Write each change, and each result that is sent, into this file before.",
)
@click.option("--log-format", type=click.Choice(["json", "text"]), help="Form of the log on stderr.")
@click.option("--once", is_flag=True, help="End once nothing waits any more.")
@click.option("--status", is_flag=True, help="Say what waits and what became of the films, and end.")
@click.option("--of", "name", default="", metavar="ID", help="With --status: tell of one study or film alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the address that is listened on, or the status, as JSON.")
def command(
    words: tuple[str, ...],
    state: Path,
    settle: float,
    key_file: Path | None,
    new_key: bool,
    crosswalk: Path | None,
    status: bool,
    name: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Follow a PACS: each study is embedded and added to INDEX once no more films of it come.

    SOURCE is the address of an Orthanc, whose changes are followed: films sent again with other content, patients that
    are merged or renamed, and studies that are deleted are so in INDEX too. With --listen films are taken as they are
    sent. What is no chest film is refused by the rules of `precedent import dicom`; of a film the pixels alone are
    kept. It may be killed at any moment and started again. The environment says who asks, as of `precedent import
    dicomweb`.

    With --return what is found in a study returns to it, once; what the PACS does not take waits and is sent again. For
    this, what a film's header says of its patient is kept in the state.

    \b
    precedent follow https://pacs:8042 index/ --images films/ --encoder encoder.safetensors --state state/
    precedent follow index/ --listen PRECEDENT@11112 --allow PACS --images films/ --encoder encoder.safetensors \\
        --state state/
    precedent follow https://pacs:8042 index/ --images films/ --encoder encoder.safetensors --state state/ \\
        --return sr,kos --to https://pacs:8042/dicom-web --probe probe/
    precedent follow --status --state state/
    """
    with packages_of_pacs():
        from scripts.pacs import feed, listener  # noqa: F401
    from scripts.pacs.inbox import Inbox
    from scripts.pacs.outbox import Outbox

    if status:
        if not state.is_dir():
            raise StudiesError(f"expected the folder of --state, got none at {str(state)!r}; precedent follow makes it")
        pseudonyms = None if key_file is None else Pseudonyms(load_key(key_file))
        outbox = Outbox(state, pseudonyms) if Outbox.is_in(state) else None
        _say_status(Inbox(state, settle, pseudonyms), outbox, name, as_json)
        return
    source, index = _parts(words, options["listen"])
    images, encoder = options["images"], options["encoder"]
    if images is None or encoder is None:
        raise click.UsageError("expected --images and --encoder")
    folders = [state, images, *([index] if isinstance(index, Path) else [])]
    back = _back(options.pop("kinds"), options.pop("to"), options.pop("our_aet"), options.pop("probe"))
    if back is not None and key_file is not None and crosswalk is None:
        raise click.UsageError("expected --crosswalk with --pseudonymise and --return: without it there is no way back")
    pseudonyms, way_back = _pseudonyms(key_file, new_key, crosswalk, folders)
    inbox = Inbox(state, settle, pseudonyms)
    outbox = None if back is None else Outbox(state, pseudonyms, way_back)
    _run(inbox, outbox, source, index, way_back, pseudonyms, back, as_json=as_json, **options)


@dataclass(frozen=True)
class Back:
    """What returns to the PACS, and where it is sent."""

    kinds: list[str]
    to: str
    destination: "Destination"
    probe: Path | None


def _back(kinds: str | None, to: str | None, our_aet: str, probe: Path | None) -> Back | None:
    """Return what is to return; None where nothing is."""
    if (kinds is None) != (to is None):
        raise click.UsageError("expected both --return and --to, or neither")
    if kinds is None or to is None:
        return None
    from scripts.pacs.destination import parse_destination
    from scripts.pacs.returning import parse_kinds, require_parts

    named = parse_kinds(kinds)
    require_parts(named, probe=probe is not None, collection=True)
    return Back(named, to, parse_destination(to, our_aet), probe)


def _parts(words: tuple[str, ...], listen: str | None) -> tuple[str | None, Address]:
    """Return the address of a PACS, None where films are listened for, and the index."""
    if len(words) != (1 if listen else 2):
        raise click.UsageError("expected SOURCE and INDEX, or INDEX with --listen AET@PORT")
    return (None if listen else words[0]), address_of(words[-1])


def _pseudonyms(
    key_file: Path | None, new_key: bool, crosswalk: Path | None, folders: list[Path]
) -> tuple[Pseudonyms | None, Crosswalk | None]:
    """Return the pseudonyms and the way back from them, both in files that lie in nothing that is passed on."""
    if key_file is None:
        if new_key or crosswalk:
            raise click.UsageError("expected --pseudonymise KEYFILE with --new-key and --crosswalk")
        return None, None
    require_apart(key_file, folders)
    if new_key:
        make_key(key_file)
    key = load_key(key_file)
    if crosswalk is None:
        return Pseudonyms(key), None
    require_apart(crosswalk, folders)
    return Pseudonyms(key), Crosswalk.open(crosswalk, key, make=True)


def _listening(
    listen: str, host: str, allow: tuple[str, ...], tls: Path | None, tls_senders: Path | None
) -> "Listening":
    """Return where to listen. Others than this machine may send only where they are named."""
    from scripts.pacs.listener import is_title, parse_listening

    try:
        alone = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        raise click.UsageError(f"expected an IPv4 address for --host, got {host!r}") from None
    if not alone and not allow:
        raise CollectionError(f"expected --allow AET for each who may send, as other machines can reach {host!r}")
    if wrong := [title for title in allow if not is_title(title)]:
        raise CollectionError(f"expected titles of 1 to 16 characters for --allow, got {wrong[0]!r}")
    if tls_senders is not None and tls is None:
        raise click.UsageError("expected --tls FILE with --tls-senders")
    return replace(parse_listening(listen, host), senders=allow, certificate=tls, authority=tls_senders)


def _run(
    inbox: "Inbox",
    outbox: "Outbox | None",
    source: str | None,
    index: Address,
    way_back: Crosswalk | None,
    pseudonyms: Pseudonyms | None,
    back: Back | None,
    *,
    images: Path,
    encoder: Path,
    ignored: frozenset[str],
    keep_burned_in: bool,
    device: str,
    runtime: str,
    list_every: float,
    metrics: int | None,
    audit: Path | None,
    log_format: Literal["json", "text"] | None,
    once: bool,
    as_json: bool,
    **listen: Any,
) -> None:
    from encoder.embedder import Embedder
    from index.storage.folder import held_alone
    from scripts.pacs.audit import PacsAudit
    from scripts.pacs.feed import Feed
    from scripts.pacs.follow import Follower, followed
    from scripts.pacs.listener import listening
    from scripts.pacs.rest import Pacs
    from scripts.pacs.sending import returning
    from scripts.pacs.watch import FollowMetrics
    from scripts.work.http_server import closed_by_signals, tell_supervisor
    from scripts.work.shard_writing import one_torch_thread
    from service.watch.logs import configure

    configure(log_format or ("text" if sys.stderr.isatty() else "json"))
    counts, ours = FollowMetrics(inbox, outbox), None if outbox is None else outbox.is_ours
    where = _listening(**listen) if source is None else None
    feed = None if source is None else Feed(Pacs(source, count=counts.answered), inbox, listing=list_every, ours=ours)
    with ExitStack() as stack:
        stack.enter_context(held_alone(inbox.folder))
        inbox.tidy()
        living = stack.enter_context(closing(opened(index)))
        embedder = Embedder.load(encoder, device=device, runtime=runtime, ignored_parts=ignored)
        _require_fitting(living, embedder, images)
        lines = stack.enter_context(closing(PacsAudit(audit)))
        follower = Follower(
            inbox,
            living,
            embedder,
            images,
            feed=feed,
            pseudonyms=pseudonyms,
            crosswalk=way_back,
            keep_burned_in=keep_burned_in,
            outbox=outbox,
            around=_around(counts, lines, source or listen["listen"], index),
        )
        returner = _returner(outbox, back, living, embedder, images, feed, way_back, counts, lines)
        port = None if where is None else stack.enter_context(listening(where, inbox, counts.sent, ours))
        watched = None if metrics is None else counts.serve("127.0.0.1", metrics)
        stack.enter_context(one_torch_thread(embedder))
        stack.enter_context(closed_by_signals(end := Event()))
        _say_following(source, where, port, watched, back, as_json=as_json)
        tell_supervisor("READY=1")
        with returning(None if once else returner, end):
            followed(follower, end, once=once)
        while once and returner is not None and not end.is_set() and returner.step(patient=False):
            pass


def _require_fitting(living: "Writable", embedder: "Embedder", images: Path) -> None:
    """Raise CollectionError unless a collection is of this encoder, this reader of films and these images."""
    from encoder.films.image import READING
    from index.export.reliability import require_reading
    from scripts.verbs.collection.add import require_image_root

    require_reading(living.manifest, READING)
    require_image_root(living, images)
    living.require_fingerprint(embedder.fingerprint)


def _around(counts: "FollowMetrics", audit: "PacsAudit", source: str, index: Address) -> "Around":
    """Return what is entered before studies are added and deleted: it writes that down, and counts them."""

    @contextmanager
    def around(added: Sequence[str], deleted: Sequence[str]) -> Iterator[None]:
        if added or deleted:
            facts = {"source": source, "collection": str(index), "added": list(added), "deleted": list(deleted)}
            with audit.around("follow", **facts):
                yield
            counts.brought(len(added), len(deleted))
        else:
            yield

    return around


def _returner(
    outbox: "Outbox | None",
    back: Back | None,
    living: "Writable",
    embedder: "Embedder",
    images: Path,
    feed: "Feed | None",
    way_back: Crosswalk | None,
    counts: "FollowMetrics",
    audit: "PacsAudit",
) -> "Returner | None":
    if outbox is None or back is None:
        return None
    from encoder.findings.probe import LinearProbe
    from scripts.pacs.destination import ByWeb
    from scripts.pacs.returning import ResultMaker, films_below, films_in
    from scripts.pacs.sending import Returner, films_known

    outbox.tidy()
    ways = [films_known(outbox), films_below(images)]
    if isinstance(back.destination, ByWeb):
        ways.append(films_in(back.destination.pacs, None if way_back is None else way_back.study_uid))
    return Returner(
        outbox,
        ResultMaker(embedder, None if back.probe is None else LinearProbe.load(back.probe), living, ways),
        back.kinds,
        back.destination,
        living,
        images,
        there=(lambda place: True) if feed is None else feed.has,
        audit=audit,
        to=back.to,
        count=counts.returned,
    )


def _say_following(
    source: str | None,
    where: "Listening | None",
    port: int | None,
    watched: int | None,
    back: Back | None,
    *,
    as_json: bool,
) -> None:
    said = {"source": source, "port": port, "metrics": watched, "to": None if back is None else back.to}
    if as_json:
        say_json(said)
        return
    if where is None:
        say(f"following {source}")
    else:
        say(f"listening as {where.title} on {where.host}:{port}{', with TLS alone' if where.certificate else ''}")
        if not where.senders:
            say("no --allow: every program on this machine may send films")
    if back is not None:
        say(f"returning {', '.join(back.kinds)} to {back.to}")


def _say_status(inbox: "Inbox", outbox: "Outbox | None", name: str, as_json: bool) -> None:
    counts, log = inbox.counts(), list(inbox.last_entries(name, MOST_SHOWN))
    returned = None if outbox is None else outbox.counts()
    if outbox is not None:
        log = sorted([*log, *outbox.last_entries(name, MOST_SHOWN)])[-MOST_SHOWN:]
    entries = [
        {
            "time": datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"),
            "study": study,
            "film": film,
            "fate": fate,
        }
        for at, study, film, fate in log
    ]
    if as_json:
        say_json(counts | {"returned": returned, "log": entries})
        return
    say(f"{counts['studies_waiting']:,} studies wait{_since(counts)}")
    say(*(f"{count:,} films {fate}" for fate, count in counts["films"].items()))
    if returned is not None:
        reason = f": {returned['reason']}" if returned["reason"] else ""
        say(f"the results of {returned['studies_waiting']:,} studies wait{_since(returned)}{reason}")
        say(*(f"{one['count']:,} {one['kind']} {one['fate']}" for one in returned["results"]))
    say(*(f"{entry['time']}  {entry['study']}  {entry['film']}  {entry['fate']}" for entry in entries))


def _since(counts: dict[str, Any]) -> str:
    return f", the first for {counts['oldest_seconds']:,.0f} s" if counts["studies_waiting"] else ""

"""`precedent return`: what is found in a study goes back to it as DICOM.

precedent return film.dcm --encoder encoder.safetensors --probe probe/ --return sr,sc --to https://pacs:8042/dicom-web
"""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from encoder.embedder import Embedder
from encoder.findings.probe import LinearProbe
from index.errors import CollectionError
from index.importing.crosswalk import Crosswalk
from index.importing.pseudonyms import Pseudonyms, load_key
from index.importing.source import Notices
from index.opening import Address
from index.table.studies import is_uid
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress, opened, trust_option
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere, Here
from scripts.pacs.results import KINDS, Result
from scripts.pacs.returning import (
    GivenFilms,
    ResultMaker,
    WayBack,
    films_below,
    films_in,
    films_of,
    parse_kinds,
    require_parts,
)
from scripts.terminal import say, say_json

if TYPE_CHECKING:
    from scripts.pacs.audit import PacsAudit

_PATH = Here()
_STUDIES = "/studies/"


@click.command()
@click.argument("study", metavar="STUDY")
@click.argument("index", type=CollectionAddress(), required=False)
@click.option("--encoder", type=EncoderFile(), required=True, help="Encoder file, or: builtin.")
@click.option("--probe", type=_PATH, help="Folder of the encoder's probe, for sr and sc.")
@click.option(
    "--return",
    "words",
    required=True,
    metavar="KIND[,KIND]",
    help="What returns: " + "; ".join(f"{kind}, {what}" for kind, what in KINDS.items()) + ".",
)
@click.option(
    "--to",
    required=True,
    metavar="DESTINATION",
    help="Where it is sent: a PACS by STOW-RS (https://PACS/dicom-web) or by C-STORE (AET@HOST:PORT, over TLS "
    "tls://AET@HOST:PORT), or a folder.",
)
@click.option("--our-aet", default="PRECEDENT", show_default=True, help="Our AE title, for C-STORE.")
@click.option("--finding", help="What the heat map is of (default: the most probable finding).")
@click.option("-k", type=click.IntRange(1, 100), default=5, show_default=True, help="Similar cases to point at.")
@click.option("--images", type=Anywhere(), help="Image root of the index, if it is not the one stored in it.")
@trust_option
@click.option(
    "--key", "key_file", type=_PATH, help="Key file of the index, if its ids are pseudonyms (import --pseudonymise)."
)
@click.option("--crosswalk", type=_PATH, help="Crosswalk that was written with the pseudonyms; needs --key.")
@ignored_parts
@click.option("--audit", type=_PATH, metavar="FILE", help="Write into this file what was fetched and what is sent.")
@click.option("--json", "as_json", is_flag=True, help="Print what was returned as JSON.")
def command(
    study: str,
    index: Address | None,
    encoder: Path,
    probe: Path | None,
    words: str,
    to: str,
    our_aet: str,
    finding: str | None,
    k: int,
    images: Path | None,
    trusted: bool,
    key_file: Path | None,
    crosswalk: Path | None,
    ignored: frozenset[str],
    audit: Path | None,
    as_json: bool,
) -> None:
    """Return what is found in STUDY to that study, as DICOM objects for research use.

    STUDY is a DICOM file, a folder of one study's films, or a study of a PACS (https://PACS/dicom-web/studies/UID).
    The similar cases come from INDEX; the key object selection points at their own instances. Objects that are there
    already are not sent again.

    \b
    precedent return film.dcm --encoder encoder.safetensors --probe probe/ --return sr,sc --to https://pacs/dicom-web
    precedent return study/ index/ --encoder encoder.safetensors --probe probe/ --return sr,sc,kos --to PACS@pacs:104
    """
    try:
        from scripts.pacs.audit import PacsAudit
        from scripts.pacs.destination import parse_destination
        from scripts.pacs.rest import Pacs
    except ImportError as error:
        raise CollectionError(
            f"expected packages to reach a PACS with ({error}); run: pip install 'cxr-precedent[pacs]'"
        ) from error
    if crosswalk is not None and key_file is None:
        raise click.UsageError("--crosswalk needs --key, the key file that it was written under")
    kinds = parse_kinds(words)
    require_parts(kinds, probe=probe is not None, collection=index is not None)
    destination = parse_destination(to, our_aet)
    key = None if key_file is None else load_key(key_file)
    collection, ways = None if index is None else opened(index), list[WayBack]()
    if collection is not None:
        ways.append(films_below(images or collection.remembered_root(trusted=trusted)))
    if (pacs := _base(study) or _base(to)) is not None:
        walk = None if crosswalk is None or key is None else Crosswalk.open(crosswalk, key)
        ways.append(films_in(Pacs(pacs), None if walk is None else walk.study_uid))
    pseudonyms = None if key is None else Pseudonyms(key)
    embedder = Embedder.load(encoder, ignored_parts=ignored)
    maker = ResultMaker(embedder, None if probe is None else LinearProbe.load(probe), collection, ways, k)
    with closing(PacsAudit(audit)) as lines:
        with _folder_of(study, lines) as source, films_of(source, ignored, pseudonyms) as given:
            results = maker.make(given, kinds, finding)
        with lines.around("return", sent_to=to, **_facts(given, results, pseudonyms)) as outcome:
            outcome["fates"] = fates = destination.send(results)
    entries = [
        {"kind": result.kind, "sop_instance_uid": result.uid, "fate": fate, "note": result.note}
        for result, fate in zip(results, fates, strict=True)
    ]
    if as_json:
        say_json({"to": to, "results": entries})
        return
    for entry in entries:
        say(
            f"{entry['kind']}: {entry['fate']}, {entry['sop_instance_uid']}"
            + (f"; {entry['note']}" if entry["note"] else "")
        )


def _base(text: str) -> str | None:
    """Return the address of a PACS's DICOMweb of a text that is one, or is that of a study in it."""
    return text.partition(_STUDIES)[0] if text.lower().startswith(("http://", "https://")) else None


def _facts(given: GivenFilms, results: Sequence[Result], pseudonyms: Pseudonyms | None) -> dict[str, Any]:
    """Return what the audit log says of results: their study, kinds and UIDs, under pseudonyms where there are any."""
    uids = [(result.kind, result.uid) for result in results]
    if pseudonyms is not None:
        uids = [(kind, pseudonyms.of("film", uid)) for kind, uid in uids]
    studies = {given.subject.study_id} - {None}
    if pseudonyms is None:  # and where nothing says of whom they are
        studies = studies or {str(result.dataset.StudyInstanceUID) for result in results}
    return {"studies": sorted(map(str, studies)), "results": [{"kind": kind, "uid": uid} for kind, uid in uids]}


@contextmanager
def _folder_of(study: str, lines: "PacsAudit") -> Iterator[Path]:
    """Yield where the films of a study are: on this machine, or fetched from a PACS for as long as this takes."""
    base, uid = _base(study), study.partition(_STUDIES)[2].strip("/")
    if base is None:
        source = Path(study)
        if not source.exists():
            raise CollectionError(
                f"expected a DICOM file or a folder of a study's films, got {study!r}; nothing is there"
            )
        yield source
        return
    from scripts.pacs.dicomweb import fetch
    from scripts.pacs.rest import Pacs

    if not is_uid(uid):
        raise CollectionError("expected a study of a PACS as https://PACS/dicom-web/studies/UID, got another address")
    with TemporaryDirectory(prefix="precedent-") as folder:
        with lines.around("fetch for return", source=Pacs(base).host) as outcome:
            outcome["films"] = fetch(Pacs(base), {"StudyInstanceUID": uid}, Path(folder), Notices())
        yield Path(folder)

"""`precedent bench follow`: films a minute from C-STORE to searchable.

A sender and what `precedent follow --listen` does run in one process, over loopback.
"""

import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from time import perf_counter

import click
import numpy as np
import pydicom
from pydicom.uid import generate_uid

from encoder.embedder import Embedder
from index.living.collection import LivingCollection
from scripts.benches.drawn import Drawn
from scripts.benches.films import KINDS, draw
from scripts.benches.measured import json_option, machine_facts
from scripts.benches.serve import build_index
from scripts.options.encoder_file import EncoderFile
from scripts.options.pacs import packages_of_pacs
from scripts.terminal import say, say_json
from scripts.work.shard_writing import one_torch_thread

_ROWS = 1000
_TITLE = "PRECEDENT"
_DISTINCT = 8


@click.command("follow")
@click.option("--encoder", type=EncoderFile(), required=True, help="An encoder file, or: builtin.")
@click.option("--films", type=click.IntRange(1), default=100, show_default=True, help="Films, each a study of its own.")
@click.option("--kind", type=click.Choice(["full", "half"]), default="full", show_default=True, help="Size of a film.")
@click.option(
    "--runtime",
    default="auto",
    show_default=True,
    help="Runtime of the encoder; auto takes the fastest that is installed.",
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="A folder on the disk to measure; what is written there is removed afterwards.",
)
@json_option
def command(encoder: Path, films: int, kind: str, runtime: str, folder: Path | None, json_wanted: bool) -> None:
    """Send films by C-STORE and wait until all can be found in an index of 1,000 studies.

    A film is a DICOM file of 12 bits, uncompressed, 2320 x 2828 or half as wide and high.

    \b
    precedent bench follow --encoder encoder.safetensors
    """
    with packages_of_pacs():
        from scripts.pacs import feed, listener  # noqa: F401
    embedder = Embedder.load(encoder, runtime=runtime)
    with TemporaryDirectory(dir=folder, prefix="bench-") as name:
        confirmed, searchable = _measured(Path(name), embedder, _drawn(films, 1 if kind == "full" else 2))
    figures = {
        "films": films,
        "kind": kind,
        "confirmed_a_minute": 60 * films / confirmed,
        "searchable_a_minute": 60 * films / searchable,
    }
    if json_wanted:
        say_json(figures | machine_facts("pynetdicom", "pydicom", "torch"))
        return
    for what, seconds in (("confirmed to their sender", confirmed), ("sent and searchable", searchable)):
        say(f"{films:,} films {what} in {seconds:,.1f} s: {60 * films / seconds:,.0f} a minute")


def _measured(folder: Path, embedder: Embedder, films: Sequence[pydicom.Dataset]) -> tuple[float, float]:
    """Return the seconds until all films were confirmed to their sender, and until all can be found."""
    from scripts.pacs.follow import Follower
    from scripts.pacs.inbox import Inbox
    from scripts.pacs.listener import Listening, listening

    build_index(Drawn(_ROWS, embedder.embedding_dim), embedder.fingerprint, "flat", folder)
    (folder / "images").mkdir()
    inbox = Inbox(folder / "state", 0.0)
    ended: list[float] = []
    with (
        closing(LivingCollection(folder / "index")) as living,
        listening(Listening(_TITLE, "127.0.0.1", 0), inbox) as port,
        one_torch_thread(embedder),
    ):
        follower = Follower(inbox, living, embedder, folder / "images")
        sender = Thread(target=lambda: ended.append(_send(port, films)))
        start = perf_counter()
        sender.start()
        while len(living) < _ROWS + len(films):
            if not follower.step() and ended and ended[0] < 0:
                raise click.ClickException("a film was not confirmed; is the disk full?")
        searchable = perf_counter() - start
        sender.join()
    return ended[0] - start, searchable


def _send(port: int, films: Sequence[pydicom.Dataset]) -> float:
    """Return the moment at which all films were confirmed, -1 where one was not."""
    from pynetdicom import AE

    entity = AE(ae_title="BENCH")
    entity.add_requested_context(films[0].SOPClassUID, films[0].file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title=_TITLE)
    statuses = {association.send_c_store(film).get("Status") for film in films if association.is_established}
    association.release()
    return perf_counter() if statuses == {0} else -1.0


def _drawn(count: int, part: int) -> list[pydicom.Dataset]:
    kind, rng = KINDS["dicom"], np.random.default_rng(0)
    shape = (kind.shape[0] // part, kind.shape[1] // part)
    pictures = [kind.encode(draw(shape, kind.highest, rng)) for _ in range(min(count, _DISTINCT))]
    films: list[pydicom.Dataset] = []
    for number in range(count):
        film = pydicom.dcmread(io.BytesIO(pictures[number % _DISTINCT]))
        film.PatientID, film.StudyInstanceUID, film.SOPInstanceUID = f"P{number}", generate_uid(), generate_uid()
        film.SOPClassUID = film.file_meta.MediaStorageSOPClassUID
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID
        film.ViewPosition = "PA"
        films.append(film)
    return films

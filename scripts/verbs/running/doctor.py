"""`precedent doctor`: check an installation, and say what is wrong and what to do about it.

precedent doctor index/ --encoder encoder.safetensors
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from encoder.errors import EncoderError
from index.built.mirror import cache_folder
from index.engines.address import ServerAddress
from index.errors import ArtefactError, BackendUnavailable, CollectionError
from index.opening import Address
from scripts.options.collection_address import CollectionAddress, opened, token, trust_option
from scripts.options.encoder_file import EncoderFile
from scripts.options.places import Anywhere
from scripts.terminal import say, say_json
from scripts.work.machine_checks import NEEDED_DISK, Check, disk, gpus, machine_checks

LEAST_COSINE = 0.99
"""Of a film's vector by the runtime to torch's: bf16 and int8 stay above it."""


@click.command()
@click.argument("index", required=False, type=CollectionAddress())
@click.option(
    "--encoder", type=EncoderFile(), help="Encoder file to check, or: builtin, and to check the index against."
)
@click.option("--images", type=Anywhere(), help="Image root of the index, if it is not the one stored in it.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def command(index: Address | None, encoder: Path | None, images: Path | None, trusted: bool, as_json: bool) -> None:
    """Check this installation and, if named, the index in a folder or at an address, and its encoder.

    The exit code is 1 if a check fails.

    \b
    precedent doctor
    precedent doctor index/ --encoder encoder.safetensors
    """
    checks = []
    for check in _all(index, encoder, images, trusted):
        checks.append(check)
        if not as_json:
            say(f"{check.state:<8}{check.name:<12}{check.detail}")
            if check.remedy:
                say(f"{'':<20}-> {check.remedy}")
    if as_json:
        say_json([asdict(check) for check in checks], indent=2)
    if any(check.state == "fault" for check in checks):
        sys.exit(1)


def _all(
    index: Address | None, encoder: Path | None, images: Path | None = None, trusted: bool = False
) -> Iterator[Check]:
    """Yield the checks as they are made: the machine's, then the index's, then the encoder's."""
    yield from machine_checks()
    if index is not None:
        try:
            yield from _index_checks(index, images, trusted)
        except BackendUnavailable as refusal:
            yield Check("index", "fault", str(refusal))
            index = None
    if encoder is not None:
        yield from encoder_checks(encoder, index)


def _index_checks(index: Address, images: Path | None, trusted: bool) -> Iterator[Check]:
    if not isinstance(index, ServerAddress):
        if not index.is_dir():
            remedy = f"run: precedent index EMBEDDINGS --out {index}"
            yield Check("index", "fault", f"there is no folder {str(index)!r}", remedy)
            return
        beside = index if isinstance(index, Path) else cache_folder()  # what lies in a store is searched in a copy
        yield disk(beside, max(NEEDED_DISK, 2 * _bytes_of(index)))
    yield from index_checks(index, images, trusted)


def _bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def index_checks(index: Address, images: Path | None = None, trusted: bool = False) -> Iterator[Check]:
    """Yield what is wrong with an index, every byte of which is read."""
    from index.opening import verify_collection

    remedy = "restore a snapshot, or run: precedent index EMBEDDINGS --out ANOTHER_FOLDER"
    if isinstance(index, ServerAddress):
        remedy = f"restore a backup, or run: {index.build_command}"
    try:
        verdict = verify_collection(index, images, token=token(), trusted=trusted)
    except ArtefactError as refusal:
        yield Check("index", "fault", str(refusal), remedy)
        return
    for sentence in verdict.faults:
        yield Check("index", "fault", sentence, remedy)
    for sentence in verdict.notes:
        yield Check("index", "warning", sentence)
    if not verdict.faults:
        yield Check("index", "ok", f"{verdict.studies:,} studies, every SHA-256 as written")
        yield from neighbours(index)


def encoder_checks(path: Path, index: Address | None) -> Iterator[Check]:
    """Yield whether an encoder loads, what runs it and why, and whether the index is of its making."""
    from encoder.embedder import Embedder

    try:
        plain = Embedder.load(path, device="cpu", runtime="torch")
        quick = Embedder.load(path, device="cpu", runtime="auto")
    except EncoderError as refusal:
        yield Check("encoder", "fault", str(refusal), "copy the encoder that the index was exported with")
        return
    yield Check("encoder", "ok", f"{plain.fingerprint[:12]}, {plain.embedding_dim} dimensions")
    yield training(plain.trained)
    yield _runtime(quick.runtime.name, quick.runtime.note)
    yield agreement(float(plain.embed_study(_film(), None) @ quick.embed_study(_film(), None)))
    if gpus():
        try:
            on_gpu = Embedder.load(path, device="cuda", runtime="cuda-bf16").embed_study(_film(), None)
            yield agreement(float(plain.embed_study(_film(), None) @ on_gpu), "on the GPU, a ")
        except RuntimeError as error:  # torch's word for what a GPU refuses
            yield Check(
                "agreement", "fault", f"the GPU does not embed ({error})", "use --device cpu or --runtime torch"
            )
    if index is not None:
        yield from _fingerprint(index, plain.fingerprint)


def training(trained: bool | None) -> Check:
    """Return whether an encoder was trained."""
    if trained is False:
        sentence = "never: the layers above its backbones are random, and its neighbours mean little"
        return Check("training", "warning", sentence, "run: precedent train, then precedent export and precedent index")
    return Check("training", "ok", "trained" if trained else "not known of this file")


def neighbours(index: Address) -> Iterator[Check]:
    """Yield how an index's neighbours agree and its films were read; nothing of one that cannot be read."""
    from encoder.films.image import READING
    from index.export.reliability import NOT_MEASURED, agreement_in, other_reading, warning_of

    try:
        manifest = _manifest(index)
    except CollectionError:
        return
    measured, warning = agreement_in(manifest), warning_of(manifest)
    if warning is not None:
        yield Check("neighbours", "warning", warning, "run: precedent train, then precedent export and precedent index")
    else:
        yield Check("neighbours", "ok", measured.sentence() if measured is not None else NOT_MEASURED)
    if other := other_reading(manifest, READING):
        yield Check("reading", "warning", other, "run: precedent export, then precedent index")
    else:
        yield Check("reading", "ok", f"version {READING}, as films are read now")


def _manifest(index: Address) -> Mapping[str, Any]:
    """Return what an index says of itself. Raises CollectionError: it cannot be read."""
    from index.built.collection import load_index_manifest

    if not isinstance(index, ServerAddress):
        return load_index_manifest(index)
    with closing(opened(index)) as collection:
        return collection.manifest


def _film() -> bytes:
    from service.served.pictures import drawn_film

    return drawn_film()


def _runtime(name: str, note: str) -> Check:
    if name == "torch":
        return Check("runtime", "warning", "torch: OpenVINO is not installed", "run: pip install 'cxr-precedent[fast]'")
    return Check("runtime", "ok", f"{name}: {note or 'the fastest on this processor'}")


def agreement(cosine: float, where: str = "") -> Check:
    """Return whether the runtime gives a test film the vector that torch gives it."""
    sentence = f"{where}test film at a cosine of {cosine:.5f} to torch's vector"
    if not cosine >= LEAST_COSINE:  # not a number either
        return Check("agreement", "fault", sentence, "remove the folder runtime/ beside the encoder, and look again")
    return Check("agreement", "ok", sentence)


def _fingerprint(index: Address, fingerprint: str) -> Iterable[Check]:
    """Yield whether the index was built with that encoder; nothing where it cannot be said, which is said already."""
    try:
        built = str(_manifest(index)["fingerprint"])
    except CollectionError:
        return
    if built == fingerprint:
        yield Check("fingerprint", "ok", "the index was built with this encoder")
    else:
        sentence = f"the index was built with encoder {built[:12]}, this is {fingerprint[:12]}"
        yield Check(
            "fingerprint", "fault", sentence, "name the other encoder, or run: precedent export and precedent index"
        )

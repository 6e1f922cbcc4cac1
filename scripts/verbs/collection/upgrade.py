"""`precedent upgrade`: say whether this Precedent reads an artefact as it is, and what has to be made anew.

precedent upgrade index/
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from encoder.films.image import READING
from encoder.films.preprocess import VERSION as PREPROCESSING
from encoder.findings.probe import LinearProbe
from encoder.network.checkpoint import load_encoder
from index.built.collection import MANIFEST as INDEX
from index.errors import ArtefactError
from index.export.reliability import other_reading
from index.export.shards import MANIFEST as EXPORT
from index.export.shards import load_manifest, load_shards
from index.living.collection import LivingCollection
from index.living.snapshots import SNAPSHOT
from index.table.studies import load_studies
from scripts.options.places import Here
from scripts.terminal import say, say_json

_KINDS = "an encoder file, a table of studies, or the folder of an export, an index or a probe"


@click.command()
@click.argument("path", type=Here(exists=True))
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(path: Path, as_json: bool) -> None:
    """Say whether PATH, an artefact of an earlier Precedent, is current. Nothing is changed.

    It is read by the same code as the verbs that use it, and one of a version that cannot be read is refused with what
    to do. Where an earlier version read the films of stored vectors, the exit code is 1, and what has to be made anew
    beside the old is named; the old goes on answering meanwhile.

    \b
    precedent upgrade encoder.safetensors
    precedent upgrade index/
    """
    kind, older = _read(path)
    if as_json:
        say_json({"path": str(path), "kind": kind, "current": not older, "older": older})
    else:
        say(*older or [f"{path}: {kind}, current; nothing to do"])
    if older:
        sys.exit(1)


def _read(path: Path) -> tuple[str, list[str]]:
    """Return what an artefact is, and what of it an earlier version made. Raises as its reader does."""
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".parquet":
        return f"table of {load_studies(path).num_rows:,} studies", []
    if path.suffix != ".safetensors":
        raise ArtefactError(f"expected {_KINDS}, got {str(path)!r}")
    _, preprocessing = load_encoder(path)
    return f"encoder that prepares films by version {preprocessing.version} of 1 to {PREPROCESSING}", []


def _read_folder(folder: Path) -> tuple[str, list[str]]:
    if (folder / "probe.json").exists():
        return f"probe of {len(LinearProbe.load(folder).findings)} findings", []
    if (folder / EXPORT).exists():
        rows = sum(table.num_rows for table, _ in load_shards(folder))
        return f"export of {rows:,} studies", list(_reading(folder, load_manifest(folder)))
    if (folder / SNAPSHOT).exists():
        raise ArtefactError(f"{str(folder)!r} is a snapshot; run: precedent restore {folder} INDEX, and upgrade that")
    if (folder / INDEX).exists():
        index = LivingCollection(folder)
        return f"index of {len(index):,} studies", list(_reading(folder, index.manifest))
    raise ArtefactError(f"expected {_KINDS}, got {str(folder)!r}")


def _reading(folder: Path, manifest: dict[str, object]) -> Iterator[str]:
    if other := other_reading(manifest, READING):
        yield f"{folder}: {other}"

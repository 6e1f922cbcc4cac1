"""`precedent drift`: whether arriving studies have left a collection, and what shift would be found with so many.

precedent drift index/ new-embeddings/ --out drift/
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import pyarrow as pa

from encoder.films.image import READING
from index.errors import FingerprintMismatch
from index.export.reliability import warning_of
from index.export.shards import load_layouts
from index.judging.drift import AXES, DEALINGS, Arriving, Drift, drift_of
from index.living.collection import LivingCollection
from index.table.studies import load_studies
from scripts.options.body_parts import ignored_parts
from scripts.options.collection_address import CollectionAddress
from scripts.options.encoder_file import EncoderFile
from scripts.options.labelled_exports import Embedded
from scripts.options.places import Anywhere, Here
from scripts.reports.drift import publish
from scripts.work.local_export import ExportTask, export_here, finish

_SHARD_ROWS = 2048


@click.command()
@click.argument("index", type=CollectionAddress("export its studies and index them in a folder"))
@click.argument("new", type=Anywhere())
@click.option("--out", type=Here(), help="Folder for metrics.json and report.html.")
@click.option("--images", type=Anywhere(), help="Where NEW is a table of studies: its image root.")
@click.option(
    "--encoder",
    type=EncoderFile(),
    help="Where NEW is a table of studies: the encoder file that INDEX was built with, or: builtin.",
)
@ignored_parts
@click.option(
    "--alpha", type=click.FloatRange(0.001, 0.5), default=0.05, show_default=True, help="Rate of false alarms."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of what is drawn and dealt.")
@click.option("--json", "json_wanted", is_flag=True, help="Print the figures as JSON.")
def command(
    index: Path,
    new: Path,
    out: Path | None,
    images: Path | None,
    encoder: Path | None,
    ignored: frozenset[str],
    alpha: float,
    seed: int,
    json_wanted: bool,
) -> None:
    """Test whether the studies NEW, an export, or a table with --encoder and --images, differ from those of INDEX.

    \b
    precedent drift index/ new-embeddings/ --out drift/
    """
    if (images is None) != (encoder is None):
        raise click.UsageError("give --images and --encoder together, where NEW is a table of studies")
    collection = LivingCollection(index).collection
    arrived, layouts = _loaded(new) if images is None or encoder is None else _exported(new, images, encoder, ignored)
    fingerprint = collection.manifest["fingerprint"]
    if arrived.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"{str(index)!r} was built with encoder {fingerprint[:12]}, {str(new)!r} was made by "
            f"{arrived.fingerprint[:12]}; export it with the encoder of the index"
        )
    drift = drift_of(collection, _arriving(arrived, layouts), alpha=alpha, seed=seed)
    protocol = [
        f"{drift.patients:,} arriving patients, by one study each, compared with {drift.held_back:,} patients of the "
        "collection that are held back from the rest of it",
        f"familiarity: similarity to the nearest study of the rest; axes: the {AXES} along which it differs most; "
        "film looks: distance to the nearest film of the rest, without an encoder",
        f"Kolmogorov and Smirnov's distance, p by {DEALINGS:,} dealings of who has arrived, for all measures together "
        f"by Holm; false alarms at a rate of {alpha:g}, seed {seed}",
        *arrived.patients_sentence(),
    ]
    metrics = {
        "fingerprint": fingerprint,
        "protocol": protocol,
        **_figures(drift),
        "warning": warning_of(collection.manifest, None, READING),
    }
    publish(out, metrics, drift, as_json=json_wanted)


def _loaded(export: Path) -> tuple[Embedded, pa.Table | None]:
    """Return an export's studies, and their layouts where it has some of each."""
    return Embedded.load([export]), load_layouts(export)


def _exported(studies: Path, images: Path, encoder: Path, ignored: frozenset[str]) -> tuple[Embedded, pa.Table | None]:
    """Return the studies of a table, embedded by the way into a folder that is then removed."""
    with TemporaryDirectory(prefix="precedent-") as name:
        words = (load_studies(studies), studies, images, encoder, Path(name), "both", None, _SHARD_ROWS, None)
        folder, _ = export_here(ExportTask(*words, "auto", "auto", ignored_parts=ignored))
        finish(folder, images, None, quiet=True)
        return _loaded(Path(name))


def _arriving(export: Embedded, table: pa.Table | None) -> Arriving:
    """Return an export's studies, with the looks of each one's first film where every study has some."""
    layouts = None
    if table is not None and table.num_rows == len(export.ids):
        films = [looks[0] if looks else b"" for looks in table["layouts"].to_pylist()]
        if all(films) and len({len(film) for film in films}) == 1:
            layouts = [np.frombuffer(film, dtype=np.int8) for film in films]
    return Arriving(export.embeddings, export.patients, layouts)


def _figures(drift: Drift) -> dict[str, Any]:
    """Return the figures as JSON."""
    measures = {
        measure.name: {
            "collection": {"mean": float(measure.own.mean()), "deviation": float(measure.own.std())},
            "arriving": {"mean": float(measure.new.mean()), "deviation": float(measure.new.std())},
            "shift": measure.shift,
            "distance": measure.distance,
            "p": measure.p,
            "adjusted": measure.adjusted,
        }
        for measure in drift.measures
    }
    return {
        "alpha": drift.alpha,
        "patients": drift.patients,
        "held_back": drift.held_back,
        "moved": list(drift.moved),
        "measures": measures,
        "power": {"shift": drift.power.shift, "foreign": drift.power.foreign},
    }

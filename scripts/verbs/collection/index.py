"""`precedent index`: make the vectors of an export searchable.

precedent index embeddings/ --out index/
"""

from functools import partial
from pathlib import Path
from typing import Any

import click

from encoder.films.image import READING
from index.built.collection import KIND_NAMES, build_collection
from index.built.kinds import EXACT_UP_TO, FP32_UP_TO, KINDS
from index.export.reliability import warning_of
from index.export.shards import load_manifest
from scripts.options.collection_address import device_option, token
from scripts.options.places import Anywhere
from scripts.terminal import progress_bar, say, say_json, say_warning


@click.command()
@click.argument("embeddings", type=Anywhere())
@click.option("--out", type=Anywhere(), help="Folder for the index.")
@click.option("--images", type=Anywhere(), help="Image root to store in the index (default: the one of the export).")
@click.option("--backend", type=click.Choice(["faiss", "milvus"]), default="faiss", show_default=True)
@click.option("--uri", help="With Milvus: http://HOST:19530/COLLECTION, or file:///FOLDER/NAME.db/COLLECTION.")
@click.option("--drop-old", is_flag=True, help="With Milvus: remove the collection that this one replaces.")
@click.option(
    "--consistency",
    type=click.Choice(["session", "strong"]),
    default="session",
    show_default=True,
    help="With Milvus. session: a process finds its own changes at once and those of others within seconds; strong: it "
    "finds all changes at once, but every search takes longer.",
)
@click.option(
    "--kind",
    type=click.Choice(KIND_NAMES),
    default="auto",
    show_default=True,
    help=f"auto: flat up to {EXACT_UP_TO:,} studies, ivf-pq4 up to {FP32_UP_TO:,}, ivf-pq4-half beyond, and where "
    "four bits find too little, ivf and ivf-half. "
    + "; ".join(f"{name}: {kind.says}" for name, kind in KINDS.items())
    + ".",
)
@device_option("auto", "What makes the lists of an ivf kind; the files are alike.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(
    embeddings: Path,
    out: Path | None,
    images: Path | None,
    backend: str,
    uri: str | None,
    drop_old: bool,
    consistency: str,
    kind: str,
    device: str,
    as_json: bool,
) -> None:
    """Make the vectors of the export in the folder EMBEDDINGS searchable.

    A running service keeps its old index until it is told to load the new one (SIGHUP, or POST
    /v1/indexes/NAME/activate). With Milvus, the access token is read from the environment variable MILVUS_TOKEN, and a
    build that was interrupted goes on when the same command is run again.

    \b
    precedent index embeddings/ --out index/
    precedent index embeddings/ --backend milvus --uri http://localhost:19530/cases
    """
    if (out is None) == (uri is None) or (backend == "milvus") != (uri is not None):
        raise click.UsageError("give --out for a folder, or --backend milvus and --uri")
    if uri is not None and images is not None:
        raise click.UsageError("--images is for a folder; an index on Milvus remembers what the export does")
    if uri is not None and device == "gpu":
        raise click.UsageError("--device is for a folder; Milvus makes its lists itself")
    where: object = out
    if out is not None:
        root = str(images.resolve()) if images is not None else None
        manifest = build_collection(embeddings, out, kind=kind, image_root=root, device=device).manifest
    else:
        where, manifest = _on_milvus(embeddings, str(uri), kind=kind, consistency=consistency, drop_old=drop_old)
    warning = warning_of(manifest, reading=READING)
    if as_json:
        say_json(manifest | {"warning": warning})
        return
    say(
        f"{where}: {manifest['rows']:,} studies x {manifest['embedding_dim']}, {manifest['kind']}, "
        f"recall@10 {manifest['recall_at_10']:.3f} against exact, fingerprint {manifest['fingerprint'][:12]}"
    )
    say_warning(warning)


def _on_milvus(embeddings: Path, uri: str, **options: Any) -> tuple[object, dict[str, Any]]:
    """Return the address and the manifest of what was built."""
    from index.milvus.address import parse_milvus
    from index.milvus.building import build_on_milvus

    address = parse_milvus(uri)
    with progress_bar("studies") as bar:
        task = bar.add_task("insert", total=load_manifest(embeddings)["rows"])
        manifest = build_on_milvus(embeddings, address, token=token(), advance=partial(bar.advance, task), **options)
    return address, manifest

"""`precedent index`: make the vectors of an export searchable.

precedent index embeddings/ --out index/
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from encoder.films.image import READING
from index.built.collection import KIND_NAMES, build_collection
from index.built.kinds import EXACT_UP_TO, FP32_UP_TO, KINDS
from index.export.reliability import warning_of
from index.export.shards import load_manifest
from index.opening import parse_server
from scripts.options.collection_address import device_option, token
from scripts.options.places import Anywhere
from scripts.terminal import progress_bar, say, say_json, say_warning


@click.command()
@click.argument("embeddings", type=Anywhere())
@click.option("--out", type=Anywhere(), help="Folder for the index.")
@click.option("--images", type=Anywhere(), help="Image root to store in the index (default: the one of the export).")
@click.option(
    "--backend",
    type=click.Choice(["faiss", "milvus", "postgres"]),
    default="faiss",
    show_default=True,
    help="Files searched by FAISS, or a Milvus or PostgreSQL server.",
)
@click.option(
    "--uri",
    help="With Milvus: http://HOST:19530/COLLECTION, or file:///FOLDER/NAME.db/COLLECTION. With PostgreSQL: "
    "postgresql://USER@HOST/DATABASE/COLLECTION?sslmode=verify-full.",
)
@click.option("--drop-old", is_flag=True, help="On a server: remove the collection that this one replaces.")
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
    /v1/indexes/NAME/activate). On a server, a build that was interrupted goes on when the same command is run again.
    The access token of Milvus is read from the environment variable MILVUS_TOKEN, the password of PostgreSQL from
    PGPASSWORD or ~/.pgpass.

    \b
    precedent index embeddings/ --out index/
    precedent index embeddings/ --backend milvus --uri http://localhost:19530/cases
    precedent index embeddings/ --backend postgres --uri postgresql://localhost/radiology/cases
    """
    if (out is None) == (uri is None) or (backend != "faiss") != (uri is not None):
        raise click.UsageError("give --out for a folder, or --backend milvus or postgres and --uri")
    if uri is not None and images is not None:
        raise click.UsageError("--images is for an index in a folder; on a server the export's image root is kept")
    if uri is not None and device == "gpu":
        raise click.UsageError("--device is for an index in a folder; a server builds its own")
    where: object = out
    if out is not None:
        root = str(images.resolve()) if images is not None else None
        manifest = build_collection(embeddings, out, kind=kind, image_root=root, device=device).manifest
    else:
        options = {"kind": kind, "drop_old": drop_old}
        options |= {"consistency": consistency, "token": token()} if backend == "milvus" else {}
        where, manifest = _on_server(embeddings, str(uri), backend, options)
    warning = warning_of(manifest, reading=READING)
    if as_json:
        say_json(manifest | {"warning": warning})
        return
    say(
        f"{where}: {manifest['rows']:,} studies x {manifest['embedding_dim']}, {manifest['kind']}, "
        f"recall@10 {manifest['recall_at_10']:.3f} against exact, fingerprint {manifest['fingerprint'][:12]}"
    )
    say_warning(warning)


def _on_server(embeddings: Path, uri: str, backend: str, options: dict[str, Any]) -> tuple[object, dict[str, Any]]:
    """Return the address and the manifest of what was built."""
    address = parse_server(uri)
    if address.backend != backend:
        raise click.UsageError(f"--uri is of {address.engine}; give --backend {address.backend}")
    build: Callable[..., dict[str, Any]]
    if backend == "postgres":
        from index.postgres.building import build_on_postgres as build
    else:
        from index.milvus.building import build_on_milvus as build
    with progress_bar("studies") as bar:
        task = bar.add_task("insert", total=load_manifest(embeddings)["rows"])
        manifest = build(embeddings, address, advance=partial(bar.advance, task), **options)
    return address, manifest

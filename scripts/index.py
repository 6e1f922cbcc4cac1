"""`precedent index`: index an export for search.

precedent index embeddings/ --out index/
"""

import json
from pathlib import Path

import click

from index.collection import build_collection
from index.vector_index import EXACT_UP_TO, KINDS


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="auto",
    show_default=True,
    help=f"auto: exact up to {EXACT_UP_TO:,} studies, an approximate kind with its measured recall beyond.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(embeddings: Path, out: Path, kind: str, as_json: bool) -> None:
    """Index the export in the folder EMBEDDINGS.

    \b
    precedent index embeddings/ --out index/
    """
    manifest = build_collection(embeddings, out, kind=kind).manifest
    if as_json:
        click.echo(json.dumps(manifest))
        return
    click.echo(
        f"{out}: {manifest['rows']:,} studies x {manifest['embedding_dim']}, {manifest['kind']}, "
        f"recall@10 {manifest['recall_at_10']:.3f} against exact, fingerprint {manifest['fingerprint'][:12]}"
    )

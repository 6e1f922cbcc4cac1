"""`precedent index`: index an export for search.

precedent index embeddings/ --out index/
"""

import json
from pathlib import Path

import click

from index.collection import KIND_NAMES, build_collection
from index.kinds import EXACT_UP_TO, FP32_UP_TO, KINDS


@click.command()
@click.argument("embeddings", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the index.")
@click.option(
    "--kind",
    type=click.Choice(KIND_NAMES),
    default="auto",
    show_default=True,
    help=f"auto: flat up to {EXACT_UP_TO:,} studies, ivf up to {FP32_UP_TO:,}, ivf-half beyond. "
    + "; ".join(f"{name}: {kind.says}" for name, kind in KINDS.items())
    + ".",
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

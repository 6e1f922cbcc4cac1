"""`precedent compact`: write a new index that holds what was added and lacks what was deleted since the last.

precedent compact index/
"""

from pathlib import Path

import click

from index.living import LivingCollection
from scripts.opening import CollectionAddress
from scripts.terminal import say, say_json


@click.command()
@click.argument("index", type=CollectionAddress("it compacts by itself, and removes a film with its study"))
@click.option(
    "--images", type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Image root, where it is not the one the index remembers: added films that no study names are removed there.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(index: Path, images: Path | None, as_json: bool) -> None:
    """Compact the folder INDEX, which may be served and changed meanwhile.

    A service goes on searching the old index and its changes, which is the same, until it is told to take up the new
    one (SIGHUP, or POST /v1/indexes/NAME/activate) or changes it.

    \b
    precedent compact index/
    """
    living = LivingCollection(index)
    known = living.manifest.get("image_root")
    root = images or (Path(known) if known and Path(known).is_dir() else None)
    manifest = living.compact(root)
    said = f"{index}: {manifest['rows']:,} studies x {manifest['embedding_dim']}, {manifest['kind']}"
    if as_json:
        say_json(manifest)
    else:
        say(f"{said}, recall@10 {manifest['recall_at_10']:.3f} against exact")

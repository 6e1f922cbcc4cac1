"""`precedent compact`: write a new index that holds what was added and lacks what was deleted since the last.

precedent compact index/
"""

from pathlib import Path

import click

from index.errors import UntrustedRoot
from index.living.collection import LivingCollection
from index.storage.places import Place
from scripts.options.collection_address import CollectionAddress, trust_option
from scripts.terminal import say, say_json


@click.command()
@click.argument("index", type=CollectionAddress("it compacts by itself, and removes a film with its study"))
@click.option(
    "--images",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Image root, if it is not the one stored in INDEX; added films that no study uses any more are removed there.",
)
@click.option(
    "--moved",
    is_flag=True,
    help="INDEX was moved to this disk or machine and is no copy, so it may remove the films that it added.",
)
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def command(index: Path, images: Path | None, moved: bool, trusted: bool, as_json: bool) -> None:
    """Rebuild the folder INDEX with all that was added and deleted since. It may be served and changed meanwhile.

    Until a running service is told to load the rebuilt index (SIGHUP, or POST /v1/indexes/NAME/activate), it keeps
    answering from the old index together with its changes. Both hold the same studies, so answers do not differ. Films
    of deleted studies are removed, but never by a copy of an index.

    \b
    precedent compact index/
    """
    living = LivingCollection(index)
    root = images or _known_root(living, trusted)
    manifest = living.compact(root, moved=moved)
    if root is not None and (left := living.left_films(root)):
        say(f"note: {left}", err=True)
    said = f"{index}: {manifest['rows']:,} studies x {manifest['embedding_dim']}, {manifest['kind']}"
    if as_json:
        say_json(manifest)
    else:
        say(f"{said}, recall@10 {manifest['recall_at_10']:.3f} against exact")


def _known_root(living: LivingCollection, trusted: bool) -> Path | None:
    """Return the image root that the index remembers, where it is a folder of this machine and may be taken."""
    try:
        root = living.remembered_root(trusted=trusted)
    except UntrustedRoot as refusal:
        say(f"note: no added films are removed: {refusal}", err=True)
        return None
    return root if root is not None and not isinstance(root, Place) and root.is_dir() else None

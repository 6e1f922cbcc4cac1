"""`precedent restore`: restore a snapshot as an index.

precedent restore snapshots/monday/ index/
"""

from pathlib import Path

import click

from index.living.collection import LivingCollection
from index.living.snapshots import restore_snapshot
from scripts.options.collection_address import CollectionAddress
from scripts.options.places import Here
from scripts.terminal import say, say_json


@click.command()
@click.argument("snapshot", type=Here())
@click.argument("index", type=CollectionAddress("restore it with its own tools"))
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(snapshot: Path, index: Path, as_json: bool) -> None:
    """Restore the folder SNAPSHOT as the new folder INDEX. Every SHA-256 is checked.

    \b
    precedent restore snapshots/monday/ index/
    """
    restore_snapshot(snapshot, index)
    studies = len(LivingCollection(index))
    if as_json:
        say_json({"index": str(index), "studies": studies})
    else:
        say(f"{index}: {studies:,} studies")

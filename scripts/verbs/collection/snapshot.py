"""`precedent snapshot`: copy an index, with what was added and deleted since it was built, to a folder of its own.

precedent snapshot index/ snapshots/monday/
"""

from pathlib import Path

import click

from index.living.snapshots import save_snapshot
from scripts.options.collection_address import CollectionAddress
from scripts.options.places import Here
from scripts.terminal import say, say_json


@click.command()
@click.argument("index", type=CollectionAddress("back it up with its own tools"))
@click.argument("out", type=Here())
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(index: Path, out: Path, as_json: bool) -> None:
    """Copy the collection in the folder INDEX, as it is at this moment, to the new folder OUT.

    The index may be served and changed meanwhile. Films are not copied; they stay below the image root.

    \b
    precedent snapshot index/ snapshots/monday/
    """
    files = save_snapshot(index, out)
    size = sum(entry["bytes"] for entry in files.values())
    if as_json:
        say_json({"out": str(out), "files": len(files), "bytes": size})
    else:
        say(f"{out}: {len(files)} files, {size:,} bytes")

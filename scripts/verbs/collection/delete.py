"""`precedent delete`: delete studies from an index, which may be served meanwhile.

precedent delete index/ patient00001/study1
"""

import click

from index.opening import Address
from scripts.options.collection_address import CollectionAddress, opened
from scripts.terminal import say, say_json


@click.command()
@click.argument("index", type=CollectionAddress())
@click.argument("study_ids", nargs=-1, required=True, metavar="STUDY_ID...")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(index: Address, study_ids: tuple[str, ...], as_json: bool) -> None:
    """Delete studies from the folder or address INDEX, all or none. From then on no search finds them.

    The next `precedent compact` removes their vectors from the disk, and the films of those that had been added. On
    a server the films are removed at once, and the vectors when the server compacts or vacuums.

    \b
    precedent delete index/ patient00001/study1 patient00001/study2
    """
    living = opened(index)
    unlike = list(dict.fromkeys(study_ids))
    living.delete(unlike)
    if as_json:
        say_json({"deleted": len(unlike), "studies": len(living)})
    else:
        say(f"{index}: {len(unlike):,} deleted; {len(living):,} studies now")

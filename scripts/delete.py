"""`precedent delete`: delete studies from an index, which may be served meanwhile.

precedent delete index/ patient00001/study1
"""

import click

from index.opening import Address
from scripts.opening import CollectionAddress, opened
from scripts.terminal import say


@click.command()
@click.argument("index", type=CollectionAddress())
@click.argument("study_ids", nargs=-1, required=True, metavar="STUDY_ID...")
def command(index: Address, study_ids: tuple[str, ...]) -> None:
    """Delete studies from the folder or address INDEX, all or none; no search finds them any more.

    Their vectors leave the disk with the next `precedent compact`, and with them the films of those that were added;
    on Milvus the films leave at once, the vectors when it compacts.

    \b
    precedent delete index/ patient00001/study1 patient00001/study2
    """
    living = opened(index)
    living.delete(list(dict.fromkeys(study_ids)))
    say(f"{index}: {len(set(study_ids)):,} deleted; {len(living):,} studies now")

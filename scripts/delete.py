"""`precedent delete`: delete studies from an index, which may be served meanwhile.

precedent delete index/ patient00001/study1
"""

from pathlib import Path

import click

from index.living import LivingCollection


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("study_ids", nargs=-1, required=True, metavar="STUDY_ID...")
def command(index: Path, study_ids: tuple[str, ...]) -> None:
    """Delete studies from the folder INDEX, all or none; no search finds them any more.

    Their vectors leave the disk with the next `precedent compact`, and with them the films of those that were added.

    \b
    precedent delete index/ patient00001/study1 patient00001/study2
    """
    living = LivingCollection(index)
    living.delete(list(dict.fromkeys(study_ids)))
    click.echo(f"{index}: {len(set(study_ids)):,} deleted; {len(living):,} studies now")

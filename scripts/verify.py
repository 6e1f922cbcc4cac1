"""`precedent verify`: look at every byte of an index and say what is wrong with it.

precedent verify index/
"""

import json
import sys
from pathlib import Path

import click

from index.verification import verify


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), help="Image root, where it is not the one it remembers.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(index: Path, images: Path | None, as_json: bool) -> None:
    """Check the folder INDEX: each SHA-256, row, vector and id, the changes since, and the films that were added.

    \b
    precedent verify index/
    """
    found = verify(index, images)
    if as_json:
        click.echo(json.dumps(vars(found)))
    else:
        for sentence in found.faults:
            click.echo(f"fault: {sentence}")
        for sentence in found.notes:
            click.echo(f"note: {sentence}")
        click.echo(f"{index}: {found.studies:,} studies, {len(found.faults)} faults")
    if found.faults:
        sys.exit(1)

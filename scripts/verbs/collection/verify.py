"""`precedent verify`: check every byte of an index and report what is wrong.

precedent verify index/
"""

import sys
from pathlib import Path

import click

from index.opening import Address, verify_collection
from scripts.options.collection_address import CollectionAddress, token, trust_option
from scripts.options.places import Anywhere
from scripts.terminal import say, say_json


@click.command()
@click.argument("index", type=CollectionAddress())
@click.option("--images", type=Anywhere(), help="Image root, if it is not the one stored in INDEX.")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def command(index: Address, images: Path | None, trusted: bool, as_json: bool) -> None:
    """Check the folder or address INDEX: every SHA-256, row, vector and id, all later changes, and added films.

    \b
    precedent verify index/
    """
    verdict = verify_collection(index, images, token=token(), trusted=trusted)
    if as_json:
        say_json(vars(verdict))
    else:
        for sentence in verdict.faults:
            say(f"fault: {sentence}")
        for sentence in verdict.notes:
            say(f"note: {sentence}")
        say(f"{index}: {verdict.studies:,} studies, {len(verdict.faults)} faults")
    if verdict.faults:
        sys.exit(1)

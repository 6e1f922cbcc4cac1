"""`precedent map`: compute the two-dimensional map of a collection once, and keep it beside its index for the page.

precedent map index/
"""

import json
from pathlib import Path

import click

from encoder.films.image import READING
from index.built.collection import load_index_manifest
from index.built.map import MAP_MANIFEST, build_map
from index.export.reliability import warning_of
from scripts.options.collection_address import CollectionAddress
from scripts.terminal import say, say_json, say_warning


@click.command()
@click.argument("index", type=CollectionAddress("no map is made of one"))
@click.option("--json", "as_json", is_flag=True, help="Print the map's manifest as JSON.")
def command(index: Path, as_json: bool) -> None:
    """Compute a map of INDEX in two dimensions (principal components) and keep it beside the index, for the page.

    \b
    precedent map index/
    """
    built = build_map(index)
    warning = warning_of(load_index_manifest(index), reading=READING)
    if as_json:
        say_json(json.loads((index / MAP_MANIFEST).read_text(encoding="utf-8")) | {"warning": warning})
        return
    first, second = built.plane.shares
    say(
        f"{index}: {len(built):,} studies on two axes that hold {first:.1%} and {second:.1%} of the variance, "
        f"fingerprint {built.fingerprint[:12]}"
    )
    say_warning(warning)

"""The option of the verbs that read an archive's films: stated parts of the body that are a console's wrong default."""

from collections.abc import Iterable

import click

ignored_parts = click.option(
    "--ignore-body-part",
    "ignored",
    multiple=True,
    metavar="VALUE",
    help="Take films whose header states this body part, a console's wrong default, for chest films. Repeatable.",
)


def as_parts(ignored: Iterable[str]) -> frozenset[str]:
    """Return the parts in capitals, as `encoder.image.read_image` takes them."""
    return frozenset(part.strip().upper() for part in ignored)

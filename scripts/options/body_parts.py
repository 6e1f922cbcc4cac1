"""The option of the verbs that read films: stated parts of the body that are a console's wrong default."""

import click

from encoder.films.body_part import as_parts

ignored_parts = click.option(
    "--ignore-body-part",
    "ignored",
    multiple=True,
    metavar="VALUE",
    callback=lambda _context, _option, stated: as_parts(stated),
    help="Take films whose header states this body part, a console's wrong default, for chest films. Repeatable.",
)
"""Gives the command `ignored`, the parts in capitals, as `encoder.films.image.read_plane` takes them."""

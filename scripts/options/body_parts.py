"""The option of the verbs that read films: body parts that a console writes into headers by mistake."""

import click

from encoder.films.body_part import as_parts

ignored_parts = click.option(
    "--ignore-body-part",
    "ignored",
    multiple=True,
    metavar="VALUE",
    callback=lambda _context, _option, stated: as_parts(stated),
    help="Accept films whose header states this body part, where a console writes it by mistake. Repeatable.",
)
"""Gives the command `ignored`, the parts in capitals, as `encoder.films.image.read_plane` takes them."""

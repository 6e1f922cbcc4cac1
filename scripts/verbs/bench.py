"""`precedent bench`: measure the parts that are meant to be fast, beside what they replace.

Each subject is a room of `scripts.benches`.
"""

import click

from scripts.benches import bombs, encode, export, living, probe, search, serve


@click.group()
def command() -> None:
    """Measure speed on this machine, beside the usual programs and the machine's limits."""


for subject in (encode, export, search, living, serve, probe, bombs):
    command.add_command(subject.command)

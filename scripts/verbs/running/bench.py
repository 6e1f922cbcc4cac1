"""`precedent bench`: measure the parts that are meant to be fast, beside what they replace.

Each subject is a module of `scripts.benches`.
"""

import click

from scripts.benches import bombs, encode, engines, export, follow, living, probe, read, search, serve, train


@click.group()
def command() -> None:
    """Measure speed on this machine, beside the usual programs and the limits of the machine."""


for subject in (read, encode, train, export, search, living, engines, follow, serve, probe, bombs):
    command.add_command(subject.command)

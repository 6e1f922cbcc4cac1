"""`precedent audit`: check whether an audit log was edited.

precedent audit verify audit.jsonl
"""

import json
from pathlib import Path

import click

from scripts.terminal import refused_for, say, say_json
from service.audit.chain import Head, unfinished
from service.audit.chain import verify as verified
from service.errors import AuditError


class HeadParam(click.ParamType):
    """LINES:SHA256, as verify prints it."""

    name = "lines:sha256"

    def convert(self, value: str | Head, param: click.Parameter | None, ctx: click.Context | None) -> Head:
        """Return the head that a word says."""
        try:
            return value if isinstance(value, Head) else Head.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group()
def command() -> None:
    """Check the log that `precedent serve --audit FILE` writes."""


@command.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--expect",
    type=HeadParam(),
    help="A head that was kept in another place, which the log must contain. Whoever can write the log and the head "
    "beside it can forge both; only a head kept out of reach shows that.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the head and the calls without a result as JSON.")
def verify(path: Path, expect: Head | None, as_json: bool) -> None:
    """Check every line of FILE, name the first that was edited, removed, added or moved, and print the log's head.

    The head is the number of lines and a hash over all of them. A change of the collection is logged before and after
    it is made. Changes without the second line are listed: the process ended in between, so the log cannot tell whether
    they were made.

    \b
    precedent audit verify audit.jsonl
    """
    with refused_for(AuditError):
        head, left = verified(path, expect), unfinished(path)
    if as_json:
        say_json({"lines": head.lines, "head": str(head), "unfinished": left})
        return
    for intent in left:
        result = "unknown: the process ended" if intent["ended"] else "no result yet"
        fields = ("time", "principal", "method", "route", "collection", "studies")
        about = " ".join(json.dumps(intent.get(name)) for name in fields)
        say(f"line {intent['line']}: {about}: {result}")
    say(f"{path}: {head.lines:,} lines, none edited; head {head}")

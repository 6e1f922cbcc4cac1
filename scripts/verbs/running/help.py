"""`precedent help`: a guide to one part of Precedent, as long as it needs to be; `--help` of a verb lists its options.

precedent help index
"""

from importlib.resources import files

import click
from rich.markdown import Markdown

from scripts.terminal import Terminal, say, say_json

GUIDES = {
    "encoder": ("encoder", "README.md"),
    "index": ("index", "README.md"),
    "service": ("service", "README.md"),
    "scripts": ("scripts", "README.md"),
    "verbs": ("scripts", "README.md"),
    "benches": ("scripts", "benches/README.md"),
    "deploy": ("service", "deploy/README.md"),
    "pacs": ("scripts", "pacs/README.md"),
}
"""The package and the file of each topic."""


@click.command()
@click.argument("topic", type=click.Choice(list(GUIDES)))
@click.option("--json", "as_json", is_flag=True, help="Print the guide as JSON.")
def command(topic: str, as_json: bool) -> None:
    """Print the guide to TOPIC: formatted on a terminal, as Markdown into a pipe or a file.

    \b
    precedent help encoder      films, training, judging, recipes, maps
    precedent help index        tables, exports, searching, changes, object stores, Milvus, PostgreSQL
    precedent help service      HTTP, tokens, audit, what is refused
    precedent help verbs        every verb with an example
    precedent help benches      how speed is measured, and the figures
    precedent help deploy       systemd, containers, Prometheus and Grafana
    precedent help pacs         films from a PACS: what to open, to configure and to watch
    """
    text = guide(topic)
    if as_json:
        say_json({"topic": topic, "markdown": text})
    elif Terminal().is_terminal:
        Terminal().print(Markdown(text))
    else:
        say(*text.rstrip("\n").split("\n"))


def guide(topic: str) -> str:
    """Return the Markdown of a topic's guide."""
    package, name = GUIDES[topic]
    return (files(package) / name).read_text(encoding="utf-8")

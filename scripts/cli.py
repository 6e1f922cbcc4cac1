"""The `precedent` command: finds the verb, runs it, and turns a refusal into one line and an exit code.

A verb is imported only when it is called, so that `precedent --help` needs neither torch nor FAISS.
"""

import importlib
import keyword
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from encoder.errors import EncoderError
from index.errors import CollectionError
from index.printable import visible
from scripts.terminal import at_work, json_alone, say_refusal, show_libraries_words, take_any_terminal
from service.process import disable_telemetry, keep_files_private

SECTIONS = {
    "preparing": (
        "From films to vectors",
        {
            "phantom": "Make a collection of simulated chest films in CheXpert's layout.",
            "import": "Turn a data set or DICOM films into one table of studies; take vectors of another encoder.",
            "encoder": "Create and inspect encoder files.",
            "train": "Train an encoder by a recipe.",
            "export": "Turn every study of a table into a vector, in Parquet files.",
        },
    ),
    "collection": (
        "A collection",
        {
            "index": "Make the vectors of an export searchable.",
            "add": "Turn further studies into vectors and add them to an index.",
            "follow": "Bring the films of a PACS into an index as they come.",
            "delete": "Delete studies from an index.",
            "compact": "Rebuild an index with all that was added and deleted since.",
            "snapshot": "Copy a collection as it is at this moment.",
            "restore": "Bring a snapshot back as an index.",
            "verify": "Check every byte of an index.",
            "upgrade": "Say what of an earlier version is current, and what has to be made anew.",
            "map": "Compute a two-dimensional map of an index, for the page.",
        },
    ),
    "asking": (
        "Questions to it",
        {
            "search": "Find the studies most similar to a stored one, to a film or to a text.",
            "neighbours": "Find the nearest studies of every study, or all pairs that are nearly the same.",
            "predict": "Give the probabilities of findings on a film, and what similar cases had.",
            "explain": "Show as a heat map why a finding is named, or why two studies are alike.",
            "return": "Return what is found in a study to a PACS, as DICOM.",
        },
    ),
    "judging": (
        "How good it is",
        {
            "probe": "Learn findings from the vectors of an export, and judge how well.",
            "pointing": "Count how often the peak of a heat map lies on the finding.",
            "regions": "Measure how often a search by a part of a film finds the same finding.",
            "evaluate": "Measure how often similar studies of other patients share a finding.",
            "audit-shortcuts": "Measure what vectors tell beside findings, such as sex or source.",
            "drift": "Test whether arriving studies have left an index.",
        },
    ),
    "running": (
        "Service and installation",
        {
            "serve": "Answer searches over HTTP and on a page.",
            "token": "Make, list and revoke access tokens of a service.",
            "audit": "Check the audit log of a service for edits.",
            "doctor": "Check an installation and say what to do.",
            "help": "Print the guide to one part: encoder, index, service, verbs, benches, deploy, pacs.",
            "bench": "Measure speed on this machine and compare it with other programs.",
        },
    ),
}
"""For each folder of `scripts/verbs`, its heading in the help, and its verbs with a line each."""
VERBS = {verb: folder for folder, (_, lines) in SECTIONS.items() for verb in lines}


@contextmanager
def _mistakes_told() -> Iterator[None]:
    """Have what is said of a wrong word stay one line, whatever the word holds, and be JSON too where that is asked."""
    try:
        yield
    except click.ClickException as mistake:
        mistake.message = visible(mistake.message)  # type: ignore[misc]  # shown with the usage, as click does it
        say_refusal(re.sub(r"\s*\n\s*", " ", mistake.format_message()))  # click lists choices a line each
        raise


class Verbs(click.Group):
    """The pipeline's verbs in the order of the pipeline, each a module of `scripts`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in pipeline order."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of a verb, importing its module."""
        if cmd_name not in VERBS:
            return None
        # `import` and `return` are keywords of Python, so those verbs' modules have a trailing underscore.
        name = cmd_name.replace("-", "_") + "_" * keyword.iskeyword(cmd_name)
        module = importlib.import_module(f"scripts.verbs.{VERBS[cmd_name]}.{name}")
        command: click.Command = module.command
        return command

    def make_context(self, *words: Any, **more: Any) -> click.Context:
        """Take the words before the verb."""
        with _mistakes_told():
            return super().make_context(*words, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        with _mistakes_told(), at_work("at work"):
            return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs with their one line each, without importing any."""
        for heading, lines in SECTIONS.values():
            with formatter.section(heading):
                formatter.write_dl(list(lines.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="cxr-precedent", prog_name="precedent")
def precedent() -> None:
    """Similar-case search for chest X-rays. Research use only; not a medical device."""


def main() -> None:
    """Run the command line; a refusal is one line on stderr and exit code 1, never a traceback.

    With --json it stands on stdout too, as {"error": {"message": ...}}.
    """
    disable_telemetry()
    show_libraries_words()
    take_any_terminal()
    with json_alone():
        try:
            keep_files_private()
            precedent.main(standalone_mode=True)
        except (EncoderError, CollectionError) as refusal:
            _refuse(str(refusal))
        except OSError as failure:
            _refuse(f"{failure.strerror or failure}: {failure.filename or ''}".rstrip(": "))


def _refuse(sentence: str) -> NoReturn:
    say_refusal(sentence)
    sys.exit(f"precedent: {visible(sentence)}")


if __name__ == "__main__":
    main()

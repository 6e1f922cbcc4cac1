"""The tables of speed in the guide: each has the columns and the rows that the command named above it prints."""

import re
from pathlib import Path

import pytest
from command_line import done, save_tiny_encoder
from readme_world import text_of

from index.built.kinds import resolve_kind

GUIDE = "scripts/benches/README.md"
SHORT = {
    "read": "--films 4 --repeat 1",
    "encode": "--no-compile --count 1 --batch 1 --repeat 1 --device cpu",
    "export": "--films 4 --repeat 1 --device cpu",
    "search": "--rows 10000 --rows 100 --dim 16 --queries 10 --batch 10 --repeat 1",
    "living": "--rows 2100 --dim 8 --repeat 1 --kills 1",
    "serve": "--rows 100 --vectors 8 --films 8 --repeat 1",
    "bombs": "--repeat 1",
}
"""What each command is run with here, in seconds instead of minutes."""
LEFT_OUT = {"search": {"vectors read once, ms", "build, s", "open, s"}}
"""Columns that are printed and do not stand in the guide; those of build and open stand in the guide to the index."""


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a Markdown text: of each the headings, then the rows."""
    found = [re.findall(r"^\|(.*)\|$", one, re.MULTILINE) for one in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)]
    return [[[cell.strip() for cell in line.split("|")] for line in (lines[0], *lines[2:])] for lines in found]


def section(subject: str) -> str:
    """Return the section of the guide that names the command of a subject and has a table."""
    parts = re.split(r"^## ", text_of(GUIDE), flags=re.MULTILINE)[1:]
    [found] = [part for part in parts if f"precedent bench {subject}" in part and tables(part)]
    return found


def test_every_table_of_the_guide_is_one_of_these() -> None:
    assert sum(len(tables(section(subject))) for subject in SHORT) == len(tables(text_of(GUIDE))) == len(SHORT)


@pytest.mark.long
@pytest.mark.parametrize("subject", SHORT)
def test_a_table_has_the_columns_and_rows_that_its_command_prints(subject: str, tmp_path: Path) -> None:
    words = SHORT[subject].split()
    if subject in ("encode", "export", "serve"):
        words += ["--encoder", str(save_tiny_encoder(tmp_path / "encoder.safetensors"))]
    told = done("bench", subject, *words).stdout
    [[shown, *rows]], [printed, *names] = tables(section(subject)), tables(told)[0]

    assert shown == [heading for heading in printed if heading not in LEFT_OUT.get(subject, ())]
    if subject == "search":
        assert {row[1] == resolve_kind("auto", int(row[0].replace(",", ""))) for row in rows} == {True}
    else:
        absent = {
            row[0] for row in rows if f"\n{row[0]}: " in told
        }  # a runtime that is not here is named with its reason
        assert [row[0] for row in rows if row[0] not in absent] == [row[0] for row in names]

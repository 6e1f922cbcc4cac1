"""The bench of a collection that lives: a real run whose figures fit together, and a loss that is told."""

import json
from multiprocessing.connection import Connection
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from scripts.benches import living
from scripts.benches.drawn import Drawn
from scripts.benches.serve import build_index

WORDS = ["--rows", "300", "--dim", "16", "--changes", "20", "--repeat", "2", "--kills", "1"]


@pytest.mark.slow  # a process that is killed, and its imports
def test_a_run_tells_each_change_and_what_a_kill_left(tmp_path: Path) -> None:
    told = CliRunner().invoke(living.command, [*WORDS, "--folder", str(tmp_path), "--json"], catch_exceptions=False)

    figures = json.loads(told.stdout)
    assert list(figures["ms"]) == ["as built", "20 added", "20 deleted too"]
    assert all(ms > 0 for state in figures["ms"].values() for ms in state.values())
    [opened] = figures["opened_after_kill"]
    assert opened["acknowledged"] >= 1
    assert figures["compaction"]["rows"] >= 300 + opened["acknowledged"]
    rewrite = 1000 * figures["compaction"]["seconds"] / figures["ms"]["as built"]["an add"]
    assert figures["adds_a_rewrite"] == pytest.approx(rewrite)
    assert list(tmp_path.iterdir()) == []


def _lie(drawn: Drawn, index: Path, seed: int, told: Connection) -> None:
    """Acknowledge a study that was never added."""
    told.send("patient0/study0")


def _die(drawn: Drawn, index: Path, seed: int, told: Connection) -> None:
    """End before anything was added."""


@pytest.mark.slow
@pytest.mark.parametrize(("writer", "words"), [(_lie, "'patient0/study0'"), (_die, "it ended by itself")])
def test_a_writer_that_loses_or_adds_nothing_is_told(writer: living.Writer, words: str, tmp_path: Path) -> None:
    drawn = Drawn(150, 16)
    build_index(drawn, "f" * 64, "flat", tmp_path)

    with pytest.raises(click.ClickException, match=words):
        living.kill_and_open(drawn, tmp_path / "index", 0, writer)

"""Writers killed at any moment: what was acknowledged is there, what was begun is there whole or not at all."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import ROOT, WORLDS
from killed_writer import given
from living_world import addition, build_of, ids_of, units

from index.living.collection import LivingCollection
from index.living.verification import verify
from index.storage.files import sha256_of

KILLS, KILLS_LONG = 20, 1000
LINES_BETWEEN = {"add": 50, "delete": 30, "compact": 60}
"""Executed lines of `index` from one kill to the next, in the short form; 1 in the long form."""
Held = dict[str, tuple[Any, ...]]


class Writers:
    """Writers on one folder, one after another, and what they have acknowledged."""

    def __init__(self, tmp_path: Path, rng: np.random.Generator) -> None:
        first = [addition(f"patient{one}/study1", vector) for one, vector in enumerate(units(rng, 20))]
        self.folder, self.root, self.log = build_of(tmp_path / "index", first), tmp_path / "films", tmp_path / "log"
        self.root.mkdir()
        self.acknowledged = 0
        self.held: Held = {one.study.study_id: _facts(one) for one in first}
        self.reader = LivingCollection(self.folder)
        """Searches on through every kill, as a service does, and is told of an index only now and then."""
        self.process = subprocess.Popen(
            [sys.executable, str(WORLDS / "killed_writer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PYTHONPATH": f"{WORLDS}:{ROOT}", "OMP_NUM_THREADS": "1"},
        )

    def run(self, **when: Any) -> list[dict[str, Any]]:
        """Have a writer work until it dies, and return what it logged."""
        self.log.unlink(missing_ok=True)
        order = {"folder": str(self.folder), "root": str(self.root), "log": str(self.log), **when}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        assert int(self.process.stdout.readline()) in (-9, 0)
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def check(self, log: list[dict[str, Any]]) -> None:
        """Follow the log and compare the folder with it; the last change may have come to its end or not."""
        open_change = None
        for line in log:
            if "kind" in line:
                open_change = line
            elif open_change is not None and "done" in line:
                self.held, open_change = _after(self.held, open_change), None
                self.acknowledged += 1
        with closing(LivingCollection(self.folder)) as living:
            found = _contents(living)
        if open_change is not None and found != self.held:
            self.held = _after(self.held, open_change)
        assert found == self.held
        if self.acknowledged % 3 == 0:
            self.reader.reload()
        assert _contents(self.reader) == self.held
        verdict = verify(self.folder, self.root)
        assert (verdict.faults, verdict.studies) == ([], len(self.held))

    def close(self) -> None:
        self.reader.close()
        with self.process:  # ends when it has no more orders
            pass


def _contents(living: LivingCollection) -> Held:
    now = living.now()
    return {one: (now.study(one), tuple(now.embedding(one).tolist())) for one in ids_of(now)}


def _facts(one: Any) -> tuple[Any, ...]:
    return one.study, tuple(one.embedding.tolist())


def _after(held: Held, change: dict[str, Any]) -> Held:
    if change["kind"] == "delete":
        return {one: facts for one, facts in held.items() if one not in change["ids"]}
    return held | {one.study.study_id: _facts(one) for one in given(change)}


@pytest.fixture
def writers(tmp_path: Path, rng: np.random.Generator) -> Iterator[Writers]:
    writers = Writers(tmp_path, rng)
    yield writers
    writers.close()


def _killed_at_random(writers: Writers, kills: int, rng: np.random.Generator) -> None:
    for seed in range(kills):
        writers.check(writers.run(seed=seed, logged=int(rng.integers(8)), seconds=float(rng.uniform(0, 0.03))))
    print(f"{kills} kills, {writers.acknowledged} changes acknowledged")
    assert writers.acknowledged > kills


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_kills_at_random_moments(writers: Writers, rng: np.random.Generator) -> None:
    _killed_at_random(writers, KILLS, rng)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_by_a_thousand_kills(writers: Writers, rng: np.random.Generator) -> None:
    _killed_at_random(writers, KILLS_LONG, rng)


def _killed_line_by_line(writers: Writers, kind: str, step: int) -> int:
    line = kills = 0
    while True:
        log = writers.run(seed=line, kind=kind, line=line)
        writers.check(log)
        if log[-1].get("whole"):
            print(f"{kind}: {kills} kills, one before every {step}. line")
            return kills
        line, kills = line + step, kills + 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", LINES_BETWEEN)
def test_nothing_is_lost_or_torn_by_a_kill_between_two_steps(writers: Writers, kind: str) -> None:
    assert _killed_line_by_line(_caught_up(writers), kind, LINES_BETWEEN[kind]) >= 3


@pytest.mark.long
@pytest.mark.parametrize("kind", LINES_BETWEEN)
def test_nothing_is_lost_or_torn_by_a_kill_before_any_line(writers: Writers, kind: str) -> None:
    assert _killed_line_by_line(_caught_up(writers), kind, 1) >= 50


def _caught_up(writers: Writers) -> Writers:
    writers.check(writers.run(seed=0, kind="add", line=1_000_000))
    return writers


@pytest.mark.slow
def test_after_kills_a_compaction_leaves_the_films_of_studies_and_no_others(writers: Writers) -> None:
    for line in (40, 80, 120, 160, 200):
        writers.check(writers.run(seed=line, kind="add", line=line))
    with closing(LivingCollection(writers.folder)) as living:
        living.compact(writers.root)

    assert list(writers.root.rglob("*.png")) == []  # these studies name films elsewhere
    assert verify(writers.folder, writers.root).notes == []
    assert sha256_of(writers.folder / "manifest.json")

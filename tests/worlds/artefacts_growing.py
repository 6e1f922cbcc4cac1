"""Artefacts that are not written once and whole: how each is made, and what it answers, to be compared."""

import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from artefacts import World, make_index
from living_world import ids_of

from index.living.additions import Addition
from index.living.collection import LivingCollection
from index.living.snapshots import SNAPSHOT, restore_snapshot, save_snapshot
from service.audit.chain import verify
from service.audit.log import AuditLog
from service.guard.tokens import create_token, read_tokens


def of_changes(folder: Path) -> Any:
    """Return what a collection holds that was added to and deleted from."""
    with closing(LivingCollection(folder)) as living:
        now = living.now()
        hits = living.search(np.eye(1, 16)[0], 20).hits
        return {one: (now.study(one), now.embedding(one).tobytes()) for one in ids_of(now)}, hits, now.sequence


def of_snapshot(folder: Path) -> Any:
    """Return what a collection holds that is made of a snapshot."""
    shutil.rmtree(folder / "restored", ignore_errors=True)
    restore_snapshot(folder / "snapshot", folder / "restored")
    return of_changes(folder / "restored")


def of_tokens(folder: Path) -> Any:
    """Return the tokens of a file."""
    return read_tokens(folder / "tokens.json")


def of_audit(folder: Path) -> Any:
    """Return how far a log goes; every line was read."""
    return verify(folder / "audit.jsonl", None)


def make_changes(world: World) -> list[str]:
    make_index(world, "flat")
    with closing(LivingCollection(world.folder)) as living:
        first, second, *gone = ids_of(living)[:9]
        patient = "patient99999"
        new = [
            Addition(
                replace(living.study(first), study_id=f"{patient}/study{n}", patient_id=patient), ("frontal",), vector
            )
            for n, vector in enumerate(world.vectors[:9])
        ]
        living.add(new)
        living.add([Addition(living.study(second), ("frontal",), world.vectors[7])], replace=True)
        living.delete([new[3].study.study_id, *gone])
    return ["changes.sqlite"]


def make_snapshot(world: World) -> list[str]:
    make_changes(world)
    return [f"snapshot/{name}" for name in save_snapshot(world.folder, world.folder / "snapshot")] + [
        f"snapshot/{SNAPSHOT}"
    ]


def make_tokens(world: World) -> list[str]:
    for name in ("one", "two"):
        create_token(world.folder / "tokens.json", name, ["read"], lifetime=timedelta(days=9))
    return ["tokens.json"]


def make_audit(world: World) -> list[str]:
    log = AuditLog(world.folder / "audit.jsonl")
    for number in range(20):
        log.append({"time": "2026-01-01T00:00:00", "event": "call", "studies": [f"patient{number}/study1"]})
    log.close()
    return ["audit.jsonl", "audit.jsonl.head"]


GROWING: dict[str, tuple[Callable[[World], list[str]], Callable[[Path], Any]]] = {
    "changes": (make_changes, of_changes),
    "snapshot": (make_snapshot, of_snapshot),
    "tokens": (make_tokens, of_tokens),
    "audit": (make_audit, of_audit),
}
"""What is not written once and whole."""

"""A process that changes a collection until it is killed: run by tests, it forks a writer for each order it reads.

An order is a line of JSON on stdin: folder, film root, log, seed, and when to die: so many seconds after so many
lines of its log, or before the n-th line of `index` that one change of a kind executes. It answers a line when the writer is dead.
"""

import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from living_world import addition, ids_of, units

import index
from index.errors import CollectionError
from index.living.additions import Addition
from index.living.collection import LivingCollection

ROOT = str(Path(index.__file__).parent)


def planned(seed: int, count: int, ids: list[str], kind: str | None = None) -> dict[str, Any]:
    """Return the `count`-th change that a writer of this seed makes to a collection of those ids."""
    rng = np.random.default_rng([seed, count])
    kind = kind or ["add", "add", "replace", "delete", "compact"][rng.integers(5)]
    mark = int(rng.integers(2**31))
    if kind == "add":
        return {"kind": kind, "mark": mark, "ids": [f"patient{mark}/study{one}" for one in range(rng.integers(1, 4))]}
    if kind == "compact" or len(ids) < 8:
        return {"kind": "compact", "mark": mark, "ids": []}
    return {"kind": kind, "mark": mark, "ids": [ids[one] for one in rng.permutation(len(ids))[:2]]}


def given(change: dict[str, Any]) -> list[Addition]:
    """Return the studies that a change adds: age and vector tell its mark."""
    vectors = units(np.random.default_rng(change["mark"]), len(change["ids"]))
    return [
        addition(one, vector, np.random.default_rng(change["mark"]))
        for one, vector in zip(change["ids"], vectors, strict=True)
    ]


def make(living: LivingCollection, change: dict[str, Any], root: Path) -> None:
    """Make one change."""
    if change["kind"] == "compact":
        living.compact(root)
    elif change["kind"] == "delete":
        living.delete(change["ids"])
    else:
        film = f"film {change['mark']}".encode()
        films = {living.film_path(film, ".png"): film}
        living.add(given(change), replace=change["kind"] == "replace", films=films, image_root=root)


def write(order: dict[str, Any]) -> None:
    """Make changes until killed; each is logged before and, once acknowledged, after."""
    log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    living = LivingCollection(Path(order["folder"]))
    os.write(log, b'{"opened": true}\n')
    for count in range(1_000_000):
        change = planned(order["seed"], count, ids_of(living), order.get("kind"))
        os.write(log, json.dumps(change).encode() + b"\n")
        if "line" in order:
            _die_before(order["line"])
        make(living, change, Path(order["root"]))
        if "line" in order:
            sys.settrace(None)
            os.write(log, b'{"done": true, "whole": true}\n')
            os._exit(0)
        os.write(log, b'{"done": true}\n')


def _die_before(line: int) -> None:
    left = line

    def step(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return step

    sys.settrace(step)


def _wait_for(log: Path, lines: int, pid: int) -> None:
    """Wait until a writer has logged so many lines, or has died of it."""
    while not log.exists() or log.read_bytes().count(b"\n") < lines:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.002)


def main() -> None:
    """Fork a writer for each order, and see to its death."""
    import_module("pyarrow.dataset")  # which the first reading of Parquet loads: here once, and not in every fork
    for text in sys.stdin:
        order = json.loads(text)
        pid = os.fork()
        if not pid:
            try:
                write(order)
            except (CollectionError, OSError, AssertionError) as error:
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(3)
        if "seconds" in order:
            _wait_for(Path(order["log"]), order["logged"], pid)
            time.sleep(order["seconds"])
            os.kill(pid, signal.SIGKILL)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

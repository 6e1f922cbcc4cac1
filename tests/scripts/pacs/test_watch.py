"""What watches a process that follows: board and rules name metrics that there are, and the unit words that there are."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from folders import ROOT
from prometheus_client import generate_latest

from scripts.pacs.inbox import Inbox
from scripts.pacs.watch import FollowMetrics
from scripts.verbs.collection.follow import command

DEPLOY = ROOT / "service" / "deploy"
NAMES = re.compile(r"\bprecedent_(?:follow|pacs)_[a-z_]+")


def test_board_and_rules_name_metrics_that_there_are(tmp_path: Path) -> None:
    metrics = FollowMetrics(Inbox(tmp_path / "state", 0.0))
    metrics.answered("200"), metrics.sent("came"), metrics.returned("stored")
    there = set(NAMES.findall(generate_latest(metrics.registry).decode())) | {"precedent_follow_films"}
    board = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    shown = {
        name for panel in board["panels"] for one in panel.get("targets", ()) for name in NAMES.findall(one["expr"])
    }

    assert shown <= there
    assert len(shown) == 10
    for file in ("alerts.yml", "../../scripts/pacs/README.md"):
        assert set(NAMES.findall((DEPLOY / file).read_text(encoding="utf-8"))) <= there


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; run: apt-get install prometheus")
def test_the_rules_are_rules() -> None:
    told = subprocess.run(["promtool", "check", "rules", DEPLOY / "alerts.yml"], capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_unit_follows_with_words_that_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = (DEPLOY / "precedent-follow.service").read_text(encoding="utf-8").replace("\\\n", " ")
    [line] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "films").mkdir()
    with command.make_context("follow", shlex.split(line)[2:]) as context:
        assert context.params["words"] == ("https://pacs:8042", "index")
        assert context.params["state"] == Path("follow")
    assert {"User=precedent", "NoNewPrivileges=yes", "CapabilityBoundingSet="} <= set(unit.splitlines())
    assert {"MemorySwapMax=0", "LimitCORE=0", "EnvironmentFile=/etc/precedent-pacs.env"} <= set(unit.splitlines())

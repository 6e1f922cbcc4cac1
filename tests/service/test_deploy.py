"""What is deployed: the words that unit and container start the service with, and that nothing runs as root."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest
import yaml  # type: ignore[import-untyped]  # there are no stubs of it here
from folders import ROOT

from scripts.cli import precedent
from scripts.verbs.running.serve import command

DEPLOY = ROOT / "service" / "deploy"
UNIT = (DEPLOY / "precedent.service").read_text(encoding="utf-8")
CONTAINER = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
POD = next(one for one in yaml.safe_load_all((DEPLOY / "pod.yaml").read_text(encoding="utf-8")) if one["kind"] == "Pod")
IN_POD = {one["name"]: one for one in POD["spec"]["containers"]}


def of_unit() -> list[str]:
    (line,) = re.findall(r"^ExecStart=(.*)$", UNIT.replace("\\\n", " "), re.MULTILINE)
    return shlex.split(line)[1:]


def of_container() -> list[str]:
    lines = re.findall(r"^CMD (\[.*\])$", CONTAINER.replace("\\\n", " "), re.MULTILINE)
    return list(json.loads(lines[-1]))


@pytest.mark.parametrize("words", [of_unit(), of_container()], ids=["unit", "container"])
def test_the_service_is_started_with_words_it_knows(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder.safetensors").touch()

    with command.make_context("serve", words[1:]) as context:
        assert words[0] == "serve"
        assert context.params["indexes"] == ("index",)
        assert context.params["tokens"] == Path("tokens.json")
        assert context.params["log_format"] == "json"


def test_pod_and_compose_file_start_the_same_with_words_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "encoder.safetensors").touch()
    (tmp_path / "films").mkdir()

    assert set(COMPOSE) == set(IN_POD) == {"service", "follow", "metrics"}
    assert IN_POD["service"]["args"] == of_container()
    assert COMPOSE["follow"]["command"] == IN_POD["follow"]["args"]
    assert COMPOSE["metrics"]["image"] == IN_POD["metrics"]["image"]
    verb, *words = IN_POD["follow"]["args"]
    follow = precedent.get_command(click.Context(precedent), verb)
    assert follow is not None
    with follow.make_context(verb, words) as context:
        assert (context.params["state"], context.params["metrics"]) == (Path("follow"), 9108)
    targets = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert [one["static_configs"][0]["targets"] for one in targets] == [["127.0.0.1:8080"], ["127.0.0.1:9108"]]


def test_a_build_sees_every_file_of_the_product() -> None:
    lines = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    left_out = [line for line in lines if line and not line.startswith(("#", "!")) and line != "*"]

    hidden = [path for pattern in left_out for path in ROOT.glob(f"{pattern}/**/*.py")]

    assert hidden == []


def test_nothing_runs_as_root_or_may_become_it() -> None:
    stage = CONTAINER.rpartition("\nFROM ")[2]

    assert "USER 10001:10001" in stage
    assert "RUN" not in stage
    assert {"User=precedent", "NoNewPrivileges=yes", "CapabilityBoundingSet="} <= set(UNIT.splitlines())
    assert POD["spec"]["securityContext"]["runAsNonRoot"]
    for one in IN_POD.values():
        assert one["securityContext"] == {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    for one in COMPOSE.values():
        assert (one["user"], one["read_only"], one["cap_drop"]) == ("10001:10001", True, ["ALL"])
        assert one["security_opt"] == ["no-new-privileges"]


def test_what_the_service_holds_in_memory_reaches_no_disk() -> None:
    assert {"MemorySwapMax=0", "LimitCORE=0"} <= set(UNIT.splitlines())
    assert "--memory-swap=8g --ulimit core=0" in (DEPLOY / "README.md").read_text(encoding="utf-8")


def test_the_image_is_built_from_a_base_named_by_what_it_holds() -> None:
    [base] = re.findall(r"^ARG BASE=(.+)$", CONTAINER, re.MULTILINE)
    [check] = re.findall(r"^RUN (case .*)$", CONTAINER, re.MULTILINE)
    assert re.fullmatch(r"docker\.io/library/python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    for given, code in ((base, 0), ("docker.io/library/python:3.11-slim-bookworm", 1)):
        done = subprocess.run(["sh", "-c", check], env={"BASE": given}, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr


def test_systemd_takes_the_unit_and_finds_little_exposed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    unit = tmp_path / "precedent.service"
    unit.write_text(UNIT.replace("/opt/precedent/bin/precedent", "/bin/true"), encoding="utf-8")

    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    rated = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    assert subprocess.run(rated, capture_output=True, text=True, check=False).returncode == 0

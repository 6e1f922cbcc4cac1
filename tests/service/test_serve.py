"""The real server in a process of its own: answers, refuses a bad address, stops cleanly."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from folders import ROOT, WORLDS

from scripts.verbs.running.serve import bind, command, require_tokens

RUN = """
from scripts.verbs.running.serve import bind, serve
from service_world import build_app
serve(build_app(), bind("127.0.0.1", 0))
"""


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", RUN],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{WORLDS}:{ROOT}"},
    )
    with process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


def test_the_server_answers_and_stops_cleanly_on_sigterm(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    body = json.dumps({"study_id": "patient00001/study1"}).encode()
    asked = urllib.request.Request(f"{url}/v1/search", body, {"Content-Type": "application/json"})

    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as health:
        assert json.load(health) == {"status": "ok"}
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert json.load(answer)["hits"][0]["study_id"] == "patient00002/study1"
    with urllib.request.urlopen(f"{url}/v1/studies/patient00001%2Fstudy1", timeout=10) as study:
        assert json.load(study)["patient_id"] == "patient00001"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["Main=."], "expected a name of a-z, 0-9, _ and - before '='"),
        (["a=.", "a=./"], "expected one index for 'a'"),
        (["ghost"], "there is no folder 'ghost'"),
        (["a=.", "--images", "b=."], "expected image roots of a, got one of 'b'"),
    ],
)
def test_collections_that_cannot_be_told_apart_are_refused_in_one_line(words: list[str], sentence: str) -> None:
    result = CliRunner().invoke(command, [*words, "--encoder", __file__, "--port", "0"])

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert sentence in result.output


def test_a_port_in_use_is_told_in_one_line() -> None:
    refused = pytest.raises(click.ClickException, match="choose another --port")
    with socket.create_server(("127.0.0.1", 0)) as taken, refused:
        bind("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "10.0.0.1"])
def test_an_address_others_can_reach_needs_tokens(host: str) -> None:
    with pytest.raises(click.ClickException, match="precedent token create"):
        require_tokens(host, None)
    require_tokens(host, Path("tokens.json"))


def test_a_name_that_others_ask_for_needs_tokens() -> None:
    with pytest.raises(click.ClickException, match=r"come through a proxy.*precedent token create"):
        require_tokens("127.0.0.1", None, ["cases.example"])
    require_tokens("127.0.0.1", Path("tokens.json"), ["cases.example"])


@pytest.mark.parametrize("host", ["::1", "example.org", ""])
def test_an_address_is_four_numbers(host: str) -> None:
    with pytest.raises(click.ClickException, match="IPv4"):
        require_tokens(host, Path("tokens.json"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_a_loopback_address_is_taken(host: str) -> None:
    require_tokens(host, None)


@pytest.mark.parametrize("option", ["--tokens", "--audit"])
def test_a_bad_file_of_tokens_or_calls_is_told_before_anything_is_loaded(tmp_path: Path, option: str) -> None:
    words = [str(tmp_path), "--encoder", __file__, "--port", "0", option, str(tmp_path / "no" / "file")]
    result = CliRunner().invoke(command, words)

    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: cannot ")

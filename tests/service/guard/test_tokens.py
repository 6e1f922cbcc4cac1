"""The file of tokens: what it holds, who may read it, what becomes of two writers."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from folders import ROOT

from scripts.cli import precedent
from service.errors import TokensError
from service.guard.tokens import TokenFile, create_token, read_tokens, revoke_token

WRITER = """
import sys
from pathlib import Path
from service.guard.tokens import create_token
for number in range(30):
    create_token(Path(sys.argv[1]), f"{sys.argv[2]}-{number}", ["read"])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.json"


def test_the_file_holds_hashes_that_only_its_owner_can_read(path: Path) -> None:
    secrets = [create_token(path, name, ["read"]) for name in ("a", "b")]

    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(secret in path.read_text() or secret[-43:] in path.read_text() for secret in secrets)
    assert all(re.fullmatch(r"precedent_[A-Za-z0-9_-]{43}", secret) for secret in secrets)
    assert [held.name for secret in secrets if (held := TokenFile(path).holder(secret))] == ["a", "b"]


def test_a_token_holds_the_scopes_it_was_given_and_no_other(path: Path) -> None:
    secret = create_token(path, "boss", ["admin", "admin"])
    held = TokenFile(path).holder(secret)

    assert held is not None
    assert held.scopes == ("admin",)


def test_a_token_expires_at_its_hour(path: Path) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    secret = create_token(path, "a", ["read"], lifetime=timedelta(days=2), clock=lambda: made)
    held = TokenFile(path).holder(secret)

    assert held is not None
    assert held.state(made + timedelta(days=2, seconds=-1)) == "valid"
    assert held.state(made + timedelta(days=2)) == "expired"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_touch_is_refused(path: Path, mode: int) -> None:
    create_token(path, "a", ["read"])
    path.chmod(mode)

    with pytest.raises(TokensError, match="chmod 600"):
        TokenFile(path)


SPOILT = {
    "nothing": "",
    "a list": "[]",
    "another version": '{"version": 2, "tokens": []}',
    "an unknown field": '{"version": 1, "tokens": [], "more": 1}',
    "a token in the open": '{"version": 1, "tokens": [{"name": "a", "scopes": ["read"], "token": "x"}]}',
    "bytes": "\udcff",
}


@pytest.mark.parametrize("spoilt", SPOILT)
def test_a_file_of_something_else_is_refused_with_a_remedy(path: Path, spoilt: str) -> None:
    path.touch(mode=0o600)
    path.write_bytes(SPOILT[spoilt].encode("utf-8", "surrogateescape"))

    with pytest.raises(TokensError, match="make"):
        read_tokens(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only ROOT may give a file to another")
def test_what_root_changes_stays_its_owner_s(path: Path) -> None:
    create_token(path, "a", ["read"])
    os.chown(path, 10001, 10002)

    create_token(path, "b", ["read"])
    revoke_token(path, "a")

    found = path.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (10001, 10002, 0o600)


def test_a_name_is_taken_for_ever(path: Path) -> None:
    create_token(path, "a", ["read"])
    revoke_token(path, "a")

    with pytest.raises(TokensError, match="choose another name"):
        create_token(path, "a", ["read"])
    with pytest.raises(TokensError, match="there is no token 'b'; there are: a"):
        revoke_token(path, "b")


@pytest.mark.parametrize(
    ("name", "scopes"), [("", ["read"]), ("A b", ["read"]), ("a", []), ("a", ["all"]), ("x" * 65, ["read"])]
)
def test_a_bad_name_or_scope_is_refused_and_nothing_is_written(path: Path, name: str, scopes: list[str]) -> None:
    with pytest.raises(TokensError, match="got"):
        create_token(path, name, scopes)
    assert not path.exists()


def test_writers_at_the_same_time_lose_nothing_of_each_other(path: Path) -> None:
    commands = [[sys.executable, "-c", WRITER, str(path), str(number)] for number in range(3)]
    writers = [subprocess.Popen(command, cwd=ROOT) for command in commands]

    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(read_tokens(path)) == 90


def run(*words: str) -> Result:
    return CliRunner().invoke(precedent, ["token", *words])


def test_the_commands_make_show_and_revoke_a_token(path: Path) -> None:
    made = run("create", "alice", "--scope", "read", "--scope", "vectors", "--days", "9", "--tokens", str(path))
    secret = made.stdout.strip()
    shown = json.loads(run("list", "--json", "--tokens", str(path)).stdout)

    assert TokenFile(path).holder(secret) is not None
    assert [(one["name"], one["state"], one["scopes"]) for one in shown] == [("alice", "valid", ["read", "vectors"])]
    assert "sha256" not in shown[0]
    assert run("revoke", "alice", "--tokens", str(path)).exit_code == 0
    assert run("list", "--tokens", str(path)).stdout.startswith("alice: revoked, read vectors")


def test_a_command_refuses_in_one_line(path: Path) -> None:
    for words in (("create", "B B", "--scope", "read"), ("revoke", "b"), ("list",)):
        refused = run(*words, "--tokens", str(path))

        assert refused.exit_code == 1
        assert refused.stderr.startswith("Error: ")
        assert refused.stderr.count("\n") == 1

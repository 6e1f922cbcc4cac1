"""The bench of engines: a real run beside a folder, and a collection that is there already, which it leaves alone."""

import json

import pytest
from click.testing import CliRunner
from postgres_world import Postgres

from scripts.benches.engines import command


@pytest.mark.slow
def test_a_run_measures_a_folder_and_a_server_and_refuses_what_is_there(postgres: Postgres) -> None:
    words = ["--rows", "300", "--dim", "16", "--queries", "10", "--adds", "2", "--on", str(postgres.address("bench"))]
    told = json.loads(CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False).stdout)

    folder, server = told["engines"]
    assert (folder["engine"], server["engine"].split()[0]) == ("a folder", "PostgreSQL")
    assert folder["recall_at_10"] == server["recall_at_10"] == 1.0
    assert server["rows_a_second"] > 0
    again = CliRunner().invoke(command, words)
    assert again.exit_code == 2
    assert "is there already; name a collection that is not" in again.output

"""The verbs on a collection in a real PostgreSQL: what they print, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import done, refusal
from export_files import save_export
from milvus_world import hostile_studies, tied_vectors
from postgres_world import Postgres


@pytest.mark.slow
def test_the_verbs_do_in_postgresql_what_they_do_on_a_folder(tmp_path: Path, postgres: Postgres) -> None:
    rng = np.random.default_rng(1)
    studies = hostile_studies(rng, 40)
    save_export(tmp_path / "export", studies, tied_vectors(rng, 40))
    asked, gone = studies["study_id"][0].as_py(), studies["study_id"][1].as_py()
    address, folder = str(postgres.address("verbs")), tmp_path / "index"

    done("index", tmp_path / "export", "--out", folder)
    built = json.loads(done("index", tmp_path / "export", "--backend", "postgres", "--uri", address, "--json").stdout)
    assert (built["kind"], built["rows"]) == ("flat", 40)
    for index in (address, folder):
        done("delete", index, gone)
    words = ["--study", asked, "-k", "9", "--where", "Edema!=1", "--group-by", "patient", "--json"]
    there, here = (json.loads(done("search", index, *words).stdout) for index in (address, folder))
    assert there | {"took_ms": None} == here | {"took_ms": None}
    assert done("verify", address).stdout == f"{address}: 39 studies, 0 faults\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compact"], "it compacts by itself"),
        (["snapshot", "OUT"], "got one on PostgreSQL; back it up with its own tools"),
        (["search", "--study", "a/b"], "does not answer"),
        (["verify"], "does not answer"),
    ],
)
def test_what_is_not_done_in_postgresql_and_a_server_that_is_not_there_are_told_in_one_line(
    words: list[str], sentence: str
) -> None:
    assert sentence in refusal(words[0], "postgresql:///base/cases?host=/nowhere", *words[1:])

"""The verbs on a collection in a file of Milvus Lite: what they print, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import done, refusal
from export_files import save_export
from milvus_world import hostile_studies, tied_vectors


@pytest.mark.slow
def test_the_verbs_do_on_milvus_what_they_do_on_a_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    studies = hostile_studies(rng, 40)
    save_export(tmp_path / "export", studies, tied_vectors(rng, 40))
    asked, gone = studies["study_id"][0].as_py(), studies["study_id"][1].as_py()
    address, folder = f"milvus+file://{tmp_path}/cases.db/cases", tmp_path / "index"

    done("index", tmp_path / "export", "--out", folder)
    built = json.loads(done("index", tmp_path / "export", "--backend", "milvus", "--uri", address, "--json").stdout)
    assert (built["kind"], built["rows"]) == ("flat", 40)
    for index in (address, folder):
        done("delete", index, gone)
    words = ["--study", asked, "-k", "9", "--where", "Edema!=1", "--group-by", "patient", "--json"]
    assert done("search", address, *words).stdout == done("search", folder, *words).stdout
    assert done("verify", address).stdout == f"{address}: 39 studies, 0 faults\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["compact"], "it compacts by itself"),
        (["map"], "no map is made of one"),
        (["snapshot", "OUT"], "back it up with its own tools"),
        (["search", "--study", "a/b"], "no file '/nowhere/cases.db'"),
        (["verify"], "no file '/nowhere/cases.db'"),
        (["delete", "a/b"], "no file '/nowhere/cases.db'"),
    ],
)
def test_what_is_not_done_on_milvus_and_a_file_that_is_not_there_are_told_in_one_line(
    words: list[str], sentence: str
) -> None:
    assert sentence in refusal(words[0], "milvus+file:///nowhere/cases.db/cases", *words[1:])

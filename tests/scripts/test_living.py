"""The verbs of a living collection on drawn films: what they print, what they refuse, and what is found afterwards."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner
from command_line import done, refusal

from index.living.collection import LivingCollection
from index.table.studies import load_studies, save_studies
from scripts.cli import precedent

FIRST = "patient00001/study1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with films, an encoder, an export of all studies but two patients', and those two's table."""
    root = tmp_path_factory.mktemp("living")
    done("phantom", "--patients", "6", "--seed", "4", "--out", root)
    done("import", "chexpert", root / "train.csv", "--images", root, "--out", root / "studies.parquet")
    tiny = ["--backbone", "test_efficientnet", "--dim", "256", "--weights", "none", "--size", "64"]
    done("encoder", "create", *tiny, "--out", root / "encoder.safetensors")
    studies = load_studies(root / "studies.parquet")
    late = pc.is_in(studies["patient_id"], pc.unique(studies["patient_id"]).slice(4))
    save_studies(studies.filter(pc.invert(late)), root / "early.parquet")
    save_studies(studies.filter(late), root / "late.parquet")
    films = ["--images", root, "--encoder", root / "encoder.safetensors"]
    for name in ("studies", "early"):
        done("export", root / f"{name}.parquet", *films, "--out", root / f"{name}-embeddings", "--runtime", "torch")
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """Return the folder of an index of the early studies, a fresh one a test."""
    done("index", made / "early-embeddings", "--out", tmp_path / "index")
    return tmp_path / "index"


def add(made: Path, index: Path | str, table: str = "late", *words: str) -> list[str]:
    films = ["--images", str(made), "--encoder", str(made / "encoder.safetensors")]
    return ["add", str(index), str(made / f"{table}.parquet"), *films, "--runtime", "torch", *words]


def found(index: Path | str) -> list[tuple[str, float]]:
    hits = json.loads(done("search", index, "--study", FIRST, "-k", "50", "--json").output)["hits"]
    return [(hit["study_id"], round(hit["similarity"], 3)) for hit in hits]


def test_studies_that_were_added_are_found_as_if_all_had_been_indexed_together(made: Path, world: Path) -> None:
    assert json.loads(done(*add(made, world, "late", "--json")).stdout)["failed"] == 0
    done("index", made / "studies-embeddings", "--out", world.parent / "whole")

    assert sorted(found(world)) == sorted(found(world.parent / "whole"))
    done("compact", world)
    assert sorted(found(world)) == sorted(found(world.parent / "whole"))


def test_what_is_added_on_milvus_is_found_as_in_a_folder(made: Path, world: Path) -> None:
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    address = f"milvus+file://{world.parent}/cases.db/cases"
    on_milvus = ["--backend", "milvus", "--uri", address]
    done("index", made / "early-embeddings", *on_milvus)
    told = [json.loads(done(*add(made, index, "late", "--json")).stdout) for index in (address, world)]

    assert told[0] == told[1]
    assert sorted(found(address)) == sorted(found(world))
    assert "studies were added to" in refusal("index", made / "studies-embeddings", *on_milvus)


def test_a_build_on_milvus_takes_the_place_of_the_one_before(made: Path, world: Path) -> None:
    pytest.importorskip("milvus_lite", reason="needs the extra milvus")
    address = f"milvus+file://{world.parent}/cases.db/cases"
    for name in ("early", "studies"):
        done("index", made / f"{name}-embeddings", "--backend", "milvus", "--uri", address, "--drop-old")
    done("index", made / "studies-embeddings", "--out", world.parent / "whole")

    assert sorted(found(address)) == sorted(found(world.parent / "whole"))


def test_adding_again_adds_nothing_and_other_content_needs_replace(made: Path, world: Path) -> None:
    first = json.loads(done(*add(made, world, "late", "--json")).stdout)
    again = json.loads(done(*add(made, world, "studies", "--json")).stdout)
    table = load_studies(made / "late.parquet")
    older = table.set_column(table.column_names.index("age"), "age", pc.add(table["age"], 1).cast("float32"))
    save_studies(older, made / "older.parquet")

    assert (first["already_there"], again["added"]) == (0, 0)
    assert "with other content; to replace it, pass --replace" in refusal(*add(made, world, "older"))
    assert json.loads(done(*add(made, world, "older", "--json", "--replace")).stdout)["added"] == table.num_rows


def test_films_that_come_later_make_the_study_that_both_together_would_have_made(made: Path, world: Path) -> None:
    late = load_studies(made / "late.parquet")
    both = late.filter(pc.and_(pc.is_valid(late["frontal_path"]), pc.is_valid(late["lateral_path"])))
    for name, without in (("first", "lateral_path"), ("second", "frontal_path")):
        at = both.schema.get_field_index(without)
        save_studies(
            both.set_column(at, both.schema.field(at), pa.nulls(len(both), pa.string())), made / f"{name}.parquet"
        )
    save_studies(both, made / "both.parquet")
    told = [
        json.loads(done(*add(made, world, name, "--json")).stdout) for name in ("first", "second", "both", "second")
    ]
    done("index", made / "studies-embeddings", "--out", world.parent / "whole")
    views = {hit["study_id"] for hit in both.to_pylist()}

    assert len(both) > 0
    assert [(one["added"], one["already_there"]) for one in told] == [(len(both), 0)] * 2 + [(0, len(both))] * 2
    assert {one for one in found(world) if one[0] in views} == {
        one for one in found(world.parent / "whole") if one[0] in views
    }
    assert "0 faults" in done("verify", world).output


def test_a_deleted_study_is_refused_and_an_unknown_one_deletes_nothing(world: Path) -> None:
    (second, _), *_ = found(world)
    assert "no study 'ghost'" in refusal("delete", world, second, "ghost")
    assert "1 deleted" in done("delete", world, second).output
    assert second not in dict(found(world))
    assert f"no study {second!r}" in refusal("search", world, "--study", second)


def test_a_film_that_cannot_be_read_is_left_out_and_told_by_the_exit_code(made: Path, world: Path) -> None:
    table = load_studies(made / "late.parquet").slice(0, 2)
    lost = table.set_column(table.column_names.index("frontal_path"), "frontal_path", [["gone.jpg", "gone.jpg"]])
    save_studies(lost, made / "lost.parquet")
    result = CliRunner().invoke(precedent, add(made, world, "lost", "--json"))

    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert (told["added"], told["already_there"], told["failed"]) == (0, 0, 2)
    assert "gone.jpg" in result.stderr


def test_films_below_another_root_are_refused(made: Path, world: Path, tmp_path: Path) -> None:
    words = add(made, world)
    words[words.index("--images") + 1] = str(tmp_path)
    assert "which the paths of this index lead from" in refusal(*words)


def test_a_snapshot_is_restored_and_every_byte_of_it_verified(made: Path, world: Path, tmp_path: Path) -> None:
    done(*add(made, world))
    count = len(LivingCollection(world))
    assert "files" in done("snapshot", world, tmp_path / "monday").output
    done("delete", world, FIRST)
    assert f"{count} studies" in done("restore", tmp_path / "monday", tmp_path / "again").output
    assert f"{count} studies, 0 faults" in done("verify", tmp_path / "again").output
    assert json.loads(done("verify", world, "--json").output)["studies"] == count - 1


def test_verify_ends_with_a_fault_where_there_is_one(world: Path) -> None:
    path = next(world.glob("studies-*.parquet"))
    path.write_bytes(path.read_bytes()[:-1])
    result = CliRunner().invoke(precedent, ["verify", str(world)])

    assert result.exit_code == 1
    assert "has changed since it was written" in result.output


def test_folders_that_are_none_are_refused_in_a_line(tmp_path: Path) -> None:
    for words in (["delete", tmp_path, "x"], ["compact", tmp_path], ["snapshot", tmp_path / "x", tmp_path / "y"]):
        assert "index" in refusal(*words)
    assert "no snapshot" in refusal("restore", tmp_path, tmp_path / "y")

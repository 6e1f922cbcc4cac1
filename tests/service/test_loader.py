"""From words to a running application: names, folders, roots, one encoder for all, and what is refused at start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from folders import ROOT

from encoder.embedder import Embedder
from encoder.films.image import READING
from encoder.network.checkpoint import save_encoder
from index.built.collection import build_collection
from index.errors import FingerprintMismatch, UntrustedRoot
from index.export.shards import ExportPlan, ShardFolder
from service.errors import MountError
from service.loader import from_env, load
from service.served.mounts import Mount, parse_mounts


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the present folder, with empty folders of several names in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("index", "nih-index", "My Data.v2", "films", "x=1"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_named_folders_keep_their_order_and_a_lone_one_takes_its_own_name(folders: Path) -> None:
    assert parse_mounts(["nih=nih-index/", "main=index"]) == [
        Mount("nih", Path("nih-index")),
        Mount("main", Path("index")),
    ]
    assert [parse_mounts([word])[0].name for word in ("index/", "My Data.v2")] == ["index", "my-data-v2"]
    assert parse_mounts(["odd=x=1"]) == [Mount("odd", Path("x=1"))]


def test_a_root_is_of_one_collection_or_of_all_that_have_none_of_their_own(folders: Path) -> None:
    words = ["main=index", "nih=nih-index"]

    assert [one.image_root for one in parse_mounts(words)] == [None, None]
    assert [one.image_root for one in parse_mounts(words, ["nih=films"])] == [None, Path("films")]
    assert [one.image_root for one in parse_mounts(words, ["index", "nih=films"])] == [Path("index"), Path("films")]


@pytest.mark.parametrize(
    ("indexes", "images", "words"),
    [
        ([], [], "expected an index folder"),
        (["a=index", "a=nih-index"], [], "expected one index for 'a'"),
        (["index", "./index"], [], "expected one index for 'index'"),
        (["=index"], [], "expected a name of a-z, 0-9, _ and - before '='"),
        (["NIH=index"], [], "got 'NIH'"),
        (["x=1"], [], "there is no folder '1'"),
        (["./x=1"], [], "write NAME=FOLDER"),
        (["main="], [], "there is no folder ''"),
        (["main=ghost"], [], "there is no folder 'ghost'"),
        (["index"], ["films", "films"], "expected one image root for all collections"),
        (["index"], ["nih=films"], "expected image roots of index, got one of 'nih'"),
        (["index"], ["ghost"], "there is no folder 'ghost'"),
    ],
)
def test_words_that_name_no_collections_are_refused(
    folders: Path, indexes: list[str], images: list[str], words: str
) -> None:
    with pytest.raises(MountError) as refused:
        parse_mounts(indexes, images)

    assert words in str(refused.value)


@pytest.fixture
def world(folders: Path, tiny_embedder: Embedder, studies: pa.Table, rng: np.random.Generator) -> Path:
    """Return a folder with an encoder, two indexes of its vectors, and one of another encoder's."""
    save_encoder(folders / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    for name, fingerprint in (
        ("index", tiny_embedder.fingerprint),
        ("nih-index", tiny_embedder.fingerprint),
        ("old", "0" * 64),
    ):
        vectors = rng.normal(size=(200, 256)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        shards = ShardFolder(
            folders / f"{name}-shards", ExportPlan(fingerprint, 256, "0" * 64, 200, 200, reading=READING)
        )
        shards.save_shard(0, studies, [["frontal"]] * 200, vectors, [])
        shards.finish(image_root="films" if name == "index" else "")
        build_collection(folders / f"{name}-shards", folders / name)
    return folders


def test_the_environment_names_collections_between_commas(world: Path) -> None:
    app = from_env({"PRECEDENT_INDEX": "main=index, nih=nih-index", "PRECEDENT_ENCODER": "encoder.safetensors"})

    main, nih = app.test_client().get("/info").get_json()["collections"]
    assert [(one["name"], one["studies"], one["images"]) for one in (main, nih)] == [
        ("main", 200, True),
        ("nih", 200, False),
    ]
    assert main["built_at"].endswith("+00:00")


def test_the_environment_still_takes_one_folder_and_one_root(world: Path) -> None:
    environ = {"PRECEDENT_INDEX": "nih-index", "PRECEDENT_IMAGES": "films", "PRECEDENT_HOSTS": "cases.example"}
    app = from_env({**environ, "PRECEDENT_ENCODER": "encoder.safetensors"})

    (only,) = app.test_client().get("/info", headers={"Host": "cases.example"}).get_json()["collections"]
    assert (only["name"], only["images"]) == ("nih-index", True)


def test_a_collection_of_another_encoder_is_refused_by_its_name_with_a_remedy(world: Path) -> None:
    with pytest.raises(FingerprintMismatch, match=r"collection 'old': .*; run: precedent export"):
        load(parse_mounts(["main=index", "old=old"]), world / "encoder.safetensors")


def test_a_copy_s_image_root_is_served_where_it_is_named_or_trusted_alone(world: Path) -> None:
    shutil.copytree(world / "index", world / "given")
    with pytest.raises(UntrustedRoot, match=r"films lie below 'films'; name .*--images, or .*--trust-collection"):
        load(parse_mounts(["given"]), world / "encoder.safetensors")
    words = [sys.executable, "-m", "scripts.cli", "serve", "given", "--encoder", "encoder.safetensors", "--port", "0"]
    served = subprocess.run(words, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert served.returncode == 1
    assert "--trust-collection" in served.stderr
    assert "Traceback" not in served.stderr

    for mounts in (parse_mounts(["given"], ["films"]), parse_mounts(["given"], trusted=True)):
        app = load(mounts, world / "encoder.safetensors")
        assert app.test_client().get("/info").get_json()["collections"][0]["images"] is True


def test_the_environment_says_that_collections_are_trusted(world: Path) -> None:
    shutil.copytree(world / "index", world / "given")
    environ = {"PRECEDENT_INDEX": "given", "PRECEDENT_ENCODER": "encoder.safetensors"}
    with pytest.raises(UntrustedRoot):
        from_env(environ)

    app = from_env(environ | {"PRECEDENT_TRUST_COLLECTION": "yes"})
    assert app.test_client().get("/info").get_json()["collections"][0]["images"] is True

"""`precedent import vectors`: vectors of another encoder in every format, on the whole way, and what is refused."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import done, json_of, refusal
from safetensors.numpy import save_file

from index.export.shards import load_embeddings, load_manifest
from index.table.studies import save_studies

NAMES = [f"patient{number:05d}/study1" for number in range(40)]
MODEL = ("--model", "their-model@3")


@pytest.fixture
def table(tmp_path: Path, studies: pa.Table) -> Path:
    """Return a table of 40 studies, each of its own patient, with a frontal film and some with a lateral."""
    ids = pa.array(NAMES)
    patients = pa.array([name.split("/")[0] for name in NAMES])
    few = studies.slice(0, len(NAMES)).set_column(0, "study_id", ids).set_column(1, "patient_id", patients)
    save_studies(few, tmp_path / "studies.parquet")
    return tmp_path / "studies.parquet"


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(len(NAMES), 24)).astype(np.float32) * 7


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_parquet(folder: Path, vectors: np.ndarray, names: list[str] = NAMES, **columns: Any) -> Path:
    """Write a folder as Hugging Face's datasets and LanceDB do: lists, and columns that nobody here reads."""
    folder.mkdir()
    image = pa.array([{"bytes": b"\x89PNG", "path": None}] * len(names))
    for part in range(2):
        rows = slice(part * len(names) // 2, (part + 1) * len(names) // 2)
        lists = pa.array(list(vectors[rows]), pa.list_(pa.float32()))
        found = {"study_id": names[rows], "image": image[rows], "embedding": lists}
        pq.write_table(pa.table(found | columns), folder / f"train-{part}.parquet", row_group_size=7)
    return folder


def write(kind: str, folder: Path, vectors: np.ndarray) -> list[str | Path]:
    """Write the vectors in a format and return the words that name them."""
    by_id, path = dict(zip(NAMES, vectors, strict=True)), folder / f"v.{kind.split()[0]}"
    if kind == "parquet":
        return [write_parquet(folder / "parts", vectors)]
    if kind == "npz":
        np.savez_compressed(path, **by_id)
    elif kind == "npz of two":
        np.savez(path, embeddings=vectors, ids=np.array(NAMES))
    elif kind == "safetensors":
        save_file(by_id, path)
    elif kind == "pt":
        torch.save({name: torch.from_numpy(vector).bfloat16() for name, vector in by_id.items()}, path)
    elif kind == "pt of two":
        torch.save({"vectors": torch.from_numpy(vectors), "ids": NAMES}, path)
    else:
        np.save(path, vectors.astype(np.float16 if "half" in kind else np.float64))
        (folder / "ids.csv").write_text("row,dicom_id\n" + "".join(f"{n},{one}\n" for n, one in enumerate(NAMES)))
        return [path, "--ids", folder / "ids.csv", "--id-column", "dicom_id"]
    return [path]


KINDS = ["npy", "npy half", "npz", "npz of two", "safetensors", "pt", "pt of two", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_of_every_format_are_an_export_in_the_order_of_the_table(
    kind: str, tmp_path: Path, table: Path, vectors: np.ndarray
) -> None:
    told = json_of(
        "import", "vectors", *write(kind, tmp_path, vectors), "--studies", table, *MODEL, "--out", tmp_path / "e"
    )

    studies, found = load_embeddings(tmp_path / "e")
    assert studies["study_id"].to_pylist() == NAMES
    np.testing.assert_allclose(found, unit(vectors), atol=4e-3 if kind == "pt" else 4e-4)
    assert (told["vectors"], told["ids_are"], told["warnings"]) == (40, "study ids", [])
    assert told["source"] == {"model": "their-model", "revision": "3"}


def test_the_whole_way_works_on_them(tmp_path: Path, table: Path, vectors: np.ndarray) -> None:
    export, index = tmp_path / "embeddings", tmp_path / "index"
    labels = pq.read_table(table)["Edema"].to_pylist()
    vectors[:, 0] += 25 * np.array([label == 1 for label in labels])
    told = done(
        "import", "vectors", write_parquet(tmp_path / "v", vectors), "--studies", table, *MODEL, "--out", export
    )
    done("index", export, "--out", index)
    found = json_of("search", index, "--study", NAMES[3], "-k", "3")
    done("map", index)
    probe = json_of("probe", export, "--out", tmp_path / "probe", "--findings", "Edema", "--cv", "2")
    judged = json_of("evaluate", export, "--out", tmp_path / "eval", "--findings", "Edema", "--draws", "500")

    similar = unit(vectors) @ unit(vectors)[3]
    similar[3] = -1
    assert [hit["study_id"] for hit in found["hits"]] == [NAMES[row] for row in np.argsort(-similar)[:3]]
    assert (found["warning"], found["fingerprint"]) == (None, load_manifest(export)["fingerprint"])
    assert "each vector was divided by its own" in told.stdout
    assert "0 faults" in done("verify", index).stdout
    assert probe
    assert judged


def test_a_later_batch_of_the_same_model_joins(tmp_path: Path, table: Path, vectors: np.ndarray) -> None:
    first, later = (
        write_parquet(tmp_path / "a", vectors[:20], NAMES[:20]),
        write_parquet(tmp_path / "b", vectors[20:], NAMES[20:]),
    )
    one = json_of("import", "vectors", first, "--studies", table, *MODEL, "--out", tmp_path / "one")
    two = json_of("import", "vectors", later, "--studies", table, *MODEL, "--out", tmp_path / "two")
    done("index", tmp_path / "one", "--out", tmp_path / "index")

    added = done("add", tmp_path / "index", tmp_path / "two")

    assert one["fingerprint"] == two["fingerprint"]
    assert [(one["rows"], one["failed"]) for one in (one, two)] == [(20, 20), (20, 20)]
    assert "20 added" in added.stdout
    assert "40 studies now" in added.stdout
    other = json_of("import", "vectors", later, "--studies", table, "--model", "another", "--out", tmp_path / "other")
    assert other["fingerprint"] != two["fingerprint"]
    assert "their-model" in refusal("add", tmp_path / "index", tmp_path / "other")


def test_vectors_of_films_become_the_mean_direction_of_each_study(
    tmp_path: Path, table: Path, vectors: np.ndarray
) -> None:
    frontal, lateral = (pq.read_table(table)[f"{view}_path"].to_pylist()[1] for view in ("frontal", "lateral"))
    names = [Path(frontal).stem, Path(lateral).stem, "nobody"]
    found = json_of(
        "import",
        "vectors",
        write_parquet(tmp_path / "v", vectors[:3], names),
        "--studies",
        table,
        *MODEL,
        "--out",
        tmp_path / "e",
    )

    studies, embedded = load_embeddings(tmp_path / "e")
    mean = unit(vectors[:1]) + unit(vectors[1:2])
    np.testing.assert_allclose(embedded, unit(mean), atol=1e-6)
    assert studies["views"].to_pylist() == [["frontal", "lateral"]]
    assert found["ids_are"] == "names of films without their ending"
    warned = {one["kind"]: (one["count"], one["examples"][:1]) for one in found["warnings"]}
    assert warned == {"unmatched": (1, ["nobody"]), "without": (39, [NAMES[0]])}


def test_an_import_that_was_stopped_goes_on_and_another_is_refused(
    tmp_path: Path, table: Path, vectors: np.ndarray
) -> None:
    source, out = write_parquet(tmp_path / "v", vectors), tmp_path / "e"
    words = ("import", "vectors", source, "--studies", table, *MODEL, "--shard-rows", "10", "--out", out)
    done(*words)
    kept = (out / "shard-00000.parquet").stat().st_mtime_ns
    (out / "shard-00002.parquet").unlink()
    (out / "_manifest.json").unlink()

    done(*words)

    np.testing.assert_allclose(load_embeddings(out)[1], unit(vectors), atol=1e-6)
    assert (out / "shard-00000.parquet").stat().st_mtime_ns == kept
    other = write_parquet(tmp_path / "other", vectors[::-1])
    assert "begun with another runtime" in refusal(*words[:2], other, *words[3:])
    assert sorted(path.name for path in out.iterdir() if path.name.startswith(".")) == []


def np_of(folder: Path, vectors: np.ndarray) -> Path:
    np.savez(folder / "one.npz", b=vectors)
    return folder / "one.npz"


def bad_npz(path: Path, shape: str = "(1000000000, 4096)", kind: str = "<f4") -> Path:
    """Write an archive of one array whose header promises far more than there is."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)
    return path


def hostile(kind: str, folder: Path, vectors: np.ndarray) -> list[str | Path]:
    """Write vectors that cannot be used and return the words that name them."""
    path = folder / "v.npy"
    if kind == "NaN":
        vectors[[4, 9], 2] = np.nan
    elif kind == "zero":
        vectors[5] = 0
    elif kind == "twice":
        return [write_parquet(folder / "v", vectors, [*NAMES[:39], NAMES[0]])]
    elif kind == "two dimensions":
        write_parquet(folder / "v", vectors)
        pq.write_table(pa.table({"study_id": ["x"], "embedding": [[0.5] * 32]}), folder / "v" / "z.parquet")
        return [folder / "v"]
    elif kind == "none known":
        return [write_parquet(folder / "v", vectors, [f"somebody{number}" for number in range(40)])]
    elif kind == "objects":
        np.save(path, np.array([{"a": 1}] * 40, object), allow_pickle=True)
        return [path, "--ids", write_ids(folder)]
    elif kind == "short":
        np.save(path, vectors)
        path.write_bytes(path.read_bytes()[:-8])
        return [path, "--ids", write_ids(folder)]
    elif kind == "ids":
        np.save(path, vectors[:30])
        return [path, "--ids", write_ids(folder)]
    elif kind == "npz":
        return [bad_npz(folder / "v.npz")]
    elif kind == "texts of nothing":
        bad_npz(folder / "v.npz", "(1000000000000,)", "<U0")
        with zipfile.ZipFile(folder / "v.npz", "a") as archive:
            archive.writestr("b.npy", zipfile.ZipFile(np_of(folder, vectors)).read("b.npy"))
        return [folder / "v.npz"]
    elif kind == "tokens":
        np.savez(folder / "v.npz", **{NAMES[0]: np.ones((32, 768))})
        return [folder / "v.npz"]
    elif kind == "pickle":
        torch.save({"a": Path("x")}, folder / "v.pt")
        return [folder / "v.pt"]
    elif kind == "endless":
        torch.save(torch.zeros(1, 24).expand(1 << 40, 24), folder / "v.pt")
        return [folder / "v.pt", "--ids", write_ids(folder)]
    elif kind == "wide":
        vectors = np.ones((40, 5000), np.float32)
    elif kind == "no parquet":
        (folder / "v.parquet").write_bytes(b"PAR1" * 9)
        return [folder / "v.parquet"]
    return [write_parquet(folder / "v", vectors)]


def write_ids(folder: Path) -> Path:
    (folder / "ids.txt").write_text("\n".join(NAMES))
    return folder / "ids.txt"


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("NaN", f"got 2 with NaN or infinity: '{NAMES[4]}', '{NAMES[9]}'"),
        ("zero", f"got 1 that are all zeros: '{NAMES[5]}'"),
        ("twice", f"expected each id once, got 1 again: '{NAMES[0]}'"),
        ("two dimensions", "of one dimension, 24, got one of 32: 'x'"),
        ("none known", "got 40 of which none is in the table, such as 'somebody0'"),
        ("objects", "got Python objects, which are never unpickled"),
        ("short", "more bytes in 'v.npy', got 3,832; copy it again"),
        ("ids", "got more ids"),
        ("npz", "it is too small for that"),
        ("texts of nothing", "expected an array of texts"),
        ("tokens", "got (32, 768); take the mean of its rows first"),
        ("pickle", "expected tensors alone"),
        ("endless", "that are all in 'v.pt'"),
        ("wide", "at most 4,096 numbers"),
        ("no parquet", "cannot be read"),
    ],
)
def test_vectors_that_cannot_be_used_are_refused_in_a_sentence_and_leave_nothing(
    kind: str, said: str, tmp_path: Path, table: Path, vectors: np.ndarray
) -> None:
    words = hostile(kind, tmp_path, vectors)

    assert said in refusal("import", "vectors", *words, "--studies", table, *MODEL, "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_texts_of_the_same_model_are_searched_by(tmp_path: Path, table: Path, vectors: np.ndarray) -> None:
    done(
        "import", "vectors", write_parquet(tmp_path / "v", vectors), "--studies", table, *MODEL, "--out", tmp_path / "e"
    )
    done("index", tmp_path / "e", "--out", tmp_path / "index")
    save_file({"pleural effusion": vectors[7], "no finding": vectors[11]}, tmp_path / "t.safetensors")
    texts, words = (
        tmp_path / "texts.parquet",
        ("search", tmp_path / "index", "--texts", tmp_path / "texts.parquet", "--text"),
    )
    done("import", "texts", tmp_path / "t.safetensors", *MODEL, "--out", texts)

    found = json_of(*words, "pleural effusion", "-k", "1")

    assert [(hit["study_id"], hit["similarity"]) for hit in found["hits"]] == [(NAMES[7], 1.0)]
    assert found["warning"].startswith("Text and film are matched by a model that was not tested here.")
    assert found["familiarity"] is None
    assert "no text 'edema' among 2, such as 'no finding'" in refusal(*words, "edema")
    done("import", "texts", tmp_path / "t.safetensors", "--model", "another", "--out", texts)
    assert "imported, from 'their-model@3'" in refusal(*words, "no finding")
    texts.write_bytes(texts.read_bytes()[:-100] + b"x" * 100)
    assert "run: precedent import texts" in refusal(*words, "no finding")

"""No file that a verb leaves behind is a pickle, and the look for one finds them."""

import pickle
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import done
from unpickling import is_pickle, pickles_in

from service.audit.log import AuditLog
from service.guard.tokens import create_token


class Nothing:
    """A class of its own, which a pickle names."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [[1, 2.5], {"a": None}, np.float32(1), Nothing()], ids=lambda value: type(value).__name__
)
def test_a_pickle_is_seen_whatever_its_file_is_called(tmp_path: Path, protocol: int, value: object) -> None:
    (tmp_path / "index.faiss").write_bytes(pickle.dumps(value, protocol))

    assert pickles_in(tmp_path) == ["index.faiss"]


def test_what_hides_a_pickle_is_seen(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "b.npy", np.array([Nothing()]), allow_pickle=True)
    with sqlite3.connect(tmp_path / "c.sqlite") as base:
        base.execute("CREATE TABLE changes (row BLOB)")
        base.execute("INSERT INTO changes VALUES (?)", [pickle.dumps(Nothing())])
    base.close()

    assert pickles_in(tmp_path) == ["a.safetensors", "b.npy", "c.sqlite"]


@pytest.mark.parametrize("content", [b"", b"{}\n", b'{"a": 1}', b"\x80\x04", b"N", b"PAR1"])
def test_other_bytes_are_no_pickle(content: bytes) -> None:
    assert not is_pickle(content)


@pytest.mark.slow
def test_no_artefact_holds_a_pickle(tmp_path: Path) -> None:
    films, studies, encoder = tmp_path / "films", tmp_path / "studies.parquet", tmp_path / "encoder.safetensors"
    done("phantom", "--patients", 24, "--seed", 7, "--jobs", 1, "--out", films)
    done("import", "chexpert", films / "train.csv", "--images", films, "--out", studies)
    words = ["--backbone", "test_efficientnet", "--dim", 256, "--size", 64, "--weights", "none"]
    done("encoder", "create", *words, "--out", encoder)
    done("export", studies, "--images", films, "--encoder", encoder, "--out", tmp_path / "embeddings")
    done("index", tmp_path / "embeddings", "--out", tmp_path / "index")
    done("map", tmp_path / "index")
    done("probe", tmp_path / "embeddings", "--cv", 2, "--out", tmp_path / "probe")
    done("delete", tmp_path / "index", "patient00001/study1")
    done("add", tmp_path / "index", studies, "--images", films, "--encoder", encoder, "--runtime", "torch")
    done("snapshot", tmp_path / "index", tmp_path / "snapshot")
    create_token(tmp_path / "tokens.json", "a", ["read"])
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append({"event": "call", "studies": ["patient00001/study1"]})
    log.close()

    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert {".parquet", ".safetensors", ".json", ".faiss", ".jpg", ".sqlite", ".jsonl"} <= kinds
    assert (tmp_path / "index" / "changes.sqlite").stat().st_size > 0 < (tmp_path / "audit.jsonl").stat().st_size
    assert any((tmp_path / "snapshot").rglob("changes.sqlite"))
    assert pickles_in(tmp_path) == []

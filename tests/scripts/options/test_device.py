"""`--device`: one sentence where the GPU that was asked for is not there, and the same answers with it and without."""

from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from command_line import done, json_of, refusal, save_tiny_encoder
from export_files import save_export
from gpu_world import play_gpu

from index.built import gpu
from index.built.gpu import Seen
from index.errors import NoGpu
from index.vectors import Embeddings
from scripts.cli import precedent
from service.errors import MountError
from service.loader import from_env


@pytest.fixture
def export(studies: pa.Table, unit_vectors: Embeddings, tmp_path: Path) -> Path:
    return save_export(tmp_path / "export", studies, unit_vectors)


def lines_of(export: Path, folder: Path, study: str) -> list[list[str | Path]]:
    """Return what each verb with a device is asked, an index of the export being in `folder`/index."""
    return [
        ["index", export, "--out", folder / "again", "--kind", "ivf"],
        ["search", folder / "index", "--study", study],
        ["evaluate", export, "--out", folder / "eval", "--draws", "500"],
    ]


@pytest.mark.parametrize(("built", "remedy"), [(False, "pip install '.[gpu]'"), (True, "nvidia-smi")])
def test_a_gpu_that_is_not_there_is_refused_by_every_verb_in_one_sentence(
    built: bool, remedy: str, export: Path, studies: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "seen", lambda: Seen(built, 0))
    done("index", export, "--out", tmp_path / "index")
    for words in lines_of(export, tmp_path, studies["study_id"][0].as_py()):
        line = refusal(*words, "--device", "gpu")
        assert remedy in line
        assert "--device cpu" in line
    assert not (tmp_path / "again" / "manifest.json").exists()


def test_every_verb_answers_with_a_gpu_what_it_answers_without(
    export: Path, studies: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_gpu(monkeypatch)
    done("index", export, "--out", tmp_path / "index")
    for words in lines_of(export, tmp_path, studies["study_id"][0].as_py()):
        answers = [json_of(*words, "--device", device) for device in ("cpu", "gpu", "auto")]
        for answer in answers:
            answer.pop("took_ms", None)
        assert answers[0] == answers[1] == answers[2]


def test_an_index_on_milvus_is_for_no_gpu_of_ours(export: Path, tmp_path: Path) -> None:
    uri = f"milvus+file://{tmp_path / 'cases.db'}/cases"
    assert "Milvus" in refusal("search", uri, "--study", "p/s", "--device", "gpu")
    words = ["index", str(export), "--backend", "milvus", "--uri", uri.removeprefix("milvus+"), "--device", "gpu"]
    assert "a server builds its own" in CliRunner().invoke(precedent, words).stderr


def test_the_service_searches_on_the_device_that_it_is_told(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("index", export, "--out", tmp_path / "index")
    environ = {"PRECEDENT_INDEX": str(tmp_path / "index"), "PRECEDENT_ENCODER": str(tmp_path / "encoder.safetensors")}
    save_tiny_encoder(tmp_path / "encoder.safetensors")
    monkeypatch.setattr(gpu, "seen", lambda: Seen(True, 0))
    with pytest.raises(NoGpu, match="sees none here"):
        from_env(environ | {"PRECEDENT_DEVICE": "gpu"})
    with pytest.raises(MountError, match=r"PRECEDENT_DEVICE to be one of auto, cpu, gpu, got 'cuda'"):
        from_env(environ | {"PRECEDENT_DEVICE": "cuda"})

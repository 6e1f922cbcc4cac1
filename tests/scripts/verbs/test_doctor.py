"""`precedent doctor`: what is well, what is not, what to do, and an exit code for machines."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from command_line import done

from encoder.films.image import READING
from index.built import gpu
from index.built.collection import build_collection
from index.built.gpu import Seen
from index.export.shards import ExportPlan, ShardFolder
from index.vectors import Embeddings
from scripts.cli import precedent
from scripts.verbs.running import doctor
from scripts.work import machine_checks as checks
from scripts.work.machine_checks import Gpu, disk, memory, packages

BOUNDS = ["click>=8", "numpy>=2.0", "faiss-cpu>=1; extra == 'cpu'", "faiss-gpu>=1; extra == 'gpu'"]


@pytest.fixture
def index(tmp_path: Path, studies: pa.Table, unit_vectors: Embeddings) -> Path:
    """Return an index folder of 200 studies by an encoder of ones."""
    shards = ShardFolder(tmp_path / "shards", ExportPlan("1" * 64, 16, "0" * 64, 200, 200, reading=READING))
    shards.save_shard(0, studies, [["frontal"]] * 200, unit_vectors, [])
    shards.finish(image_root="")
    build_collection(tmp_path / "shards", tmp_path / "index")
    return tmp_path / "index"


@pytest.fixture(autouse=True)
def well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the machine at hand, of which no test can say whether it is well."""
    monkeypatch.setattr(doctor, "machine_checks", lambda: iter(()))


def test_an_index_that_is_well_is_told_as_such(index: Path) -> None:
    lines = done("doctor", index).output.splitlines()

    assert any(line.startswith("ok      index       200 studies, every SHA-256 as written") for line in lines)
    assert any("disk" in line and "GiB free" in line for line in lines)


def test_a_flipped_bit_is_a_fault_with_a_remedy_and_an_exit_code(index: Path) -> None:
    (vectors,) = index.glob("exact-*")
    content = bytearray(vectors.read_bytes())
    content[len(content) // 2] ^= 1
    vectors.write_bytes(content)

    result = CliRunner().invoke(precedent, ["doctor", str(index), "--json"])

    fault = next(one for one in json.loads(result.output) if one["name"] == "index")
    assert (result.exit_code, fault["state"]) == (1, "fault")
    assert "has changed since it was written" in fault["detail"]
    assert fault["remedy"].startswith("restore a snapshot, or run: precedent index")


def test_a_folder_that_is_not_there_and_an_encoder_that_is_none_are_faults(tmp_path: Path) -> None:
    result = CliRunner().invoke(precedent, ["doctor", str(tmp_path / "ghost"), "--encoder", __file__])

    assert result.exit_code == 1
    assert result.output.count("fault   ") == 2
    assert "there is no folder" in result.output
    assert "is not a readable safetensors file" in result.output


def test_an_index_of_another_encoder_is_a_fault(index: Path) -> None:
    (same,), (other,) = (list(doctor._fingerprint(index, digit * 64)) for digit in "12")

    assert (same.state, other.state) == ("ok", "fault")
    assert "built with encoder 111111111111, this is 222222222222" in other.detail


@pytest.mark.parametrize(("cosine", "state"), [(0.9999, "ok"), (0.5, "fault"), (np.nan, "fault")])
def test_a_runtime_that_gives_another_vector_than_torch_is_a_fault(cosine: float, state: str) -> None:
    assert doctor.agreement(cosine).state == state


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        (["click>=8", "no-such-package-here>=1"], "no-such-package-here is missing"),
        (["click<1"], "is not <1"),
        ([], "cxr-precedent is not installed"),
    ],
)
def test_a_package_out_of_its_bounds_is_a_fault(bounds: list[str], told: str) -> None:
    first = next(packages(bounds))

    assert (first.name, first.state) == ("packages", "fault")
    assert told in first.detail
    assert first.remedy.startswith("run: pip install")


@pytest.mark.parametrize(
    ("builds", "state"), [(["faiss-cpu"], "ok"), ([], "fault"), (["faiss-cpu", "faiss-gpu"], "fault")]
)
def test_one_build_of_faiss_is_needed_and_two_are_one_too_many(
    builds: list[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: "9.9" if name in (*builds, "click", "numpy") else None)

    assert {one.name: one.state for one in packages(BOUNDS)}["faiss"] == state


@pytest.mark.parametrize(
    ("found", "told"),
    [
        (Seen(False, 0), "faiss-cpu 9.9, which uses no GPU"),
        (Seen(True, 0), "faiss-cpu 9.9, which sees no GPU; the processor searches"),
        (Seen(True, 2, "NVIDIA H100", 80 << 30), "faiss-cpu 9.9, which sees 2 GPUs, the first: NVIDIA H100 of 80 GiB"),
    ],
)
def test_it_is_said_which_faiss_is_installed_and_what_gpu_it_sees(
    found: Seen, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_version", lambda name: "9.9" if name in ("faiss-cpu", "click", "numpy") else None)
    monkeypatch.setattr(gpu, "seen", lambda: found)
    assert next(one.detail for one in packages(BOUNDS) if one.name == "faiss") == told


def test_too_little_memory_or_disk_is_a_warning_with_a_remedy(tmp_path: Path) -> None:
    for scarce in (memory(1 << 30), disk(tmp_path, 1 << 62)):
        assert scarce.state == "warning"
        assert scarce.remedy
    assert (memory(8 << 30).state, memory(None).state, disk(tmp_path, 0).state) == ("ok", "ok", "ok")


@pytest.mark.parametrize(("flags", "state"), [({"avx2", "avx512f"}, "ok"), ({"sse2"}, "warning"), (None, "ok")])
def test_a_processor_without_avx2_is_a_warning(flags: set[str] | None, state: str) -> None:
    assert checks._processor(flags, "").state == state


def test_more_threads_than_cores_are_a_warning() -> None:
    assert checks._threads({"OMP_NUM_THREADS": "100000"}).state == "warning"
    assert checks._threads({}).state == "ok"


def test_a_container_has_the_memory_that_it_is_given(tmp_path: Path) -> None:
    machine, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    machine.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert checks._available(machine, [limit]) == 8000 * 1024
    for given, found in (("max\n", 8000 * 1024), ("9223372036854771712\n", 8000 * 1024), ("4096\n", 4096)):
        limit.write_text(given)
        assert checks._available(machine, [limit]) == found
    assert checks._available(tmp_path / "nothing", [limit]) is None


@pytest.mark.parametrize(
    ("found", "driver", "state", "sentence"),
    [
        ([Gpu("NVIDIA H200", 140 << 30)], True, "ok", "NVIDIA H200, 140 GiB: torch encodes and trains on it"),
        ([], True, "warning", "torch finds no GPU"),
        ([], False, "ok", "none: films are encoded, and networks trained, on the processor"),
    ],
)
def test_a_gpu_is_named_with_what_uses_it(found: list[Gpu], driver: bool, state: str, sentence: str) -> None:
    check = checks.gpu(found, driver)

    assert (check.name, check.state) == ("gpu", state)
    assert sentence in check.detail

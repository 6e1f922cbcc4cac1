"""Exports on Ray: the same shards as on one machine, whichever engine began, and whatever is killed meanwhile."""

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import done, refusal
from folders import ROOT

from encoder.embedder import Embedder
from encoder.network.checkpoint import save_encoder
from index.export.shards import ExportPlan, load_embeddings, load_manifest
from index.storage.files import sha256_of
from index.table.studies import load_rows, save_studies
from scripts.work.ray_cluster import Allocation, RayRefused, allocation_of
from scripts.work.ray_export import ShardOrder, ShardWorker

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
STUDIES, TORN = 48, 5


@pytest.fixture
def words(tmp_path: Path, studies: pa.Table, tiny_embedder: Embedder) -> list[str | Path]:
    """Return the words that export 48 studies in shards of four, one film torn, but for the folder."""
    rng = np.random.default_rng(0)
    table = studies.slice(0, STUDIES)
    for path in filter(None, table["frontal_path"].to_pylist() + table["lateral_path"].to_pylist()):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / path), rng.integers(0, 255, (80, 72), dtype=np.uint8))
    torn = tmp_path / table["frontal_path"][TORN].as_py()
    torn.write_bytes(torn.read_bytes()[:200])
    save_studies(table, tmp_path / "studies.parquet")
    save_encoder(tmp_path / "encoder.safetensors", tiny_embedder.encoder, tiny_embedder.preprocessing)
    named = ["--images", tmp_path, "--encoder", tmp_path / "encoder.safetensors", "--runtime", "torch"]
    return ["export", tmp_path / "studies.parquet", *named, "--shard-rows", "4", "--batch", "3", "--allow-failures"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every shard and of the list of failed studies."""
    paths = [*folder.glob("shard-*.parquet"), *folder.glob("_failed.parquet/*")]
    return {path.name: path.read_bytes() for path in sorted(paths)}


def digest(folder: Path) -> str:
    """Return the SHA-256 of the embedding column."""
    return hashlib.sha256(load_embeddings(folder)[1].tobytes()).hexdigest()


def require_same(folder: Path, local: Path) -> None:
    assert digest(folder) == digest(local)
    assert contents(folder) == contents(local)
    assert len(pq.read_table(folder / "_failed.parquet")) == 1
    assert load_manifest(folder) | {"origin": None} == load_manifest(local) | {"origin": None}


def started(words: list[str | Path], address: str) -> subprocess.Popen[bytes]:
    from ray_world import ENVIRONMENT, ROOT

    command = [sys.executable, "-m", "scripts.cli", *map(str, words)]
    return subprocess.Popen(command, env=ENVIRONMENT | {"RAY_ADDRESS": address}, cwd=ROOT, stdout=subprocess.DEVNULL)


def wait_for(count: int, folder: Path, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 900
    while len(list(folder.glob("shard-*"))) < count and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    assert process.poll() is None
    assert len(list(folder.glob("shard-*"))) >= count


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`use_:DeprecationWarning")  # of Ray Data, by its own context
def test_ray_finishes_what_this_machine_began(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    local, rayed = tmp_path / "local", tmp_path / "rayed"
    told = done(*words, "--out", local).stdout
    rayed.mkdir()
    for shard in (0, 3, 4):
        name = f"shard-{shard:05d}.parquet"
        (rayed / name).write_bytes((local / name).read_bytes())
    kept = {path: path.stat().st_mtime_ns for path in rayed.iterdir()}
    assert done(*words, "--out", rayed, "--engine", "ray").stdout == told.replace(str(local), str(rayed))
    require_same(rayed, local)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@needs_ray
@pytest.mark.long
def test_a_node_killed_in_the_middle_costs_no_row_and_either_engine_goes_on(
    words: list[str | Path], tmp_path: Path
) -> None:
    from ray_world import two_nodes

    local = tmp_path / "local"
    done(*words, "--out", local)
    with two_nodes() as cluster:
        cut = started([*words, "--out", tmp_path / "cut", "--engine", "ray"], cluster.address)
        wait_for(2, tmp_path / "cut", cut)
        cut.kill()
        cut.wait()
        assert not (tmp_path / "cut" / "_manifest.json").exists()
        whole = started([*words, "--out", tmp_path / "whole", "--engine", "ray"], cluster.address)
        wait_for(2, tmp_path / "whole", whole)
        cluster.other.kill()
        assert whole.wait() == 0
    done(*words, "--out", tmp_path / "cut")
    require_same(tmp_path / "whole", local)
    require_same(tmp_path / "cut", local)


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1", "ray://127.0.0.1:10001", ":6379", "127.0.0.1:port"])
def test_an_address_that_is_none_is_refused(
    address: str, words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert "expected RAY_ADDRESS to be HOST:PORT" in refusal(*words, "--out", tmp_path / "out", "--engine", "ray")


@needs_ray
def test_an_address_where_nothing_listens_is_refused(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken.getsockname()[1]}")
        line = refusal(*words, "--out", tmp_path / "out", "--engine", "ray")
    assert "nothing answers at RAY_ADDRESS '127.0.0.1:" in line
    assert "unset it to work on this machine alone" in line


def test_without_ray_the_extra_is_named(
    words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = refusal(*words, "--out", tmp_path / "out", "--engine", "ray")
    assert "pip install 'cxr-precedent[ray]'" in line


class Begun:
    """Stands for the counter of tries: says always the same."""

    def __init__(self, times: int) -> None:
        self.begin, self._times = self, times

    def remote(self, shard: int) -> int:
        return self._times


@needs_ray
@pytest.mark.parametrize(
    ("told", "times", "line"),
    [
        ({}, 6, "shard 1 (rows 4 to 7 of the table) has ended 5 workers"),
        ({"version": "9.9"}, 1, "expected version of cxr-precedent 9.9, as where the export was started, got"),
        ({"runtime": "openvino-int8"}, 1, "precedent encoder quantize"),
        ({"plan": {"studies_sha256": "a" * 64}}, 1, "expected studies table aaaaaaaaaaaa"),
        ({"plan": {"fingerprint": "b" * 64}}, 1, "expected encoder bbbbbbbbbbbb"),
        ({"studies": "/nowhere/studies.parquet"}, 1, "No such file or directory: '/nowhere/studies.parquet'"),
    ],
)
def test_a_worker_that_cannot_do_its_part_answers_with_the_reason(
    told: dict[str, Any], times: int, line: str, order: ShardOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    other = replace(order, **(told | {"plan": replace(order.plan, **told.get("plan", {}))}))
    row = ShardWorker(other, Begun(times))({"item": np.array([1])})
    assert (row["shard"], row["studies"]) == ([1], [0])
    assert line in row["refusal"][0]


@pytest.fixture
def order(words: list[str | Path], tmp_path: Path, tiny_embedder: Embedder) -> ShardOrder:
    """Return what a worker is told of the export of `words`."""
    table, out = tmp_path / "studies.parquet", tmp_path / "out"
    out.mkdir()
    plan = ExportPlan(tiny_embedder.fingerprint, 256, sha256_of(table), STUDIES, 4)
    places = map(str, (table, tmp_path, tmp_path / "encoder.safetensors", out))
    return ShardOrder(*places, plan, 3, 2, "cpu", "torch", version("cxr-precedent"))


LISTENING = """
import json, psutil
from scripts.work.ray_cluster import joined_cluster
with joined_cluster() as ray:
    ray.get(ray.remote(lambda: None).remote())
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = [one for process in processes for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    print(json.dumps([one.laddr.ip for one in found]))
"""


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_this_machine_listens_on_loopback_alone() -> None:
    pytest.importorskip("psutil")
    told = ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    environ = {name: value for name, value in os.environ.items() if name not in told}
    ran = subprocess.run(
        [sys.executable, "-c", LISTENING],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-500:]
    addresses = json.loads(ran.stdout.splitlines()[-1])
    assert len(addresses) > 4
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


@needs_ray
def test_a_worker_writes_its_shard_and_leaves_a_finished_one_as_it_is(
    order: ShardOrder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.get", lambda answer: answer)
    worker, shard = ShardWorker(order, Begun(1)), Path(order.out, "shard-00001.parquet")
    assert worker({"item": np.array([1])}) == {"shard": [1], "studies": [4], "refusal": [""]}
    before = shard.stat().st_mtime_ns
    assert worker({"item": np.array([1])})["studies"] == [4]
    assert shard.stat().st_mtime_ns == before
    others = [row for row in range(4, 8) if row != TORN]
    table = load_rows(order.studies, slice(0, STUDIES))
    assert pq.read_table(shard)["study_id"].to_pylist() == table.take(others)["study_id"].to_pylist()


class Machines:
    """A cluster that only tells what its machines have."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self._nodes = [{"Alive": True, "Resources": one} for one in resources]

    def nodes(self) -> list[dict[str, object]]:
        return [*self._nodes, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}]


@pytest.mark.parametrize(
    ("machines", "device", "cores", "allocation"),
    [
        ([{"CPU": 8}, {"CPU": 4}, {}], "auto", None, Allocation(3, 4, False)),
        ([{"CPU": 8}, {"CPU": 4}], "auto", 3, Allocation(3, 3, False)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], "auto", None, Allocation(2, 8, True)),
        ([{"CPU": 16, "GPU": 2}, {"CPU": 64}], "cpu", None, Allocation(5, 16, False)),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 8, "GPU": 1}], "cuda", 4, Allocation(5, 4, True)),
    ],
)
def test_machines_are_shared_out_by_gpus_where_there_are_any_else_by_cores(
    machines: list[dict[str, float]], device: str, cores: int | None, allocation: Allocation
) -> None:
    assert allocation_of(Machines(*machines), device, cores) == allocation


def test_a_cluster_that_has_not_what_is_asked_for_is_refused() -> None:
    with pytest.raises(RayRefused, match="use --device cpu"):
        allocation_of(Machines({"CPU": 8}), "cuda", None)
    with pytest.raises(
        RayRefused, match=r"9 cores in the Ray cluster, the largest has 8; give a smaller --actor-cores"
    ):
        allocation_of(Machines({"CPU": 8}), "cpu", 9)


def test_rows_of_a_table_come_from_the_groups_they_lie_in(tmp_path: Path, studies: pa.Table) -> None:
    save_studies(studies, tmp_path / "studies.parquet")
    table = pq.read_table(tmp_path / "studies.parquet")
    pq.write_table(table, tmp_path / "groups.parquet", row_group_size=30)
    for rows in (slice(0, 10), slice(25, 95), slice(90, 120), slice(190, 200)):
        assert load_rows(tmp_path / "groups.parquet", rows).equals(studies.slice(rows.start, rows.stop - rows.start))

"""`precedent export --engine ray`: the same shards, written by the machines of a Ray cluster.

Only shard numbers and small rows travel: every worker opens encoder, table, films and folder by their addresses, on
storage that all of them share. Ray is imported when it is first needed.
"""

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

from encoder.embedder import Embedder
from encoder.errors import EncoderError
from encoder.runtime.runtimes import Runtime, choose_runtime
from index.errors import CollectionError
from index.export.shards import ExportPlan, ShardFolder
from index.storage.files import sha256_of
from index.storage.places import place
from index.table.studies import load_rows
from scripts.work.local_export import ExportTask, shard_bar
from scripts.work.ray_cluster import PACKAGE, Allocation, RayRefused, allocation_of, joined_cluster
from scripts.work.shard_writing import FilmReader, one_torch_thread, write_shards
from service.process import keep_files_private

_MOST_TRIES = 5
"""Workers that one shard may outlive: a film that ends a process would otherwise keep the cluster busy for ever."""
_ROUNDS = 3
"""Rounds without a new shard, after which the export gives up."""


@dataclass(frozen=True)
class ShardOrder:
    """What a worker needs: plain values and addresses, the same in every worker of an export."""

    studies: str
    images: str
    encoder: str
    out: str
    plan: ExportPlan
    batch: int | None
    threads: int
    device: str
    runtime: str
    version: str
    ignored_parts: frozenset[str] = frozenset()


class ShardWorker:
    """Writes shards in a process of the cluster; what goes wrong is a row of its answer, not an end of the process."""

    def __init__(self, order: ShardOrder, tries: Any) -> None:
        keep_files_private()
        self._order, self._tries = order, tries

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Write one shard, {"item": [number]}, and return one row: the shard, its studies, or why there is none."""
        [shard] = map(int, batch["item"])
        try:
            self._require_few_tries(shard)
            studies, refusal = self._write(shard), ""
        except (CollectionError, EncoderError, OSError) as error:
            studies, refusal = 0, f"{socket.gethostname()}: {error}"
        return {"shard": [shard], "studies": [studies], "refusal": [refusal]}

    def _require_few_tries(self, shard: int) -> None:
        import ray

        if ray.get(self._tries.begin.remote(shard)) > _MOST_TRIES:
            rows = self._order.plan.slice_of(shard)
            raise RayRefused(
                f"shard {shard} (rows {rows.start:,} to {rows.stop - 1:,} of the table) has ended {_MOST_TRIES} "
                "workers; export those rows alone with --engine local to see why"
            )

    def _write(self, shard: int) -> int:
        embedder, folder, order = self._embedder, self._folder, self._order
        rows = order.plan.slice_of(shard)
        if folder.path_of(shard).exists():  # written by a worker that was lost before it could say so
            return rows.stop - rows.start
        table = load_rows(order.studies, rows)
        reader = FilmReader(embedder, table, place(order.images), order.plan.views)
        with one_torch_thread(embedder):
            write_shards(
                embedder,
                table,
                reader,
                folder,
                [shard],
                batch=order.batch or embedder.batch,
                threads=order.threads,
                advance=lambda _: None,
                first_row=rows.start,
            )
        return rows.stop - rows.start

    @cached_property
    def _embedder(self) -> Embedder:
        """The encoder, once it is sure that this machine has what the first one has."""
        order = self._order
        _require_same(order.version, version(PACKAGE), f"version of {PACKAGE}", "install the same everywhere")
        embedder = Embedder.load(
            place(order.encoder), device=order.device, runtime=order.runtime, ignored_parts=order.ignored_parts
        )
        shared = "keep both on storage that every machine of the cluster shares"
        _require_same(order.plan.fingerprint[:12], embedder.fingerprint[:12], "encoder", shared)
        _require_same(order.plan.studies_sha256[:12], sha256_of(place(order.studies))[:12], "studies table", shared)
        if not place(order.images).is_dir():
            raise RayRefused(f"no folder {order.images!r} of films here; {shared}")
        _require_same(order.runtime, embedder.runtime.name, "runtime", f"use --runtime {embedder.runtime.name}")
        return embedder

    @cached_property
    def _folder(self) -> ShardFolder:
        return ShardFolder(place(self._order.out), self._order.plan, looked_over=True)


def _require_same(expected: str, got: str, what: str, remedy: str) -> None:
    if got != expected:
        raise RayRefused(f"expected {what} {expected}, as where the export was started, got {got}; {remedy}")


class Tries:
    """Counts how often each shard was begun, in a process of its own that outlives the workers."""

    def __init__(self) -> None:
        self._begun: dict[int, int] = {}

    def begin(self, shard: int) -> int:
        """Return how often the shard has been begun, this time included."""
        self._begun[shard] = self._begun.get(shard, 0) + 1
        return self._begun[shard]


def export_on_ray(task: ExportTask, actor_cores: int | None) -> tuple[ShardFolder, Runtime]:
    """Embed what is still to be done with a cluster; return where it lies and what ran.

    Raises:
        RayRefused: Ray is not installed, the cluster cannot be joined, or a machine of it cannot do its part.
    """
    with joined_cluster() as ray:
        allocation = allocation_of(ray, task.device, actor_cores)
        embedder = _embedder_here(task, allocation)
        folder = task.folder_for(embedder)
        ran = choose_runtime(task.runtime, allocation.device) if allocation.gpus else embedder.runtime
        order = order_of(task, folder.plan, allocation, ran)
        with shard_bar(folder, folder.unfinished()) as advance:
            _write_all(ray, order, folder, allocation, advance)
    return folder, ran


def order_of(task: ExportTask, plan: ExportPlan, allocation: Allocation, ran: Runtime) -> ShardOrder:
    """Return the order for every worker."""
    studies, images, encoder, out = (
        str(path.resolve()) for path in (task.studies, task.images, task.encoder, task.out)
    )
    return ShardOrder(
        studies,
        images,
        encoder,
        out,
        plan,
        task.batch,
        task.threads or allocation.cores + 1,
        allocation.device,
        ran.name,
        version(PACKAGE),
        task.ignored_parts,
    )


def _embedder_here(task: ExportTask, allocation: Allocation) -> Embedder:
    """Return the encoder on this machine, which converts it for the others: all of them would do it at once."""
    choose_runtime(task.runtime, allocation.device)
    return Embedder.load(task.encoder, device="cpu", runtime="torch" if allocation.gpus else task.runtime)


def _write_all(
    ray: Any, order: ShardOrder, folder: ShardFolder, allocation: Allocation, advance: Callable[[int], None]
) -> None:
    """Have every unfinished shard written. Ray gives those that a machine took with it to another.

    Raises:
        RayRefused: a worker refused, or several rounds have written nothing.
    """
    shards, idle, lost = folder.unfinished(), 0, ""
    while shards:
        try:
            for row in _rows_of(ray, order, shards, allocation):
                _require_done(row)
                advance(row["studies"])
        except ray.exceptions.RayError as error:
            lost = str(error).strip().rpartition("\n")[2]  # below the trace of the worker
        still = folder.unfinished()
        idle = idle + 1 if len(still) == len(shards) else 0
        if idle == _ROUNDS:
            raise RayRefused(
                f"{len(still):,} shards are unfinished, the first is {still[0]}, and {_ROUNDS} rounds have written "
                f"none to {str(folder.folder)!r} ({lost or 'every machine of the cluster must share that folder'}); "
                "run the same command again to go on"
            )
        shards = still


def _require_done(row: dict[str, Any]) -> None:
    if row["refusal"]:
        raise RayRefused(f"{row['refusal']} (while writing shard {row['shard']})")


def _rows_of(ray: Any, order: ShardOrder, shards: Sequence[int], allocation: Allocation) -> Iterator[dict[str, Any]]:
    """Yield what becomes of each shard: a block a shard, a shard a worker at a time, so that none piles up anywhere."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard of a slow machine takes long
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    tries = ray.remote(num_cpus=0, scheduling_strategy=here)(Tries).remote()  # on the machine that is lost last
    numbers = ray.data.from_items(list(shards), override_num_blocks=len(shards))
    workers = min(allocation.workers, len(shards))
    pool = ray.data.ActorPoolStrategy(
        min_size=1, initial_size=workers, max_size=len(shards), max_tasks_in_flight_per_actor=1
    )
    yield from numbers.map_batches(
        ShardWorker,
        fn_constructor_args=(order, tries),
        batch_size=1,
        compute=pool,
        num_cpus=allocation.cores,
        num_gpus=1 if allocation.gpus else None,
    ).iter_rows()

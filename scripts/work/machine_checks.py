"""What can be wrong with an installation before a file of ours is opened: Python, packages, processor, memory, disk."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

PACKAGE = "cxr-precedent"
LEAST_PYTHON = (3, 11)
NEEDED_MEMORY = 2 << 30
"""What a service over a few ten thousand studies comes to, the encoder and its libraries included."""
NEEDED_DISK = 1 << 30
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Of a control group of version 2 and 1, as a container sees its own."""
_NVIDIA = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))
_EXTRAS = ("cpu", "gpu", "fast", "explain", "train")
_FAST = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}


@dataclass(frozen=True)
class Check:
    """The result of one check, and what to do where it is not "ok"."""

    name: str
    state: Literal["ok", "warning", "fault"]
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch can use: its name and its memory in bytes."""

    name: str
    memory: int

    def sentence(self) -> str:
        """Return both in words."""
        return f"{self.name}, {self.memory / 2**30:.0f} GiB"


def machine_checks() -> Iterator[Check]:
    """Yield what there is to say of Python, packages, processor, GPU, threads and memory."""
    yield _python()
    yield from packages(_installed_bounds())
    yield _processor(_flags(Path("/proc/cpuinfo")), _openvino_precisions())
    yield gpu(gpus(), any(path.exists() for path in _NVIDIA))
    yield _threads(os.environ)
    yield memory(_available(Path("/proc/meminfo"), _LIMITS))


def _python() -> Check:
    running = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        return Check("python", "fault", running, "install Python 3.11 or newer")
    return Check("python", "ok", running)


def _installed_bounds() -> list[str]:
    try:
        return requires(PACKAGE) or []
    except PackageNotFoundError:
        return []


def packages(bounds: list[str]) -> Iterator[Check]:
    """Yield whether packages are there within bounds, as the package's own metadata states them."""
    if not bounds:
        yield Check("packages", "fault", f"{PACKAGE} is not installed", "run: pip install '.[cpu,fast]'")
        return
    needed = [Requirement(line) for line in bounds]
    main = [package for package in needed if package.marker is None or package.marker.evaluate({"extra": ""})]
    broken = [fault for package in main if (fault := _outside(package))]
    for fault in broken:
        yield Check("packages", "fault", fault, f"run: pip install --upgrade '{PACKAGE}[cpu,fast]'")
    if not broken:
        yield Check("packages", "ok", f"{len(main)} within their bounds")
    optional = {name: [package for package in needed if _is_of(package, name)] for name in _EXTRAS}
    yield _faiss([package.name for name in ("cpu", "gpu") for package in optional[name] if _version(package.name)])
    for name in ("fast", "explain", "train"):
        yield _extra(name, [fault for package in optional[name] if (fault := _outside(package))])


def _is_of(package: Requirement, extra: str) -> bool:
    return (
        package.marker is not None
        and not package.marker.evaluate({"extra": ""})
        and package.marker.evaluate({"extra": extra})
    )


def _outside(package: Requirement) -> str:
    """Return what is wrong with a package; "" where it is there and within its bounds."""
    installed = _version(package.name)
    if installed is None:
        return f"{package.name} is missing"
    return (
        ""
        if package.specifier.contains(installed, prereleases=True)
        else f"{package.name} {installed} is not {package.specifier}"
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _faiss(builds: list[str]) -> Check:
    if len(builds) == 1:
        return Check("faiss", "ok", f"{builds[0]} {_version(builds[0])}, {_gpus_of_faiss()}")
    if not builds:
        return Check("faiss", "fault", "neither faiss-cpu nor faiss-gpu", "run: pip install faiss-cpu")
    return Check(
        "faiss", "fault", "both builds, one over the other", "run: pip uninstall faiss-cpu faiss-gpu; install one"
    )


def _gpus_of_faiss() -> str:
    """Return what FAISS has of GPUs, in words."""
    from index.built.gpu import seen

    faiss = seen()
    if not faiss.built:
        return "which uses no GPU"
    if not faiss.gpus:
        return "which sees no GPU; the processor searches"
    gpus = "a GPU" if faiss.gpus == 1 else f"{faiss.gpus} GPUs, the first"
    return f"which sees {gpus}: {faiss.name} of {faiss.memory / 2**30:.0f} GiB"


def _extra(name: str, broken: list[str]) -> Check:
    if not broken:
        return Check(f"[{name}]", "ok", "installed")
    cost = {"fast": "films are embedded by torch, several times as slow", "explain": "no integrated gradients"}
    without = cost.get(name, "no TensorBoard scalars of training")
    state: Literal["ok", "warning"] = "warning" if name == "fast" else "ok"
    remedy = f"run: pip install '{PACKAGE}[{name}]'" if name == "fast" else ""
    return Check(f"[{name}]", state, f"{', '.join(broken)}: {without}", remedy)


def _flags(cpuinfo: Path) -> set[str] | None:
    """Return the processor's flags; None where the system does not list them."""
    if not cpuinfo.is_file():
        return None
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), None)


def _openvino_precisions() -> str:
    if find_spec("openvino") is None:
        return "OpenVINO is not installed"
    from openvino import Core

    precisions = Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return f"OpenVINO computes in {', '.join(name for name in ('INT8', 'BF16', 'FP16', 'FP32') if name in precisions)}"


def _processor(flags: set[str] | None, precisions: str) -> Check:
    if flags is None:
        return Check("processor", "ok", f"its features are not listed by this system; {precisions}")
    has = [name for flag, name in _FAST.items() if flag in flags]
    sentence = f"{', '.join(has) or 'neither AVX2 nor AVX-512'}; {precisions}"
    if "avx2" not in flags:
        return Check(
            "processor", "warning", sentence, "expect a fraction of the published speed; use a machine with AVX2"
        )
    return Check("processor", "ok", sentence)


def gpus() -> list[Gpu]:
    """Return the GPUs that torch can use."""
    import torch  # two seconds, which only those that ask should pay

    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [Gpu(card.name, card.total_memory) for card in cards]


def gpu(cards: Sequence[Gpu], driver: bool) -> Check:
    """Return which GPUs there are and what uses them; FAISS is listed beside its package.

    Args:
        driver: whether NVIDIA's driver runs here.
    """
    if cards:
        named = "; ".join(card.sentence() for card in cards)
        return Check("gpu", "ok", f"{named}: torch encodes and trains on it, OpenVINO stays on the processor")
    if driver:
        remedy = "install torch's build for the driver's CUDA: https://pytorch.org/get-started/locally"
        return Check("gpu", "warning", "NVIDIA's driver runs, but torch finds no GPU: it may be built for CPUs", remedy)
    return Check("gpu", "ok", "none: films are encoded, and networks trained, on the processor")


def _threads(environ: Mapping[str, str]) -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    bound = environ.get("OMP_NUM_THREADS")
    sentence = f"{cores} cores to use" + (f", OMP_NUM_THREADS={bound}" if bound else "")
    if bound and bound.isdigit() and int(bound) > cores:
        return Check("threads", "warning", sentence, f"unset OMP_NUM_THREADS, or set it to at most {cores}")
    return Check("threads", "ok", sentence)


def _available(meminfo: Path, limits: Iterable[Path]) -> int | None:
    """Return the bytes of memory that can be had, at most what a container is given; None if the system is silent."""
    if not meminfo.is_file():
        return None
    lines = meminfo.read_text(encoding="ascii").splitlines()
    available = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    given = [path.read_text(encoding="ascii").strip() for path in limits if path.is_file()]
    return min([*available, *(int(limit) for limit in given if limit.isdigit())], default=None)  # no limit: "max"


def memory(available: int | None, needed: int = NEEDED_MEMORY) -> Check:
    """Return whether there is memory enough for a service."""
    if available is None:
        return Check("memory", "ok", "not reported by this system")
    sentence = f"{available / 2**30:.1f} GiB available, {needed / 2**30:.1f} wanted"
    if available < needed:
        return Check("memory", "warning", sentence, "free some, or serve from a larger machine")
    return Check("memory", "ok", sentence)


def disk(folder: Path, needed: int = NEEDED_DISK) -> Check:
    """Return whether a folder's disk has room for what is written beside it: a compacted index, added films."""
    free = shutil.disk_usage(folder).free
    sentence = f"{free / 2**30:.1f} GiB free at {folder}, {needed / 2**30:.1f} wanted"
    if free < needed:
        return Check("disk", "warning", sentence, "make room: compacting writes the index a second time beside itself")
    return Check("disk", "ok", sentence)

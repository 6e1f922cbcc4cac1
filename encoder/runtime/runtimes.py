"""What runs an encoder's backbones: torch, OpenVINO, several times as fast on a CPU, or CUDA graphs of the same.

Everything above the backbones stays torch: it is a hundredth of the work.
"""

import copy
import hashlib
import importlib.util
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from encoder.errors import CheckpointError, EncoderError
from encoder.files import read_regular, save_text, written_whole
from encoder.films.preprocess import Preprocessing
from encoder.films.study import Film, Normalized
from encoder.network.model import StudyEncoder
from encoder.runtime.fixed_batches import FixedBatchEncoder, fixed_sizes
from encoder.runtime.normalize import Normalizer
from encoder.runtime.openvino_branch import CompiledBranch, Put, apart

RUNTIMES = (
    *("auto", "torch", "openvino-fp32", "openvino-bf16", "openvino-int8"),
    *("cuda-fp32", "cuda-bf16", "cuda-compiled"),
)
AUTO = "auto"
_MOST_FILMS = 4096
_MEMORY_OF_CPU = 4 << 30
"""Bytes that a CPU gives where it takes the part of a GPU."""
_NOISE = 0.1
_MOST_TURNED = {"fp32": 0.01, "bf16": 0.1, "int8": 0.5}
"""Length of the difference to torch's pooled values, relative to their own, up to which a kept model is of the same
network. Of the demo's encoder 3e-7, 0.004 and 0.025 were met, of small networks without training up to 0.32 in int8;
another network's is 1.09 or more."""
_MOST_TEXT = 1 << 26
_MOST_MAPS = 1 << 10
"""Values a pixel of a film that one layer gives, at most."""
_NESTED = ("If", "Loop", "TensorIterator")
_LAYOUT = 2
"""Of a kept model's inputs and outputs: raised where they change, so that an older conversion is made anew."""


@dataclass(frozen=True)
class Runtime:
    """The runtime that was chosen, and why where it is not the one asked for."""

    name: str
    note: str = ""


def choose_runtime(name: str, device: str) -> Runtime:
    """Return the runtime to use: of `auto`, OpenVINO in bf16 where installed and the processor has bf16, then in fp32.

    Raises:
        EncoderError: an unknown name, OpenVINO asked for and not installed or on a GPU, or CUDA asked for on a CPU.
    """
    if name not in RUNTIMES:
        raise EncoderError(f"expected a runtime of {', '.join(RUNTIMES)}, got {name!r}")
    installed = importlib.util.find_spec("openvino") is not None
    if name == "torch" or (name == AUTO and (device != "cpu" or not installed)):
        return Runtime("torch")
    if name.startswith("cuda-"):
        if device != "cuda":
            raise EncoderError(f"expected a CUDA device for runtime {name!r}, got {device!r}; use --runtime auto")
        return Runtime(name)
    if device != "cpu":
        raise EncoderError(f"expected runtime torch on device {device!r}, got {name!r}; OpenVINO serves the CPU here")
    if not installed:
        raise EncoderError(f"expected OpenVINO for runtime {name!r}; run: pip install 'cxr-precedent[fast]'")
    if name in (AUTO, "openvino-bf16") and not has_bf16():
        return Runtime("openvino-fp32", "this processor has no bf16, so the backbones run in fp32")
    return Runtime("openvino-bf16" if name == AUTO else name)


def has_bf16() -> bool:
    """Return whether OpenVINO finds bf16 arithmetic in this processor."""
    from openvino import Core

    return "BF16" in apart(lambda: Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


class OpenVinoEncoder(StudyEncoder):
    """An encoder whose backbones run in OpenVINO and whose layers above are the given encoder's own, not copied."""

    def __init__(self, encoder: StudyEncoder, branches: Sequence[CompiledBranch], put: Put) -> None:
        """Take the compiled backbones, one a branch, or one for both, and what normalises a film for them."""
        super().__init__()
        self.config, self.backbones = encoder.config, encoder.backbones
        self.num_features, self.embedding_dim = encoder.num_features, encoder.embedding_dim
        self._encoder = [encoder]  # in a list, so that it is no child whose weights would count twice
        self._branches, self._put = branches, put

    def pool_rows(
        self, films: Tensor, frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what both views are pooled to, (B, F) each; both branches run side by side."""
        return self._pooled(list(films.numpy()), None, frontal_rows, lateral_rows, positions)

    def pool_films_of(
        self, films: Sequence[Film], frontal_rows: Tensor, lateral_rows: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what `pool_rows` does, of films (S, S) that are not normalised yet and lie in no stack."""
        return self._pooled(films, self._put, frontal_rows, lateral_rows, positions)

    def _pooled(
        self,
        films: Sequence[Film | Normalized],
        put: Put | None,
        frontal_rows: Tensor,
        lateral_rows: Tensor,
        positions: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if len(self._branches) == 1:
            pooled = torch.from_numpy(self._branches[0].start(films, put).result())
            finished = self._encoder[0].finish_pooled(pooled, positions)
            return finished[frontal_rows], finished[lateral_rows]
        both = zip(self._branches, (frontal_rows, lateral_rows), strict=True)
        running = [branch.start([films[row] for row in rows.tolist()], put) for branch, rows in both]
        return torch.from_numpy(running[0].result()), torch.from_numpy(running[1].result())

    def fuse_pooled(self, frontal: Tensor, lateral: Tensor) -> Tensor:
        """Return the embeddings (B, D) of two pooled views, (B, F) each."""
        return self._encoder[0].fuse_pooled(frontal, lateral)


def with_runtime(
    encoder: StudyEncoder, runtime: Runtime, preprocessing: Preprocessing, cache: Path | None, fingerprint: str
) -> StudyEncoder:
    """Return what embeds with that runtime: the encoder itself, or its backbones in OpenVINO.

    The conversion is kept in the folder `cache`, named by the fingerprint, where that can be written; int8 models are
    only ever read from there. One that was kept is believed only where it gives test films what torch gives them.

    Raises:
        EncoderError: an int8 model that was not made, or is of another network.
    """
    if runtime.name == "torch":
        return encoder
    if runtime.name.startswith("cuda-"):
        return on_gpu(encoder, runtime, preprocessing)
    precision, size = runtime.name.partition("-")[2], preprocessing.size
    branches = [
        _int8_branch(encoder, branch, size, path_of(cache, fingerprint, branch, "int8"))
        if precision == "int8"
        else _converted(encoder, branch, size, path_of(cache, fingerprint, branch, "fp32"), precision)
        for branch in range(len(encoder.backbones))
    ]
    return OpenVinoEncoder(encoder, branches, preprocessing.normalize)


def on_gpu(encoder: StudyEncoder, runtime: Runtime, preprocessing: Preprocessing) -> FixedBatchEncoder:
    """Return what embeds with a runtime for GPUs, on the device of the encoder; a CPU can take the part of one."""
    device, compiled = next(encoder.parameters()).device, runtime.name == "cuda-compiled"
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _MEMORY_OF_CPU
    sizes, prepare = fixed_sizes(free, preprocessing.size, compiled=compiled), Normalizer(preprocessing, device)
    return FixedBatchEncoder(encoder, prepare, sizes, half=runtime.name != "cuda-fp32", compiled=compiled)


def path_of(cache: Path | None, fingerprint: str, branch: int, precision: str) -> Path | None:
    """Return where a converted branch lies, or None without a cache."""
    return cache / f"{fingerprint[:16]}-{branch}-{precision}-v{_LAYOUT}.xml" if cache is not None else None


class PooledBranch(nn.Module):
    """One branch of an encoder, films in and pooled values out: what is converted."""

    def __init__(self, encoder: StudyEncoder, branch: int) -> None:
        super().__init__()
        self.encoder, self.branch = copy.deepcopy(encoder).eval(), branch

    def forward(self, films: Tensor) -> Tensor:
        """Return the pooled values (M, F) of films (M, C, S, S), without what is known of their positions."""
        return self.encoder.pool_films(films, self.branch)


def _converted(encoder: StudyEncoder, branch: int, size: int, path: Path | None, precision: str) -> CompiledBranch:
    """Return a branch compiled by OpenVINO: the kept conversion where it fits the network, else a new one."""
    if (kept := _kept_branch(encoder, branch, size, path, precision)) is not None:
        return kept
    model = convert(encoder, branch, size)
    if path is not None:
        keep_model(model, path)  # a read-only folder is no fault: the next start converts again
    return CompiledBranch(model, precision)


def _int8_branch(encoder: StudyEncoder, branch: int, size: int, path: Path | None) -> CompiledBranch:
    if (kept := _kept_branch(encoder, branch, size, path, "int8")) is None:
        raise EncoderError(
            "expected an int8 model of this encoder beside its checkpoint, as it was written, got none; run: "
            "precedent encoder quantize ENCODER --studies STUDIES --images IMAGES"
        )
    return kept


def _kept_branch(
    encoder: StudyEncoder, branch: int, size: int, path: Path | None, precision: str
) -> CompiledBranch | None:
    """Return a kept branch, compiled; None where there is none, or it is of another network."""
    weights = sum(value.nbytes for value in encoder.state_dict().values())
    try:
        if (kept := _kept(path, 2 * weights + _MOST_TEXT)) is None or not _is_plain(kept, size):
            return None
        compiled = CompiledBranch(kept, precision)
        films = _test_films(encoder.config.in_chans, size)
        pooled = compiled.start(list(films)).result()
    except (RuntimeError, ValueError, TypeError, IndexError):  # inputs and outputs of other shapes
        return None
    with torch.inference_mode():
        expected = encoder.pool_films(torch.from_numpy(films), branch).numpy()
    if pooled.shape != expected.shape:
        return None
    turned = np.linalg.norm(pooled - expected, axis=1) / np.maximum(np.linalg.norm(expected, axis=1), 1e-12)
    return compiled if (turned <= _MOST_TURNED[precision]).all() else None


def _test_films(channels: int, size: int) -> npt.NDArray[np.float32]:
    """Return test films (4, C, S, S): blurred noise of two scales, two films the same each time and two drawn anew.

    A forged model could be fitted to the first two, not to the others. Plain noise and coarser scales are no test:
    8-bit ranges were calibrated on films and clip them.
    """
    made = []
    for rng in (np.random.default_rng(0), np.random.default_rng()):
        for side in (24, 32):
            clouds = cv2.resize(rng.normal(size=(side, side)), (size, size), interpolation=cv2.INTER_CUBIC)
            made.append(clouds + _NOISE * rng.normal(size=(channels, size, size)))
    return np.stack(made).astype(np.float32)


def _is_plain(model: Any, size: int) -> bool:
    """Return whether a model has no nested graphs, and no layer larger than a network for films of this size needs."""
    most = _MOST_MAPS * size**2
    for layer in model.get_ops():
        shapes = [out.get_partial_shape().get_max_shape() for out in layer.outputs()]
        if layer.get_type_name() in _NESTED or any(math.prod(list(shape)[1:]) > most for shape in shapes):
            return False
    return True


def convert(encoder: StudyEncoder, branch: int, size: int) -> Any:
    """Return a branch as an OpenVINO model in fp32: films (M, C, size, size) in, pooled values (M, F) out."""
    import openvino

    example = torch.zeros(2, encoder.config.in_chans, size, size)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's export warns of torch's own use of itself
        shapes = {"films": {0: torch.export.Dim("films", min=1, max=_MOST_FILMS)}}
        program = torch.export.export(PooledBranch(encoder, branch), (example,), dynamic_shapes=shapes)
        model = openvino.convert_model(program)
    model.reshape([-1, *example.shape[1:]])  # the conversion forgets the sides, and a known side is faster
    return model


def keep_model(model: Any, path: Path) -> bool:
    """Write a model and then its SHA-256 beside the checkpoint, and return whether that could be done."""
    import openvino

    weights, sums = path.with_suffix(".bin"), path.with_suffix(".sha256")
    try:
        path.parent.mkdir(exist_ok=True)
        with written_whole(weights), written_whole(path) as partial:
            openvino.save_model(model, partial, compress_to_fp16=False)  # and the weights, of the same name
        save_text(sums, _sums(path, path.read_bytes(), weights.read_bytes()))
    except (OSError, RuntimeError):
        return False
    return True


def _kept(path: Path | None, most_bytes: int) -> Any:
    """Return the model that was kept there; None where there is none, or it is not as it was written."""
    from openvino import Core, Tensor

    if path is None:
        return None
    try:
        model, weights = read_regular(path, _MOST_TEXT), read_regular(path.with_suffix(".bin"), most_bytes)
        if read_regular(path.with_suffix(".sha256"), _MOST_TEXT).decode("utf-8") != _sums(path, model, weights):
            return None
        return Core().read_model(model, Tensor(np.frombuffer(weights, np.uint8)))
    except (OSError, UnicodeDecodeError, CheckpointError, RuntimeError):
        return None


def _sums(path: Path, model: bytes, weights: bytes) -> str:
    """Return the SHA-256 of a model's two files, as `sha256sum -c` reads them."""
    files = {path.name: model, path.with_suffix(".bin").name: weights}
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())

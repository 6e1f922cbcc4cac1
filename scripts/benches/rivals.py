"""Other ways to run an encoder, as users write them: PyTorch eager, compiled, in bf16, and ONNX Runtime."""

import copy
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from encoder.embedder import Embedder
from encoder.films.study import StudyFilms, stack_films
from encoder.network.model import StudyEncoder
from encoder.runtime.normalize import Normalizer

Vectors = npt.NDArray[np.float32]
Way = Callable[[list[StudyFilms]], Vectors]
Pair = Callable[[Tensor, Tensor], Tensor]


def rivals_of(eager: Embedder, *, compiled: bool, batch: int, folder: Path) -> tuple[dict[str, Way], dict[str, str]]:
    """Return the runtimes that this machine has, `PyTorch eager fp32` first, and why the others are absent.

    Args:
        batch: studies a batch, which ONNX Runtime's model is made for. folder: where that model is written.
    """
    encoder, device = eager.encoder, eager.device
    normalize = Normalizer(eager.preprocessing, device)
    absent: dict[str, str] = {}
    ways = {"PyTorch eager fp32": _torch(encoder, normalize, device)}
    ways["PyTorch eager bf16, channels last"] = _torch(encoder, normalize, device, bf16=True, channels_last=True)
    if not compiled:
        absent["torch.compile"] = "not asked for"
    elif device.type == "cpu" and shutil.which("c++") is None:
        absent["torch.compile"] = "no C++ compiler (c++) on this machine"
    else:
        for name, bf16 in (("fp32", False), ("bf16", True)):
            network = compiled_backbones(encoder)
            ways[f"torch.compile {name}"] = _torch(network, normalize, device, bf16=bf16, channels_last=True)
    if device.type == "cpu":
        try:
            ways["ONNX Runtime fp32"] = _onnx(encoder, normalize, eager.preprocessing.size, folder)
        except ModuleNotFoundError as error:
            absent["ONNX Runtime fp32"] = f"{error.name} is not installed"
    return ways, absent


def compiled_backbones(encoder: StudyEncoder) -> StudyEncoder:
    """Return a copy of an encoder whose backbones are compiled when they first run."""
    network = copy.deepcopy(encoder)
    for number, backbone in enumerate(network.backbones):
        network.backbones[number] = torch.compile(backbone, dynamic=False)  # type: ignore[assignment]
    return network


def _torch(
    encoder: StudyEncoder,
    normalize: Normalizer,
    device: torch.device,
    *,
    bf16: bool = False,
    channels_last: bool = False,
) -> Way:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = copy.deepcopy(encoder)
    for weight in network.parameters() if channels_last else ():
        weight.data = weight.data.contiguous(memory_format=layout if weight.dim() == 4 else torch.contiguous_format)

    def way(studies: list[StudyFilms]) -> Vectors:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            frontal, lateral = (normalize(view.to(device)).contiguous(memory_format=layout) for view in _views(studies))
            return network(frontal, lateral).float().cpu().numpy()

    return way


def _onnx(encoder: StudyEncoder, normalize: Normalizer, size: int, folder: Path) -> Way:
    """Return the whole encoder in ONNX Runtime, which fixes everything but the number of studies."""
    import onnx  # noqa: F401  (torch's exporter needs it, and says so late)
    import onnxruntime

    path, films = folder / "encoder.onnx", torch.zeros(2, encoder.config.in_chans, size, size)
    names = {"frontal": {0: "studies"}, "lateral": {0: "studies"}}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is on its way out
        torch.onnx.export(
            copy.deepcopy(encoder), (films, films), str(path), input_names=list(names), dynamic_axes=names, dynamo=False
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def way(studies: list[StudyFilms]) -> Vectors:
        views = zip(names, _views(studies), strict=True)
        given = {name: normalize(view).contiguous().numpy() for name, view in views}
        vectors: Vectors = session.run(None, given)[0]
        return vectors

    return way


def _views(studies: list[StudyFilms]) -> tuple[Tensor, Tensor]:
    """Return the frontal and the lateral films (B, 1, S, S), not normalised, a missing one replaced by the other."""
    pairs = [[film for film in (study.frontal, study.lateral) if film is not None] for study in studies]
    frontal, lateral = (torch.from_numpy(stack_films([pair[view] for pair in pairs])) for view in (0, -1))
    return frontal, lateral

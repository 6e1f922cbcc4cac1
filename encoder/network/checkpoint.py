"""An encoder as one safetensors file: weights, configuration and preprocessing, with one fingerprint over all three."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoder.errors import CheckpointError, EncoderError
from encoder.files import load_tensors, read_json, save_tensors
from encoder.films.preprocess import Preprocessing
from encoder.network.config import EncoderConfig
from encoder.network.model import StudyEncoder
from encoder.network.single import build_encoder, outline_of, require_side

FORMAT = "precedent-encoder"
VERSION = "1"
_MOST_SOURCE, _MOST_TEXT = 8, 500
_TRAINED = {"yes": True, "no": False}
"""What a file may say of `StudyEncoder.trained`; it counts for no fingerprint. Files from before say nothing."""


def save_encoder(
    path: Path,
    encoder: StudyEncoder,
    preprocessing: Preprocessing,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the checkpoint; it appears whole or not at all, and says whether the encoder was trained, where known.

    Args:
        dtype: precision of the stored weights; float16 halves the file and is what then counts for the fingerprint.
    """
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "config": json.dumps(dataclasses.asdict(encoder.config), sort_keys=True),
        "preprocessing": preprocessing.to_json(),
    }
    trained = encoder.trained if encoder.trained is not None else judged_by_weights(encoder.state_dict())
    if trained is not None:
        metadata["trained"] = "yes" if trained else "no"
    if encoder.source is not None:
        metadata["source"] = json.dumps(dict(encoder.source), sort_keys=True)
    state = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in encoder.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_tensors(path, state, metadata)


def judged_by_weights(state: Mapping[str, Tensor]) -> bool | None:
    """Return whether the layers above the backbones have learnt, by a state dict; None where they do not show it.

    Batch normalisation begins with means of 0 and variances of 1, and the first batch of training moves them.
    """
    moved: dict[bool, list[bool]] = {True: [], False: []}
    for name, means in state.items():
        if name.endswith(".running_mean"):
            variances = state.get(f"{name.removesuffix('mean')}var", means)
            moved[name.startswith("backbones.")].append(bool((means != 0).any() or (variances != 1).any()))
    of_backbones, above = moved[True], moved[False]
    if above:
        return any(above)
    return False if of_backbones and not any(of_backbones) else None


def trained_of(path: Path) -> bool | None:
    """Return whether an encoder file's layers above the backbones have learnt. Raises as `load_encoder`."""
    return _trained(*_load(path))


def _trained(metadata: Mapping[str, str], stored: Mapping[str, Tensor]) -> bool | None:
    stated = metadata.get("trained")
    return _TRAINED[stated] if stated in _TRAINED else judged_by_weights(stored)


def _source(metadata: Mapping[str, str]) -> dict[str, str] | None:
    return as_source(read_json(metadata["source"])) if "source" in metadata else None


def as_source(source: Any) -> dict[str, str]:
    """Return where weights came from, text by name for people to read. Raises ValueError: it is no short list of it."""
    words = [*source, *source.values()] if isinstance(source, dict) else [None]
    if len(words) > 2 * _MOST_SOURCE or not all(isinstance(word, str) and len(word) <= _MOST_TEXT for word in words):
        raise ValueError(f"expected at most {_MOST_SOURCE} texts of up to {_MOST_TEXT} signs as its source, got others")
    return dict(source)


def load_encoder(path: str | os.PathLike[str]) -> tuple[StudyEncoder, Preprocessing]:
    """Return the encoder in evaluation mode, float32, and its preprocessing.

    Raises:
        CheckpointError: the file is missing, truncated, changed, not an encoder of ours, or of a newer version.
    """
    path = Path(path)
    metadata, stored = _load(path)
    try:
        config = EncoderConfig(**read_json(metadata["config"]))
        preprocessing = Preprocessing.from_json(metadata["preprocessing"])
        if preprocessing.channels != config.in_chans:
            raise EncoderError(f"films of {preprocessing.channels} channels for a network of {config.in_chans}")
        _require_fit(config, {name: tuple(value.shape) for name, value in stored.items()})
        require_side(config, preprocessing.size)
        encoder = build_encoder(config)
        encoder.load_state_dict(stored)
        encoder.source = _source(metadata)
    except (KeyError, TypeError, ValueError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise CheckpointError(f"{str(path)!r} has a configuration that does not fit its weights: {error}") from error
    encoder.trained = _trained(metadata, stored)
    return encoder.eval(), preprocessing


def _load(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of an encoder file of this version. Raises CheckpointError."""
    try:
        metadata, stored = load_tensors(path, "copy it again, or make it anew")
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no encoder file {str(path)!r}; make one with: precedent encoder create --out {path}"
        ) from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{str(path)!r} holds weights but no encoder; make one with: precedent encoder create --weights {path}"
        )
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"expected encoder file version {VERSION}, got {metadata.get('version')!r} in {str(path)!r}; "
            "upgrade cxr-precedent"
        )
    return metadata, stored


def _require_fit(config: EncoderConfig, stored: Mapping[str, tuple[int, ...]]) -> None:
    """Raise EncoderError unless a file holds the tensors of a network, before any memory is taken for that."""
    expected = {name: tuple(value.shape) for name, value in outline_of(config).state_dict().items()}
    other = sorted({name for name, _ in expected.items() ^ stored.items()})
    if other:
        raise EncoderError(
            f"{len(other)} tensors of {config.backbone!r} are missing or of another shape, {other[0][:200]!r} first"
        )


def fingerprint_of(encoder: StudyEncoder, preprocessing: Preprocessing) -> str:
    """Return SHA-256 (64 hex digits) over float32 weights, configuration and preprocessing.

    Equal fingerprints mean that vectors may be compared; anything that changes a vector changes it.
    """
    digest = hashlib.sha256()
    digest.update(json.dumps(_stated(encoder.config), sort_keys=True).encode())
    digest.update(preprocessing.to_json().encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        stored = value.detach().cpu()
        digest.update((stored.float() if stored.is_floating_point() else stored).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _stated(config: EncoderConfig) -> dict[str, object]:
    """Return the options that are not at their default, so that an option added later leaves older encoders theirs."""
    defaults = dataclasses.asdict(EncoderConfig())
    return {key: value for key, value in dataclasses.asdict(config).items() if value != defaults[key]}

"""Vectors in a file of torch: tensors alone, mapped into memory, and no Python object besides."""

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError  # what torch raises where it meets one
from typing import Any

import torch

from index.errors import VectorsError
from index.importing.vector_files import BLOCK, Block, by_dim, require_directory, require_many, require_one
from index.storage.files import open_regular


def read_torch(file: Path) -> Iterator[Block]:
    """Yield the vectors of a tensor (N, D), of tensors (D,) by id, or of a tensor (N, D) beside a list of N ids.

    Raises:
        VectorsError: anything else, or a file that an older torch or another program wrote.
    """
    loaded = _loaded(file)
    if isinstance(loaded, torch.Tensor):
        yield from _rows(loaded, None, file)
        return
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise VectorsError(f"expected a tensor, or tensors by id, in {file.name!r}, got {type(loaded).__name__}")
    lists = [value for value in loaded.values() if isinstance(value, list | tuple)]
    tensors = [value for value in loaded.values() if isinstance(value, torch.Tensor)]
    if len(lists) == len(tensors) == 1 and len(loaded) == 2:
        yield from _rows(tensors[0], [str(name) for name in lists[0]], file)
        return
    names = list(loaded)
    for start in range(0, len(names), BLOCK):
        pairs = []
        for name in names[start : start + BLOCK]:
            tensor = _plain(loaded[name], file)
            require_one(tensor.shape, f"{file.name}:{name}")
            pairs.append((name, tensor.float().reshape(-1).numpy()))
        yield from by_dim(pairs)


def _loaded(file: Path) -> Any:
    try:
        with open_regular(file) as opened:
            require_directory(opened, file)
            with zipfile.ZipFile(opened) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise VectorsError(f"expected a file of torch.save, {file.name!r} is packed; save it again")
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (zipfile.BadZipFile, UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
        raise VectorsError(
            f"expected tensors alone as torch.save writes them, {file.name!r} is not that; in torch: "
            "torch.save({'vectors': vectors.float(), 'ids': list_of_texts}, 'vectors.pt')"
        ) from error


def _rows(tensor: torch.Tensor, ids: Sequence[str] | None, file: Path) -> Iterator[Block]:
    count, _ = require_many(_plain(tensor, file).shape, file.name)
    if ids is not None and len(ids) != count:
        raise VectorsError(f"expected an id for each vector of {file.name!r}, got {len(ids):,} for {count:,}")
    for start in range(0, count, BLOCK):
        named = None if ids is None else ids[start : start + BLOCK]
        yield Block(tensor.detach()[start : start + BLOCK].float().numpy(), named)


def _plain(value: Any, file: Path) -> torch.Tensor:
    """Return a tensor of real numbers that are all in the file; one that repeats a few for ever is refused."""
    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        raise VectorsError(f"expected dense tensors in {file.name!r}, got {type(value).__name__}")
    if value.is_complex() or value.is_quantized or value.numel() * value.element_size() > file.stat().st_size:
        raise VectorsError(f"expected tensors of real numbers that are all in {file.name!r}, got others")
    return value.detach()

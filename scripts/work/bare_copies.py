"""Copies of films that are pixels and nothing else: grey PNG files under the names they are given."""

import os
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from encoder.errors import ImageError
from encoder.films.bare import as_png
from encoder.films.image import read_plane
from index.storage.files import written_whole
from scripts.terminal import progress_bar


def copy_untagged(
    folder: Path, films: Sequence[tuple[Path, str]], ignored_parts: Container[str] = ()
) -> Iterator[str | None]:
    """Yield, for each (file, name), the path of its copy below `folder`; None where the film cannot be read.

    A copy holds the film as `read_plane` reads it, in its 8 or 16 bits: no tag, no overlay, no
    comment of a codestream comes along. One that is there already is left as it is, so a killed import goes on.

    Raises:
        OSError: a copy cannot be written.
    """
    with progress_bar("films") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        copied = pool.map(partial(_copy, folder, ignored_parts), *zip(*films, strict=True)) if films else ()
        yield from bar.track(copied, total=len(films), description="copies without tags")


def _copy(folder: Path, ignored_parts: Container[str], film: Path, name: str) -> str | None:
    target = folder / f"{name}.png"
    if not target.exists():
        try:
            plane = read_plane(film, ignored_parts=ignored_parts)
        except ImageError:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as partial_file:
            partial_file.write_bytes(as_png(plane))
    return target.relative_to(folder).as_posix()

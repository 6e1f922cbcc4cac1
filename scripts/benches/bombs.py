"""`precedent bench bombs`: how soon files that claim more pixels or frames than they hold are refused."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import click
import numpy as np
import pydicom
from PIL import Image as Pillow
from pydicom.uid import DeflatedExplicitVRLittleEndian

from encoder.errors import ImageError
from encoder.films.image import read_image
from scripts.benches.films import as_dicom
from scripts.benches.measured import interleaved, machine_facts, markdown_table, medians
from scripts.terminal import say, say_json


def _png(width: int, height: int, bits: int = 8) -> bytes:
    """Return a PNG that claims a size and holds a megabyte of zeros, a kilobyte deflated."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(bytes(10**6)), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, content) for kind, content in chunks.items())


def _jpeg(width: int, height: int, **options: Any) -> bytes:
    file = io.BytesIO()
    Pillow.effect_noise((64, 64), 50).save(file, "JPEG", **options)
    film = bytearray(file.getvalue())
    start = max(film.find(b"\xff\xc0"), film.find(b"\xff\xc2"))
    struct.pack_into(">HH", film, start + 5, height, width)
    return bytes(film)


def _scans(width: int, height: int, count: int) -> bytes:
    film = _jpeg(width, height, progressive=True)
    return film[:-2] + film[film.rindex(b"\xff\xda") : -2] * count + film[-2:]


def _dicom(**elements: int) -> bytes:
    film = pydicom.dcmread(io.BytesIO(as_dicom(np.zeros((64, 64), np.uint16))))
    for keyword, value in elements.items():
        setattr(film, keyword, value)
    file = io.BytesIO()
    film.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _deflated() -> bytes:
    name = DeflatedExplicitVRLittleEndian.encode("ascii")
    meta = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(name)) + name
    return bytes(128) + b"DICM" + meta + zlib.compress(bytes(10**8), 9)[2:-4]


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 50,000 x 50,000": (partial(_png, 50_000, 50_000), "50000 x 50000"),
    "PNG of 16 bits over the limit": (partial(_png, 8_001, 5_000, 16), "8001 x 5000"),
    "JPEG of 65,535 x 65,535": (partial(_jpeg, 65_535, 65_535), "65535 x 65535"),
    "JPEG of 300 scans": (partial(_scans, 4_000, 4_000, 300), "few scans"),
    "JPEG of 20 scans of 20 megapixels": (partial(_scans, 5_000, 4_000, 20), "few scans"),
    "DICOM of a million frames": (partial(_dicom, NumberOfFrames=1_000_000), "NumberOfFrames 1, got 1000000"),
    "DICOM of 65,535 x 65,535": (partial(_dicom, Rows=65_535, Columns=65_535), "65535 x 65535"),
    "deflated DICOM of 100 MB": (_deflated, "at most 20000 elements"),
}
"""Each file by its name: how it is made, and words that its refusal holds."""


@click.command("bombs")
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Times that each is read.")
@click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON.")
def command(repeat: int, as_json: bool) -> None:
    """Read files that claim more pixels or frames than they hold, and print how soon each is refused.

    \b
    precedent bench bombs
    """
    films = {name: make() for name, (make, _) in BOMBS.items()}
    subjects = {name: partial(_refused, film) for name, film in films.items()}
    seconds, refusals = interleaved(subjects, repeat, warm_up=1, description="bombs")
    middle = medians(seconds)
    bombs = [
        {"bomb": name, "bytes": len(film), "ms": 1000 * middle[name], "refusal": refusals[name]}
        for name, film in films.items()
    ]
    facts = {"repeat": repeat, **machine_facts("pydicom", "pillow")}
    if as_json:
        say_json({"bombs": bombs, **facts})
    else:
        say(*_report(bombs, facts).split("\n"))


def _refused(film: bytes) -> str:
    """Return the sentence that a film is refused with."""
    try:
        read_image(film)
    except ImageError as refusal:
        return str(refusal)
    raise click.ClickException("expected a refusal, got a film")


def _report(bombs: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    rows = [[bomb["bomb"], f"{bomb['bytes']:,}", f"{bomb['ms']:.2f}"] for bomb in bombs]
    return markdown_table(["file", "bytes", "refused in ms"], rows) + (
        f"\nmedians of {facts['repeat']}; {facts['cores']} cores ({facts['processor']}), "
        f"load average {facts['load_1_min']}"
    )

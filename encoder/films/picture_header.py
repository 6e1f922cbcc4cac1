"""What the header of a JPEG, PNG or JPEG 2000 stream claims, and the least of it that a decoder must see.

No pixel is decoded.
"""

import re
import struct
import zlib
from dataclasses import dataclass, replace

from encoder.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
J2K_SIGNATURE = b"\xff\x4f\xff\x51"
MAX_PARTS = 50_000  # segments or chunks; a 64 MP PNG in 8 KiB chunks has about 16,000
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _LOSSLESS = (0xC2, 0xC6, 0xCA, 0xCE), (0xC3, 0xC7, 0xCB, 0xCF, 0xF7)
_PLAIN_MARKERS = frozenset({0x01, *range(0xD0, 0xDA)})
_NOT_KEPT = frozenset({0xDA, *range(0xE1, 0xEE), 0xEF, 0xFE})
"""Scans, which are kept with their pixels, and metadata."""
_FILL = re.compile(rb"\xff+")
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]", re.DOTALL)
"""What ends a scan: in JPEG-LS a byte below 0x80 after 0xFF is one of the picture's (T.87, A.1)."""
_PROFILES = (b"Raw profile type exif\0", b"Raw profile type APP1\0")
_MOST_EXIF = 1 << 18  # bytes of a text that are inflated; EXIF has 64 kB at most, twice that in hex
_DECODED_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


@dataclass(frozen=True)
class PictureHeader:
    """The claims of one picture: size in pixels, bits a sample, samples a pixel, passes over the picture."""

    width: int
    height: int
    bits: int
    components: int
    scans: int = 1
    progressive: bool = False
    lossless: bool = False
    orientation: int = 1
    """As EXIF counts: 1 is upright, 6 is to be turned right by a quarter."""

    @property
    def pixels(self) -> int:
        """Return width times height."""
        return self.width * self.height


def parse_jpeg(data: bytes) -> tuple[PictureHeader, bytes]:
    """Return the header of a JPEG or JPEG-LS stream, and the stream without its metadata segments.

    EXIF, thumbnails, colour profiles and comments go, so no decoder parses them or warns of them. The orientation
    that EXIF states is in the header.

    Raises:
        ImageError: no frame header before the first scan, a segment that runs past the end, or no end marker.
    """
    position, frame, turn = 2, None, 0
    kept: list[bytes | memoryview] = [data[:2]]
    scans: list[bytes] = []
    for _ in range(MAX_PARTS):
        marker, start, end = _jpeg_segment(data, position)
        segment = data[start:end]
        if marker == 0xD9:
            break
        if marker in _FRAME_MARKERS:
            frame = segment
        elif marker == 0xE1 and not turn and segment[4:8] == b"Exif":
            turn = exif_orientation(segment[10:])
        elif marker == 0xDA:
            scans.append(segment)
            end = _end_of_scan(data, end, _LS_MARKER if frame and frame[1] == 0xF7 else _MARKER)
            kept.append(memoryview(data)[start:end])
        if marker not in _NOT_KEPT:
            kept.append(_least(segment))
        position = end
    else:
        raise ImageError(f"expected at most {MAX_PARTS} JPEG segments, got more")
    if frame is None or not scans:
        raise ImageError("expected a JPEG frame header before the first scan, got none; the file is damaged")
    if not _is_covered(frame, scans):
        raise ImageError("expected a JPEG with all its scans, got one that lacks some; the file is truncated")
    return _frame_header(frame, len(scans), turn or 1), b"".join((*kept, b"\xff\xd9"))


def _is_covered(frame: bytes, scans: list[bytes]) -> bool:
    """Return whether the scans hold every bit of every component; without some, a decoder shows a coarser picture."""
    components = frame[10 : 10 + 3 * frame[9] : 3] if len(frame) > 9 else b""
    progressive = frame[1] in _PROGRESSIVE
    missing = {component: [1] * 64 for component in components}  # bits of each coefficient that are still to come
    for scan in scans:
        count = scan[4] if len(scan) > 4 else 0
        first, last, bits = scan[5 + 2 * count : 8 + 2 * count] if len(scan) >= 8 + 2 * count else (0, 63, 0)
        for component in scan[5 : 5 + 2 * count : 2]:
            if component in missing:
                coefficients = slice(first, min(last, 63) + 1) if progressive else slice(64)
                covered = missing[component][coefficients]
                missing[component][coefficients] = [bits & 15 if progressive else 0] * len(covered)
    return not any(map(any, missing.values()))


def _least(segment: bytes) -> bytes:
    """Return a segment with no more than a decoder reads: no thumbnail in JFIF, nothing behind Adobe's transform."""
    if segment[1] == 0xE0:
        return b"\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0" if segment[4:9] == b"JFIF\0" else b""
    if segment[1] == 0xEE:
        has_transform = segment[4:9] == b"Adobe" and len(segment) >= 16
        return b"\xff\xee\x00\x0eAdobe\0\x64\0\0\0\0" + segment[15:16] if has_transform else b""
    return segment


def _end_of_scan(data: bytes, position: int, marker: re.Pattern[bytes]) -> int:
    """Return where the entropy-coded bytes end that begin at `position`."""
    match = marker.search(data, position)
    if match is None:
        raise ImageError("expected a JPEG that ends with its end marker, got a truncated file")
    return match.start()


def _jpeg_segment(data: bytes, position: int) -> tuple[int, int, int]:
    """Return the marker at `position`, behind any fill bytes, where it begins and where its segment ends."""
    begun = position
    marker = data[position + 1] if position + 1 < len(data) else 0
    if marker == 0xFF and (fill := _FILL.match(data, position)):
        position = fill.end() - 1
        marker = data[position + 1] if position + 1 < len(data) else 0
    if data[position : position + 1] != b"\xff" or (marker < 0xC0 and marker != 0x01):
        raise ImageError(f"expected a JPEG marker at byte {begun}, got the end or other bytes; it is damaged")
    if marker in _PLAIN_MARKERS:
        return marker, position, position + 2
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise ImageError(f"expected a whole JPEG segment at byte {position}, got a truncated file")
    return marker, position, end


def _frame_header(segment: bytes, scans: int, turn: int) -> PictureHeader:
    if len(segment) < 10:
        raise ImageError("expected a JPEG frame header of at least 10 bytes, got a shorter one; it is damaged")
    marker, (bits, height, width, components) = segment[1], struct.unpack_from(">BHHB", segment, 4)
    progressive, lossless = marker in _PROGRESSIVE, marker in _LOSSLESS
    return PictureHeader(
        width, height, bits, components, scans=scans, progressive=progressive, lossless=lossless, orientation=turn
    )


def exif_orientation(exif: bytes) -> int:
    """Return the orientation that EXIF states, 1 to 8 (Exif 2.32, 4.6.4 A); 1, upright, where it states none."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return 1
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return 1
    for entry in range(struct.unpack_from(order + "H", exif, start)[0]):
        position = start + 2 + 12 * entry
        if position + 12 > len(exif):
            break
        tag, kind = struct.unpack_from(order + "HH", exif, position)
        if tag == 0x0112:
            value = int(struct.unpack_from(order + {1: "B", 4: "I"}.get(kind, "H"), exif, position + 8)[0])
            return value if 1 <= value <= 8 else 1
    return 1


def _exif_of(kind: bytes, content: bytes) -> bytes:
    """Return the EXIF of a PNG's chunk: of its own (PNG 3, 11.3.2.11), or in hex in a text, as ImageMagick has it."""
    if kind == b"eXIf":
        return content
    text = content.partition(b"\0")[2]
    try:
        plain = zlib.decompressobj().decompress(text[1:], _MOST_EXIF) if kind == b"zTXt" else text[:_MOST_EXIF]
        # Its name and its length stand before it, a line each.
        profile = bytes.fromhex(b"".join(plain.split()[2:]).decode("ascii", "replace"))
    except (zlib.error, ValueError):
        return b""
    return profile.removeprefix(b"Exif\0\0")


def parse_png(data: bytes) -> tuple[PictureHeader, bytes]:
    """Return the header of a PNG, and the PNG with only the chunks that make its pixels.

    Raises:
        ImageError: an animation, a chunk that runs past the end, or no IHDR in first place.
    """
    header, turn = _png_header(data), 0
    position, kept = len(PNG_SIGNATURE), [PNG_SIGNATURE]
    for _ in range(MAX_PARTS):
        if position + 12 > len(data):
            raise ImageError("expected a PNG that ends with IEND, got a truncated file")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if kind == b"acTL":
            raise ImageError("expected one frame, got an animated PNG; export the frame as a still picture")
        if end > len(data):
            raise ImageError("expected a whole PNG chunk, got a truncated file")
        if kind in _DECODED_CHUNKS:
            if zlib.crc32(data[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                raise ImageError("expected a PNG chunk with its own check sum, got another; the file is damaged")
            kept.append(data[position:end])
        elif not turn and (kind == b"eXIf" or data.startswith(_PROFILES, position + 8)):
            turn = exif_orientation(_exif_of(kind, data[position + 8 : end - 4]))
        if kind == b"IEND":
            return replace(header, orientation=turn or 1), b"".join(kept)
        position = end
    raise ImageError(f"expected at most {MAX_PARTS} PNG chunks, got more")


def _png_header(data: bytes) -> PictureHeader:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise ImageError("expected a PNG that starts with IHDR, got other bytes; the file is damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    return PictureHeader(width, height, bits, {2: 3, 4: 2, 6: 4}.get(colour, 1))


def codestream(data: bytes) -> bytes:
    """Return the JPEG 2000 codestream of a frame, out of the boxes of a JP2 file where it has any (15444-1, I.4).

    Raises:
        ImageError: the boxes hold no codestream.
    """
    if data[4:8] != b"jP  ":
        return data
    position = 0
    for _ in range(MAX_PARTS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1 and start + 8 <= len(data):
            length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        end = position + length if length else len(data)
        if end < start:
            break
        if kind == b"jp2c":
            return data[start:end]
        position = end
    raise ImageError("expected a JPEG 2000 codestream in the boxes of a JP2 file, got none; the frame is damaged")


def parse_jpeg2000(data: bytes) -> PictureHeader:
    """Return the header of a JPEG 2000 codestream (ISO 15444-1, the SIZ segment).

    Raises:
        ImageError: no SIZ segment, no end marker, or several tiles by the thousand.
    """
    if len(data) < 43 or data[:4] != J2K_SIGNATURE:
        raise ImageError("expected a JPEG 2000 codestream, got other bytes")
    if not data.rstrip(b"\0").endswith(b"\xff\xd9"):  # a frame is filled up to an even length
        raise ImageError("expected a JPEG 2000 codestream that ends with its end marker, got a truncated one")
    x1, y1, x0, y0, tile_width, tile_height = struct.unpack_from(">6I", data, 8)
    components, depth = struct.unpack_from(">HB", data, 40)
    width, height = x1 - x0, y1 - y0
    if min(width, height, tile_width, tile_height) < 1:
        raise ImageError(f"expected a JPEG 2000 picture with an area, got {width} x {height}")
    if (width // tile_width + 1) * (height // tile_height + 1) > 4096:
        raise ImageError(f"expected at most 4096 JPEG 2000 tiles, got tiles of {tile_width} x {tile_height}")
    return PictureHeader(width, height, (depth & 0x7F) + 1, components)

"""What the header of a JPEG, PNG or JPEG 2000 stream claims, and the least of it that a decoder must see.

It decodes no pixel and knows nothing of DICOM, films or networks.
"""

import struct
from dataclasses import dataclass

from encoder.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
J2K_SIGNATURE = b"\xff\x4f\xff\x51"
MAX_PARTS = 50_000  # segments or chunks; a 64 MP PNG in 8 KiB chunks has about 16,000
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_PLAIN_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})
_METADATA_MARKERS = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})
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

    @property
    def pixels(self) -> int:
        """Return width times height."""
        return self.width * self.height


def parse_jpeg(data: bytes) -> tuple[PictureHeader, bytes]:
    """Return the header of a JPEG or JPEG-LS stream, and the stream without its metadata segments.

    EXIF, colour profiles and comments go, so no decoder parses them, warns of them or turns the film by them.

    Raises:
        ImageError: no frame header before the first scan, or a segment that runs past the end.
    """
    position, kept, header = 2, [data[:2]], None
    for _ in range(MAX_PARTS):
        marker, end = _jpeg_segment(data, position)
        if marker in _FRAME_MARKERS:
            header = _frame_header(data, position, end, progressive=marker in (0xC2, 0xC6, 0xCA, 0xCE))
        if marker == 0xDA:
            break
        if marker not in _METADATA_MARKERS:
            kept.append(data[position:end])
        position = end
    else:
        raise ImageError(f"expected at most {MAX_PARTS} JPEG segments, got more")
    if header is None:
        raise ImageError("expected a JPEG frame header before the first scan, got none; the file is damaged")
    # Inside a scan every 0xFF is followed by 0x00 or a restart, so this pair is always a further scan.
    scans = data.count(b"\xff\xda", position)
    last = data.find(b"\xff\xd9", position) if scans == 1 else -1  # what follows the end is no part of the picture
    kept.append(data[position : last + 2] if last >= 0 else data[position:])
    return PictureHeader(*header[:4], scans=scans, progressive=header[4]), b"".join(kept)


def _jpeg_segment(data: bytes, position: int) -> tuple[int, int]:
    """Return the marker at `position` and where its segment ends."""
    if position + 4 > len(data) or data[position] != 0xFF:
        raise ImageError(f"expected a JPEG marker at byte {position}, got the end or other bytes; it is damaged")
    marker = data[position + 1]
    if marker == 0xFF:
        return marker, position + 1
    if marker in _PLAIN_MARKERS:
        return marker, position + 2
    length = int.from_bytes(data[position + 2 : position + 4], "big")
    end = position + 2 + length
    if length < 2 or end > len(data):
        raise ImageError(f"expected a whole JPEG segment at byte {position}, got a truncated file")
    return marker, end


def _frame_header(data: bytes, position: int, end: int, *, progressive: bool) -> tuple[int, int, int, int, bool]:
    if end - position < 10:
        raise ImageError("expected a JPEG frame header of at least 10 bytes, got a shorter one; it is damaged")
    bits, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
    return width, height, bits, components, progressive


def parse_png(data: bytes) -> tuple[PictureHeader, bytes]:
    """Return the header of a PNG, and the PNG with only the chunks that make its pixels.

    Raises:
        ImageError: an animation, a chunk that runs past the end, or no IHDR in first place.
    """
    header = _png_header(data)
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
            kept.append(data[position:end])
        if kind == b"IEND":
            return header, b"".join(kept)
        position = end
    raise ImageError(f"expected at most {MAX_PARTS} PNG chunks, got more")


def _png_header(data: bytes) -> PictureHeader:
    if len(data) < 33 or data[8:16] != b"\x00\x00\x00\rIHDR":
        raise ImageError("expected a PNG that starts with IHDR, got other bytes; the file is damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    return PictureHeader(width, height, bits, {2: 3, 4: 2, 6: 4}.get(colour, 1))


def parse_jpeg2000(data: bytes) -> PictureHeader:
    """Return the header of a JPEG 2000 codestream (ISO 15444-1, the SIZ segment).

    Raises:
        ImageError: no SIZ segment, or several tiles by the thousand.
    """
    if len(data) < 43 or data[:4] != J2K_SIGNATURE:
        raise ImageError("expected a JPEG 2000 codestream, got other bytes")
    x1, y1, x0, y0, tile_width, tile_height = struct.unpack_from(">6I", data, 8)
    components, depth = struct.unpack_from(">HB", data, 40)
    width, height = x1 - x0, y1 - y0
    if min(width, height, tile_width, tile_height) < 1:
        raise ImageError(f"expected a JPEG 2000 picture with an area, got {width} x {height}")
    if (width // tile_width + 1) * (height // tile_height + 1) > 4096:
        raise ImageError(f"expected at most 4096 JPEG 2000 tiles, got tiles of {tile_width} x {tile_height}")
    return PictureHeader(width, height, (depth & 0x7F) + 1, components)

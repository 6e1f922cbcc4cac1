"""Decoding a JPEG of 8 bits with libjpeg-turbo, whose warnings are damage: it makes up what a stream lacks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from encoder.errors import ImageError


def decode_jpeg(data: bytes, shape: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """Return (H, W) uint8 of a grey JPEG, or (H, W, 3) in RGB.

    Args:
        shape: (H, W) of the size wanted, one of the whole, a half, a quarter and an eighth, each rounded up; None is
            the whole.

    Raises:
        ImageError: the stream is damaged or ends early, is of more than 8 bits, or of four components.
    """
    height, width = shape or (0, 0)
    try:
        colours = simplejpeg.decode_jpeg_header(data)[2]
        if colours not in ("Gray", "YCbCr", "RGB"):
            raise ImageError(f"expected a grey or RGB picture, got mode {colours!r}; export it as 8-bit grey")
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if colours == "Gray" else "RGB", min_height=height, min_width=width, strict=True
        )
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"expected a whole picture, got a damaged one ({error})") from error
    return np.asarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

"""A program that decodes one JPEG-LS frame from its input to its output, within the processor time it is given.

`encoder.dicom_frame` runs it: CharLS spends seconds on some damaged frames of any size. It knows nothing of DICOM.
"""

import struct
import sys


def main() -> int:
    """Return the exit code: 0 once the pixels are written, 1 with a sentence on stderr where there are none."""
    seconds = struct.unpack("<I", sys.stdin.buffer.read(4))[0]
    _end_after(seconds)
    from imagecodecs import jpegls_decode

    try:
        pixels = jpegls_decode(sys.stdin.buffer.read())
    except (RuntimeError, ValueError) as error:
        sys.stderr.write(str(error))
        return 1
    if pixels.ndim != 2:
        sys.stderr.write(f"expected a grey frame, got {pixels.ndim} axes")
        return 1
    sys.stdout.buffer.write(struct.pack("<III", *pixels.shape, pixels.itemsize))
    sys.stdout.buffer.write(pixels.data)
    return 0


def _end_after(seconds: int) -> None:
    """Let the system end this process after so much work, however busy the machine is with others'."""
    try:
        import resource
    except ImportError:  # Windows, where nothing ends it
        return
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


if __name__ == "__main__":
    sys.exit(main())

"""A program that decodes one JPEG-LS frame after another, each within the processor time that it is given.

`encoder.films.jpegls` runs it: CharLS spends seconds on some damaged frames of any size.
"""

import os
import struct
import sys
import threading
import time

REQUEST = "<QI"  # bytes of the frame, seconds
REPLY = "<5I"  # bytes of a sentence, 0 where there are pixels; their rows, columns, samples and bytes a sample
_LOOK = 1.0  # seconds between looks at whether the parent is still there


def main(parent: int) -> None:
    """Answer requests on stdin until it ends, or the parent does: a copy of it may hold this end of the pipe open."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from imagecodecs import jpegls_decode

    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    while len(head := requests.read(struct.calcsize(REQUEST))) == struct.calcsize(REQUEST):
        size, seconds = struct.unpack(REQUEST, head)
        frame = requests.read(size)
        _end_after(seconds)
        try:
            pixels = jpegls_decode(frame)
        except (RuntimeError, ValueError) as error:
            sentence = str(error).encode()
            replies.write(struct.pack(REPLY, max(1, len(sentence)), 0, 0, 0, 0) + (sentence or b"?"))
        else:
            rows, columns, *samples = pixels.shape
            replies.write(struct.pack(REPLY, 0, rows, columns, *(samples or [1]), pixels.itemsize))
            replies.write(pixels.data)
        replies.flush()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os._exit(0)


def _end_after(seconds: int) -> None:
    """Let the system end this process after so much more work, however busy the machine is with others'."""
    try:
        import resource
    except ImportError:  # Windows, where the parent alone looks at the clock
        return
    spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 1 + seconds, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""What of a folder would be unpickled by whoever opens it: pickles by content, whatever the file is called."""

import pickletools
import re
import warnings
import zipfile
from pathlib import Path

OPCODES = (
    b"c__builtin__\n|cbuiltins\n|ccopy_reg\n|ccopyreg\n|\x8c\x08builtins|\x8c\x08copyreg|_reconstruct|_rebuild_tensor"
)
MARKS = (*OPCODES.split(b"|"), b"__reduce__", b"numpy.core.multiarray", b"numpy._core.multiarray")
FRAME = re.compile(rb"\x80[\x04\x05]\x95...\x00{5}", re.DOTALL)  # a pickle in one frame, of less than 16 MB
SUFFIXES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".npy", ".npz"}


def is_pickle(content: bytes) -> bool:
    """Return whether bytes are a pickle from their first to their last, hold the marks of one, or an object array."""
    object_array = content.startswith(b"\x93NUMPY") and b"|O" in content[:256]
    return object_array or bool(FRAME.search(content)) or any(mark in content for mark in MARKS) or _parses(content)


def _parses(content: bytes) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):  # pickletools unescapes what is no pickle
            *_, (last, _, place) = pickletools.genops(content)
    except (ValueError, OverflowError):
        return False
    return last.name == "STOP" and place == len(content.rstrip(b"\r\n")) - 1


def pickles_in(folder: Path) -> list[str]:
    """Return the files under a folder that are pickles, hold one, or are called like one."""
    return [path.name for path in sorted(folder.rglob("*")) if path.is_file() and _holds(path)]


def _holds(path: Path) -> bool:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).suffix in SUFFIXES or is_pickle(archive.read(name)) for name in archive.namelist())
    return path.suffix in SUFFIXES or is_pickle(path.read_bytes())

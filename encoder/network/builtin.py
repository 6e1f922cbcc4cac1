"""The encoder that is shipped: trained on openly licensed films of children and of NIH, for research only.

Whose the films are stands in `builtin.LICENSES.md` beside it, and in the file.
"""

import os
from pathlib import Path

BUILTIN = "builtin"
"""What stands for its path wherever an encoder file is named; a file of that name is `./builtin`."""
BUILTIN_FILE = Path(__file__).with_name("builtin.safetensors")


def encoder_path(named: str | os.PathLike[str]) -> Path:
    """Return the path of the encoder file that is named."""
    return BUILTIN_FILE if named == BUILTIN else Path(named)

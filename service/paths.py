"""Sentences without the paths in them: where films and indexes lie, and what their files are called, stays inside.

It knows text and nothing of who reads it.
"""

import re

_QUOTED = r"""(['"])(?:\./|\.\./|~/|/)(?:\\.|(?!\1)[^\n])*\1"""
_BARE = r"""(?<![\w<./])(?:\.{0,2}|~)/(?!\s)[^;\n]+"""  # folders have spaces, commas and names in them
_PATH = re.compile(f"{_QUOTED}|{_BARE}")


def without_paths(text: str) -> str:
    """Return a sentence with every path in it replaced; one without quotation marks takes all up to the next semicolon.

    A study's id is no path: it begins with none of `/`, `./`, `../` and `~/`.
    """
    return _PATH.sub("[path]", text)

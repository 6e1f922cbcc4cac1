"""Sentences without the paths in them: where films and indexes lie, and what their files are called, stays inside.

It knows text and nothing of who reads it.
"""

import re
from collections.abc import Callable
from typing import Any

MAX_WORDS = 4096
"""Characters of a sentence, in which what was sent may be quoted."""
_QUOTED = r"""(['"])(?:\./|\.\./|~/|/)(?:\\.|(?!\1)[^\n])*\1"""
_BARE = r"""(?<![\w<./])(?:\.{0,2}|~)/(?!\s)[^;\n]+"""  # folders have spaces, commas and names in them
_PATH = re.compile(f"{_QUOTED}|{_BARE}")


def without_paths(text: str) -> str:
    """Return a sentence with every path in it replaced; one without quotation marks takes all up to the next semicolon.

    A study's id is no path: it begins with none of `/`, `./`, `../` and `~/`.
    """
    return _PATH.sub("[path]", text)


def words_of(message: Any, saying: Callable[[Any], str] = str) -> str | None:
    """Return the message of an error, or of another object, without paths and cut to MAX_WORDS; None where it has none.

    It may be of anybody's class, and how that says it may raise anything.
    """
    try:
        return without_paths(saying(message)[:MAX_WORDS])[:MAX_WORDS]
    except BaseException:  # noqa: BLE001 - SystemExit among them, which would end the thread that asks
        return None

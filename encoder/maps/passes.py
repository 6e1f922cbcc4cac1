"""What is told of each pass of the network that a map needs."""

from collections.abc import Callable
from contextvars import ContextVar

PASS: ContextVar[Callable[[], None]] = ContextVar("PASS", default=lambda: None)
"""Called before each pass of many, in the caller's thread; may raise, which gives the map up."""

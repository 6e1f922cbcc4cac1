"""Where the project and its tests' helpers lie."""

from pathlib import Path

WORLDS = Path(__file__).parent
ROOT = WORLDS.parents[1]

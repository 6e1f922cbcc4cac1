"""How much of a collection an approximate search looks at: lists, probes and the length of its shortlist."""

from dataclasses import dataclass
from math import log2

_ROWS_A_LIST = 1000
_MOST_LISTS = 4096
_ROWS_A_HIT = 200
_SHORTLIST_A_HIT = 5


@dataclass(frozen=True)
class Effort:
    """The least that a search looks at, whatever it is asked for."""

    probes: int = 32
    """Lists read of an inverted file; a quarter of the beam of a graph."""
    shortlist: int = 128
    """Rows chosen by their codes and compared again by their vectors."""

    def probes_for(self, hits: int, passing: int, lists: int, filtered: bool) -> int:
        """Return the lists to read of `lists` so that some 200 of the `passing` rows are seen for each hit.

        A filter makes it half as many again at least: the nearest that pass lie further out than the nearest.
        """
        thinned = _ROWS_A_HIT * hits * lists / max(passing, 1)
        return min(max(self.probes * 3 // 2 if filtered else self.probes, int(thinned)), lists)

    def shortlist_for(self, hits: int) -> int:
        """Return how many rows to compare again for that many hits."""
        return max(self.shortlist, _SHORTLIST_A_HIT * hits)

    def beam_for(self, hits: int, filtered: bool) -> int:
        """Return the beam of a walk in a graph; a filter leaves gaps in it, a wider beam keeps recall up."""
        return max((16 if filtered else 4) * self.probes, 2 * hits)


EFFORTS = (Effort(), Effort(64, 256), Effort(128, 512), Effort(256, 1024))
"""From the least to the most; a collection takes the first that finds enough."""


def lists_of(rows: int) -> int:
    """Return the lists of an inverted file: a power of two near one for each thousand rows, 4,096 at most.

    Codes are made beside the middle of their list, so more lists are finer and cost more to read.
    """
    return min(1 << round(log2(max(rows / _ROWS_A_LIST, 1))), _MOST_LISTS)

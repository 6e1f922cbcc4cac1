"""How a DICOM film is shown: one brightness for each of the 65,536 values a pixel can have.

The steps are those of PS3.3: padding (C.7.5.1.1.2), modality transform (C.11.1), VOI transform (C.11.2), polarity
(C.7.6.3.1.2). What a header leaves open is got over where there is one plain reading, and noted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from encoder.errors import ImageError
from encoder.films.dicom_elements import Elements

Stored = npt.NDArray[np.uint16]
Ends = tuple[int, int]
"""The least and the greatest value of a film."""
Table = npt.NDArray[np.float64]

_CODES = 1 << 16
_LEAST = 1e-9  # of a slope or of a window's width: what is less is 0
_SPARSE, _STRETCH = 0.005, 0.25
"""Of a film without a window: so many of its pixels, at either end, are clipped where they alone would widen the range
by more than a quarter, as hot pixels and markers do."""


def display_table(header: Elements, stored: Stored, ends: Ends, notes: list[str]) -> Table:
    """Return (65536,) float64 in [0, 1]: how bright each stored value is shown.

    Args:
        stored: (H, W), signed values as their two's complement of 16 bits. ends: of these, as they are signed or not.
        notes: is given a sentence for each thing that is read otherwise than it is written.

    Raises:
        ImageError: all pixels that are not padding look alike, or a rescale that is no number.
    """
    signed = header.integer("PixelRepresentation") == 1
    codes = np.arange(_CODES, dtype=np.uint16)
    values = (codes.view(np.int16) if signed else codes).astype(np.int64)
    padding = _padding(header, values)
    within = (values >= ends[0]) & (values <= ends[1])
    table, windowed = _voi(header, _modality(header, values, signed, notes), within, notes)
    low, high = _ends(table, stored, within, padding)
    if not windowed:
        low, high = _robust_ends(table, _counts(stored[:: _sampled(stored)], padding), low, high)
    if low == high:
        raise ImageError(
            "expected a film with contrast, got one value everywhere inside its window; correct the window, or "
            "remove it from the header"
        )
    table = np.clip((table - low) / (high - low), 0, 1)
    if header.text("PhotometricInterpretation").upper() == "MONOCHROME1":
        table = 1 - table
    table[padding] = 0
    return np.asarray(table)


def ends_of(film: npt.NDArray[np.int16] | Stored) -> Ends:
    """Return the least and the greatest value of a film (H, W), found in one pass."""
    least, greatest, *_ = cv2.minMaxLoc(film)
    return int(least), int(greatest)


def transform_notes(header: Elements, notes: list[str]) -> None:
    """Note what of the transforms is read otherwise than it is written. Raises ImageError."""
    signed = header.integer("PixelRepresentation") == 1
    values = np.arange(_CODES, dtype=np.int64)
    _voi(header, _modality(header, values, signed, notes), np.ones(_CODES, dtype=bool), notes)


@dataclass(frozen=True)
class _Input:
    """What a transform is given: the value of each stored code, and whether values may be negative."""

    values: Table
    signed: bool


def _modality(header: Elements, values: npt.NDArray[np.int64], signed: bool, notes: list[str]) -> _Input:
    """Return the output of the modality LUT, else of the rescale (C.11.1)."""
    given = _Input(values.astype(np.float64), signed)
    for lut in _luts(header, "ModalityLUTSequence", notes):
        return _Input(lut.of(given), signed=False)
    slope, intercept = _rescale(header, "RescaleSlope", 1), _rescale(header, "RescaleIntercept", 0)
    if abs(slope) < _LEAST:
        notes.append("RescaleSlope is 0, which no film has; the rescale is left out")
        return given
    bits = header.integer("BitsStored") or 16
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return _Input(given.values * slope + intercept, min(end * slope + intercept for end in ends) < 0)


def _rescale(header: Elements, keyword: str, default: float) -> float:
    """Return a number of the rescale; one that is missing, or left empty by an anonymiser, changes nothing."""
    if keyword not in header:
        return default
    value = header.number(keyword)
    if value is None:
        raise ImageError(f"expected a number in {keyword}, got something else; correct it, or remove it and its window")
    return value


def _voi(header: Elements, given: _Input, shown: npt.NDArray[np.bool_], notes: list[str]) -> tuple[Table, bool]:
    """Return the output of the first VOI LUT, else of the first window (C.11.2), and whether there is any."""
    for lut in _luts(header, "VOILUTSequence", notes):
        return lut.of(given, shown), True
    window = _window(header, notes)
    if window is None:
        return given.values, False
    return window(given.values), True


@dataclass(frozen=True)
class _Window:
    """One window: its centre, its width, and its function (C.11.2.1.2 and C.11.2.1.3)."""

    center: float
    width: float
    function: str

    def __call__(self, values: Table) -> Table:
        """Return the brightness of each value in [0, 1]; it grows with the value."""
        if self.function == "SIGMOID":
            steepness = np.clip(-4 * (values - self.center) / self.width, -700, 700)
            return np.asarray(1 / (1 + np.exp(steepness)))
        exact = self.function == "LINEAR_EXACT"
        center, width = (self.center, self.width) if exact else (self.center - 0.5, self.width - 1)
        if width == 0:
            return np.asarray(values > center, np.float64)
        return np.asarray(np.clip((values - center) / width + 0.5, 0, 1))


def _window(header: Elements, notes: list[str]) -> _Window | None:
    """Return the first window; None where there is none that can be used."""
    if "WindowCenter" not in header or "WindowWidth" not in header:
        return None
    pairs = zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False)
    usable = [(center, width) for center, width in pairs if center is not None and width is not None and width > _LEAST]
    function = header.text("VOILUTFunction").upper() or "LINEAR"
    if not usable:
        notes.append("the window is no centre and width above 0; the film is shown over its whole range")
        return None
    center, width = usable[0]
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        notes.append("VOILUTFunction is none of the standard; the window is taken as LINEAR")
        function = "LINEAR"
    if function == "LINEAR" and width < 1:
        notes.append("WindowWidth is below 1, the least of a LINEAR window; it is taken as LINEAR_EXACT")
        function = "LINEAR_EXACT"
    return _Window(center, width, function)


@dataclass(frozen=True)
class _Lut:
    """One look-up table: the pattern of 16 bits of the first value that is mapped, and the entries."""

    first: int
    entries: Table

    def of(self, given: _Input, shown: npt.NDArray[np.bool_] | None = None) -> Table:
        """Return the entry of each value; one before the first or beyond the last has that one's (C.11.2.1.1)."""
        first = self._first(given, given.values if shown is None else given.values[shown])
        entries = np.clip(np.rint(given.values - first), 0, len(self.entries) - 1)
        return np.asarray(self.entries[entries.astype(np.int64)])

    def _first(self, given: _Input, shown: Table) -> int:
        """Return the first value mapped: signed where the input can be, or where only that meets the film's values."""
        plain, signed = self.first, self.first - (_CODES if self.first >= _CODES // 2 else 0)
        due, other = (signed, plain) if given.signed else (plain, signed)
        return due if self._meets(due, shown) or not self._meets(other, shown) else other

    def _meets(self, first: int, values: Table) -> bool:
        return bool(values.max() >= first and values.min() < first + len(self.entries))


def _luts(header: Elements, keyword: str, notes: list[str]) -> Iterator[_Lut]:
    """Yield the tables of a sequence that can be used; an item without a descriptor or entries has nothing to apply."""
    for item in header.items(keyword):
        lut = _lut(item, "LUTDescriptor", "LUTData")
        if lut is None:
            notes.append(f"an item of {keyword} holds no whole table; it is left out")
        else:
            yield lut


def _lut(item: Elements, descriptor: str, data: str) -> _Lut | None:
    """Return a table, or None where it is not described or ends before its end."""
    numbers = [value & 0xFFFF for value in item.integers(descriptor)]
    if len(numbers) < 3 or not item.raw(data):
        return None
    count = numbers[0] or _CODES
    words = item.by_keyword[data].vr != "OB"
    entries = _entries(item.raw(data), count, numbers[2], swapped=words and not item.little)
    return _Lut(numbers[1], entries.astype(np.float64)) if len(entries) == count else None


def palette(header: Elements) -> npt.NDArray[np.uint16]:
    """Return (65536, 3): the red, green and blue of each stored value of a picture with a palette (C.7.6.3.1.5).

    Raises:
        ImageError: a colour without a whole table, such as one in segments.
    """
    values = _Input(np.arange(_CODES, dtype=np.float64), signed=False)
    colours = np.empty((_CODES, 3), np.uint16)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        lut = _lut(header, f"{name}PaletteColorLookupTableDescriptor", f"{name}PaletteColorLookupTableData")
        if lut is None:
            raise ImageError(f"expected a whole palette, got none for {name.lower()}; export the film as grey")
        colours[:, channel] = lut.of(values)
    return colours


def _entries(data: bytes, count: int, bits: int, *, swapped: bool) -> npt.NDArray[Any]:
    """Return the entries of a table, those of 8 bits one or two a word (PS3.3, C.11.1.1.1 and C.11.2.1.1).

    Fewer than `count` where the data ends before.
    """
    words = np.frombuffer(data, ">u2" if swapped else "<u2", len(data) // 2).astype("<u2")
    if len(words) < count <= len(data) and (bits <= 8 or len(data) - count <= 1):
        return np.frombuffer(words.tobytes() if swapped else data, np.uint8)[:count]
    return words[:count]


def _ends(
    table: Table, stored: Stored, within: npt.NDArray[np.bool_], padding: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Return the least and the greatest brightness of the film's pixels that are not padding.

    Args:
        within: (65536,) what lies between the film's least and greatest value.
    """
    signed = within[0] and within[-1]  # below 0 and above
    levels = np.roll(table, _CODES // 2)[np.roll(within, _CODES // 2)] if signed else table[within]
    steps = np.diff(levels)
    # In most films, and then both ends are shown.
    alike = not (within & padding).any() and ((steps >= 0).all() or (steps <= 0).all())
    levels = levels if alike else table[_counts(stored, padding) > 0]
    if not levels.size:
        raise ImageError("expected a film with contrast, got nothing but padding")
    return float(levels.min()), float(levels.max())


def _robust_ends(table: Table, counts: npt.NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """Return the ends of a film without a window, less what few pixels alone stretch it by."""
    present = counts > 0
    if not present.any():
        return low, high
    order = np.argsort(table[present], kind="stable")
    levels, below = table[present][order], np.cumsum(counts[present][order])
    spare = _SPARSE * below[-1]
    inner_low = float(levels[np.searchsorted(below, spare, side="right")])
    inner_high = float(levels[np.searchsorted(below, below[-1] - spare, side="left")])
    most = _STRETCH * (inner_high - inner_low)
    if most <= 0:
        return low, high
    return (inner_low if inner_low - low > most else low), (inner_high if high - inner_high > most else high)


def _padding(header: Elements, values: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return (65536,) bool: the stored values that fill what no detector saw (PS3.3, C.7.5.1.1.2).

    The 16 bits count, whichever signedness they are written in.
    """
    first, limit = header.integer("PixelPaddingValue"), header.integer("PixelPaddingRangeLimit")
    if first is None:
        return np.zeros(values.shape, dtype=bool)
    ends = [_as_stored(header, end & 0xFFFF, values) for end in (first, first if limit is None else limit)]
    return np.asarray((values >= min(ends)) & (values <= max(ends)))


def _as_stored(header: Elements, pattern: int, values: npt.NDArray[np.int64]) -> int:
    """Return what 16 bits mean as a pixel; those of a signed one may be the bits that are stored alone."""
    bits = header.integer("BitsStored") or 16
    value = int(values[pattern])
    negative = values[-1] < 0 and 1 << bits - 1 <= value < 1 << bits
    return value - (1 << bits) if negative else value


def _counts(stored: Stored, padding: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return (65536,): how many pixels have each stored value; 0 for padding."""
    counts = cv2.calcHist([stored], [0], None, [_CODES], [0, _CODES]).ravel().astype(np.int64)
    counts[padding] = 0
    return counts


def _sampled(stored: Stored) -> int:
    """Return the step at which rows of a film are counted: about a million pixels tell how common a value is."""
    return max(1, stored.size >> 20)

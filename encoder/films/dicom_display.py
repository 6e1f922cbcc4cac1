"""How a DICOM film is shown: one brightness for each of the 65,536 values a pixel can have.

The steps are those of PS3.3: padding (C.7.5.1.1.2), modality transform (C.11.1), VOI transform (C.11.2), polarity
(C.7.6.3.1.2). What a header leaves open is got over where there is one plain reading, and noted.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from encoder.errors import ImageError
from encoder.films.dicom_elements import Elements
from encoder.films.viewing import Curve, Spacing, ViewedFilm, Window, whole_range

Stored = npt.NDArray[np.uint16]
Ends = tuple[int, int]
"""The least and the greatest value of a film."""
Table = npt.NDArray[np.float64]

_CODES = 1 << 16
_LEAST = 1e-9  # of a slope or of a window's width: what is less is 0
_SPARSE, _STRETCH = 0.005, 0.25
"""Of a film without a window: so many of its pixels, at either end, are clipped where they alone would widen the range
by more than a quarter, as hot pixels and markers do."""
_PRESETS = 8  # windows, and tables, of a film that a viewer is offered; films have one to three
_KNOWN = ("NORMAL", "HARD", "HARDER", "SOFT", "SOFTER", "LUNG", "BONE", "MEDIASTINUM")
"""Words that the name of a preset may have: any other of a header may be a patient's."""
_MOST_SPACING = 10.0
"""Millimetres from pixel to pixel, beyond which a header is wrong."""
_CALIBRATED = 0.001
"""How far a calibrated spacing differs from that of the detector, as a share of it."""


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
    slope, intercept = _rescaling(header, notes)
    bits = header.integer("BitsStored") or 16
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return _Input(given.values * slope + intercept, min(end * slope + intercept for end in ends) < 0)


def _rescaling(header: Elements, notes: list[str]) -> tuple[float, float]:
    """Return slope and intercept of the rescale, 1 and 0 where there is none."""
    slope, intercept = _rescale(header, "RescaleSlope", 1), _rescale(header, "RescaleIntercept", 0)
    if abs(slope) >= _LEAST:
        return slope, intercept
    notes.append("RescaleSlope is 0, which no film has; the rescale is left out")
    return 1.0, 0.0


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
    for window in _windows(header, notes)[:1]:
        return window.brightness(given.values), True
    return given.values, False


def _windows(header: Elements, notes: list[str]) -> list[Window]:
    """Return the windows that can be used, the first of which counts; what is said of the others is not noted."""
    if "WindowCenter" not in header or "WindowWidth" not in header:
        return []
    pairs = zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False)
    usable = [(center, width) for center, width in pairs if center is not None and width is not None and width > _LEAST]
    function = header.text("VOILUTFunction").upper() or "LINEAR"
    if not usable:
        notes.append("the window is no centre and width above 0; the film is shown over its whole range")
        return []
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        notes.append("VOILUTFunction is none of the standard; the window is taken as LINEAR")
        function = "LINEAR"
    if function == "LINEAR" and usable[0][1] < 1:
        notes.append("WindowWidth is below 1, the least of a LINEAR window; it is taken as LINEAR_EXACT")
    words = header.text("WindowCenterWidthExplanation").split("\\")
    named = (_name("Window", number, words) for number in range(len(usable)))
    return [
        Window(name, center, width, "LINEAR_EXACT" if function == "LINEAR" and width < 1 else function)
        for name, (center, width) in zip(named, usable, strict=True)
    ]


def _name(kind: str, number: int, words: list[str]) -> str:
    """Return what a preset is called: by its number, and by its word where that is one of those known."""
    word = words[number].strip().upper() if number < len(words) else ""
    return f"{kind} {number + 1}{f': {word.lower()}' if word in _KNOWN else ''}"


def viewed_film(header: Elements, stored: Stored, notes: list[str]) -> ViewedFilm:
    """Return a film as a viewer has it: its values as codes from 0 on, and the presets of its header.

    A VOI LUT goes before a window, as `display_table` has it, but no brightness is stretched. Behind a modality LUT,
    which no line describes, each preset is a curve.

    Args:
        stored: (H, W), signed values as their two's complement of 16 bits.

    Raises:
        ImageError: all pixels that are not padding are alike, or a rescale that is no number.
    """
    signed = header.integer("PixelRepresentation") == 1
    first = _CODES // 2 if signed else 0
    codes = np.arange(_CODES, dtype=np.uint16) ^ np.uint16(first)  # of each pattern of bits, and the other way round
    values = np.arange(_CODES, dtype=np.int64) - first
    padding = _padding(header, values[codes])
    counts, padding = _counts(stored, padding)[codes], padding[codes]
    present = np.flatnonzero(counts)
    if present.size < 2:
        raise ImageError("expected a film with contrast, got one value everywhere but in its padding")
    ends = int(present[0]), int(present[-1])
    given = _modality(header, values, signed, notes)
    straight = not any(_luts(header, "ModalityLUTSequence", []))
    slope, intercept = _rescaling(header, []) if straight else (1.0, -float(first))
    shown = given.values if straight else values.astype(np.float64)
    padded = np.flatnonzero(padding)
    return ViewedFilm(
        codes=stored ^ np.uint16(first),
        bits=header.integer("BitsStored") or 16,
        presets=[*_presets(header, given, ends, straight=straight), *_ranges(shown, counts, ends)],
        slope=slope,
        intercept=intercept - slope * first if straight else intercept,
        inverted=header.text("PhotometricInterpretation").upper() == "MONOCHROME1",
        padding=(int(padded[0]), int(padded[-1])) if padded.size else None,
        spacing=_spacing(header),
        ends=ends,
    )


def _presets(header: Elements, given: "_Input", ends: Ends, *, straight: bool) -> Iterator[Window | Curve]:
    """Yield the tables and then the windows of a header, as windows where values are on a line with codes."""
    within = _Input(given.values[ends[0] : ends[1] + 1], given.signed)
    items = header.items("VOILUTSequence")
    luts = [_lut(item, "LUTDescriptor", "LUTData") for item in items[:_PRESETS]]
    words = [item.text("LUTExplanation") for item in items]
    for number, lut in enumerate(luts):
        if lut is not None and (white := lut.entries.max()) > 0:
            entries = np.rint(lut.of(within) * (65535 / white)).astype(np.uint16)
            yield Curve(_name("VOI LUT", number, words), ends[0], entries)
    for window in _windows(header, [])[:_PRESETS]:
        if straight:
            yield window
        else:
            entries = np.rint(window.brightness(within.values) * 65535).astype(np.uint16)
            yield Curve(window.name, ends[0], entries)


def _ranges(values: Table, counts: npt.NDArray[np.int64], ends: Ends) -> Iterator[Window]:
    """Yield the window that leaves out what few pixels alone stretch a film by, where there is any, and the whole."""
    low, high = sorted(float(values[end]) for end in ends)
    inner = _robust_ends(values, counts, low, high)
    if inner != (low, high) and inner[0] < inner[1]:
        yield replace(whole_range(*inner), name="Range without outliers")
    yield whole_range(low, high)


def _spacing(header: Elements) -> Spacing | None:
    """Return the millimetres from pixel to pixel, in the patient where the header was calibrated (PS3.3, 10.7.1.3)."""

    def stated(keyword: str) -> tuple[float, float] | None:
        down, across = [*header.numbers(keyword), None, None][:2]
        sound = down is not None and across is not None and 0 < min(down, across) <= max(down, across) <= _MOST_SPACING
        return (down, across) if sound and down is not None and across is not None else None

    pixel, imager, scanned = map(stated, ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"))
    if pixel and imager and abs(pixel[0] / imager[0] - 1) > _CALIBRATED:
        return Spacing(*pixel, "patient")
    for pair, place in ((imager, "detector"), (pixel, "stated"), (scanned, "film")):
        if pair:
            return Spacing(*pair, place)
    return None


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

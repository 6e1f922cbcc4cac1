"""The skeleton around a chest: ribs, spine, clavicles, shoulder blades, breastbone, arms."""

import cv2
import numpy as np

from scripts.chest_phantom import anatomy
from scripts.chest_phantom.anatomy import F32, Chest, Pose, at
from scripts.chest_phantom.rays import View
from scripts.chest_phantom.strokes import Points, Sheet, smooth_path

_RIB_DROP = (
    3.2,
    5.2,
    6.6,
    7.6,
    8.3,
    8.8,
    9.2,
    9.2,
    8.2,
    6.4,
    4.4,
)  # how far each rib falls from back to front, cm
_RIB_REACH = (
    0.86,
    0.85,
    0.84,
    0.83,
    0.82,
    0.80,
    0.77,
    0.73,
    0.68,
    0.58,
    0.45,
)  # its bony share of a half turn
_VERTEBRAE = np.arange(14.6, -20.0, -2.35)


def bone_absorption(chest: Chest, pose: Pose, view: View) -> F32:
    """Return the absorption of all bones beyond that of soft tissue, (H, W)."""
    sheet = Sheet(view, full=1.6)
    density = 0.26 * chest.bone
    _draw_spine(sheet, chest, density)
    for side in (-1, 1):
        _draw_ribs(sheet, chest, side, density)
        _draw_collar(sheet, chest, side, density)
        if view.name == "frontal":
            _draw_shoulder(sheet, pose, side, density)
    _draw_breastbone(sheet, density)
    return sheet.total(0.8)


def arm_absorption(chest: Chest, view: View) -> F32:
    """Return the arms' absorption, (H, W): hanging beside the chest, or raised for the lateral film."""
    rows, columns = view.shape
    row, column = np.mgrid[0:rows:3, 0:columns:3].astype(np.float32)
    total = np.zeros(row.shape, dtype=np.float32)
    for side in (-1, 1):
        knots: list[tuple[float, float, float]]
        if view.name == "frontal":
            knots = [(side * 18.2, -1, 10.2), (side * 21.0, -1, 3.0), (side * 23.0, 0, -9.0)]
        else:
            knots = [(side * 14.0, 0.5, 12.5), (side * 12.0, 6.0, 17.0), (side * 10.0, 12.0, 22.0)]
        spots = view.pixels(knots).astype(np.float32)
        radius = np.float32((3.4 + 0.5 * chest.wall) / view.cm_per_pixel)
        gap = np.minimum(*(_distance(column, row, spots[i], spots[i + 1]) for i in (0, 1)))
        chord = np.sqrt(np.maximum(radius**2 - gap**2, 0))
        total += chord * np.float32(2 * 0.175 * view.cm_per_pixel * (1.0 if view.name == "frontal" else 0.55))
    return np.asarray(cv2.resize(total, (columns, rows), interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _distance(column: F32, row: F32, start: F32, end: F32) -> F32:
    """Return each pixel's distance from a straight piece, pixels."""
    across, down = end - start
    share = ((column - start[0]) * across + (row - start[1]) * down) / (across**2 + down**2)
    share = np.clip(share, 0, 1)
    return np.hypot(column - start[0] - share * across, row - start[1] - share * down)


def rib_path(chest: Chest, number: int, side: int) -> Points:
    """Return the middle line of one rib's bony part, (N, 3) standard cm, from the spine to the front."""
    turn = np.linspace(0.10, _RIB_REACH[number], 26) * np.pi
    start = 12.6 - 2.12 * number
    z = start + 0.7 * np.sin(2.2 * turn) * (turn < 1.5) - _RIB_DROP[number] * (turn / np.pi) ** 1.35
    level = np.minimum(z, start + 0.3)
    front, back = at(anatomy.CAVITY_FRONT, level), at(anatomy.CAVITY_BACK, level)
    half, middle = (front - back) / 2 + 0.35, (front + back) / 2
    width = at(anatomy.CAVITY_WIDTH, level) + 0.35
    round_ = 1 + 0.09 * np.sin(2 * turn) ** 2  # fuller than an ellipse, as the cavity is
    x = side * width * np.sin(turn) * round_ + chest.bend(z)
    return np.stack([x, middle - half * np.cos(turn) * round_, z], axis=1)


def _draw_ribs(sheet: Sheet, chest: Chest, side: int, density: float) -> None:
    for number in range(len(_RIB_DROP)):
        path = rib_path(chest, number, side)
        half = len(path) // 2
        behind, before = (1, 2) if side < 0 else (3, 4)
        sheet.tube(path[: half + 1], 0.58, density * 0.52, layer=behind, bore=0.72)
        sheet.tube(path[half:], 0.60, density * 0.42, layer=before, bore=0.74)


def _draw_spine(sheet: Sheet, chest: Chest, density: float) -> None:
    for z in _VERTEBRAE:
        x = float(chest.bend(z))
        y = float(at(anatomy.CAVITY_BACK, z)) + 1.5
        lean = float(at(anatomy.CAVITY_BACK, z + 1) - at(anatomy.CAVITY_BACK, z - 1)) / 2
        half = 1.55 + 0.018 * (14 - z)
        if sheet.view.name == "frontal":
            body = [(x - half, y, z - 0.9), (x - half + 0.25, y, z), (x - half, y, z + 0.9)]
            body += [(x + half, y, z + 0.9), (x + half - 0.25, y, z), (x + half, y, z - 0.9)]
            sheet.plate(np.array(body), 2.6 * density * 0.26, rim=0.06, layer=0)
            spine_tip = np.array([(x, y - 4.5, z - 0.4), (x, y - 4.5, z - 1.5)])
            sheet.tube(spine_tip, 0.28, density * 0.8, layer=5)
            wing = np.array([(x - 3.0, y - 3, z + 0.8), (x, y - 3, z + 0.3), (x + 3.0, y - 3, z + 0.8)])
            sheet.tube(wing, 0.42, density * 0.4, layer=6, bore=0.6)
        else:
            body = [(x, y - 1.45 + lean * u, z + u) for u in (-0.9, 0.9)]
            body += [(x, y + 1.45 + lean * u, z + u) for u in (0.9, 0.0, -0.9)]
            body[3] = (x, y + 1.2, z)
            sheet.plate(np.array(body), 3.4 * density * 0.45, rim=0.12, layer=0)
            arch = np.array([(x, y - 2.0, z + 0.2), (x, y - 3.4, z - 0.6), (x, y - 4.9, z - 1.9)])
            sheet.tube(arch, 0.4, density * 0.8, layer=5, bore=0.6)


def _draw_collar(sheet: Sheet, chest: Chest, side: int, density: float) -> None:
    knots = [
        (side * 1.6, 5.0, 9.4),
        (side * 5.0, 5.2, 10.2),
        (side * 9.5, 2.2, 11.3),
        (side * 16.0, -1.0, 13.2),
    ]
    strength = density * (0.75 if sheet.view.name == "frontal" else 0.25)
    sheet.tube(smooth_path(knots), 0.62, strength, layer=7, bore=0.7)


def _draw_shoulder(sheet: Sheet, pose: Pose, side: int, density: float) -> None:
    """Draw shoulder blade and upper arm; bedside the blades lie over the lungs, standing they are turned away."""
    inner = 9.0 if pose.projection == "AP" else 12.2
    blade = [(inner + 0.6, -11, 9.5), (inner, -11.5, 4.0), (inner + 1.4, -11.5, -1.6)]
    blade += [(inner + 3.2, -11, 1.6), (inner + 6.2, -9, 8.2), (inner + 6.0, -8, 10.0)]
    flip = np.array([side, 1.0, 1.0])
    sheet.plate(np.array(blade) * flip, 0.3 * density, rim=0.12 * density, layer=8)
    ridge = np.array([(inner + 0.6, -11, 8.6), (inner + 4.0, -11, 10.6), (inner + 7.2, -7, 12.6)])
    sheet.tube(ridge * flip, 0.5, density * 0.6, layer=9, bore=0.6)
    head = np.array([(19.0, -1, 10.6), (19.0, -1, 10.3)])
    sheet.tube(head * flip, 2.2, density * 0.10, layer=10, bore=0.9)
    shaft = np.array([(19.6, -1, 9.5), (21.6, -1, 2.0), (23.5, 0, -9.0)])
    sheet.tube(shaft * flip, 1.2, density * 0.2, layer=10, bore=0.7)


def _draw_breastbone(sheet: Sheet, density: float) -> None:
    z = np.linspace(8.6, -7.0, 12)
    y = at(anatomy.CAVITY_FRONT, z) + 0.75
    path = np.stack([np.zeros_like(z), y, z], axis=1)
    strength = density * (0.9 if sheet.view.name == "lateral" else 0.1)
    sheet.tube(path, 0.55 if sheet.view.name == "lateral" else 1.6, strength, layer=11, bore=0.75)

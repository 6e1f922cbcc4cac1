"""Findings drawn at a film's full resolution: nodules, septal lines, air bronchograms, pacemakers, lines and tubes."""

import cv2
import numpy as np

from scripts.chest_phantom import anatomy
from scripts.chest_phantom.abnormalities import place_of
from scripts.chest_phantom.anatomy import F32, at
from scripts.chest_phantom.findings import Abnormality
from scripts.chest_phantom.rays import View
from scripts.chest_phantom.strokes import Points, Sheet, smooth_path
from scripts.chest_phantom.vessels import Tree, sample

_METAL, _PLASTIC = 9.0, 1.5  # absorption beyond soft tissue, 1/cm, drawn thin


def thin_absorption(abnormalities: tuple[Abnormality, ...], lung: F32, view: View) -> F32:
    """Return what nodules, septal lines and devices add to a film's absorption, (H, W)."""
    total = np.zeros(view.shape, dtype=np.float32)
    for abnormality in abnormalities:
        if abnormality.finding == "Lung Lesion":
            total += _nodule(abnormality, view)
        elif abnormality.finding == "Edema":
            total += _septal_lines(abnormality, lung, view)
        elif abnormality.finding == "Support Devices":
            total += _device(abnormality, view)
    return total


def vessel_thickness(abnormalities: tuple[Abnormality, ...], tree: Tree) -> Points:
    """Return a factor on each vessel's radius, (N,): edema fills the vessels, those of the upper lung most."""
    factor = np.ones(len(tree.radii))
    for abnormality in abnormalities:
        if abnormality.finding == "Edema":
            factor *= 1.15 + (0.3 + 0.25 * abnormality.severity) * (tree.middles[:, 2] > -1.0)
    return factor


def bronchogram(abnormalities: tuple[Abnormality, ...], tree: Tree, filled: F32, view: View) -> F32:
    """Return how much less the airways in consolidated lung absorb, (H, W), not positive.

    Args:
        filled: (Z, Y, X) lung that has lost its air to consolidation, [0, 1].
    """
    if not any(abnormality.finding == "Consolidation" for abnormality in abnormalities):
        return np.zeros(view.shape, dtype=np.float32)
    inside = (sample(filled, tree.middles) > 0.4) & (tree.radii > 0.1)
    sheet = Sheet(view, full=0.5)
    sheet.segments(tree.starts[inside], tree.ends[inside], tree.radii[inside] * 0.8, 0.22)
    return -sheet.total(0.8)


def _nodule(abnormality: Abnormality, view: View) -> F32:
    """Return a round shadow of 2.8 to 5.2 cm, slightly lobed, as the chord through a ball."""
    rng = np.random.default_rng(abnormality.seed)
    centre = np.array([place_of(abnormality, abnormality.sides[0])])
    radius = (1.4 + 1.2 * abnormality.severity) * view.magnification(centre[:, view.along])[0]
    column, row = view.pixels(centre)[0]
    y, x = np.mgrid[0 : view.shape[0], 0 : view.shape[1]].astype(np.float32)
    y, x = (y - np.float32(row)) * view.cm_per_pixel, (x - np.float32(column)) * view.cm_per_pixel
    angle = np.arctan2(y, x)
    lobes = 1 + 0.07 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(5 * angle + rng.uniform(0, 6))
    chord = 2 * np.sqrt(np.maximum((radius * lobes) ** 2 - x * x - y * y, 0))
    return cv2.GaussianBlur(chord.astype(np.float32) * np.float32(0.34), (0, 0), 0.8)


def _septal_lines(abnormality: Abnormality, lung: F32, view: View) -> F32:
    """Return short level lines that end at the chest wall of the lower lungs."""
    rng = np.random.default_rng(abnormality.seed)
    sheet = Sheet(view, full=0.5)
    for side in (-1, 1):
        for _ in range(7):
            z = rng.uniform(-9.0, -2.0)
            reach = float(at(anatomy.CAVITY_WIDTH, z)) * 0.97
            y = rng.uniform(-3.0, 2.5)
            path = np.array([(side * reach, y, z), (side * (reach - rng.uniform(1.2, 2.0)), y, z + 0.15)])
            if sample(lung, path.mean(axis=0, keepdims=True))[0] > 0.5:
                sheet.tube(path, 0.05, 0.9 + 0.6 * abnormality.severity)
    return sheet.total(0.5)


def _device(abnormality: Abnormality, view: View) -> F32:
    rng = np.random.default_rng(abnormality.seed)
    sheet = Sheet(view, full=2.0)
    side = abnormality.sides[0]
    if abnormality.kind == "pacemaker":
        _draw_pacemaker(sheet, side, rng)
    elif abnormality.kind == "port":
        _draw_port(sheet, side, rng)
    elif abnormality.kind == "jugular line":
        tip = rng.uniform(-0.5, 2.0)
        knots = [
            (side * 3.4, 0.0, 18.5),
            (side * 3.0, 1.5, 13.5),
            (-1.6, 2.4, 8.0),
            (-2.1, 1.6, 4.5),
            (-2.2, 1.4, tip),
        ]
        sheet.tube(smooth_path(knots), 0.13, _PLASTIC * 1.7)
    else:
        _draw_tubes(sheet, rng)
    return sheet.total(0.5)


def _draw_pacemaker(sheet: Sheet, side: int, rng: np.random.Generator) -> None:
    """Draw the can below a collarbone and a lead through the caval vein to the heart's right side."""
    x, y, z = side * rng.uniform(8.2, 10.0), 8.2, rng.uniform(5.6, 8.0)
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    can = np.stack([x + 2.3 * np.cos(turn), y + 0.3 * np.sin(turn), z + 1.9 * np.sin(turn)], axis=1)
    sheet.plate(can, 1.25, rim=0.5)
    entry = [
        (x, y, z + 1.5),
        (side * 6.8, 6.2, 10.3),
        (side * 3.0, 3.8, 8.6),
        (-1.7, 2.4, 6.0),
        (-2.2, 1.6, 2.0),
    ]
    tips = [[(-2.4, 2.0, -4.0), (0.2, 3.6, -7.4), (4.6, 4.8, -7.9)]]
    if rng.random() < 0.6:
        tips.append([(-2.6, 2.2, -2.6), (-2.2, 3.6, -3.4), (-1.6, 4.2, -2.2)])
    for layer, tip in enumerate(tips, start=1):
        path = smooth_path([*entry, *tip])
        sheet.tube(path, 0.09, _METAL * 0.5, layer=layer)
        sheet.tube(path[-4:], 0.14, _METAL * 0.6, layer=layer)


def _draw_port(sheet: Sheet, side: int, rng: np.random.Generator) -> None:
    """Draw a chamber before the ribs and its line to the caval vein."""
    x, y, z = side * rng.uniform(6.5, 9.0), 8.6, rng.uniform(3.5, 6.5)
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for radius, level in ((1.35, 0.5), (0.8, 0.95)):
        ring = np.stack([x + radius * np.cos(turn), y + 0.2 * np.sin(turn), z + radius * np.sin(turn)], axis=1)
        sheet.plate(ring, level, rim=0.35)
    tip = rng.uniform(-0.5, 2.0)
    knots = [
        (x, y, z + 1.0),
        (side * 5.6, 6.4, 11.2),
        (side * 2.6, 3.6, 9.2),
        (-1.7, 2.4, 6.0),
        (-2.2, 1.5, tip),
    ]
    sheet.tube(smooth_path(knots), 0.12, _PLASTIC * 1.8, layer=1)


def _draw_tubes(sheet: Sheet, rng: np.random.Generator) -> None:
    """Draw a breathing tube that ends above the fork of the windpipe, and a feeding tube into the stomach."""
    end = rng.uniform(5.0, 7.0)
    throat = [(0.1, -1.0, 19.5), (0.0, -1.6, 14.0), (0.1, -2.0, 10.0), (0.0, -2.4, end)]
    sheet.tube(smooth_path(throat), 0.42, _PLASTIC * 0.22, bore=0.75)
    sheet.tube(smooth_path(throat), 0.05, _PLASTIC * 2.5, layer=1)
    gullet = [(0.3, -3.0, 19.5), (0.4, -4.0, 10.0), (0.9, -4.6, 0.0), (2.0, -2.0, -9.0), (4.2, 0.5, -13.0)]
    gullet += [(6.4, 1.5, -14.6)]
    sheet.tube(smooth_path(gullet), 0.12, _PLASTIC * 1.7, layer=2)

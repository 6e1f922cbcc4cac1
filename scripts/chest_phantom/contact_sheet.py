"""A picture of all findings: one column a finding, frontal film above lateral film, one body throughout."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from scripts.chest_phantom.anatomy import draw_chest, draw_pose
from scripts.chest_phantom.film import develop, draw_exposure
from scripts.chest_phantom.findings import SIMULATED_FINDINGS, draw_finding
from scripts.chest_phantom.scene import Scene

_CELL = (300, 300)  # width and height of a film's cell, pixels
_GAP, _TITLE = 6, 26


def contact_sheet(seed: int, boxes: bool = False) -> npt.NDArray[np.uint8]:
    """Return a sheet of a chest without findings and eight others, one for each finding, (H, W, 3) BGR.

    Each column is a patient of their own; findings are of middling severity or more. With `boxes`, the outlines of
    what each finding changes are drawn in.
    """
    columns = [_column(seed, index, name, boxes) for index, name in enumerate(("", *SIMULATED_FINDINGS))]
    per_row = (len(columns) + 1) // 2
    rows = [np.hstack(columns[start : start + per_row]) for start in range(0, len(columns), per_row)]
    return np.vstack(rows)


def _column(seed: int, index: int, finding: str, boxes: bool) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    chest, pose = draw_chest(rng), draw_pose(rng)
    drawn = draw_finding(finding, rng) if finding else None
    abnormalities = (replace(drawn, severity=0.5 + drawn.severity / 2),) if drawn else ()
    scene = Scene(chest, pose, abnormalities)
    cells = [_title(finding or "No Finding")]
    for view in ("frontal", "lateral"):
        film = develop(scene.absorption(view), draw_exposure(rng, pose.projection == "AP"))
        picture = cv2.cvtColor(film, cv2.COLOR_GRAY2BGR)
        for x0, y0, x1, y1 in scene.boxes(view, finding) if boxes and finding else ():
            cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (0, 200, 255), 1)
        cells.append(_fit(np.asarray(picture, dtype=np.uint8)))
    return np.vstack(cells)


def _fit(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return the picture shrunk into a cell of black, with a gap around it."""
    rows, columns = picture.shape[:2]
    share = min(_CELL[0] / columns, _CELL[1] / rows)
    small = cv2.resize(picture, (round(columns * share), round(rows * share)), interpolation=cv2.INTER_AREA)
    cell = np.zeros((_CELL[1] + _GAP, _CELL[0] + _GAP, 3), dtype=np.uint8)
    top, left = (cell.shape[0] - small.shape[0]) // 2, (cell.shape[1] - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    return cell


def _title(text: str) -> npt.NDArray[np.uint8]:
    strip = np.full((_TITLE, _CELL[0] + _GAP, 3), 24, dtype=np.uint8)
    cv2.putText(strip, text, (10, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (235, 235, 235), 1, cv2.LINE_AA)
    return strip

"""From absorption to the grey values of a film: scatter, quantum noise, the detector's curve, markers, collimation.

Bone comes out bright.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from scripts.chest_phantom.anatomy import F32

_OPEN_BEAM = 1.0  # signal below which no body lay in the beam; it must not steer the curve


@dataclass(frozen=True)
class Exposure:
    """How one film was exposed and processed."""

    photons: float  # a pixel in the open beam; fewer is noisier
    scatter: float  # scattered light as a share of the primary beam's local mean
    dark: float  # where the curve begins, in absorption below the lungs'
    contrast: float  # exponent of the curve: over 1 darkens
    sharpening: float
    collimation: tuple[int, int, int, int]  # black borders, pixels: left, top, right, bottom
    marker: str  # lead letters beside the patient's left shoulder, or none
    noise_seed: int


def draw_exposure(rng: np.random.Generator, bedside: bool) -> Exposure:
    """Return one random exposure; bedside films scatter more and are noisier."""
    borders = [int(max(0, rng.normal(-4, 6))) for _ in range(4)]
    return Exposure(
        photons=float(np.exp(rng.normal(10.3 if bedside else 10.9, 0.4))),
        scatter=float(rng.uniform(0.35, 0.7) if bedside else rng.uniform(0.15, 0.45)),
        dark=float(rng.normal(0.55, 0.12)),
        contrast=float(np.exp(rng.normal(0.0, 0.12))),
        sharpening=float(rng.uniform(0.3, 0.9)),
        collimation=(borders[0], borders[1], borders[2], borders[3]),
        marker=str(rng.choice(["", "L", "L", "AP L" if bedside else "L"])),
        noise_seed=int(rng.integers(2**32)),
    )


def develop(absorption: F32, exposure: Exposure) -> npt.NDArray[np.uint8]:
    """Return the film, (H, W) uint8, of an absorption map, (H, W) unitless."""
    rng = np.random.default_rng(exposure.noise_seed)
    light = np.exp(-absorption)
    light += np.float32(exposure.scatter) * _haze(light)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light += np.sqrt(light / np.float32(exposure.photons)) * cv2.GaussianBlur(noise, (0, 0), 0.6)
    signal = -np.log(np.maximum(light, np.float32(1e-4)))
    signal += np.float32(exposure.sharpening) * (signal - cv2.GaussianBlur(signal, (0, 0), 6))
    return _mark(_curve(signal, exposure), exposure)


def encode(film: npt.NDArray[np.uint8]) -> bytes:
    """Return the film as a grey JPEG file."""
    done, data = cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, 92])
    if not done:
        raise OSError(f"expected to encode a film of shape {film.shape} as JPEG, got no data")
    return data.tobytes()


def _haze(light: F32) -> F32:
    """Return scattered light: the beam's mean over a wide neighbourhood, so dense parts gain most."""
    small = cv2.resize(np.minimum(light, np.float32(0.25)), None, fx=0.1, fy=0.1, interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), 4.0)
    return np.asarray(cv2.resize(wide, light.shape[::-1], interpolation=cv2.INTER_LINEAR), dtype=np.float32)


def _curve(signal: F32, exposure: Exposure) -> F32:
    """Return grey in [0, 1]: the automatic exposure puts lungs low and the abdomen high."""
    rows, columns = signal.shape
    middle = signal[rows // 6 : -rows // 6 : 2, columns // 6 : -columns // 6 : 2]
    body = middle[middle > _OPEN_BEAM]
    low, high = np.percentile(body if body.size else middle, (2, 98))
    low -= exposure.dark * 0.6
    grey = np.clip((signal - low) / (high + 0.15 - low), 0, 1.15) ** np.float32(exposure.contrast)
    return np.where(grey > 0.7, 0.7 + 0.25 * np.tanh((grey - 0.7) / 0.25), grey)


def _mark(grey: F32, exposure: Exposure) -> npt.NDArray[np.uint8]:
    film = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    rows, columns = film.shape
    if exposure.marker:
        spot = (columns - 34 - 8 * len(exposure.marker), 34)
        cv2.putText(film, exposure.marker, spot, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 250, 1, cv2.LINE_AA)
    left, top, right, bottom = exposure.collimation
    film[:top], film[rows - bottom :] = 2, 2
    film[:, :left], film[:, columns - right :] = 2, 2
    return film

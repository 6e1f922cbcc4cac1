// Heat maps as pictures: a grey map becomes colour that is clear where it is cold. It knows nothing of films.

import { element } from "../page/elements.js";

// Inferno at tenths: even steps of heat look even, also to the colour-blind.
const INFERNO = [
  [0, 0, 4], [22, 11, 57], [66, 10, 104], [106, 23, 110], [147, 38, 103], [188, 55, 84],
  [221, 81, 58], [243, 120, 25], [252, 165, 10], [246, 215, 70], [252, 255, 164],
];

// Over 1, so that what is hardly warm does not veil the film.
const CLEARNESS = 1.5;

/** Returns [red, green, blue] of a heat in [0, 1]. */
export function colour(heat) {
  const place = heat * (INFERNO.length - 1);
  const low = Math.min(Math.floor(place), INFERNO.length - 2);
  return INFERNO[low].map((value, channel) => value + (place - low) * (INFERNO[low + 1][channel] - value));
}

/** Returns a canvas of a grey PNG in base64, the hotter the brighter and the less clear, or null of an all black one. */
export async function heatCanvas(png) {
  const picture = new Image();
  picture.src = `data:image/png;base64,${png}`;
  await picture.decode();
  const canvas = element("canvas", { width: picture.naturalWidth, height: picture.naturalHeight });
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  brush.drawImage(picture, 0, 0);
  const map = brush.getImageData(0, 0, canvas.width, canvas.height);
  const table = Uint8ClampedArray.from({ length: 256 * 4 }, (_, index) => {
    const heat = Math.floor(index / 4) / 255;
    return index % 4 === 3 ? 255 * heat ** CLEARNESS : colour(heat)[index % 4];
  });
  let warm = false;
  for (let at = 0; at < map.data.length; at += 4) {
    warm ||= map.data[at] > 0;
    const from = 4 * map.data[at];
    for (let channel = 0; channel < 4; channel += 1) map.data[at + channel] = table[from + channel];
  }
  brush.putImageData(map, 0, 0);
  return warm ? canvas : null;
}

/** Paints the colours from cold to hot along a canvas. */
export function paintScale(canvas) {
  const brush = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    brush.fillStyle = `rgb(${colour(x / (canvas.width - 1)).map(Math.round).join(" ")})`;
    brush.fillRect(x, 0, 1, canvas.height);
  }
}

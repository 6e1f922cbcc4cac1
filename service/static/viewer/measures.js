// Lengths, angles and the cardiothoracic ratio on films: what they come to, in words, and how they are drawn.

import { drawn } from "../page/elements.js";

/** By tool: the points of a measure, which of them are joined, and its name. The lines of a ratio run across the film; a region is a box. */
export const MEASURES = {
  length: { points: 2, lines: [[0, 1]], name: "Length" },
  angle: { points: 3, lines: [[0, 1], [1, 2]], name: "Angle" },
  ratio: { points: 4, lines: [[0, 1], [2, 3]], name: "Cardiothoracic ratio" },
  region: { points: 2, lines: [], name: "Region" },
};
const PLACES = { detector: " at the detector", patient: "", film: " on the scanned film", stated: "" };
const NOTES = {
  detector: "at the detector: the patient is smaller, for the beam widens",
  patient: "in the patient, as the header is calibrated",
  film: "on the film that was scanned",
  stated: "as the header states, which does not tell whether at the detector or in the patient",
};
/** Share of a film's side that a region takes at least: less is a slip of the hand, and refused. */
const LEAST_SIDE = 0.01;
/** Lengths of a scale bar, and the share of a stage that it takes at most. */
const STEPS = [1, 2, 5];
const SHARE = 0.3;

/** Returns what millimetres of a film are, or why there are none. */
export const spacingWords = ({ spacing }) => (spacing ? `Millimetres are ${NOTES[spacing.place]}.` : "No spacing in the header: lengths are in pixels.");

/** Returns how far a point is from another across and down, in millimetres, or in pixels where there is no spacing. */
function apart(film, from, to) {
  const { across, down } = film.spacing ?? { across: 1, down: film.aspect };
  return [(to.x - from.x) * across, (to.y - from.y) * down];
}

/** Returns the length from a point to another, in millimetres or pixels. */
export const lengthOf = (film, from, to) => Math.hypot(...apart(film, from, to));

/** Returns the angle at the middle of three points, in degrees from 0 to 180. */
export function angleOf(film, [one, middle, other]) {
  const [a, b] = [one, other].map((end) => apart(film, middle, end));
  const sizes = Math.hypot(...a) * Math.hypot(...b);
  return (180 / Math.PI) * Math.acos(Math.min(Math.max((a[0] * b[0] + a[1] * b[1]) / sizes, -1), 1)) || 0;
}

/** Returns the heart's width over the thorax's, of four points: two of the heart, and two of the thorax within its ribs. */
export const ratioOf = ([one, other, left, right]) => Math.abs(other.x - one.x) / Math.abs(right.x - left.x);

/** Returns a region's two corners as x0, y0, x1, y1 in shares of the film; null where it is too small to be meant. */
export function sharesOf(film, [one, other]) {
  const [x0, x1] = [one.x, other.x].map((x) => x / film.width).sort((a, b) => a - b);
  const [y0, y1] = [one.y, other.y].map((y) => y / film.height).sort((a, b) => a - b);
  return Math.min(x1 - x0, y1 - y0) > LEAST_SIDE ? [x0, y0, x1, y1].map((share) => Number(share.toFixed(4))) : null;
}

const amount = (film, length) => (film.spacing ? `${length.toFixed(1)} mm` : `${Math.round(length)} px`);

/** Returns a measure in words, in `brief` as it stands on the film; "" as long as points are missing. */
export function words({ kind, points }, film, brief = false) {
  if (points.length < MEASURES[kind].points) return "";
  if (kind === "region") {
    const [x0, y0, x1, y1] = sharesOf(film, points) ?? [];
    return x0 === undefined ? "" : `Region, ${Math.round(100 * (x1 - x0))} by ${Math.round(100 * (y1 - y0))} % of the film`;
  }
  const place = film.spacing ? PLACES[film.spacing.place] : "";
  if (kind === "angle") return `${angleOf(film, points).toFixed(1)}°`;
  const lengths = MEASURES[kind].lines.map(([from, to]) => amount(film, lengthOf(film, points[from], points[to])));
  if (kind === "length") return lengths[0] + place;
  const share = ratioOf(points);
  if (!Number.isFinite(share)) return "";
  const ratio = `CTR ${share.toFixed(2)}`;
  return brief ? ratio : `${ratio} (${lengths.join(" / ")}${place})`;
}

const end = ({ x, y }) => drawn("circle", { cx: x, cy: y, r: 4 });

/** Returns the outline of a region between two corners. */
function outline([one, other], place) {
  const corners = [one, { x: other.x, y: one.y }, other, { x: one.x, y: other.y }].map(place);
  return drawn("polygon", { points: corners.map(({ x, y }) => `${x},${y}`).join(" ") });
}

/** Draws measures on a board of the stage's width; `place` says where a point of the film lies on the stage. */
export function draw(board, measures, film, place) {
  const { clientWidth: room } = board;
  board.replaceChildren(...measures.flatMap((measure) => {
    const points = measure.points.map(place);
    if (measure.kind === "region") return [outline(measure.points, place), ...points.map(end)];
    const lines = MEASURES[measure.kind].lines.filter(([, to]) => to < points.length).map(([from, to]) => drawn("line", {
      x1: points[from].x, y1: points[from].y, x2: points[to].x, y2: points[to].y,
    }));
    const last = points.at(-1);
    const side = last.x > room / 2 ? { x: last.x - 8, "text-anchor": "end" } : { x: last.x + 8 };
    return [...lines, ...points.map(end), drawn("text", { ...side, y: last.y - 9 }, words(measure, film, true))];
  }));
}

/** Returns a scale bar's length on the screen and its words, where a pixel of the film is so many of the screen wide. */
export function scaleBar(film, scale, room) {
  const unit = film.spacing ? film.spacing.across : 1;
  const most = (SHARE * room * unit) / scale;
  const power = 10 ** Math.floor(Math.log10(most));
  const step = power * STEPS.findLast((one) => one * power <= most);
  const named = !film.spacing ? `${step} px` : step >= 10 ? `${step / 10} cm` : `${step} mm`;
  return { width: (step / unit) * scale, words: named + (film.spacing ? PLACES[film.spacing.place] : "") };
}

// Points on a canvas: where a place of the map lies in it, how a label is drawn, and which point is under the pointer.

const MARGIN = 28;
const REACH = 14;
/** Pixels of a root em where a mark has its plain size. */
const PLAIN_EM = 15;
const SHAPES = { 1: "present", "-1": "uncertain", 0: "absent" };
const ORDER = ["blank", "absent", "uncertain", "present"];

function bounds(map) {
  const ends = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  map.bounds ??= [ends(map.x), ends(map.y)];
  return map.bounds;
}

/** How much larger than plain the page's text is, and marks with it. */
const largeness = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / PLAIN_EM;

/** Returns [left, top] in CSS pixels of a place of the map; both axes have one scale. */
export function place(canvas, map, x, y) {
  const [[left, right], [bottom, top]] = bounds(map);
  const [width, height] = [canvas.clientWidth - 2 * MARGIN, canvas.clientHeight - 2 * MARGIN];
  const scale = Math.min(width / (right - left || 1), height / (top - bottom || 1));
  return [
    canvas.clientWidth / 2 + (x - (left + right) / 2) * scale,
    canvas.clientHeight / 2 - (y - (bottom + top) / 2) * scale,
  ];
}

/** Returns the row of the point nearest to a pixel, or -1 where none is near. */
export function nearest(canvas, map, left, top) {
  let [found, least] = [-1, REACH * largeness()];
  for (let at = 0; at < map.x.length; at += 1) {
    const [x, y] = place(canvas, map, map.x[at], map.y[at]);
    const away = Math.hypot(x - left, y - top);
    if (away < least) [found, least] = [at, away];
  }
  return found;
}

/** Draws the whole map: labels first, then the hits' rings, then the query's cross. */
export function paint(canvas, map, { query, hits, own, pointed }) {
  const ratio = window.devicePixelRatio;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const brush = canvas.getContext("2d");
  brush.scale(ratio, ratio);
  const theme = getComputedStyle(canvas);
  const colours = Object.fromEntries([...ORDER, "accent", "text"].map((name) => [name, theme.getPropertyValue(`--${name}`).trim()]));
  const size = largeness() * Math.min(5.5, 60 / Math.sqrt(map.x.length) + 2);
  for (const kind of ORDER) {
    for (let at = 0; at < map.x.length; at += 1) {
      if ((SHAPES[map.labels[at]] ?? "blank") === kind) mark(brush, kind, place(canvas, map, map.x[at], map.y[at]), size, colours);
    }
  }
  map.study_ids.forEach((id, at) => {
    const rank = hits.get(id);
    if (rank && id !== own) ring(brush, place(canvas, map, map.x[at], map.y[at]), size, colours.text, rank);
  });
  if (pointed >= 0) ring(brush, place(canvas, map, map.x[pointed], map.y[pointed]), size + 3, colours.accent, "");
  if (query) cross(brush, place(canvas, map, ...query), size, colours.accent);
}

/** Present is a filled disc, uncertain a diamond, absent a small open ring, not named a dot. */
function mark(brush, kind, [x, y], size, colours) {
  brush.beginPath();
  brush.strokeStyle = colours[kind];
  brush.fillStyle = colours[kind];
  brush.lineWidth = 0.3 * size;
  if (kind === "present") brush.arc(x, y, size * 1.25, 0, 7);
  else if (kind === "uncertain") {
    for (const [dx, dy] of [[0, -1.5], [1.5, 0], [0, 1.5], [-1.5, 0]]) brush.lineTo(x + dx * size, y + dy * size);
    brush.closePath();
  } else brush.arc(x, y, kind === "absent" ? size * 0.8 : size * 0.45, 0, 7);
  if (kind === "absent" || kind === "uncertain") brush.stroke();
  else brush.fill();
}

function ring(brush, [x, y], size, colour, name) {
  brush.beginPath();
  brush.arc(x, y, size * 1.25 + 4, 0, 7);
  brush.strokeStyle = colour;
  brush.lineWidth = 0.3 * size;
  brush.stroke();
  brush.fillStyle = colour;
  brush.font = `${Math.round(9 * largeness() + size)}px system-ui, sans-serif`;
  brush.fillText(name, x + size + 7, y - size);
}

function cross(brush, [x, y], size, colour) {
  const arm = size * 1.5 + 9;
  brush.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    brush.moveTo(x + 4 * dx, y + 4 * dy);
    brush.lineTo(x + arm * dx, y + arm * dy);
  }
  brush.strokeStyle = colour;
  brush.lineWidth = 0.6 * size;
  brush.stroke();
}

// Explanations of the query, each asked for once: maps of a finding or of a likeness, and how far they can be believed.

import { ask, askOf } from "./api.js";
import { asked } from "./asked.js";
import { heatCanvas } from "./heat.js";

const PATH = "/v1/explain";
const CLEARLY = 0.05;
const kept = new Map();
let looked = { turn: -1 };

/** Returns the finding and the hit that were last explained for the query, where there are any. */
export const lastLooked = () => (looked.turn === asked.turn ? looked : {});

/** Returns the maps and canvases of { finding } or { hit } of the query, or of the stored `study`. Raises Refused. */
export function explain(aim, method, { trust = false, study = null } = {}) {
  looked = { ...lastLooked(), ...aim, turn: asked.turn };
  const key = JSON.stringify([asked.turn, aim, method, trust, study]);
  if (!kept.has(key)) {
    const fields = { ...aim, method, trust };
    const found = (study ? askOf(study, PATH, fields) : ask(PATH, fields)).then(painted);
    found.catch(() => kept.delete(key));
    kept.set(key, found);
  }
  return kept.get(key);
}

async function painted(answer) {
  const maps = await Promise.all(answer.maps.map(async (map) => ({ ...map, canvas: await heatCanvas(map.png) })));
  return { ...answer, maps };
}

/** Returns a sentence on one map's deletion and insertion scores beside those of a random map. */
export function trustSentence(map) {
  if (!map.canvas) return "Blank: nothing in this view speaks for it.";
  if (map.deletion === null || map.deletion === undefined) {
    return "Not to be judged: blurring the whole film changes nothing.";
  }
  const falls = map.random_deletion - map.deletion > CLEARLY;
  const rises = map.insertion - map.random_insertion > CLEARLY;
  if (falls && rises) return "Holds: the hot area carries the result, far more than a random area does.";
  if (falls || rises) return "Holds in part: only one of two checks beats a random map.";
  return "Do not rely on it: no better than a random map.";
}

/** Returns the figures behind the sentence; "" where there are none. */
export function trustFigures(map) {
  if (map.deletion === null || map.deletion === undefined || !map.canvas) return "";
  const pair = (score, random) => `${score.toFixed(2)} (random ${random.toFixed(2)})`;
  return `deletion ${pair(map.deletion, map.random_deletion)}, lower is better; `
    + `insertion ${pair(map.insertion, map.random_insertion)}, higher is better`;
}

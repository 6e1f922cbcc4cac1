// Explanations of the query, each asked for once: maps of a finding or of a likeness, and how far they can be believed.

import { CANCELLED, askById, askOf } from "../page/api.js";
import { asked } from "../page/asked.js";
import { heatCanvas } from "./heat.js";

const PATH = "/v1/explain";
/** Differences up to this, of a probability or a cosine, count as none. */
const CLEARLY = 0.05;
const kept = new Map();
let looked = { turn: -1 };

/** Returns the finding and the hit that were last explained for the query, where there are any. */
export const lastLooked = () => (looked.turn === asked.turn ? looked : {});

/**
 * Returns the maps and canvases of { finding } or { hit } of the query, or of the stored `study`. Raises Refused.
 * Where `signal` says that they are wanted no more, the service is told and gives the work up.
 */
export async function explain(aim, method, { trust = false, study = null, signal = null } = {}) {
  looked = { ...lastLooked(), ...aim, turn: asked.turn };
  const key = JSON.stringify([asked.turn, aim, method, trust, study]);
  if (!kept.has(key)) {
    const fields = { ...aim, method, trust };
    const found = (study ? askOf(study, PATH, fields, signal) : askById(PATH, fields, signal)).then(painted);
    found.catch(() => kept.delete(key));
    kept.set(key, found);
  }
  try {
    return await kept.get(key);
  } catch (error) {
    if (error.code !== CANCELLED || signal?.aborted) throw error;
    return explain(aim, method, { trust, study, signal }); // another gave it up who had asked first
  }
}

async function painted(answer) {
  const maps = await Promise.all(answer.maps.map(async (map) => ({ ...map, canvas: await heatCanvas(map.png) })));
  return { ...answer, maps };
}

/**
 * Returns a sentence on one map's deletion and insertion, each the mean of a probability or of a similarity while from
 * none to all of the film is blurred, or is alone sharp: the hottest parts first, or those of a random map.
 */
export function trustSentence(map) {
  if (!map.canvas) return "Empty map: nothing in this view speaks for it.";
  if (!isChecked(map)) return "";
  if (isBeyondJudging(map)) return "Cannot be checked: the score stays near 0 whatever part is blurred.";
  const { falls, rises } = effects(map);
  if (falls && rises) return "Supported: blurring the highlighted area lowers the score more than blurring a random area, and the highlighted area alone keeps it higher.";
  if (falls) return "Partly supported: blurring the highlighted area lowers the score more than blurring a random area, but the highlighted area alone keeps it no higher.";
  if (rises) return "Partly supported: the highlighted area alone keeps the score higher than a random area, but blurring it lowers the score no more.";
  return "Not supported: the highlighted area matters no more than a random area.";
}

const isBeyondJudging = (map) => Math.max(map.deletion, map.insertion, map.random_deletion, map.random_insertion) < CLEARLY;

/** Returns whether blurring the hot area lowers the result, and the hot area alone raises it, clearly more than a random one. */
const effects = (map) => ({
  falls: map.random_deletion - map.deletion > CLEARLY, rises: map.insertion - map.random_insertion > CLEARLY,
});

/**
 * Returns why a map is not to be relied on, in a short sentence to lay over it; "" where nothing is known against it.
 * `unfamiliar` says whether the query's films are; a likeness is a map of both sides, a finding is one of each.
 */
export function doubtOf(map, unfamiliar, likeness) {
  if (!map?.canvas) return "";
  if (unfamiliar && (likeness || map.side === "query")) return "Unreliable: the query is unfamiliar";
  if (!isChecked(map)) return "";
  if (isBeyondJudging(map)) return "Unreliable: the score is too low to explain";
  const { falls, rises } = effects(map);
  return falls || rises ? "" : "Unreliable: no better than a random map";
}

/** Returns the figures behind the sentence; "" where there are none. `name` is what they are means of. */
export function trustFigures(map, name) {
  if (!isChecked(map)) return "";
  const pair = (score, random) => `${score.toFixed(2)} (random ${random.toFixed(2)})`;
  return `Mean ${name}, highlighted area blurred ${pair(map.deletion, map.random_deletion)}, `
    + `only highlighted area sharp ${pair(map.insertion, map.random_insertion)}`;
}

const isChecked = (map) => Boolean(map.canvas) && Number.isFinite(map.deletion);

// The heat map of the open films: which one is asked for, how strong it is drawn, and how far it can be believed.

import { remember, shown } from "./compare.js";
import { byId, element, failure } from "../page/elements.js";
import { doubtOf, explain, trustFigures, trustSentence } from "./explain.js";
import { working } from "../page/api.js";
import { paintScale } from "./heat.js";
import { warning } from "../page/warning.js";

const dialog = byId("compare");
const STEP = 10;
/** Milliseconds after which a map in the making is asked how far it is. */
const STATE_EVERY = 1000;
let latest = 0;

const chosen = () => dialog.querySelector("[name=why]:checked").value;

/** Offers the findings that can be explained, the most probable first; none without a probe. */
export function offer(findings) {
  const select = byId("why-finding");
  const held = select.value;
  select.replaceChildren(...findings.map((name) => element("option", {}, name)));
  if (findings.includes(held)) select.value = held;
  dialog.querySelector("[value=finding]").disabled = findings.length === 0;
  select.disabled = findings.length === 0;
}

/** Asks for a map: "similar", the name of a finding, or null. */
export function want(why) {
  const select = byId("why-finding");
  if (why && why !== "similar") {
    if (![...select.options].some((option) => option.value === why)) select.append(element("option", {}, why));
    select.value = why;
  }
  const value = !why ? "none" : why === "similar" ? "similar" : "finding";
  dialog.querySelector(`[name=why][value=${value}]`).checked = true;
  return refresh();
}

let work = new AbortController();

async function refresh() {
  const turn = ++latest;
  work.abort(); // of maps that nobody waits for any more
  work = new AbortController();
  const kind = chosen();
  shown.why = kind === "none" ? null : kind === "similar" ? "similar" : byId("why-finding").value;
  remember({ why: shown.why && shown.hit ? shown.why : "" }, false);
  byId("why-status").textContent = "";
  lay([]);
  judge([]);
  if (!shown.why) return;
  try {
    const maps = await told("Working the map out", turn, mapsOf(shown.why, false));
    if (turn !== latest) return;
    lay(maps);
    const checked = await told("Checking the map", turn, mapsOf(shown.why, true));
    if (turn !== latest) return;
    byId("why-status").textContent = "";
    lay(checked);
    judge(checked);
  } catch (error) {
    if (turn === latest) byId("why-status").replaceChildren(...failure(error, refresh).childNodes);
  }
}

/** Returns what is worked out, and says meanwhile how far it is. */
async function told(words, turn, pending) {
  byId("why-status").textContent = `${words}…`;
  const asking = setInterval(async () => {
    const [first] = await working().catch(() => []);
    if (!first || turn !== latest || !byId("why-status").textContent.startsWith(words)) return;
    const state = first.state === "waiting" ? "waiting for its turn" : `${first.passes} passes of the network`;
    byId("why-status").textContent = `${words}: ${state}…`;
  }, STATE_EVERY);
  return pending.finally(() => clearInterval(asking));
}

/** Returns the maps of what is open; a finding is explained on both sides, a likeness is of both anyway. */
async function mapsOf(why, trust) {
  const method = byId("method").value;
  const { signal } = work;
  if (why === "similar") return (await explain({ hit: shown.hit }, method, { trust, signal })).maps;
  const sides = [explain({ finding: why }, method, { trust, signal })];
  if (shown.hit) sides.push(explain({ finding: why }, method, { trust, signal, study: shown.hit }));
  const [query, hit] = await Promise.all(sides);
  return [...query.maps, ...(hit?.maps ?? []).map((map) => ({ ...map, side: "hit" }))];
}

let laid = [];
let judged = [];

function lay(maps) {
  laid = maps;
  for (const stage of shown.stages) {
    const map = maps.find(({ side, view }) => side === stage.side && view === stage.view);
    stage.warm(map ? map.canvas : null, doubtFor(map));
  }
}

const doubtFor = (map) => doubtOf(map, warning() !== "", shown.why === "similar");

const isShown = (map) => shown.stages.some(({ side, view }) => side === map.side && view === map.view);

/** Says of the maps in view how far they hold. */
function judge(maps) {
  judged = maps;
  byId("trust").replaceChildren(...maps.filter(isShown).map(judgement));
}

function judgement(map) {
  const measured = shown.why === "similar" ? "similarity" : "probability";
  const name = `${map.side === "query" ? "Query" : "Hit"}, ${map.view}: `;
  const doubt = doubtFor(map);
  return element(
    "li", { className: doubt ? "doubtful" : "" }, element("strong", {}, name), trustSentence(map),
    ...(doubt && warning() ? [element("p", {}, `${doubt}.`)] : []), element("small", {}, trustFigures(map, measured)),
  );
}

function strengthen(value) {
  byId("strength").value = value;
  byId("stages").style.setProperty("--strength", byId("strength").value / 100);
}

let hidden = null;

/** Makes the map weaker (-1), stronger (1), or hides and shows it (0). */
export function strength(by) {
  const now = Number(byId("strength").value);
  if (by) strengthen(now + STEP * by);
  else if (now) [hidden] = [now, strengthen(0)];
  else strengthen(hidden ?? 55);
}

/** Wires the controls. */
export function prepare() {
  paintScale(byId("scale"));
  strengthen(byId("strength").value);
  offer([]);
  byId("strength").addEventListener("input", (event) => strengthen(event.target.value));
  for (const radio of dialog.querySelectorAll("[name=why]")) radio.addEventListener("change", refresh);
  byId("method").addEventListener("change", refresh);
  byId("why-finding").addEventListener("change", () => want(byId("why-finding").value));
  const again = () => {
    lay(laid);
    judge(judged);
  };
  dialog.addEventListener("close", () => work.abort());
  dialog.addEventListener("staged", again);
  document.addEventListener("warned", again);
  dialog.addEventListener("opened", ({ detail }) => {
    byId("why-similar").hidden = !shown.hit;
    [laid, judged] = [[], []];
    want(detail.why === "similar" && !shown.hit ? null : detail.why);
  });
}

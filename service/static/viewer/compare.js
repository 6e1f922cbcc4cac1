// Films at full size: the query alone, or beside a hit with the same views side by side; what is open is in the URL.

import { read } from "../page/api.js";
import { isAsked, studyAddress } from "../page/asked.js";
import { byId, element, press, similarityWords } from "../page/elements.js";
import { factsLine, findingsList } from "./findings.js";
import { LINKS, Lenses } from "./lens.js";
import { sharesOf, spacingWords } from "./measures.js";
import { Stage } from "./stage.js";
import { TOOLS } from "./tools.js";

const VIEWS = ["frontal", "lateral"];
const PAN_STEP = 60;
const ZOOM_STEP = 1.25;
/** What a reader prefers is kept under this name: views, tool and link, never anything of a study. */
const HANGING = "precedent.hanging";
const LINK_WORDS = { anatomy: "Linked", pixel: "Linked by pixel", "": "Not linked" };

const dialog = byId("compare");
const lenses = new Lenses();
const narrow = window.matchMedia("(max-width: 820px)");
/** What is open: the hit's id or null, its films by view, the view, the stages, and the map that is asked for. */
export const shown = { hit: null, films: {}, view: "frontal", tool: "window", stages: [], why: null };
const hanging = recalled();

let told = () => {};
let turns = 0;

/** Returns the addresses of the query's films by view. */
export function queryFilms() {
  const films = byId("query").querySelectorAll(".film");
  return Object.fromEntries([...films].map((film) => [film.dataset.view, film.dataset.whole || film.firstElementChild.src]));
}

/** Returns the addresses of a stored study's films by view. */
export const storedFilms = (study) =>
  Object.fromEntries(study.views.map((view) => [view, studyAddress(study.study_id, "/image", { view })]));

/** Opens the query's films, beside those of a stored study where one is named; a failure is told. */
export async function open(hit, options = {}) {
  const turn = ++turns;
  try {
    const study = hit ? await read(studyAddress(hit)) : null;
    if (turn === turns) put(hit, study, options);
  } catch (error) {
    if (turn === turns) told(error, () => open(hit, options));
  }
}

function put(hit, study, { view = null, why = null }) {
  const fresh = !dialog.open;
  dialog.querySelector(".told").replaceChildren();
  Object.assign(shown, { hit, films: { query: queryFilms(), hit: study ? storedFilms(study) : {} } });
  if (fresh) lenses.reset();
  tell(study);
  if (fresh) dialog.showModal();
  choose(view ?? (fresh ? firstView() : shown.view), false);
  if (hit) remember({ hit, view: shown.view }, fresh);
  dialog.dispatchEvent(new CustomEvent("opened", { detail: { why } }));
}

/** Returns the views that the reader chose last, where the films are there; a large screen has room for both of both. */
function firstView() {
  const has = (view) => VIEWS.includes(view) && view in shown.films.query;
  if (has(hanging.view) || (hanging.view === "both" && VIEWS.every(has))) return hanging.view;
  const both = VIEWS.every((view) => view in shown.films.query || view in shown.films.hit);
  if (both && window.innerHeight >= 1300) return "both";
  return VIEWS.find((view) => view in shown.films.query) ?? "frontal";
}

/** Shows a view, or both. */
export function choose(view, told = true) {
  shown.view = view;
  press(byId("views"), "view", view);
  for (const stage of shown.stages) stage.leave();
  const rows = view === "both" ? VIEWS : [view];
  const sides = shown.hit ? ["query", "hit"] : ["query"];
  shown.stages = rows.flatMap((row) => sides.map((side) => staged(side, row)));
  const stages = byId("stages");
  stages.dataset.sides = sides.length;
  stages.dataset.rows = rows.length;
  stages.replaceChildren(...shown.stages.map((stage) => stage.box));
  front("query");
  byId("sides").hidden = sides.length < 2;
  listMeasures();
  if (told) hang({ view });
  if (told && shown.hit) remember({ view }, false);
  dialog.dispatchEvent(new CustomEvent("staged"));
}

/** Brings a side to the front, where there is room for one. */
function front(side) {
  byId("stages").dataset.front = side;
  press(byId("sides"), "side", side);
}

function staged(side, view) {
  const stage = new Stage(side, view, lenses, () => shown.tool);
  const rank = cardOf(shown.hit)?.dataset.rank;
  const name = side === "query" ? "Query" : `${rank ? `Hit ${rank}` : "Study"} · ${shown.hit}`;
  const address = shown.films[side][view] ?? null;
  queueMicrotask(() => stage.show(address, `${name} · ${view}`, `This study has no ${view} film.`, smallOf(side, view)));
  return stage;
}

/** Returns the small picture of a film that the page shows already. */
function smallOf(side, view) {
  const place = side === "query" ? byId("query") : cardOf(shown.hit);
  return place?.querySelector(`.film[data-view="${view}"] img`) ?? null;
}

const cardOf = (hit) => hit && byId("results").querySelector(`[data-study="${CSS.escape(hit)}"]`);

function tell(study) {
  const card = cardOf(shown.hit);
  byId("compare-title").textContent = study ? `Query and ${study.study_id}` : "Query";
  byId("compare-similarity").textContent = card ? `Similarity ${similarityWords(card.dataset.similarity)}` : "";
  const query = byId("query").querySelectorAll(".notice, .facts, .findings");
  byId("compare-facts").replaceChildren(
    element("h4", {}, "Query"), ...[...query].map((one) => one.cloneNode(true)),
    ...(query.length ? [] : [element("p", { className: "facts" }, "Your films; no labels of them are known.")]),
    ...(study ? [element("h4", {}, study.study_id), element("p", { className: "facts" }, factsLine(study)), findingsList(study)] : []),
  );
  const more = card?.querySelector(".more")?.href;
  byId("compare-more").replaceChildren(...(more ? [element("a", { href: more }, "More like this hit")] : []));
  byId("steps").hidden = hits().length === 0;
}

const hits = () => [...byId("results").querySelectorAll(".hit[data-study]")].map((hit) => hit.dataset.study);

/** Opens the hit `by` places on. */
export function step(by) {
  const all = hits();
  const at = all.indexOf(shown.hit) + by;
  return at >= 0 && at < all.length ? open(all[at], { why: shown.why }) : null;
}

/** Writes what is open into the URL of a stored query; opening is a step that the Back button undoes. */
export function remember(words, opens) {
  if (!isAsked()) return;
  const url = new URL(window.location);
  for (const [name, value] of Object.entries(words)) {
    if (value) url.searchParams.set(name, value);
    else url.searchParams.delete(name);
  }
  if (opens && url.href !== window.location.href) window.history.pushState({ opened: true }, "", url);
  else window.history.replaceState(window.history.state, "", url);
}

function closed() {
  for (const stage of shown.stages) stage.leave();
  Object.assign(shown, { hit: null, stages: [], why: null });
  if (window.history.state?.opened) window.history.back();
  else remember({ hit: "", view: "", why: "" }, false);
}

const main = () => lenses.of("query", "frontal");

/** Returns one stage a view that has a film: that of the side in front where only that is seen, or else the query's. */
function leading() {
  const front = narrow.matches ? byId("stages").dataset.front : "query";
  const filmed = shown.stages.filter((stage) => stage.film);
  filmed.sort((one, other) => (other.side === front) - (one.side === front));
  return filmed.filter((stage, at) => filmed.findIndex((one) => one.view === stage.view) === at);
}

/** Returns what a reader preferred last, where it is one of what there is. */
function recalled() {
  let kept;
  try {
    kept = JSON.parse(window.localStorage.getItem(HANGING)) ?? {};
  } catch {
    kept = {};
  }
  const one = (name, all) => (all.includes(kept[name]) ? { [name]: kept[name] } : {});
  return { ...one("view", [...VIEWS, "both"]), ...one("tool", Object.keys(TOOLS)), ...one("link", LINKS) };
}

function hang(choice) {
  Object.assign(hanging, choice);
  window.localStorage.setItem(HANGING, JSON.stringify(hanging));
}

/** Inverts both sides, linked or parted. */
function invert(inverted) {
  for (const side of ["query", "hit"]) lenses.change(side, "frontal", { inverted });
}

/** Changes the leading films by what `values` returns of each one's lens. */
const changeAll = (values) => leading().forEach(({ lens, side, view }) => lenses.change(side, view, values(lens)));

const ACTIONS = {
  in: () => changeAll(({ zoom }) => ({ zoom: zoom * ZOOM_STEP })),
  out: () => changeAll(({ zoom }) => ({ zoom: zoom / ZOOM_STEP })),
  reset: () => lenses.reset(),
  fit: () => lenses.fit(),
  actual: () => lenses.actual(),
  rotate: () => changeAll(({ turn }) => ({ turn: turn + 1 })),
  flip: () => changeAll(({ flipped }) => ({ flipped: !flipped })),
  invert: () => invert(!main().inverted),
  link: () => link(LINKS[(LINKS.indexOf(lenses.linked) + 1) % LINKS.length]),
  point: () => setPoint(),
  undo: () => removeLast(),
  previous: () => step(-1),
  next: () => step(1),
  close: () => dialog.close(),
};

function link(way) {
  lenses.link(way);
  hang({ link: way });
}

/** Does what a button or a key of the films asks for. */
export function act(name) {
  const done = ACTIONS[name]();
  showState();
  return done;
}

/** Shows on the buttons how the films are looked at. */
function showState() {
  dialog.querySelector("[data-do=invert]").setAttribute("aria-pressed", main().inverted);
  const linked = dialog.querySelector("[data-do=link]");
  linked.setAttribute("aria-pressed", lenses.linked !== "");
  linked.firstChild.textContent = `${LINK_WORDS[lenses.linked]} `;
  byId("window-title").textContent = lenses.linked ? "Window" : "Window of the query";
}

/** Says what a plain drag does, one of TOOLS that this page offers; the reader's own choice is kept. */
export function drag(tool, chosen = true) {
  if (!byId("tools").querySelector(`[data-tool="${tool}"]`)) return;
  TOOLS[shown.tool].cancel?.();
  for (const stage of shown.stages) stage.magnify(tool === "loupe" && stage.film ? stage.middle : null);
  shown.tool = tool;
  if (chosen) hang({ tool });
  press(byId("tools"), "tool", tool);
  byId("stages").dataset.tool = tool;
}

/** Sets a point of a measure in the middle of the leading film, as a click there would. */
function setPoint() {
  const tool = TOOLS[shown.tool];
  const [stage] = leading();
  if (!tool.points || !stage) return;
  tool.press(stage, stage.middle);
  tool.release(stage, stage.middle);
}

function removeLast() {
  const stage = leading().find(({ measures }) => measures.length);
  if (stage) stage.remove(stage.measures.at(-1));
}

/** Lists the measures of the films in view, each with a button that removes it. */
function listMeasures() {
  const rows = shown.stages.flatMap((stage) => stage.told.map(({ measure, words }) => {
    const name = `${stage.side === "query" ? "Query" : "Hit"}, ${stage.view}`;
    const out = element("button", { type: "button", className: "quiet", "aria-label": `Remove ${words}` }, "\u00d7");
    out.addEventListener("click", () => stage.remove(measure));
    return element("li", {}, element("span", {}, element("strong", {}, `${name}: `), words), out);
  }));
  byId("measures").replaceChildren(...rows);
  const like = byId("like-part");
  if (like) like.hidden = !marked();
  const [first] = leading();
  byId("spacing").textContent = first ? spacingWords(first.film) : "";
}

/** Returns the part of the query's film that is marked, as words of the page's address; null where none is. */
function marked() {
  for (const { side, view, film, measures } of shown.stages) {
    const region = side === "query" && film && measures.find(({ kind }) => kind === "region");
    const shares = region && sharesOf(film, region.points);
    if (shares) return { region: shares.join(), region_view: view };
  }
  return null;
}

/** Moves the films by steps of the keyboard. */
export function pan(across, down) {
  for (const stage of leading()) stage.pan(PAN_STEP * across, PAN_STEP * down);
}

/** Makes the window's sliders, the presets and the films follow each other, in values of the leading film. */
function slide() {
  const inputs = { width: byId("width"), center: byId("level") };
  const presets = byId("preset");
  for (const [name, slider] of Object.entries(inputs)) {
    slider.addEventListener("input", () => changeAll(({ stated }) => (
      name === "width" ? { wide: slider.value / stated.width } : { shift: (slider.value - stated.center) / stated.width }
    )));
  }
  presets.addEventListener("change", () => changeAll(() => ({ preset: presets.value, wide: 1, shift: 0 })));
  const follow = () => {
    const [stage] = leading();
    if (!stage) return;
    const { lens: { window: now, shown: preset }, film } = stage;
    const [low, high] = film.ends.map((end) => film.slope * end + film.intercept).sort((a, b) => a - b);
    Object.assign(inputs.width, { min: 1, max: 2 * (high - low), step: "any", value: now.width });
    Object.assign(inputs.center, { min: low, max: high, step: "any", value: now.center });
    for (const [name, slider] of Object.entries(inputs)) slider.nextElementSibling.textContent = Math.round(now[name]);
    const names = film.presets.map((one) => one.name);
    if (names.join() !== [...presets.options].map((one) => one.value).join()) {
      presets.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    }
    presets.value = preset.name;
  };
  for (const lens of lenses.all) lens.watchers.add(follow);
  dialog.addEventListener("shown", follow);
}

/** Wires the dialog; `tell` says what failed, `ask` searches by a part of the query's film. */
export function prepare(tell, ask) {
  told = tell;
  slide();
  lenses.link(hanging.link ?? LINKS[0]);
  showState();
  drag(hanging.tool ?? (narrow.matches ? "pan" : "window"), false);
  dialog.addEventListener("close", closed);
  dialog.addEventListener("measured", listMeasures);
  byId("like-part")?.addEventListener("click", () => ask(marked()));
  dialog.addEventListener("swiped", ({ detail }) => shown.hit && front(detail.by > 0 ? "hit" : "query"));
  dialog.addEventListener("click", (event) => {
    const { view, tool, side, do: action } = event.target.closest("button")?.dataset ?? {};
    if (view) choose(view);
    if (tool) drag(tool);
    if (side) front(side);
    if (action) act(action);
  });
}

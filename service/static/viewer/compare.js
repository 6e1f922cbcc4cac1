// Films at full size: the query alone, or beside a hit with the same views side by side; what is open is in the URL.

import { read } from "../page/api.js";
import { asked, studyAddress } from "../page/asked.js";
import { byId, element, press, similarityWords } from "../page/elements.js";
import { factsLine, findingsList } from "./findings.js";
import { Lenses } from "./lens.js";
import { Stage } from "./stage.js";

const VIEWS = ["frontal", "lateral"];
const PAN_STEP = 60;
const ZOOM_STEP = 1.25;

const dialog = byId("compare");
const lenses = new Lenses({ query: byId("lens-query"), hit: byId("lens-hit") });
/** What is open: the hit's id or null, its films by view, the view, the stages, and the map that is asked for. */
export const shown = { hit: null, films: {}, view: "frontal", tool: "window", stages: [], why: null };

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

/** A large screen has room for both views of both studies. */
function firstView() {
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
  if (told && shown.hit) remember({ view }, false);
  dialog.dispatchEvent(new CustomEvent("staged"));
}

function staged(side, view) {
  const stage = new Stage(side, view, lenses, () => shown.tool);
  const rank = cardOf(shown.hit)?.dataset.rank;
  const name = side === "query" ? "Query" : `${rank ? `Hit ${rank}` : "Study"} · ${shown.hit}`;
  stage.show(shown.films[side][view] ?? null, `${name} · ${view}`, `This study has no ${view} film.`);
  return stage;
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

const hits = () => [...byId("results").querySelectorAll(".hit")].map((hit) => hit.dataset.study);

/** Opens the hit `by` places on. */
export function step(by) {
  const all = hits();
  const at = all.indexOf(shown.hit) + by;
  return at >= 0 && at < all.length ? open(all[at], { why: shown.why }) : null;
}

/** Writes what is open into the URL of a stored query; opening is a step that the Back button undoes. */
export function remember(words, opens) {
  if (!asked.study) return;
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

/** Returns one stage a view that has a film: the query's, or else the hit's. */
function leading() {
  const filmed = shown.stages.filter((stage) => !stage.film.hidden);
  return filmed.filter((stage, at) => filmed.findIndex((one) => one.view === stage.view) === at);
}

/** Inverts both sides, linked or parted. */
function invert(inverted) {
  for (const side of ["query", "hit"]) lenses.change(side, "frontal", { inverted });
}

const ACTIONS = {
  in: () => leading().forEach(({ lens, side, view }) => lenses.change(side, view, { zoom: lens.zoom * ZOOM_STEP })),
  out: () => leading().forEach(({ lens, side, view }) => lenses.change(side, view, { zoom: lens.zoom / ZOOM_STEP })),
  reset: () => lenses.reset(),
  invert: () => invert(!main().inverted),
  link: () => lenses.link(!lenses.linked),
  previous: () => step(-1),
  next: () => step(1),
  close: () => dialog.close(),
};

/** Does what a button or a key of the films asks for. */
export function act(name) {
  const done = ACTIONS[name]();
  dialog.querySelector("[data-do=invert]").setAttribute("aria-pressed", main().inverted);
  dialog.querySelector("[data-do=link]").setAttribute("aria-pressed", lenses.linked);
  byId("window-title").textContent = lenses.linked ? "Window" : "Window of the query";
  return done;
}

/** Says what a plain drag does. */
export function drag(tool) {
  shown.tool = tool;
  press(byId("tools"), "tool", tool);
  byId("stages").dataset.tool = tool;
}

/** Moves the films by steps of the keyboard. */
export function pan(across, down) {
  for (const stage of leading()) stage.pan(PAN_STEP * across, PAN_STEP * down);
}

/** Makes the window's sliders and the films follow each other. */
function slide() {
  const sliders = { width: byId("width"), level: byId("level") };
  const lens = main();
  for (const [name, slider] of Object.entries(sliders)) {
    slider.addEventListener("input", () => lenses.change("query", "frontal", { [name]: Number(slider.value) }));
  }
  lens.watchers.add(() => {
    for (const [name, slider] of Object.entries(sliders)) {
      slider.value = lens[name];
      slider.nextElementSibling.textContent = Math.round(lens[name]);
    }
  });
}

/** Wires the dialog; `tell` says what failed. */
export function prepare(tell) {
  told = tell;
  slide();
  dialog.addEventListener("close", closed);
  dialog.addEventListener("click", (event) => {
    const { view, tool, do: action } = event.target.closest("button")?.dataset ?? {};
    if (view) choose(view);
    if (tool) drag(tool);
    if (action) act(action);
  });
}

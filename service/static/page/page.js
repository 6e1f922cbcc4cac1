// The page's one entry: takes over the forms that work without it, puts answers in place, and wires the other rooms.

import { reach, readPage, sentence, usable } from "./api.js";
import { asked, isAsked, take, under } from "./asked.js";
import * as compare from "../viewer/compare.js";
import { byId, element, failure } from "./elements.js";
import * as keys from "./keys.js";
import * as map from "../map/map.js";
import { predict } from "../viewer/predictions.js";
import { prepareReport } from "../report/report.js";
import * as upload from "./upload.js";
import { show as showWarning, warningOf } from "./warning.js";
import * as why from "../viewer/why.js";

const OPEN_WORDS = ["hit", "view", "why"];
const BODY_FIELDS = ["k", "one_a_patient"];
const QUERY_FIELDS = ["study", "collection"];
const main = byId("main");
const filters = byId("filters");
let settledAt = "";
let searches = 0;
/** The films that are on their way with their patient, or null. */
let sending = null;
let departures = 0;

/** Returns the words of the filters that are set. */
function filterWords() {
  const plain = { one_a_patient: "true", k: "12" };
  const given = [...new FormData(filters)].filter(([name, value]) => value !== "" && plain[name] !== value);
  const found = given.some(([name]) => name === "finding");
  return given.filter(([name]) => name !== "label" || found);
}

function refuse(message, again = false) {
  if (!again) {
    byId("query").replaceChildren();
    showWarning("");
  }
  byId("results").replaceChildren(element("p", { className: "refused", role: "alert" }, sentence(message)));
}

/**
 * Puts an answer in place. A page comes back as HTML, also for a refusal; a body over the limit comes back as JSON.
 * A query that is asked `again`, under other filters, stays where it is refused.
 */
function fill({ text, kind }, again = false) {
  main.className = "reading";
  if (kind.startsWith("application/json")) return refuse(JSON.parse(text).error.message, again);
  const page = new DOMParser().parseFromString(text, "text/html");
  const kept = again && !page.getElementById("query").childElementCount;
  for (const id of kept ? ["results"] : ["query", "results"]) byId(id).replaceChildren(...page.getElementById(id).childNodes);
  const { study } = page.getElementById("main").dataset;
  const same = again || (study && study === main.dataset.study);
  if (!same || warningOf(page)) showWarning(warningOf(page));
  main.dataset.study = study;
  document.title = page.title;
  return null;
}

/** Makes what is on the page the query, and asks what belongs to it. */
function settle(films = {}, patient = "") {
  const shown = byId("query").childElementCount > 0;
  take(shown ? main.dataset.study : "", main.dataset.collection, shown ? films : {}, patient);
  settledAt = base();
  for (const line of byId("results").querySelectorAll(".refused")) line.textContent = sentence(line.textContent);
  byId("report-button").disabled = !isAsked();
  byId("chosen").textContent = new FormData(filters).getAll("finding").join(", ") || "any";
  byId("unfilter").hidden = !filterWords().some(([name]) => ![...BODY_FIELDS, ...QUERY_FIELDS].includes(name));
}

/** Searches with films, those chosen now or those of the query that is shown; a late answer to an earlier one is dropped. */
async function searchFilms(films, patient) {
  const turn = ++searches;
  const words = filterWords().filter(([name]) => name !== "study" && !BODY_FIELDS.includes(name));
  const { k, one_a_patient: one } = Object.fromEntries(new FormData(filters));
  sending = [films, patient];
  upload.busy(true);
  try {
    const answer = usable(await upload.send(films, patient, { k, group_by: one === "true" ? "patient" : "" }, new URLSearchParams(words)));
    if (turn !== searches) return;
    fill(answer, films === asked.films);
    filters.querySelector("[name=study]")?.remove();
    if (byId("query").childElementCount) upload.answered(films, patient);
    else byId("ask").open = true;
    const own = new URLSearchParams(words.filter(([name]) => name === "collection"));
    window.history.replaceState(null, "", own.size ? `?${own}` : window.location.pathname);
    settle(films, patient);
    byId("said").textContent = [...byId("query").querySelectorAll(".notice")].map((one) => one.textContent).join(" ");
    predict();
    byId("results").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  } catch (error) {
    if (turn === searches) failed(error, () => searchFilms(films, patient));
  }
  if (turn !== searches) return;
  sending = null;
  upload.busy(false);
}

async function searchStored() {
  const turn = ++searches;
  const url = `${under("/")}?${new URLSearchParams(filterWords())}`;
  byId("results").setAttribute("aria-busy", "true");
  try {
    const answer = await readPage(url);
    if (turn !== searches) return;
    fill(answer);
    window.history.pushState(null, "", url);
    settle();
  } catch (error) {
    if (turn === searches) failed(error, searchStored);
  }
  if (turn === searches) byId("results").setAttribute("aria-busy", "false");
}

/** Asks again what is asked, under the filters as they are now. */
function search() {
  if (sending) return searchFilms(...sending);
  return Object.keys(asked.films).length ? searchFilms(asked.films, asked.patient) : searchStored();
}

/** Returns the query of the URL without what is open over it. */
function base() {
  const url = new URL(window.location);
  for (const name of OPEN_WORDS) url.searchParams.delete(name);
  return url.search;
}

/** Opens and closes what the URL says; a URL of another query is loaded anew. */
function follow() {
  if (base() !== settledAt) return leave(() => window.location.reload());
  const words = new URL(window.location).searchParams;
  const [hit, view, map] = OPEN_WORDS.map((name) => words.get(name));
  if (hit && hit !== compare.shown.hit) compare.open(hit, { view, why: map });
  if (!hit && byId("compare").open) byId("compare").close();
  return null;
}

/** Says above the hits, or beside the films or the map that is open, what went wrong; where it may pass, with a button that tries `again`. */
function tell(error, again = null) {
  const place = document.querySelector("dialog[open] .told") ?? byId("results");
  place.querySelector(":scope > .refused")?.remove();
  place.prepend(failure(error, again));
}

/** Leaves this page by `go` once the service is there to answer: a browser would show an error of its own in its place. */
async function leave(go, collection = main.dataset.collection) {
  const turn = ++departures;
  document.body.classList.add("leaving");
  try {
    await reach(collection);
    if (turn === departures) go();
  } catch (error) {
    if (turn === departures) tell(error, () => leave(go, collection));
  }
  if (turn === departures) document.body.classList.remove("leaving");
}

/** Follows a link to another page of the service; what opens elsewhere, or within this page, is the browser's. */
function follows(event) {
  const link = event.target.closest("a[href]");
  const aside = event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
  if (!link || link.target || aside || event.defaultPrevented || link.getAttribute("href").startsWith("#")) return;
  event.preventDefault();
  leave(() => window.location.assign(link.href));
}

/** Sends a form whose answer is another page. */
function submits(event) {
  if (event.defaultPrevented) return;
  event.preventDefault();
  leave(() => event.target.submit());
}

/** Says why a search has no answer. What may pass leaves the query and its hits where they are, and can be tried again. */
function failed(error, again) {
  if (!error.passing) return refuse(error.message);
  main.className = "reading";
  if (!byId("query").childElementCount) byId("ask").open = true;
  return tell(error, again);
}

function clicked({ target }) {
  for (const menu of document.querySelectorAll(".menu[open]")) menu.open = menu.contains(target);
  const film = target.closest("#query .film, .hit .film, [data-compare]");
  if (!film) return;
  const hit = film.closest(".hit")?.dataset.study ?? null;
  compare.open(hit, { view: film.dataset.view ?? null });
}

function clear() {
  for (const box of filters.querySelectorAll("[type=checkbox]")) box.checked = false;
  for (const name of ["sex", "projection", "age_from", "age_to"]) filters.elements[name].value = "";
  search();
}

function prepare() {
  upload.prepare(searchFilms);
  compare.prepare(tell);
  why.prepare();
  map.prepare(leave);
  prepareReport(tell);
  keys.prepare();
  document.addEventListener("click", clicked);
  document.addEventListener("click", follows);
  document.addEventListener("submit", submits);
  filters.addEventListener("change", () => isAsked() && search());
  filters.addEventListener("submit", (event) => {
    event.preventDefault();
    if (isAsked()) search();
  });
  byId("unfilter").addEventListener("click", clear);
  byId("collection")?.addEventListener("change", ({ target }) => {
    const { value } = target;
    leave(() => window.location.assign(`${under("/")}?collection=${encodeURIComponent(value)}`), value);
  });
  window.addEventListener("popstate", follow);
}

document.documentElement.classList.add("scripted");
prepare();
showWarning(warningOf(document));
settle();
if (isAsked()) {
  predict();
  follow();
}

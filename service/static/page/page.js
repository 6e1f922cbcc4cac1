// The page's one entry: takes over the forms that work without it, puts answers in place, and wires the other rooms.

import { GONE, mend as mendFilms, reach, readPage, sendFilms, sentAgain, sentence } from "./api.js";
import { asked, isAsked, take, under } from "./asked.js";
import * as compare from "../viewer/compare.js";
import { byId, element, failure } from "./elements.js";
import * as keys from "./keys.js";
import * as map from "../map/map.js";
import { predict } from "../viewer/predictions.js";
import { prepareReport } from "../report/report.js";
import * as typed from "./typed.js";
import * as upload from "./upload.js";
import { show as showWarning, warningOf } from "./warning.js";
import * as why from "../viewer/why.js";

const OPEN_WORDS = ["hit", "view", "why"];
/** Words beside the filters, which say nothing of what a hit must be. */
const OTHER_WORDS = ["study", "query", "region", "region_view", "collection", "k", "one_a_patient"];
const main = byId("main");
const filters = byId("filters");
let settledAt = "";
let searches = 0;
/** The films that are on their way with their patient, and the promise of their id; or null. */
let sending = null;
let departures = 0;

/** Returns the words of the filters that are set, and of the query. */
function filterWords() {
  const plain = { one_a_patient: "true", k: "12" };
  const given = [...new FormData(filters)].filter(([name, value]) => value !== "" && plain[name] !== value);
  const found = given.some(([name]) => name === "finding");
  return given.filter(([name]) => name !== "label" || found);
}

/** Has the filters narrow a stored study, or films of an id, or what is like a part of one of their films. */
function nameQuery({ study = "", query = "", region = "", region_view = "" }) {
  for (const old of filters.querySelectorAll("[name=study], [name=query], [name=region], [name=region_view]")) old.remove();
  const given = Object.entries({ study, query, region, region_view }).filter(([, value]) => value);
  filters.prepend(...given.map(([name, value]) => element("input", { type: "hidden", name, value })));
}

function refuse(message, again = false) {
  if (!again) {
    byId("query").replaceChildren();
    showWarning("");
  }
  byId("results").replaceChildren(element("p", { className: "refused", role: "alert" }, sentence(message)));
}

/**
 * Puts an answer in place. A page comes back as HTML, also for a refusal; of what is no request for it as JSON.
 * A query that is asked `again`, under other filters, stays where it is refused.
 */
function fill({ text, kind }, again = false) {
  main.className = "reading";
  if (kind.startsWith("application/json")) return refuse(JSON.parse(text).error.message, again);
  const page = new DOMParser().parseFromString(text, "text/html");
  const showKept = keepPictures(page);
  const kept = again && !page.getElementById("query").childElementCount;
  for (const id of kept ? ["results"] : ["query", "results"]) byId(id).replaceChildren(...page.getElementById(id).childNodes);
  showKept();
  const { study, query, region, region_view } = page.getElementById("main").dataset;
  const same = again || (study && study === main.dataset.study);
  if (!same || warningOf(page)) showWarning(warningOf(page));
  Object.assign(main.dataset, { study, query: kept ? main.dataset.query : query, region, region_view });
  document.title = page.title;
  return null;
}

/**
 * Returns what has a page that was put in place show the pictures that are here already: no cache keeps films, so that
 * each would be sent anew. Those of the page are not asked for from now on.
 */
function keepPictures(page) {
  const here = [...document.querySelectorAll("#query .film img, .hit img")].filter((film) => film.complete && film.naturalWidth);
  const bySource = new Map(here.map((film) => [film.src, film]));
  const kept = [];
  for (const film of page.querySelectorAll("#query .film img, .hit img")) {
    const loaded = bySource.get(new URL(film.getAttribute("src"), window.location).href);
    if (!loaded) continue;
    film.removeAttribute("src");
    loaded.alt = film.alt;
    kept.push([film, loaded]);
  }
  return () => kept.forEach(([film, loaded]) => {
    film.replaceWith(loaded);
    loaded.dispatchEvent(new Event("load"));
  });
}

/** Makes what is on the page the query, and asks what belongs to it. */
function settle(films = {}, patient = "") {
  const shown = byId("query").childElementCount > 0;
  const { study, query, collection, region, region_view } = main.dataset;
  take(shown ? { study, query, collection, region, region_view, films, patient } : { collection });
  nameQuery(asked);
  settledAt = base();
  for (const line of byId("results").querySelectorAll(".refused")) line.textContent = sentence(line.textContent);
  byId("report-button").disabled = !isAsked();
  for (const button of main.querySelectorAll("[data-copy], [data-mend]")) button.hidden = false;
  byId("chosen").textContent = new FormData(filters).getAll("finding").join(", ") || "any";
  byId("unfilter").hidden = !filterWords().some(([name]) => !OTHER_WORDS.includes(name));
}

/** Sends films and searches with them, once however often the filters change meanwhile; a late answer to an earlier search is dropped. */
async function searchFilms(films, patient) {
  const turn = ++searches;
  if (sending?.films !== films || sending.patient !== patient) {
    sending = { films, patient, query: sendFilms(films, patient, upload.progress, main.dataset.collection) };
  }
  upload.busy(true);
  try {
    const query = await sending.query;
    if (turn !== searches) return;
    await show(query, films, patient, turn);
  } catch (error) {
    if (turn === searches) failedFilms(error, films, patient);
  }
  if (turn !== searches) return;
  sending = null;
  upload.busy(false);
}

/** Shows the cases similar to films that the service keeps. Raises Refused where no answer comes. */
async function show(query, films, patient, turn) {
  nameQuery({ query });
  const answer = await readPage(addressNow());
  if (turn !== searches) return;
  fill(answer);
  if (byId("query").childElementCount) upload.answered(films, patient);
  else byId("ask").open = true;
  window.history.pushState(null, "", addressNow());
  settle(films, patient);
  byId("said").textContent = [...byId("query").querySelectorAll(".notice")].map((one) => one.textContent).join(" ");
  predict();
  byId("results").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

/** Says why films have no answer. Where they are refused they stay to be taken out, and there is no query. */
function failedFilms(error, films, patient) {
  failed(error, () => searchFilms(films, patient));
  if (error.passing) return nameQuery(asked);
  byId("ask").open = true;
  Object.assign(main.dataset, { study: "", query: "" });
  nameQuery({});
  const own = new URLSearchParams(filterWords().filter(([name]) => name === "collection"));
  window.history.replaceState(null, "", own.size ? `?${own}` : window.location.pathname);
  return settle();
}

/** Returns the address of what is asked, under the filters as they are now. */
const addressNow = () => `${under("/")}?${new URLSearchParams(filterWords())}`;

/** Asks again what is asked, under other filters; films that the service has lost meanwhile are sent once more. */
async function searchAgain() {
  const turn = ++searches;
  byId("results").setAttribute("aria-busy", "true");
  try {
    let answer = await readPage(addressNow());
    if (turn === searches && answer.text.includes(`data-code="${GONE}"`) && (await sentAgain())) answer = await readPage(addressNow());
    if (turn !== searches) return;
    fill(answer, asked.query !== "");
    window.history.pushState(null, "", addressNow());
    settle(asked.films, asked.patient);
  } catch (error) {
    if (turn === searches) failed(error, searchAgain);
  }
  if (turn === searches) byId("results").setAttribute("aria-busy", "false");
}

/** Asks again what is asked, or is being sent, under the filters as they are now. */
function search() {
  return sending ? searchFilms(sending.films, sending.patient) : searchAgain();
}

/** Searches by a part of the query's film, or where none is named by the whole film; what is open is closed first. */
async function searchPart(part = {}) {
  const { study, query } = asked;
  if (window.history.state?.opened) {
    const back = new Promise((done) => { window.addEventListener("popstate", done, { once: true }); });
    byId("compare").close();
    await back;
  }
  byId("compare").close();
  nameQuery({ study, query, ...part });
  await searchAgain();
  byId("results").focus({ preventScroll: true });
}

/** Has the page and its address name films by another id, under which they were sent again. */
function renamed() {
  nameQuery(asked);
  main.dataset.query = asked.query;
  window.history.replaceState(window.history.state, "", addressNow());
  settledAt = base();
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
  if (!link || link.target || link.hasAttribute("download") || aside || event.defaultPrevented || link.getAttribute("href").startsWith("#")) return;
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
  main.className = "reading";
  if (!error.passing) return refuse(error.message);
  if (!byId("query").childElementCount) byId("ask").open = true;
  return tell(error, again);
}

/** Sets films right as a button of theirs says, and searches with them; what was sent is no longer what is asked about. */
async function mend(button) {
  const turn = ++searches;
  button.disabled = true;
  try {
    await show(await mendFilms(button.dataset.mend, button.dataset.view), {}, asked.patient, turn);
  } catch (error) {
    button.disabled = false;
    if (turn === searches) failed(error, () => mend(button));
  }
}

/** Puts a text of the page, or its address, on the clipboard, and says so. */
async function copy(button) {
  const text = button.dataset.copy === "address" ? window.location.href : document.querySelector(button.dataset.copy).textContent.trim();
  const done = await navigator.clipboard.writeText(text).then(() => "Copied.", () => "This browser does not let the page copy: select the text instead.");
  byId("said").textContent = done;
  button.dataset.done = done;
}

function clicked(event) {
  const { target } = event;
  const copied = target.closest("[data-copy]");
  if (copied) copy(copied);
  const whole = target.closest("[data-whole-film]");
  if (whole && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
    event.preventDefault();
    searchPart();
  }
  const wrong = target.closest("[data-mend]");
  if (wrong) mend(wrong);
  for (const menu of document.querySelectorAll(".menu[open]")) menu.open = menu.contains(target);
  const film = target.closest("#query .film, .hit[data-study] .film, [data-compare]");
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
  compare.prepare(tell, searchPart);
  why.prepare();
  map.prepare(leave);
  prepareReport(tell);
  keys.prepare();
  typed.prepare();
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
  document.addEventListener("renamed", renamed);
}

document.documentElement.classList.add("scripted");
prepare();
showWarning(warningOf(document));
settle();
if (isAsked()) {
  predict();
  follow();
}

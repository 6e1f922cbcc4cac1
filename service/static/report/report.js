// One page to print or to keep as PDF: query, findings, hits, maps, with the fingerprint and "research use" on it.

import { read, sentence } from "../page/api.js";
import { asked, studyAddress } from "../page/asked.js";
import { queryFilms, storedFilms } from "../viewer/compare.js";
import { byId, element, similarityWords } from "../page/elements.js";
import { doubtOf, explain, lastLooked, trustSentence } from "../viewer/explain.js";
import { factsLine, findingWords } from "../viewer/findings.js";
import { latest } from "../viewer/predictions.js";
import { warning } from "../page/warning.js";

const HITS = 6;
const ROWS = 8;
const SIDE = 700;
const STRENGTH = 0.6;
/** Pixels across a stripe of a map that is not to be relied on, and across the gap beside it. */
const STRIPE = 10;

const report = byId("report");
let told = () => {};

let work = null;

/** Builds the report of what is on the page and opens the browser's print dialog; asked again meanwhile, gives it up. */
export async function openReport() {
  if (work) return work.abort();
  const button = byId("report-button");
  work = new AbortController();
  const { signal } = work;
  button.textContent = "Cancel report";
  try {
    await build(signal);
    if (!signal.aborted) window.print();
  } catch (error) {
    if (!signal.aborted) told(error, openReport);
  }
  work = null;
  button.textContent = "Report";
  return null;
}

/** Fills the report: the maps that were last looked at, or those of the first finding and the first hit. */
export async function build(signal = null) {
  const cards = [...byId("results").querySelectorAll(".hit[data-study]")];
  const first = latest()?.predictions.find((one) => one.probability !== null)?.finding;
  const { finding = first, hit = cards[0]?.dataset.study } = lastLooked();
  const missing = [];
  const [why, alike, other, hits] = await Promise.all([
    finding ? mapsOf({ finding }, finding, missing, signal) : [],
    hit ? mapsOf({ hit }, `the similarity to ${hitName(hit, cards)}`, missing, signal) : [],
    hit ? read(studyAddress(hit)) : null,
    Promise.all(cards.slice(0, HITS).map(hitFigure)),
  ]);
  const films = queryFilms();
  const query = await row(films, [], "query", "query");
  const because = why.length ? await row(films, why, "query", finding) : [];
  const likeness = [
    ...(await row(films, alike, "query", "query", true)),
    ...(other ? await row(storedFilms(other), alike, "hit", hitName(hit, cards), true) : []),
  ];
  report.replaceChildren(
    head(), section("report-films", query, because), ...missing, section("report-columns", [predictions()], [facts()]), reasons(),
    element("h2", {}, "Similar cases"), element("ol", { className: "report-hits" }, ...hits),
    ...(alike.length ? [element("h2", {}, `Where the query and ${hitName(hit, cards)} are similar (${method().selectedOptions[0].label})`), section("report-films", likeness)] : []),
    foot(),
  );
}

const section = (name, ...groups) => element("section", { className: name }, ...groups.flat());

function hitName(study, cards) {
  const card = cards.find((one) => one.dataset.study === study);
  return card ? `hit ${card.dataset.rank}` : study;
}

/** The map's method is what the reader chose beside the films. */
const method = () => byId("method");

/** Returns the maps of an aim with their figures; where they cannot be had none, and a sentence joins the `missing`. */
function mapsOf(aim, name, missing, signal) {
  return explain(aim, method().value, { trust: true, signal }).then((found) => found.maps, (error) => {
    missing.push(element("p", { className: "notice" }, `The map of ${name} is not available. ${sentence(error.message)}`));
    return [];
  });
}

/** Returns a figure a view of a side's films, with its map and how far that holds. */
function row(films, maps, side, name, likeness = false) {
  return Promise.all(Object.entries(films).map(([view, film]) => {
    const map = maps.find((one) => one.side === side && one.view === view);
    const doubt = doubtOf(map, warning() !== "", likeness);
    const words = map ? [`${name}, ${view}`, trustSentence(map), doubt] : [`${name}, ${view}`];
    return laid(film, map, words.filter(Boolean).map(sentence).join(" "), doubt !== "");
  }));
}

/** Returns a figure of a film, with a map over it where there is one: in grey stripes where it is `doubted`. */
async function laid(source, map, words = "", doubted = false) {
  const film = new Image();
  film.src = source;
  if (!(await film.decode().then(() => true, () => false))) return element("figure", {}, element("figcaption", {}, `${sentence(words)} This film cannot be shown.`));
  const scale = Math.min(1, SIDE / Math.max(film.naturalWidth, film.naturalHeight));
  const canvas = element("canvas", { width: film.naturalWidth * scale, height: film.naturalHeight * scale });
  const brush = canvas.getContext("2d");
  brush.drawImage(film, 0, 0, canvas.width, canvas.height);
  brush.globalAlpha = STRENGTH;
  if (doubted) stripe(brush, canvas);
  if (map?.canvas) brush.drawImage(map.canvas, 0, 0, canvas.width, canvas.height);
  return element("figure", {}, canvas, element("figcaption", {}, words));
}

/** Makes what is drawn next grey, and seen through slanting stripes alone. */
function stripe(brush, { width, height }) {
  const stripes = new Path2D();
  for (let x = -height; x < width; x += 2 * STRIPE) {
    stripes.moveTo(x, height);
    for (const [right, y] of [[height, 0], [height + STRIPE, 0], [STRIPE, height]]) stripes.lineTo(x + right, y);
    stripes.closePath();
  }
  brush.clip(stripes);
  brush.filter = "grayscale(1)";
}

function head() {
  const name = asked.study || Object.values(asked.films).map((film) => film.name).join(" and ") || "films";
  return element("header", {}, element("h1", {}, `Precedent: cases similar to ${name}`), element("p", { className: "use" }, "For research use. Not a medical device; not for diagnosis."));
}

const shownPredictions = () => (latest()?.predictions ?? []).slice(0, ROWS);

function predictions() {
  const found = shownPredictions();
  const cells = (kind, ...texts) => element("tr", {}, ...texts.map((text) => element(kind, {}, text)));
  const vote = (one) => (one.vote ? `${one.vote.share.toFixed(2)} (${one.vote.low.toFixed(2)}–${one.vote.high.toFixed(2)})` : "–");
  return element("table", {}, element("caption", {}, "Predictions, and the neighbours' vote with its 95 % interval"),
    element("thead", {}, cells("th", "finding", "probability", "call", "AUROC, with/without", "vote", "")),
    element("tbody", {}, ...found.map((one) => cells(
      "td", one.finding, one.probability === null ? "–" : one.probability.toFixed(2), one.probability === null ? "–" : one.call ?? "no call",
      judged(one), vote(one), one.disagrees ? "≠ disagree" : "",
    ))));
}

/** Returns how well the probe tells a finding, and the studies with and without it that say so, in few signs. */
function judged({ evidence }) {
  if (!evidence) return "–";
  const interval = evidence.low === null ? "" : ` (${evidence.low.toFixed(2)}–${evidence.high.toFixed(2)})`;
  return `${evidence.auroc === null ? "–" : evidence.auroc.toFixed(2)}${interval}, ${evidence.positives}/${evidence.negatives}`;
}

/** Returns what the calls mean, and why others are none, those of one reason together. */
function reasons() {
  const found = shownPredictions();
  const called = found.filter((one) => one.meaning).map((one) => `${one.finding} ${one.call}: ${one.meaning}.`);
  const whys = [...new Set(found.map((one) => one.no_call).filter(Boolean))];
  const silent = whys.map((why) => `No call on ${found.filter((one) => one.no_call === why).map((one) => one.finding).join(", ")}: ${why}.`);
  return element("p", { className: "reason" }, [...called, ...silent].join(" "));
}

function facts() {
  const stored = [...byId("query").querySelectorAll(".notice, .facts, .findings")].map((one) => one.cloneNode(true));
  const notice = warning() ? [element("p", { className: "warning" }, warning())] : [];
  const count = byId("results").querySelector("h2")?.textContent.replace(/\s+/g, " ").trim() ?? "";
  const untrained = byId("untrained") ? [element("p", {}, byId("untrained").textContent)] : [];
  return element("div", {}, ...stored, ...untrained, ...notice, element("p", {}, `${count}; ${narrowing()}`));
}

/** Returns the filters in words. */
function narrowing() {
  if (byId("unfilter").hidden) return "no filter";
  const { finding, label, sex, projection, age_from: from, age_to: to } = words(new FormData(byId("filters")));
  return [
    finding.length ? `${finding.join(" and ")} ${label}` : "", sex, projection,
    from ? `from ${from} years` : "", to ? `up to ${to} years` : "",
  ].filter(Boolean).join(", ");
}

const words = (form) => ({ ...Object.fromEntries(form), finding: form.getAll("finding") });

async function hitFigure(card) {
  const { study: id, rank, similarity } = card.dataset;
  const study = await read(studyAddress(id));
  const film = await laid(Object.values(storedFilms(study))[0], null, `${rank}: ${id}, ${similarityWords(similarity)}`);
  return element("li", {}, film, element("p", {}, findingWords(study)), element("p", {}, factsLine(study)));
}

function foot() {
  const { fingerprint, rows, collection } = byId("main").dataset;
  const day = new Date().toISOString().slice(0, 16).replace("T", " ");
  const searched = [collection, `${Number(rows).toLocaleString("en")} studies`, `${day} UTC`].filter(Boolean).join(" · ");
  return element("footer", {}, element("p", {}, `Encoder ${fingerprint}`), element("p", {}, searched));
}

/** Remembers how a failure is told. */
export function prepareReport(tell) {
  told = tell;
}

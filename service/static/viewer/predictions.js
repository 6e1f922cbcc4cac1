// What a probe says of the query, beside it the neighbours' vote, and for one finding the nearest studies with and without.

import { ask, sentence } from "../page/api.js";
import { asked, isAsked, studyAddress } from "../page/asked.js";
import { open } from "./compare.js";
import { byId, drawn, element, failure, similarityWords } from "../page/elements.js";
import { factsLine } from "./findings.js";
import { warn } from "../page/warning.js";
import { offer } from "./why.js";

const PATH = "/v1/predict";
/** Rows shown at once; one that disagrees with the neighbours is always shown. */
const FIRST = 6;
const CALLS = { "ruled in": "▲", possible: "◆", "ruled out": "▽" };

const panel = byId("predictions");
let answer = null;
/** The answer that was shown last, with the options it was asked for with and the query's turn. */
let before = { turn: -1 };

/** Returns the latest answer about the query; null while there is none. */
export const latest = () => answer;

/** Asks for the query's predictions and shows them; a late answer to an earlier query is dropped. */
export async function predict(options = {}) {
  const turn = asked.turn;
  panel.hidden = !isAsked();
  if (!isAsked()) return;
  answer = null;
  panel.replaceChildren(heading(options), element("p", { className: "hint", role: "status" }, "Computing predictions…"));
  try {
    const found = await ask(PATH, options);
    if (turn === asked.turn) show(found, options);
  } catch (error) {
    if (turn !== asked.turn) return;
    const again = failure(error, () => predict(options), { className: "hint", role: "status" });
    if (error.passing && before.turn === turn) {
      show(before.found, before.options);
      panel.querySelector("header").after(again);
      return;
    }
    offer([]);
    panel.replaceChildren(heading(options), again);
  }
}

function heading(options) {
  const averaged = element("input", { type: "checkbox", id: "tta", checked: Boolean(options.tta) });
  const spread = element("input", { type: "checkbox", id: "spread", checked: Boolean(options.dropout_passes) });
  for (const box of [averaged, spread]) {
    box.addEventListener("change", () => predict({
      ...(averaged.checked ? { tta: true } : {}), ...(spread.checked ? { dropout_passes: 20 } : {}),
    }));
  }
  return element(
    "header", {}, element("h2", {}, "Predictions"),
    element("details", { className: "menu" }, element("summary", {}, "Options"), element(
      "div", { className: "choices" },
      element("label", {}, averaged, " average five looks at the films"),
      element("label", {}, spread, " spread over 20 dropout passes"),
    )),
  );
}

function show(found, options) {
  answer = found;
  before = { found, options, turn: asked.turn };
  const known = found.predictions.filter((one) => one.probability !== null);
  offer(known.map((one) => one.finding));
  const rows = found.predictions.map((one) => row(one, known.length > 0));
  const isFirst = (at) => rows.length <= FIRST + 1 || at < FIRST || found.predictions[at].disagrees;
  const list = element("ol", { className: "rows" }, ...rows.filter((_, at) => isFirst(at)));
  const rest = rows.filter((_, at) => !isFirst(at));
  const more = element("button", { type: "button", className: "quiet" }, `Show ${rest.length} more`);
  more.addEventListener("click", () => {
    list.replaceChildren(...rows);
    more.remove();
  });
  const legend = known.length
    ? "Bar: probability by the probe, a model trained on labelled studies. Marks: below the first the finding is ruled out, from the second on ruled in. Thin line: the neighbours' vote, which is the share of similar studies that have the finding, with its 95 % interval."
    : `${found.notice ?? ""} Line: the share of similar studies that have the finding, with its 95 % interval.`;
  panel.replaceChildren(
    heading(options), element("p", { className: "hint" }, legend), list, ...(rest.length ? [more] : []),
    element("div", { id: "contrast", className: "contrast", "aria-live": "polite" }),
  );
  warn(found.familiarity);
  if (!found.familiarity?.unfamiliar) return;
  panel.querySelector("header").after(element("p", { className: "disagrees" }, "Unfamiliar film: no finding is ruled in or out, and the probabilities may be wrong."));
}

function row(one, probed) {
  const why = element("button", { type: "button", className: "quiet" }, "Why", hiddenText(` ${one.finding}`));
  why.addEventListener("click", () => open(null, { why: one.finding }));
  const pair = element("button", { type: "button", className: "quiet" }, "Contrast", hiddenText(`: nearest with and without ${one.finding}`));
  pair.addEventListener("click", () => contrast(one.finding, pair));
  return element(
    "li", { data: { finding: one.finding } },
    element("p", { className: "line" }, element("strong", {}, one.finding), call(one)),
    bar(one),
    element(
      "div", { className: "row" }, element("p", { className: "figures" }, probability(one), voteWords(one.vote)),
      element("p", { className: "actions" }, ...(probed && one.probability !== null ? [why] : []), pair),
    ),
    ...reasons(one).map((words) => element("p", { className: "reason" }, words)),
    ...(one.disagrees ? [element("p", { className: "disagrees" }, "≠ probe and neighbours disagree")] : []),
  );
}

const hiddenText = (text) => element("span", { className: "hidden" }, text);

/** Returns how well the probe tells a finding apart, in words; "" where that is not known. */
function evidenceWords({ evidence }) {
  if (!evidence) return "";
  const counts = `${evidence.positives.toLocaleString("en")} with, ${evidence.negatives.toLocaleString("en")} without`;
  if (evidence.auroc === null) return `no AUROC: judged on ${counts}`;
  const interval = evidence.low === null ? "" : ` (${evidence.low.toFixed(2)}–${evidence.high.toFixed(2)})`;
  return `AUROC ${evidence.auroc.toFixed(2)}${interval} on ${counts}`;
}

/** Returns why a finding is called as it is, or not called, and how well the probe tells it. */
function reasons(one) {
  if (one.probability === null) return [];
  const unlikely = answer.familiarity?.unfamiliar ? null : one.no_call;
  return [one.meaning ?? unlikely, evidenceWords(one)].filter(Boolean).map(sentence);
}

function call(one) {
  if (!one.call) return element("span", { className: "call" }, one.probability === null ? "" : "no call");
  const kind = one.call.replace(" ", "-");
  return element("span", { className: `call ${kind}` }, element("span", { "aria-hidden": "true" }, `${CALLS[one.call]} `), one.call);
}

function probability(one) {
  if (one.probability === null) return "";
  const spread = one.spread === null || one.spread === undefined ? "" : ` ± ${one.spread.toFixed(2)}`;
  return `${one.probability.toFixed(2)}${spread} · `;
}

function voteWords(vote) {
  if (!vote) return "no similar study has a label for it";
  const interval = `${vote.low.toFixed(2)}–${vote.high.toFixed(2)}`;
  const words = element("span", { title: `of ${vote.neighbours} neighbours` }, `vote ${vote.share.toFixed(2)} (${interval})`);
  words.append(hiddenText(` of ${vote.neighbours} neighbours`));
  return words;
}

/** Draws probability, thresholds and vote on one axis from 0 to 1; the figures below say the same. */
function bar(one) {
  const picture = drawn("svg", { viewBox: "0 0 100 12", preserveAspectRatio: "none", class: "bar-picture", "aria-hidden": "true" });
  const add = (kind, x, y, width, height) => picture.append(drawn("rect", { class: kind, x, y, width, height }));
  add("ground", 0, 0, 100, 6);
  if (one.probability !== null) add("probability", 0, 0, 100 * one.probability, 6);
  for (const name of ["rule_out", "rule_in"]) {
    if (one.thresholds?.[name] !== undefined) add("tick", 100 * one.thresholds[name] - 0.2, 0, 0.4, 6);
  }
  if (one.vote) {
    add("interval", 100 * one.vote.low, 8.5, Math.max(100 * (one.vote.high - one.vote.low), 0.5), 1.2);
    add("share", 100 * one.vote.share - 0.7, 7, 1.4, 4.2);
  }
  return picture;
}

async function contrast(finding, button) {
  const place = byId("contrast");
  button.disabled = true;
  place.replaceChildren(element("p", { className: "hint" }, "Searching for both…"));
  try {
    const { contrast: pair } = await ask(PATH, { finding });
    place.replaceChildren(
      element("h3", {}, `Nearest with and without ${finding}`),
      counterpart(pair.present, `with ${finding}`), counterpart(pair.absent, `without ${finding}`),
    );
  } catch (error) {
    place.replaceChildren(failure(error, () => contrast(finding, button), { className: "refused" }));
  }
  button.disabled = false;
  place.scrollIntoView({ block: "nearest" });
}

function counterpart(one, side) {
  if (!one) return element("p", { className: "hint" }, `No study ${side} among other patients.`);
  const view = one.study.views[0];
  const film = element("img", { alt: `${view} film of ${one.study.study_id}`, src: studyAddress(one.study.study_id, "/image", { view }) });
  const button = element("button", { type: "button", className: "film", "aria-label": `Compare with ${one.study.study_id}` }, film);
  button.addEventListener("click", () => open(one.study.study_id));
  const given = one.relaxed.length ? `not matched in ${one.relaxed.join(", ")}` : "matched in view, projection, sex and age";
  return element(
    "article", { className: "counterpart" }, button,
    element("div", {}, element("strong", {}, side), element("p", {}, one.study.study_id, ` ${similarityWords(one.similarity)}`),
      element("p", { className: "facts" }, factsLine(one.study)), element("p", { className: "hint" }, given)),
  );
}

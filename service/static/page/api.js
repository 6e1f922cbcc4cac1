// The service's API: what it is asked about the query, and its refusals as sentences. It knows no element of the page.

import { asked, under } from "./asked.js";

/** Of answers that another try may better: signed out, too slow, too many at once, stopping, or no service behind the proxy. */
const PASSING = [401, 408, 429, 502, 503, 504];
/** Milliseconds without an answer after which it is given up: an explanation may wait for seven others. */
export const PATIENCE = 180_000;
/** Milliseconds after which the service counts as away, asked for nothing but its empty page. */
const AWAY = 20_000;
/** Bytes a millisecond of the slowest line that the service takes films from. */
const SLOWEST = 16;

/** A refusal whose message can be shown as it is; `passing` where the same may be answered a little later. */
export class Refused extends Error {
  constructor(message, passing = false) {
    super(message);
    this.passing = passing;
  }
}

/** Returns what is said where no answer has come. */
export const unreached = (slow = false) => new Refused(
  slow ? "The service did not answer in time." : "The service cannot be reached.", true,
);

const within = (patience = PATIENCE) => ({ signal: AbortSignal.timeout(patience) });
const lost = (error) => { throw unreached(error.name === "TimeoutError"); };

/** Returns text, kind and code of a page. Raises Refused where none has come, or one that passes. */
export async function readPage(whole, patience = PATIENCE) {
  const response = await fetch(whole, within(patience)).catch(lost);
  return usable({ text: await response.text().catch(lost), kind: response.headers.get("Content-Type") || "", code: response.status });
}

/** Raises Refused unless the service answers at present whoever leaves this page for another, of a collection. */
export const reach = (collection) => readPage(under(collection ? `/?${new URLSearchParams({ collection })}` : "/"), AWAY);

/** Returns an answer, given as text, kind and code. Raises Refused where it is a refusal that passes, or no page of the service. */
export function usable(answer) {
  const json = answer.kind.startsWith("application/json");
  const page = json ? null : new DOMParser().parseFromString(answer.text, "text/html");
  if (page?.querySelector("main.login [name=token]")) throw new Refused("You are signed out. Sign in again, in another tab.", true);
  if (!PASSING.includes(answer.code) && (json || page.getElementById("results"))) return answer;
  const said = json ? messageOf(answer.text) : page.querySelector("#results .refused, main.login section h2 + p")?.textContent;
  throw new Refused(sentence(said || unsaid(answer.code)), true);
}

/** Returns what is said of an answer without words of the service's own. */
const unsaid = (code) => (code < 400 ? "the answer was incomplete or not from this service" : `the service answered ${code}`);

function messageOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return "";
  }
}

/** Returns the JSON of a GET of a whole address. Raises Refused. */
export function read(whole) {
  return answer(fetch(whole, within()));
}

/** Returns the JSON of a POST about the query: its stored study by name, or its films. Raises Refused. */
export function ask(path, fields) {
  if (asked.study) return askOf(asked.study, path, fields);
  const body = new FormData();
  for (const [view, film] of Object.entries(asked.films)) body.append(view, film);
  const patience = Object.values(asked.films).reduce((most, { size }) => most + size / SLOWEST, PATIENCE);
  if (asked.patient) body.append("patient_id", asked.patient);
  for (const [name, value] of Object.entries(named(fields))) body.append(name, value);
  return answer(fetch(under(path), { method: "POST", body, ...within(patience) }));
}

/** Returns the JSON of a POST about a stored study. Raises Refused. */
export function askOf(study, path, fields) {
  const body = JSON.stringify({ study_id: study, ...named(fields) });
  return answer(fetch(under(path), { method: "POST", headers: { "Content-Type": "application/json" }, body, ...within() }));
}

const named = (fields) => (asked.collection ? { ...fields, collection: asked.collection } : fields);

async function answer(pending) {
  const response = await pending.catch(lost);
  const json = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const body = json ? await response.json().catch(lost) : null;
  if (response.ok && body !== null) return body;
  const passing = response.ok || PASSING.includes(response.status);
  throw new Refused(sentence(body?.error?.message ?? unsaid(response.status)), passing);
}

/** Returns a message with a capital and a full stop. */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

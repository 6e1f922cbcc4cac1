// The service's API: what it is asked about the query, and its refusals as sentences. It knows no element of the page.

import { asked, rename, under } from "./asked.js";

/** Of answers that another try may better: signed out, too slow, too many at once, stopping, or no service behind the proxy. */
const PASSING = [401, 408, 429, 502, 503, 504];
/** Milliseconds without an answer after which it is given up: an explanation may wait for seven others. */
export const PATIENCE = 180_000;
/** Milliseconds after which the service counts as away, asked for nothing but its empty page. */
const AWAY = 20_000;
/** What a refusal says of films that the service keeps no longer, or in another process. */
export const GONE = "query_gone";

/** A refusal whose message can be shown as it is; `passing` where the same may be answered a little later. */
export class Refused extends Error {
  constructor(message, passing = false, code = "") {
    super(message);
    Object.assign(this, { passing, code });
  }
}

/** Returns what is said where no answer has come. */
export const unreached = (slow = false) => new Refused(
  slow ? "The service did not answer in time." : "The service cannot be reached.", true,
);

/** What is said of what the reader has given up; the service, whose connection is closed, gives it up too. */
export const CANCELLED = "cancelled";
const within = (patience = PATIENCE, signal = null) => {
  const late = AbortSignal.timeout(patience);
  return { signal: signal ? AbortSignal.any([late, signal]) : late };
};
const lost = (error) => {
  throw error.name === "AbortError" ? new Refused("Given up.", false, CANCELLED) : unreached(error.name === "TimeoutError");
};

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

/** Returns the JSON of a POST about the query: its stored study by name, or its films by their id. Raises Refused. */
export async function ask(path, fields) {
  return asked.study ? askOf(asked.study, path, fields) : askById(path, fields);
}

/** Returns the JSON of a POST about the query by its id, under which `working` tells of it meanwhile. Raises Refused. */
export async function askById(path, fields, signal = null) {
  const { study, turn } = asked;
  try {
    return await post(path, { query: await idOfQuery(), ...fields }, signal);
  } catch (error) {
    if (error.code !== GONE || turn !== asked.turn) throw error;
    if (study) return askOf(study, path, fields, signal);
    if (!(await sentAgain())) throw error;
    return post(path, { query: asked.query, ...fields }, signal);
  }
}

/** Returns the JSON of a POST about a stored study. Raises Refused. */
export const askOf = (study, path, fields, signal = null) => post(path, { study_id: study, ...fields }, signal);

function post(path, fields, signal = null, named = true) {
  const body = JSON.stringify(asked.collection && named ? { ...fields, collection: asked.collection } : fields);
  const headers = { "Content-Type": "application/json" };
  return answer(fetch(under(path), { method: "POST", headers, body, ...within(PATIENCE, signal) }));
}

let named = { turn: -1 };

/** Returns the id of the query; a stored study is given one. */
function idOfQuery() {
  if (asked.query) return asked.query;
  if (named.turn !== asked.turn) named = { turn: asked.turn, id: post("/v1/queries", { study_id: asked.study }).then(({ query }) => query) };
  return named.id;
}

/** Returns what is being computed about the query at the moment. Raises Refused. */
export const working = async () => (await read(under(`/v1/queries/${await idOfQuery()}`))).working;

let again = null;

/** Sends the query's films once more where the service has none of it left; returns whether this page has them. Raises Refused. */
export async function sentAgain() {
  if (!Object.keys(asked.films).length) return false;
  again ??= sendFilms(asked.films, asked.patient).then(rename).finally(() => { again = null; });
  await again;
  return true;
}

/** Returns the id of a query with the films of this one set right. Raises Refused. */
export const mend = (name, view) => post(`/v1/queries/${asked.query}/mend`, { mend: name, ...(view ? { view } : {}) }, null, false).then(({ query }) => query);

/**
 * Sends films to be kept, and returns the id under which they are asked about. Raises Refused.
 * `progress` hears of each part that is sent, from 0 to 1.
 */
export function sendFilms(films, patient, progress = () => {}, collection = asked.collection) {
  const body = new FormData();
  const fields = { ...films, patient_id: patient, collection, sort: "true" };
  for (const [name, value] of Object.entries(fields)) if (value) body.set(name, value);
  const request = new XMLHttpRequest();
  const begun = performance.now();
  request.timeout = PATIENCE;
  request.open("POST", under("/v1/queries"));
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    request.timeout = performance.now() - begun + PATIENCE; // films on a slow line are not late while they move
    progress(loaded / total);
  });
  const came = new Promise((resolve, reject) => {
    request.addEventListener("load", () => resolve(new Response(request.responseText, {
      status: request.status, headers: { "Content-Type": request.getResponseHeader("Content-Type") || "" },
    })));
    for (const end of ["error", "abort"]) request.addEventListener(end, () => reject(new Error()));
    request.addEventListener("timeout", () => reject(new DOMException("", "TimeoutError")));
    request.send(body);
  });
  return answer(came).then(({ query }) => query);
}

async function answer(pending) {
  const response = await pending.catch(lost);
  const json = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const body = json ? await response.json().catch(lost) : null;
  if (response.ok && body !== null) return body;
  const passing = response.ok || PASSING.includes(response.status);
  throw new Refused(sentence(body?.error?.message ?? unsaid(response.status)), passing, body?.error?.code);
}

/** Returns a message with a capital and a full stop. */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

// The service's API: what it is asked about the query, and its refusals as sentences. It knows no element of the page.

import { asked, under } from "./asked.js";

/** A refusal whose message can be shown as it is. */
export class Refused extends Error {}

/** Returns the JSON of a GET of a whole address. Raises Refused. */
export function read(whole) {
  return answer(fetch(whole));
}

/** Returns the JSON of a POST about the query: its stored study by name, or its films. Raises Refused. */
export function ask(path, fields) {
  if (asked.study) return askOf(asked.study, path, fields);
  const body = new FormData();
  for (const [view, film] of Object.entries(asked.films)) body.append(view, film);
  if (asked.patient) body.append("patient_id", asked.patient);
  for (const [name, value] of Object.entries(named(fields))) body.append(name, value);
  return answer(fetch(under(path), { method: "POST", body }));
}

/** Returns the JSON of a POST about a stored study. Raises Refused. */
export function askOf(study, path, fields) {
  const body = JSON.stringify({ study_id: study, ...named(fields) });
  return answer(fetch(under(path), { method: "POST", headers: { "Content-Type": "application/json" }, body }));
}

const named = (fields) => (asked.collection ? { ...fields, collection: asked.collection } : fields);

async function answer(pending) {
  const response = await pending.catch(() => {
    throw new Refused("The service cannot be reached.");
  });
  const json = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const body = json ? await response.json() : null;
  if (response.ok && body !== null) return body;
  throw new Refused(sentence(body?.error?.message ?? `the service answered ${response.status}`));
}

/** Returns a message with a capital and a full stop. */
export function sentence(message) {
  const text = message.charAt(0).toUpperCase() + message.slice(1);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

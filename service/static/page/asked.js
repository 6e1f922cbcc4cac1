// The query that the page shows at present: a stored study, or films that the service keeps. The one place that knows.

/** The path below which the service lies, "" where it has the whole host. */
const [ROOT] = new URL(import.meta.url).pathname.split("/static/");

/** Returns the address of a path of the service. */
export const under = (path) => ROOT + path;

/**
 * `query` is the id of films that the service keeps; `films` and `patient` are what was sent, where this page has sent it;
 * `region` the part of its film `region_view` that is searched by, or "".
 * `turn` counts the queries, so that an answer that comes late can be told from one that is still wanted.
 */
export const asked = { study: "", query: "", collection: "", region: "", region_view: "", films: {}, patient: "", turn: 0 };

/** Takes a stored study, or where it is "" the films of an id, for the query; one that is asked again keeps its turn. */
export function take({ study = "", query = "", collection, region = "", region_view = "", films = {}, patient = "" }) {
  const same = study ? study === asked.study : query === asked.query;
  const turn = same && collection === asked.collection ? asked.turn : asked.turn + 1;
  Object.assign(asked, { study, query, collection, region, region_view, films, patient, turn });
}

/** Takes another id for the same films, which were sent again; whoever shows the id hears of it as the event "renamed". */
export function rename(query) {
  asked.query = query;
  document.dispatchEvent(new Event("renamed"));
}

/** Returns whether there is a query at all. */
export const isAsked = () => asked.study !== "" || asked.query !== "";

/** Returns the address of a route of a stored study; a slash in its name stays a slash. */
export function studyAddress(study, route = "", parameters = {}, room = "/v1/studies/") {
  const name = study.split("/").map(encodeURIComponent).join("/");
  return address(`${room}${name}${route}`, parameters);
}

/** Returns the address of a path with its parameters and, where there are several, the collection. */
export function address(path, parameters = {}) {
  const words = new URLSearchParams();
  const all = asked.collection ? { ...parameters, collection: asked.collection } : parameters;
  for (const [name, value] of Object.entries(all)) {
    for (const one of [value].flat()) words.append(name, one);
  }
  return words.size ? `${under(path)}?${words}` : under(path);
}

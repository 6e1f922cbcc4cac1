// The map of the collection: every study a point, the query and its hits marked; points and a list open studies.

import { ask, read } from "../page/api.js";
import { address, asked, isAsked, studyAddress } from "../page/asked.js";
import { byId, element, failure } from "../page/elements.js";
import { place, paint, nearest } from "./plane.js";

const LISTED = 100;
const dialog = byId("map");
const canvas = byId("plane");
let map = null;
let query = null;
let pointed = -1;

const hits = () => new Map([...byId("results").querySelectorAll(".hit[data-study]")].map((hit) => [hit.dataset.study, hit.dataset.rank]));

/** Opens the map, coloured by a finding of the query or of the reader's choice. */
export async function openMap() {
  dialog.querySelector(".told").replaceChildren();
  dialog.showModal();
  await load(byId("map-finding").value);
}

async function load(finding) {
  const told = byId("map-status");
  told.textContent = "Drawing the map…";
  try {
    const study = [...new Set([asked.study, ...hits().keys()])].filter(Boolean);
    map = await read(address("/v1/map", { ...(finding ? { finding } : {}), study }));
    query = await queryPlace();
  } catch (error) {
    told.replaceChildren(...failure(error, () => load(finding)).childNodes);
    return;
  }
  choices(finding);
  if (!finding && byId("map-finding").value) return load(byId("map-finding").value);
  const shares = map.shares.map((share) => `${Math.round(100 * share)} %`).join(" and ");
  const thinned = map.study_ids.length < map.rows ? `${map.study_ids.length.toLocaleString("en")} of ` : "";
  const absent = map.absent ? ` ${map.absent.toLocaleString("en")} added since the map was computed ${map.absent === 1 ? "is" : "are"} not on it yet.` : "";
  told.textContent = `${thinned}${map.rows.toLocaleString("en")} studies.${absent} Similar studies often lie close together on the map, but not always: its two axes show ${shares} of the differences between their vectors.`;
  draw();
  list();
}

function choices(finding) {
  const select = byId("map-finding");
  if (select.options.length) return;
  select.append(...map.findings.map((name) => element("option", {}, name)));
  const present = byId("query").querySelector(".present dd");
  const named = present?.lastChild.textContent.trim();
  select.value = finding || (map.findings.includes(named) ? named : map.findings.find((name) => name !== "No Finding") ?? map.findings[0] ?? "");
  select.disabled = map.findings.length === 0;
}

/** Returns [x, y] of the query: as stored, or its films' vector laid onto the same plane. */
async function queryPlace() {
  const at = map.study_ids.indexOf(asked.study);
  if (at >= 0) return [map.x[at], map.y[at]];
  if (!isAsked()) return null;
  const { x, y } = await ask("/v1/map", {});
  return [x, y];
}

function draw() {
  if (map) paint(canvas, map, { query, hits: hits(), own: asked.study, pointed });
}

function list() {
  const words = byId("map-search").value.trim().toLowerCase();
  byId("map-order").textContent = query ? "Studies, those nearest to the query on the map first" : "Studies";
  const [x, y] = query ?? [0, 0];
  const away = (at) => Math.hypot(map.x[at] - x, map.y[at] - y);
  const found = map.study_ids.map((id, at) => at).filter((at) => map.study_ids[at].toLowerCase().includes(words));
  const rows = (query ? found.sort((one, other) => away(one) - away(other)) : found).slice(0, LISTED);
  const labels = { 1: "● present", 0: "− absent", "-1": "? uncertain" };
  byId("map-list").replaceChildren(...rows.map((at) => {
    const id = map.study_ids[at];
    const rank = hits().get(id);
    const role = id === asked.study ? "query" : rank ? `hit ${rank}` : "";
    return element("li", {}, element("a", { href: address("/", { study: id }), data: { at } }, id), " ",
      element("small", {}, [role, labels[map.labels[at]] ?? ""].filter(Boolean).join(" ")));
  }));
}

function point(at) {
  const card = byId("point");
  if (at === pointed) return;
  pointed = at;
  draw();
  card.hidden = at < 0;
  canvas.style.cursor = at < 0 ? "default" : "pointer";
  if (at < 0) return;
  const [left, top] = place(canvas, map, map.x[at], map.y[at]);
  card.firstElementChild.textContent = map.study_ids[at];
  card.lastElementChild.src = studyAddress(map.study_ids[at], "", { view: "frontal" }, "/film/");
  card.style.left = `${left}px`;
  card.style.top = `${top}px`;
  card.classList.toggle("leftwards", left > canvas.clientWidth / 2);
  card.classList.toggle("upwards", top > canvas.clientHeight / 2);
}

/** Wires the dialog; `leave` goes to another page. */
export function prepare(leave) {
  canvas.addEventListener("pointermove", (event) => map && point(nearest(canvas, map, event.offsetX, event.offsetY)));
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("click", (event) => {
    const at = map ? nearest(canvas, map, event.offsetX, event.offsetY) : -1;
    if (at < 0) return;
    const url = address("/", { study: map.study_ids[at] });
    leave(() => window.location.assign(url));
  });
  byId("map-finding").addEventListener("change", (event) => load(event.target.value));
  byId("map-search").addEventListener("input", () => map && list());
  byId("map-list").addEventListener("focusin", (event) => point(Number(event.target.dataset.at)));
  byId("map-list").addEventListener("focusout", () => point(-1));
  new ResizeObserver(draw).observe(canvas);
}

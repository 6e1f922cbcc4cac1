// Films on their way to the service: dropped or chosen, taken out again, sent with a bar that moves, answered in place.

import { byId } from "./elements.js";

const VIEWABLE = ["image/jpeg", "image/png"];
const VIEWS = ["frontal", "lateral"];
const LATERAL = /lateral|seitlich|profil|perfil|(?:^|[^a-z])(?:lat|ll|rl)(?:[^a-z]|$)/i;

const form = byId("films");
const drops = [...form.querySelectorAll(".drop")];
const button = form.querySelector("button[type=submit]");
const bar = byId("progress");
/** Whether what is dragged is a part of this page, such as a hit's film: it is no film of the reader's. */
let ours = false;

const inputOf = (drop) => drop.querySelector("input");
const dropOf = (view) => drops[VIEWS.indexOf(view)];

/** Returns the chosen films by view. */
export function chosenFilms() {
  const inputs = drops.map(inputOf).filter((input) => input.files.length);
  return Object.fromEntries(inputs.map((input) => [input.name, input.files[0]]));
}

/** Returns the patient named beside the films. */
export const chosenPatient = () => form.elements.patient_id.value.trim();

function show(drop) {
  const file = inputOf(drop).files[0];
  const picture = drop.querySelector("img");
  URL.revokeObjectURL(picture.src);
  picture.hidden = !file || !VIEWABLE.includes(file.type);
  picture.removeAttribute("src");
  if (!picture.hidden) picture.src = URL.createObjectURL(file);
  drop.classList.toggle("chosen", Boolean(file));
  drop.querySelector(".drop-name").textContent = file ? file.name : "drop, paste or choose a film";
  drop.querySelector(".out").hidden = !file;
}

function put(view, file) {
  const held = new DataTransfer();
  if (file) held.items.add(file);
  inputOf(dropOf(view)).files = held.files;
  show(dropOf(view));
}

/** Empties both places and the patient's name, so that the next query has nothing of the one before. */
export function clear() {
  for (const view of VIEWS) put(view, null);
  form.elements.patient_id.value = "";
  status("");
}

/** Opens the places for new films, both empty. */
export function newFilms() {
  clear();
  byId("ask").open = true;
}

/** Empties the places of films that were sent; those chosen meanwhile stay. */
function clearSent(films, patient) {
  const now = chosenFilms();
  if (VIEWS.every((view) => now[view] === films[view]) && chosenPatient() === patient) clear();
}

function takeOut(drop) {
  const { name } = inputOf(drop);
  put(name, null);
  status(`The ${name} film was removed.`);
  inputOf(drop).focus();
}

/** Says what is going on beside the button; "" where nothing is. */
export function status(sentence) {
  byId("status").textContent = sentence;
}

/** Returns the reason why what was dropped cannot be a query, or "". */
function fault(transfer) {
  if ([...transfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory)) return "A folder was dropped. Drop films instead: one, or a frontal and a lateral.";
  if (transfer.files.length > 2) return `${transfer.files.length} films were dropped. Drop one, or a frontal and a lateral of one patient.`;
  return button.disabled ? "Films are being sent. Wait for the answer before dropping others." : "";
}

/**
 * Puts dropped films in place: one goes where it was dropped; of two, one that is called lateral is, and else the second.
 * Two films, and one that was dropped beside both places, are a new query: nothing that was chosen before stays with them.
 */
function take(transfer, drop) {
  const reason = fault(transfer);
  if (reason) return status(reason);
  const films = [...transfer.files];
  if (!films.length) return null;
  const before = Object.keys(chosenFilms()).length > 0;
  const patient = chosenPatient();
  if (films.length === 1 && drop) {
    put(inputOf(drop).name, films[0]);
    return status(`${films[0].name} is the ${inputOf(drop).name} film.`);
  }
  clear();
  if (!before) form.elements.patient_id.value = patient;
  const [frontal, lateral] = LATERAL.test(films[0].name) ? [films[1], films[0]] : films;
  if (frontal) put("frontal", frontal);
  if (lateral) put("lateral", lateral);
  const placed = VIEWS.filter((view) => view in chosenFilms()).map((view) => `${chosenFilms()[view].name} is the ${view} film`);
  return status(`${placed.join(", ")}.${before ? " What was chosen before was removed." : ""}`);
}

/** Puts films in place that were dropped or pasted, wherever that was. */
function place(transfer, drop) {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  byId("ask").open = true;
  take(transfer, drop);
  byId("ask").scrollIntoView({ block: "nearest" });
}

const bringsFiles = ({ dataTransfer }) => !ours && Boolean(dataTransfer?.types.includes("Files"));

/** Catches films wherever on the page they are dropped: a browser would leave the page and show the file. */
function catchDrops() {
  const over = (event) => {
    const inside = bringsFiles(event) ? event.target.closest?.(".drop") : null;
    for (const drop of drops) drop.classList.toggle("over", drop === inside);
    document.body.classList.toggle("dropping", bringsFiles(event));
  };
  const leave = () => {
    for (const drop of drops) drop.classList.remove("over");
    document.body.classList.remove("dropping");
  };
  document.addEventListener("dragstart", () => { ours = true; });
  document.addEventListener("dragend", () => { ours = false; });
  document.addEventListener("dragover", (event) => {
    over(event);
    if (bringsFiles(event) || event.target.closest?.(".drop")) event.preventDefault();
  });
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    place(event.clipboardData, null);
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || leave());
  document.addEventListener("drop", (event) => {
    leave();
    if (!bringsFiles(event)) return event.target.closest?.(".drop") && event.preventDefault();
    event.preventDefault();
    return place(event.dataTransfer, event.target.closest?.(".drop"));
  });
}

/** Shows how much of the films is sent, from 0 to 1. */
export function progress(share) {
  bar.value = share;
  status(share < 1 ? `Sending the films: ${Math.floor(100 * share)} %` : "Reading the films and searching…");
}

/** Shows that the films are on their way, or are no longer. */
export function busy(working) {
  button.disabled = working;
  bar.hidden = !working;
  bar.value = 0;
  byId("results").setAttribute("aria-busy", String(working));
  status(working ? "Sending the films…" : "");
}

/** Empties the places once these films are the query that is shown, and closes what asks for films. */
export function answered(films, patient) {
  clearSent(films, patient);
  byId("ask").open = Object.keys(chosenFilms()).length > 0;
}

/** Wires the form; `submitted` is called when at least one film is chosen. */
export function prepare(submitted) {
  for (const drop of drops) {
    const input = inputOf(drop);
    input.addEventListener("change", () => show(drop));
    input.addEventListener("keydown", (event) => {
      if (["Delete", "Backspace"].includes(event.key) && input.files.length) takeOut(drop);
    });
    drop.querySelector(".out").addEventListener("click", () => takeOut(drop));
    show(drop);
  }
  catchDrops();
  byId("ask").querySelector("summary").addEventListener("click", () => byId("ask").open || clear());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (Object.keys(chosenFilms()).length) submitted(chosenFilms(), chosenPatient());
    else status("Choose at least one film first.");
  });
}

// Films on their way to the service: dropped or chosen, sent with a bar that moves, answered in place.

import { byId } from "./elements.js";

const VIEWABLE = ["image/jpeg", "image/png"];

const form = byId("films");
const drops = [...form.querySelectorAll(".drop")];
const button = form.querySelector("button");
const bar = byId("progress");

/** Returns the chosen films by view. */
export function chosenFilms() {
  const inputs = [...form.querySelectorAll("input[type=file]")].filter((input) => input.files.length);
  return Object.fromEntries(inputs.map((input) => [input.name, input.files[0]]));
}

/** Returns the patient named beside the films. */
export const chosenPatient = () => form.elements.patient_id.value.trim();

function show(drop) {
  const file = drop.querySelector("input").files[0];
  const picture = drop.querySelector("img");
  URL.revokeObjectURL(picture.src);
  picture.hidden = !file || !VIEWABLE.includes(file.type);
  picture.removeAttribute("src");
  if (!picture.hidden) picture.src = URL.createObjectURL(file);
  drop.classList.toggle("chosen", Boolean(file));
  drop.querySelector(".drop-name").textContent = file ? file.name : "drop or choose a film";
}

function put(drop, file) {
  const held = new DataTransfer();
  held.items.add(file);
  drop.querySelector("input").files = held.files;
  show(drop);
}

/** One film goes where it was dropped; of two, one that is called lateral is, and else the second. */
function take(event, drop) {
  event.preventDefault();
  drop.classList.remove("over");
  const films = [...event.dataTransfer.files];
  if (films.length === 1) put(drop, films[0]);
  if (films.length < 2) return;
  const [one, two] = /lateral/i.test(films[0].name) ? [films[1], films[0]] : films;
  put(drops[0], one);
  put(drops[1], two);
}

/** Says what is going on beside the button; "" where nothing is. */
export function status(sentence) {
  byId("status").textContent = sentence;
}

/** Returns the page that answers the chosen films, as text: sent with the fields and the words given. */
export function send(fields, words) {
  const body = new FormData(form);
  for (const [name, value] of Object.entries(fields)) body.set(name, value);
  const request = new XMLHttpRequest();
  request.open("POST", `${form.getAttribute("action")}?${words}`);
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    bar.value = loaded / total;
    status(loaded < total ? `Sending the films: ${Math.floor((100 * loaded) / total)} %` : "Reading the films and searching…");
  });
  return new Promise((resolve, reject) => {
    request.addEventListener("load", () => resolve({
      text: request.responseText, kind: request.getResponseHeader("Content-Type") || "", code: request.status,
    }));
    request.addEventListener("error", () => reject(new Error("The service cannot be reached.")));
    request.send(body);
  });
}

/** Shows that the films are on their way, or are no longer. */
export function busy(working) {
  button.disabled = working;
  bar.hidden = !working;
  bar.value = 0;
  byId("results").setAttribute("aria-busy", String(working));
  status(working ? "Sending the films…" : "");
}

/** Wires the form; `submitted` is called when at least one film is chosen. */
export function prepare(submitted) {
  for (const drop of drops) {
    drop.addEventListener("change", () => show(drop));
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", (event) => take(event, drop));
    show(drop);
  }
  document.addEventListener("dragenter", () => { byId("ask").open = true; });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (Object.keys(chosenFilms()).length) submitted();
    else status("Choose at least one film first.");
  });
}

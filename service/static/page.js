"use strict";

// The page works without this file; with it, films can be dropped and the answer comes without a reload.

const form = document.getElementById("films");
const status = document.getElementById("status");
const drops = [...form.querySelectorAll(".drop")];
const VIEWABLE = ["image/jpeg", "image/png"];

function show(drop) {
  const file = drop.querySelector("input").files[0];
  const picture = drop.querySelector("img");
  URL.revokeObjectURL(picture.src);
  picture.hidden = !file || !VIEWABLE.includes(file.type);
  picture.removeAttribute("src");
  if (!picture.hidden) picture.src = URL.createObjectURL(file);
  drop.querySelector(".drop-name").textContent = file ? file.name : "drop or choose a film";
}

function put(drop, file) {
  const held = new DataTransfer();
  held.items.add(file);
  drop.querySelector("input").files = held.files;
  show(drop);
}

/** One film goes where it was dropped; of two, the first is the frontal. */
function take(event, drop) {
  event.preventDefault();
  drop.classList.remove("over");
  const films = [...event.dataTransfer.files];
  if (films.length === 1) put(drop, films[0]);
  else films.slice(0, 2).forEach((film, place) => put(drops[place], film));
}

function refuse(results, sentence) {
  const line = document.createElement("p");
  line.className = "refused";
  line.setAttribute("role", "alert");
  line.textContent = sentence;
  results.replaceChildren(line);
}

/** A page comes back as HTML, also for a refusal; a body over the limit comes back as JSON. */
async function fill(results, response) {
  if ((response.headers.get("Content-Type") || "").startsWith("application/json")) {
    refuse(results, (await response.json()).error.message);
    return;
  }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.getElementById("results");
  if (fresh) results.replaceChildren(...fresh.childNodes);
  else refuse(results, `The service answered ${response.status}.`);
}

async function ask(event) {
  event.preventDefault();
  const results = document.getElementById("results");
  const button = form.querySelector("button");
  if (![...form.querySelectorAll("input[type=file]")].some((input) => input.files.length)) {
    status.textContent = "Choose at least one film first.";
    return;
  }
  button.disabled = true;
  results.setAttribute("aria-busy", "true");
  status.textContent = "Reading the films and searching…";
  try {
    await fill(results, await fetch(form.action, { method: "POST", body: new FormData(form) }));
    results.focus();
  } catch {
    refuse(results, "The service cannot be reached.");
  }
  status.textContent = "";
  results.removeAttribute("aria-busy");
  button.disabled = false;
}

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
form.addEventListener("submit", ask);

// The warning that the query's films are unfamiliar: one sentence, wherever those films, a map over them or their place
// on the collection's map are looked at.

import { sentence } from "./api.js";
import { byId } from "./elements.js";

let warned = "";

/** Returns the warning, "" where there is none. */
export const warning = () => warned;

/** Shows a warning, or none where it is ""; whoever shows a map hears of it as the event "warned". */
export function show(words) {
  warned = words;
  for (const place of document.querySelectorAll(".unfamiliar")) {
    place.hidden = !warned;
    if (place.textContent !== warned) place.textContent = warned;
  }
  document.dispatchEvent(new Event("warned"));
}

/** Shows the warning that a familiarity comes to; nothing changes where it is not known. */
export function warn(familiarity) {
  if (familiarity) show(familiarity.unfamiliar ? `${byId("unfamiliar").dataset.words} ${sentence(familiarity.sentence)}` : "");
}

/** Returns the warning that a page came with. */
export function warningOf(page) {
  const place = page.getElementById("unfamiliar");
  return !place || place.hidden ? "" : place.textContent.trim();
}

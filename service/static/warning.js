// The warning that the query's films are unfamiliar: one sentence, wherever those films, a map over them or their place
// on the collection's map are looked at.

import { sentence } from "./api.js";

const WORDS = "Unfamiliar: perhaps no chest film, a turned or inverted one, or of a kind that this collection lacks. ";
let warned = "";

/** Returns the warning, "" where there is none. */
export const warning = () => warned;

/** Shows the warning that a familiarity comes to, or none; whoever shows a map hears of it as the event "warned". */
export function warn(familiarity) {
  warned = familiarity?.unfamiliar ? WORDS + sentence(familiarity.sentence) : "";
  for (const place of document.querySelectorAll(".unfamiliar")) {
    place.hidden = !warned;
    place.textContent = warned;
  }
  document.dispatchEvent(new Event("warned"));
}

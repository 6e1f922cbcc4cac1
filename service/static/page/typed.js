// Search as you type: the studies whose name, facts or findings begin with what stands in the field.

import { read } from "./api.js";
import { address } from "./asked.js";
import { byId, element } from "./elements.js";
import { factsLine, findingWords } from "../viewer/findings.js";

/** Milliseconds without a key after which the service is asked. */
const PAUSE = 200;
const OFFERED = 12;

const field = byId("study");
let waiting = 0;
let last = "";

async function offer() {
  const prefix = field.value.trim();
  if (prefix === last) return;
  last = prefix;
  const { studies } = prefix ? await read(address("/v1/studies", { prefix, limit: OFFERED })).catch(() => ({ studies: [] })) : { studies: [] };
  if (prefix !== last) return;
  byId("studies").replaceChildren(...studies.map((study) => {
    // A browser offers what holds the typed text: the words found by stand in the label.
    const words = [factsLine(study), findingWords(study), study.patient_id].filter(Boolean).join(" · ");
    return element("option", { value: study.study_id, label: `${study.study_id} · ${words}` });
  }));
}

/** Wires the field. */
export function prepare() {
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(offer, PAUSE);
  });
}

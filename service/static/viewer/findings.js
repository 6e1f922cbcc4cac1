// A study's findings and facts in words, alike wherever a script shows them; a sign and a word beside each colour.

import { element } from "../page/elements.js";

const LABELS = [[1, "present", "●"], [-1, "uncertain", "?"], [0, "absent", "−"]];

/** Returns the findings of a study as groups: present, uncertain, absent. */
export function findingsList(study) {
  const groups = LABELS.map(([label, word, sign]) => {
    const names = Object.keys(study.findings).filter((name) => study.findings[name] === label);
    const marks = names.map((name) => element("dd", {}, element("span", { "aria-hidden": "true" }, sign), ` ${name}`));
    return names.length ? element("div", { className: word }, element("dt", {}, word), ...marks) : null;
  });
  return element("dl", { className: "findings" }, ...groups);
}

/** Returns sex, age and projection in one line. */
export function factsLine(study) {
  const age = study.age === null ? "age unknown" : `${Number(study.age.toPrecision(3))} years`;
  return [study.sex ?? "sex unknown", age, study.projection ?? "projection unknown"].join(" · ");
}

/** Returns the names of the findings that are present, or uncertain with a question mark. */
export function findingWords(study) {
  const present = Object.keys(study.findings).filter((name) => study.findings[name] === 1);
  const uncertain = Object.keys(study.findings).filter((name) => study.findings[name] === -1);
  return [...present, ...uncertain.map((name) => `${name}?`)].join(", ") || "no finding named";
}

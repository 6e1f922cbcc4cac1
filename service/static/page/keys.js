// Keys of the whole page: one letter does one thing, nothing while a reader types, and all of it can be switched off.

import * as compare from "../viewer/compare.js";
import { byId } from "./elements.js";
import { openMap } from "../map/map.js";
import { openReport } from "../report/report.js";
import * as upload from "./upload.js";
import * as why from "../viewer/why.js";
import { latest } from "../viewer/predictions.js";

const KEPT = "precedent.keys";
const TYPING = "input:not([type=checkbox], [type=radio], [type=range]), textarea, select";
const dialogs = { compare: byId("compare"), map: byId("map"), help: byId("help") };
const switched = byId("keys-on");

const openHit = (rank) => {
  const hit = byId("results").querySelector(`.hit[data-rank="${rank}"]`)?.dataset.study;
  return hit ? compare.open(hit) : null;
};

const ANYWHERE = { "?": () => dialogs.help.showModal() };

const PAGE = {
  "/": () => byId("study").select(),
  q: () => (byId("query").childElementCount ? compare.open(null) : null),
  n: () => newFilms(),
  m: () => (byId("map-button").disabled ? null : openMap()),
  p: () => (byId("report-button").disabled ? null : openReport()),
  ...Object.fromEntries([..."123456789"].map((digit) => [digit, () => openHit(digit)])),
};

const FILMS = {
  f: () => compare.choose("frontal"), l: () => compare.choose("lateral"), b: () => compare.choose("both"),
  w: () => compare.drag("window"), g: () => compare.drag("pan"), z: () => compare.drag("loupe"),
  d: () => compare.drag("length"), a: () => compare.drag("angle"), c: () => compare.drag("ratio"), o: () => compare.drag("region"),
  r: () => compare.act("reset"), i: () => compare.act("invert"), k: () => compare.act("link"),
  0: () => compare.act("fit"), 1: () => compare.act("actual"), t: () => compare.act("rotate"), x: () => compare.act("flip"),
  Enter: () => compare.act("point"), Backspace: () => compare.act("undo"),
  "+": () => compare.act("in"), "=": () => compare.act("in"), "-": () => compare.act("out"),
  ",": () => compare.act("previous"), ".": () => compare.act("next"),
  ArrowLeft: () => compare.pan(1, 0), ArrowRight: () => compare.pan(-1, 0),
  ArrowUp: () => compare.pan(0, 1), ArrowDown: () => compare.pan(0, -1),
  s: () => (compare.shown.hit ? why.want("similar") : null), e: () => explainFirst(),
  h: () => why.strength(0), "[": () => why.strength(-1), "]": () => why.strength(1),
};

function newFilms() {
  upload.newFilms();
  byId("films").querySelector("input[type=file]").focus();
}

function explainFirst() {
  const held = byId("why-finding").value;
  const first = latest()?.predictions.find((one) => one.probability !== null)?.finding;
  return held || first ? why.want(held || first) : null;
}

function pressed(event) {
  const { target, key } = event;
  if (key === "Escape") target.closest?.(".menu[open]")?.removeAttribute("open");
  if (!switched.checked || event.ctrlKey || event.metaKey || event.altKey || target.matches(TYPING)) return null;
  if (key.startsWith("Arrow") && target.matches("input")) return null;
  if (key === "Enter" && target.matches("button, a, summary, input")) return null;
  const open = Object.keys(dialogs).find((name) => dialogs[name].open);
  const table = { ...(open ? {} : PAGE), ...(open === "compare" ? FILMS : {}), ...(open === "help" ? {} : ANYWHERE) };
  if (!(key in table)) return null;
  event.preventDefault();
  return table[key]();
}

/** Wires keys, help and the buttons that do the same. */
export function prepare() {
  switched.checked = window.localStorage.getItem(KEPT) !== "off";
  switched.addEventListener("change", () => window.localStorage.setItem(KEPT, switched.checked ? "on" : "off"));
  document.addEventListener("keydown", pressed);
  byId("help-button").addEventListener("click", () => dialogs.help.showModal());
  byId("map-button").addEventListener("click", openMap);
  byId("report-button").addEventListener("click", openReport);
  byId("help-button").disabled = false;
  byId("map-button").disabled = !("mapped" in byId("main").dataset);
  for (const name of ["map", "help"]) {
    dialogs[name].querySelector("[data-do=close]").addEventListener("click", () => dialogs[name].close());
  }
}

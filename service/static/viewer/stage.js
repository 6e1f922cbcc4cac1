// One film on its stage: drawn through a lens, moved by mouse, finger and wheel, with a heat map and measures over it.

import { drawn, element } from "../page/elements.js";
import { film as filmOf } from "./film.js";
import { within } from "./lens.js";
import { draw as drawMeasures, scaleBar, words } from "./measures.js";
import { paint } from "./painter.js";
import { TOOLS } from "./tools.js";

const WHEEL = 0.0015;
const LOUPE = { side: 240, times: 3 };
/** Pixels that a finger moves across, and no more than half as far down, to change sides where nothing is left to pan. */
const SWIPE = 50;
const FITS = 1.02;
/** The measures of films, by their addresses, as long as the page is open. */
const measured = new Map();

/** A stage of one side ("query" or "hit") and view; `tool()` names what a plain drag does, of TOOLS. */
export class Stage {
  constructor(side, view, lenses, tool) {
    Object.assign(this, { side, view, lenses, tool, pointers: new Map(), heat: null, film: null, preview: null, measures: [] });
    this.lens = lenses.of(side, view);
    this.canvas = element("canvas", { className: "film-layer", role: "img" });
    this.heatLayer = element("div", { className: "heat-layer", "aria-hidden": "true" });
    this.board = drawn("svg", { class: "marks", "aria-hidden": "true" });
    this.caption = element("p", { className: "caption" });
    this.scale = element("p", { className: "scale-readout", "aria-hidden": "true" });
    this.bar = element("p", { className: "scale-bar", "aria-hidden": "true" });
    this.doubt = element("p", { className: "doubt" });
    this.loupe = element("canvas", { className: "loupe", width: LOUPE.side, height: LOUPE.side, hidden: true, "aria-hidden": "true" });
    this.box = element(
      "div", { className: "stage", data: { side, view } }, this.canvas, this.heatLayer, this.board, this.caption,
      this.scale, this.bar, this.doubt, this.loupe,
    );
    this.#listen();
  }

  /** Shows the film of an address, until it is here its `preview` on the page; or where `source` is null a sentence. */
  async show(source, caption, sentence, preview = null) {
    this.caption.textContent = caption;
    this.box.classList.toggle("empty-stage", source === null);
    this.box.dataset.sentence = sentence;
    this.canvas.setAttribute("aria-label", `${this.view} film, ${caption}`);
    this.canvas.hidden = source === null;
    if (source === null) return;
    if (!measured.has(source)) measured.set(source, []);
    this.measures = measured.get(source);
    this.preview = preview?.complete && preview.naturalWidth ? preview : null;
    this.draw();
    try {
      const film = await filmOf(source);
      if (!this.box.isConnected) return;
      Object.assign(this, { film, preview: null });
      this.lens.film = film;
      this.box.dataset.bits = film.bits;
      this.lens.change({});
      this.measured();
      this.box.dispatchEvent(new CustomEvent("shown", { bubbles: true }));
    } catch {
      this.box.classList.add("lost");
    }
  }

  /** Lays a canvas over the film, or nothing; with a doubt it looks like what is not to be relied on, and says so. */
  warm(canvas, doubt = "") {
    this.heat = canvas;
    this.doubt.textContent = doubt;
    this.box.classList.toggle("doubted", doubt !== "");
    this.heatLayer.replaceChildren(...(canvas ? [canvas] : []));
    this.draw();
  }

  /** Returns the point of the film, in its pixels, below a point { clientX, clientY } of the window; also beyond its edge. */
  filmPoint({ clientX, clientY }) {
    const box = this.box.getBoundingClientRect();
    const { x, y } = this.lens.matrix().inverse().transformPoint(new DOMPoint(clientX - box.left, clientY - box.top));
    return { x, y };
  }

  /** Returns where a point of the film lies on the stage, in pixels of the page. */
  stagePoint({ x, y }) {
    return this.lens.matrix().transformPoint(new DOMPoint(x, y));
  }

  /** Returns the middle of the stage as a point of the window. */
  get middle() {
    const { left, top, width, height } = this.box.getBoundingClientRect();
    return { clientX: left + width / 2, clientY: top + height / 2 };
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.box;
    const film = this.film ?? this.#sketch();
    if (!film || !width || !height) return;
    const { lens } = this;
    Object.assign(lens, { film, room: { width, height } });
    const dots = window.devicePixelRatio;
    const [across, down] = [Math.round(width * dots), Math.round(height * dots)];
    if (this.canvas.width !== across || this.canvas.height !== down) Object.assign(this.canvas, { width: across, height: down });
    const brush = this.canvas.getContext("2d");
    const matrix = lens.matrix();
    const dotted = new DOMMatrix().scale(dots).multiply(matrix);
    if (this.film) paint(brush, film, lens.tone, dotted);
    else this.#paintSketch(brush, dotted);
    if (this.heat) {
      const { style } = this.heat;
      [style.width, style.height] = [`${film.width}px`, `${film.height}px`];
      style.transform = matrix.toString();
    }
    drawMeasures(this.board, this.measures, film, (point) => this.stagePoint(point));
    this.#tell(film, width);
  }

  /** Returns the size of a preview as if it were the film. */
  #sketch() {
    return this.preview && { width: this.preview.naturalWidth, height: this.preview.naturalHeight, aspect: 1, presets: [] };
  }

  #paintSketch(brush, matrix) {
    brush.clearRect(0, 0, this.canvas.width, this.canvas.height);
    brush.setTransform(matrix);
    brush.drawImage(this.preview, 0, 0);
    brush.resetTransform();
  }

  /** Writes zoom and window on the film, and lays the scale bar. */
  #tell(film, room) {
    this.bar.hidden = !this.film;
    if (!this.film) return;
    const scale = this.lens.zoom * this.lens.fit;
    const { center, width } = this.lens.window;
    const number = (value) => (Math.abs(value) < 10 ? value.toFixed(1) : Math.round(value));
    this.scale.textContent = `${Math.round(100 * scale * window.devicePixelRatio)} % · W ${number(width)} L ${number(center)}`;
    const bar = scaleBar(film, scale, room);
    this.bar.textContent = bar.words;
    this.bar.style.setProperty("--length", `${bar.width}px`);
  }

  /** Draws the measures anew, and says that they are others. */
  measured() {
    this.draw();
    this.box.dispatchEvent(new CustomEvent("measured", { bubbles: true }));
  }

  /** Returns the measures that are complete, in words. */
  get told() {
    return this.film ? this.measures.map((measure) => ({ measure, words: words(measure, this.film) })).filter((one) => one.words) : [];
  }

  remove(measure) {
    this.measures.splice(this.measures.indexOf(measure), 1);
    this.measured();
  }

  /** Shows what is under a point of the window three times as large, at least each pixel of the film; nothing where it is null. */
  magnify(event) {
    this.loupe.hidden = !event || !this.film;
    if (this.loupe.hidden) return;
    const box = this.box.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const dots = window.devicePixelRatio;
    const times = Math.max(LOUPE.times, 1 / (this.lens.zoom * this.lens.fit * dots));
    const middle = LOUPE.side / 2;
    Object.assign(this.loupe, { width: LOUPE.side * dots, height: LOUPE.side * dots });
    Object.assign(this.loupe.style, { left: `${x - middle}px`, top: `${y - middle}px` });
    const matrix = new DOMMatrix().scale(dots).translate(middle, middle).scale(times).translate(-x, -y).multiply(this.lens.matrix());
    paint(this.loupe.getContext("2d"), this.film, this.lens.tone, matrix);
  }

  leave() {
    this.lens.watchers.delete(this.redraw);
    this.sizes.disconnect();
    TOOLS[this.tool()].cancel?.();
  }

  #listen() {
    this.redraw = () => this.draw();
    this.lens.watchers.add(this.redraw);
    this.sizes = new ResizeObserver(this.redraw);
    this.sizes.observe(this.box);
    this.box.addEventListener("pointerdown", (event) => this.#press(event));
    this.box.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) this.box.addEventListener(end, (event) => this.#lift(event));
    this.box.addEventListener("pointerleave", () => this.#tool().leave?.(this));
    this.box.addEventListener("wheel", (event) => this.#turn(event), { passive: false });
    this.box.addEventListener("contextmenu", (event) => event.preventDefault());
    this.box.addEventListener("dblclick", () => this.#tool().points || this.lenses.reset());
  }

  #tool() {
    return TOOLS[this.tool()];
  }

  #press(event) {
    this.box.setPointerCapture(event.pointerId);
    const pans = event.button !== 0 || event.shiftKey;
    const { clientX: x, clientY: y } = event;
    this.pointers.set(event.pointerId, { x, y, from: [x, y], pans });
    event.preventDefault();
    if (!pans && this.film && this.pointers.size === 1) this.#tool().press?.(this, event);
  }

  #move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!this.film) return;
    if (!last) {
      this.#tool().hover?.(this, event);
      return;
    }
    const across = event.clientX - last.x;
    const down = event.clientY - last.y;
    const before = this.#spread();
    Object.assign(last, { x: event.clientX, y: event.clientY });
    const after = this.#spread();
    if (before && after) this.#zoom(after / before, event);
    else if (last.pans) this.pan(across, down);
    else if (this.#swipes(event)) return;
    else (this.#tool().drag ?? this.#tool().hover)?.call(this.#tool(), this, event, across, down);
  }

  #lift(event) {
    const last = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    if (!last || last.pans || !this.film) return;
    this.#tool().release?.(this, event);
    const [across, down] = [event.clientX - last.from[0], event.clientY - last.from[1]];
    if (this.#swipes(event) && Math.abs(across) > Math.max(SWIPE, 2 * Math.abs(down))) {
      this.box.dispatchEvent(new CustomEvent("swiped", { bubbles: true, detail: { by: across < 0 ? 1 : -1 } }));
    }
  }

  /** Returns whether a finger changes sides: the whole film is seen, so that there is nothing to pan. */
  #swipes({ pointerType }) {
    return pointerType === "touch" && this.tool() === "pan" && this.lens.zoom <= FITS;
  }

  /** Returns how far apart two fingers are, in pixels; 0 where there are not two. */
  #spread() {
    const [one, two] = [...this.pointers.values()];
    return two ? Math.hypot(one.x - two.x, one.y - two.y) : 0;
  }

  /** Moves the film by pixels of the screen. */
  pan(across, down) {
    if (!this.film) return;
    const { lens, film } = this;
    const back = lens.matrix().inverse();
    const [x, y] = [back.a * across + back.c * down, back.b * across + back.d * down];
    this.lenses.change(this.side, this.view, { x: lens.x - x / film.width, y: lens.y - y / film.height });
  }

  #turn(event) {
    event.preventDefault();
    if (this.film) this.#zoom(Math.exp(-WHEEL * event.deltaY), event);
  }

  /** Zooms so that what is under the pointer stays there. */
  #zoom(factor, event) {
    const { lens, film } = this;
    const zoom = within("zoom", lens.zoom * factor);
    const box = this.box.getBoundingClientRect();
    const there = new DOMPoint(event.clientX - box.left, event.clientY - box.top);
    const [before, after] = [lens.zoom, zoom].map((one) => lens.matrix(one).inverse().transformPoint(there));
    this.lenses.change(this.side, this.view, {
      zoom, x: lens.x + (before.x - after.x) / film.width, y: lens.y + (before.y - after.y) / film.height,
    });
  }
}

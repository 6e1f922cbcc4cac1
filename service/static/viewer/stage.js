// One film on its stage: drawn through a lens, moved by mouse, finger and wheel, with a heat map over it.

import { element } from "../page/elements.js";
import { within } from "./lens.js";

const WHEEL = 0.0015;
const WIDTH_A_PIXEL = 0.8;
const LEVEL_A_PIXEL = 0.5;

/** A stage of one side ("query" or "hit") and view; `tool()` says what a plain drag does, "window" or "pan". */
export class Stage {
  constructor(side, view, lenses, tool) {
    Object.assign(this, { side, view, lenses, tool, pointers: new Map(), heat: null });
    this.lens = lenses.of(side, view);
    this.film = element("img", { draggable: false });
    this.figure = element("div", { className: "film-layer" }, this.film);
    this.figure.style.filter = `url(#lens-${side})`;
    this.heatLayer = element("div", { className: "heat-layer", "aria-hidden": "true" });
    this.caption = element("p", { className: "caption" });
    this.scale = element("p", { className: "scale-readout", "aria-hidden": "true" });
    this.doubt = element("p", { className: "doubt" });
    this.box = element(
      "div", { className: "stage", data: { side, view } }, this.figure, this.heatLayer, this.caption, this.scale,
      this.doubt,
    );
    this.#listen();
  }

  /** Shows a film, or where `source` is null a sentence in its place. */
  show(source, caption, sentence) {
    this.caption.textContent = caption;
    this.box.classList.toggle("empty-stage", source === null);
    this.box.dataset.sentence = sentence;
    this.film.alt = `${this.view} film, ${caption}`;
    if (source !== null) this.film.src = source;
    else this.film.hidden = true;
  }

  /** Lays a canvas over the film, or nothing; with a doubt it looks like what is not to be relied on, and says so. */
  warm(canvas, doubt = "") {
    this.heat = canvas;
    this.doubt.textContent = doubt;
    this.box.classList.toggle("doubted", doubt !== "");
    this.heatLayer.replaceChildren(...(canvas ? [canvas] : []));
    this.draw();
  }

  draw() {
    const { naturalWidth: width, naturalHeight: height } = this.film;
    if (!width) return;
    const scale = this.#scale();
    const left = this.box.clientWidth / 2 - this.lens.x * width * scale;
    const top = this.box.clientHeight / 2 - this.lens.y * height * scale;
    for (const layer of [this.film, this.heat].filter(Boolean)) {
      layer.style.width = `${width}px`;
      layer.style.height = `${height}px`;
      layer.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
    }
    this.scale.textContent = `${Math.round(100 * scale)} %`;
  }

  leave() {
    this.lens.watchers.delete(this.redraw);
    this.sizes.disconnect();
  }

  #scale() {
    const { naturalWidth: width, naturalHeight: height } = this.film;
    return this.lens.zoom * Math.min(this.box.clientWidth / width, this.box.clientHeight / height);
  }

  #listen() {
    this.redraw = () => this.draw();
    this.lens.watchers.add(this.redraw);
    this.sizes = new ResizeObserver(this.redraw);
    this.sizes.observe(this.box);
    this.film.addEventListener("load", this.redraw);
    this.box.addEventListener("pointerdown", (event) => this.#press(event));
    this.box.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      this.box.addEventListener(end, (event) => this.pointers.delete(event.pointerId));
    }
    this.box.addEventListener("wheel", (event) => this.#turn(event), { passive: false });
    this.box.addEventListener("contextmenu", (event) => event.preventDefault());
    this.box.addEventListener("dblclick", () => this.lenses.reset());
  }

  #press(event) {
    this.box.setPointerCapture(event.pointerId);
    const pans = event.button !== 0 || event.shiftKey || this.tool() === "pan";
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY, pans });
    event.preventDefault();
  }

  #move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last || !this.film.naturalWidth) return;
    const across = event.clientX - last.x;
    const down = event.clientY - last.y;
    const before = this.#spread();
    Object.assign(last, { x: event.clientX, y: event.clientY });
    const after = this.#spread();
    if (before && after) this.#zoom(after / before, event.clientX, event.clientY);
    else if (last.pans) this.pan(across, down);
    else {
      const { width, level } = this.lens;
      this.lenses.change(this.side, this.view, { width: width + WIDTH_A_PIXEL * across, level: level + LEVEL_A_PIXEL * down });
    }
  }

  /** Returns how far apart two fingers are, in pixels; 0 where there are not two. */
  #spread() {
    const [one, two] = [...this.pointers.values()];
    return two ? Math.hypot(one.x - two.x, one.y - two.y) : 0;
  }

  /** Moves the film by pixels of the screen. */
  pan(across, down) {
    const scale = this.#scale();
    this.lenses.change(this.side, this.view, {
      x: this.lens.x - across / (this.film.naturalWidth * scale),
      y: this.lens.y - down / (this.film.naturalHeight * scale),
    });
  }

  #turn(event) {
    event.preventDefault();
    if (this.film.naturalWidth) this.#zoom(Math.exp(-WHEEL * event.deltaY), event.clientX, event.clientY);
  }

  /** Zooms so that what is under the pointer stays there. */
  #zoom(factor, clientX, clientY) {
    const box = this.box.getBoundingClientRect();
    const away = [clientX - box.left - box.width / 2, clientY - box.top - box.height / 2];
    const before = this.#scale();
    const zoom = within("zoom", this.lens.zoom * factor);
    const after = (before * zoom) / this.lens.zoom;
    const shift = 1 / before - 1 / after;
    this.lenses.change(this.side, this.view, {
      zoom,
      x: this.lens.x + (away[0] * shift) / this.film.naturalWidth,
      y: this.lens.y + (away[1] * shift) / this.film.naturalHeight,
    });
  }
}

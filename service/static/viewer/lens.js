// How films are looked at: a lens a film for its zoom and place, a window a side, all linked unless the reader parts them.

const PLAIN = { zoom: 1, x: 0.5, y: 0.5, width: 255, level: 127.5, inverted: false };
const LIMITS = { zoom: [0.5, 40], x: [0, 1], y: [0, 1], width: [2, 510], level: [0, 255] };
const WINDOW = ["width", "level", "inverted"];

/** Returns a lens's value kept within its limits. */
export const within = (name, value) => Math.min(Math.max(value, LIMITS[name][0]), LIMITS[name][1]);

/** One film's way of being looked at. x and y are the point of the film in the middle of its stage, in [0, 1]. */
class Lens {
  constructor(side, view, filter) {
    Object.assign(this, PLAIN, { side, view, filter, watchers: new Set() });
  }

  change(values) {
    Object.assign(this, values);
    for (const name of Object.keys(LIMITS)) this[name] = within(name, this[name]);
    this.#tune();
    for (const watcher of this.watchers) watcher();
  }

  /** What the window shows from black to white: out = (in - level) / width + 1/2, with in and out in [0, 1]. */
  #tune() {
    const slope = (this.inverted ? -255 : 255) / this.width;
    const intercept = 0.5 - (slope * this.level) / 255;
    for (const channel of this.filter.querySelectorAll("[slope]")) {
      channel.setAttribute("slope", slope);
      channel.setAttribute("intercept", intercept);
    }
  }
}

/** The lenses of two sides ("query", "hit") and two views; `filters` holds each side's SVG filter. */
export class Lenses {
  constructor(filters) {
    this.all = Object.keys(filters).flatMap((side) => ["frontal", "lateral"].map((view) => new Lens(side, view, filters[side])));
    this.linked = true;
  }

  of(side, view) {
    return this.all.find((lens) => lens.side === side && lens.view === view);
  }

  /** Zoom and place are the same view's on both sides where linked; a window is both views', and both sides' where linked. */
  change(side, view, values) {
    const windowed = WINDOW.some((name) => name in values);
    for (const lens of this.all) {
      if ((this.linked || lens.side === side) && (windowed || lens.view === view)) lens.change(values);
    }
  }

  reset() {
    for (const lens of this.all) lens.change(PLAIN);
  }

  /** Links the sides, and lays the hit's films as the query's, or parts them. */
  link(linked) {
    this.linked = linked;
    for (const { side, view, zoom, x, y, width, level, inverted } of this.all) {
      if (linked && side === "query") this.of("hit", view).change({ zoom, x, y, width, level, inverted });
    }
  }
}

// How films are looked at: zoom, place, window and inversion, one lens a side, linked unless the reader parts them.

const PLAIN = { zoom: 1, x: 0.5, y: 0.5, width: 255, level: 127.5, inverted: false };
const ZOOMS = [0.5, 40];
const within = (value, [low, high]) => Math.min(Math.max(value, low), high);

/** One side's way of looking. x and y are the point of the film in the middle of its stage, in [0, 1]. */
export class Lens {
  constructor(filter) {
    this.filter = filter;
    this.watchers = new Set();
    Object.assign(this, PLAIN);
  }

  change(values) {
    Object.assign(this, values);
    this.zoom = within(this.zoom, ZOOMS);
    this.x = within(this.x, [0, 1]);
    this.y = within(this.y, [0, 1]);
    this.width = within(this.width, [2, 510]);
    this.level = within(this.level, [0, 255]);
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

/** The two sides' lenses. */
export class Lenses {
  constructor(filters) {
    this.sides = { query: new Lens(filters.query), hit: new Lens(filters.hit) };
    this.linked = true;
  }

  change(side, values) {
    const changed = this.linked ? Object.values(this.sides) : [this.sides[side]];
    for (const lens of changed) lens.change(values);
  }

  reset() {
    for (const lens of Object.values(this.sides)) lens.change(PLAIN);
  }

  link(linked) {
    this.linked = linked;
    const { zoom, x, y, width, level, inverted } = this.sides.query;
    if (linked) this.sides.hit.change({ zoom, x, y, width, level, inverted });
  }
}

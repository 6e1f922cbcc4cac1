// How films are looked at: a lens a film for its zoom, place and turn, a window a side, all linked unless the reader parts them.

/**
 * `x` and `y` are the point of the film in the middle of its stage, in [0, 1]; `zoom` is 1 where the whole film fits;
 * `turn` counts quarters clockwise. `preset` is one of the film's by its name, or "" for its first; its width is taken
 * `wide` times, and its centre moved by `shift` widths, so that films of any depth can share a window.
 */
const PLAIN = { zoom: 1, x: 0.5, y: 0.5, turn: 0, flipped: false, preset: "", wide: 1, shift: 0, inverted: false };
const LIMITS = { zoom: [0.25, 64], x: [0, 1], y: [0, 1], wide: [2 ** -16, 8], shift: [-2, 2] };
const WINDOW = ["preset", "wide", "shift", "inverted"];
const PLACE = ["x", "y"];
/** How sides are linked: the same place of the film as they lie now, the same pixel at the same size, or not. */
export const LINKS = ["anatomy", "pixel", ""];

/** Returns a lens's value kept within its limits. */
export const within = (name, value) => Math.min(Math.max(value, LIMITS[name][0]), LIMITS[name][1]);

/** One film's way of being looked at. A stage tells it what it is laid over: the film, and the room there is. */
class Lens {
  constructor(side, view) {
    Object.assign(this, PLAIN, { side, view, watchers: new Set(), film: null, room: { width: 1, height: 1 } });
  }

  change(values) {
    Object.assign(this, values);
    for (const name of Object.keys(LIMITS)) this[name] = within(name, this[name]);
    this.turn = ((this.turn % 4) + 4) % 4;
    for (const watcher of this.watchers) watcher();
  }

  /** Pixels of the page that a pixel of the film is wide where the whole film fits. */
  get fit() {
    const { width, height, aspect } = this.film;
    const [across, down] = this.turn % 2 ? [height * aspect, width] : [width, height * aspect];
    return Math.min(this.room.width / across, this.room.height / down);
  }

  /** Returns where each pixel of the film lies on its stage, as a matrix, at this zoom or another. */
  matrix(zoom = this.zoom) {
    const { width, height, aspect } = this.film;
    const scale = zoom * this.fit;
    return new DOMMatrix().translate(this.room.width / 2, this.room.height / 2).rotate(90 * this.turn)
      .scale(this.flipped ? -scale : scale, scale * aspect).translate(-this.x * width, -this.y * height);
  }

  /** Returns the preset that is shown. */
  get shown() {
    return this.film.presets.find((one) => one.name === this.preset) ?? this.film.presets[0];
  }

  /** Returns centre and width of the preset that is shown, in values of the film. */
  get stated() {
    const { slope, intercept } = this.film;
    const { center, width, first, entries } = this.shown;
    if (!entries) return { center, width };
    return { center: slope * (first + entries.length / 2) + intercept, width: Math.abs(slope) * entries.length };
  }

  /** Returns centre and width of the window as it is now. */
  get window() {
    const { center, width } = this.stated;
    return { center: center + this.shift * width, width: width * this.wide };
  }

  /**
   * Returns how a code becomes brightness: of `line` [a, b] a * code + b, which a "LINEAR" window clips to [0, 1], a
   * "SIGMOID" bends, and of which a "CURVE" takes the entry.
   */
  get tone() {
    const { slope, intercept, inverted } = this.film;
    const { entries, first, function: kind } = this.shown;
    const { center } = this.stated;
    const now = this.window;
    const turned = inverted !== this.inverted;
    if (entries) {
      const [middle, moved] = [center, now.center].map((value) => (value - intercept) / slope);
      return { kind: "CURVE", entries, line: [1 / this.wide, middle - first - moved / this.wide], inverted: turned };
    }
    const wide = kind === "SIGMOID" ? now.width / 4 : kind === "LINEAR" ? Math.max(now.width - 1, 0.01) : now.width;
    const middle = kind === "LINEAR" ? now.center - 0.5 : now.center;
    const half = kind === "SIGMOID" ? 0 : 0.5;
    return { kind: kind === "SIGMOID" ? kind : "LINEAR", line: [slope / wide, (intercept - middle) / wide + half], inverted: turned };
  }
}

/** The lenses of two sides ("query", "hit") and two views. */
export class Lenses {
  constructor() {
    this.all = ["query", "hit"].flatMap((side) => ["frontal", "lateral"].map((view) => new Lens(side, view)));
    this.linked = LINKS[0];
  }

  of(side, view) {
    return this.all.find((lens) => lens.side === side && lens.view === view);
  }

  /** Zoom, place and turn are the same view's on both sides where linked; a window is both views', and both sides' where linked. */
  change(side, view, values) {
    const one = this.of(side, view);
    const before = { ...PLAIN, zoom: one.zoom, x: one.x, y: one.y };
    one.change(values);
    const windowed = Object.fromEntries(Object.entries(values).filter(([name]) => WINDOW.includes(name)));
    for (const lens of this.all) {
      if (lens === one || !(this.linked || lens.side === side)) continue;
      if (lens.view === view) lens.change({ ...this.#moved(lens, one, before, values), ...windowed });
      else if (Object.keys(windowed).length) lens.change(windowed);
    }
  }

  /** Returns how the other side's film follows. */
  #moved(lens, one, before, values) {
    const follow = Object.fromEntries(Object.entries(values).filter(([name]) => ["turn", "flipped"].includes(name)));
    if ("zoom" in values) follow.zoom = this.#zoomed(lens, one, before);
    for (const name of PLACE.filter((axis) => axis in values)) follow[name] = this.#placed(name, lens, one, before);
    return follow;
  }

  #zoomed(lens, one, before) {
    if (this.linked === "pixel" && lens.film && one.film) return (one.zoom * one.fit) / lens.fit;
    return (lens.zoom * one.zoom) / before.zoom;
  }

  #placed(name, lens, one, before) {
    if (this.linked !== "pixel" || !lens.film || !one.film) return lens[name] + one[name] - before[name];
    const side = name === "x" ? "width" : "height";
    return 0.5 + ((one[name] - 0.5) * one.film[side]) / lens.film[side];
  }

  reset() {
    for (const lens of this.all) lens.change(PLAIN);
  }

  /** Lays whole films in the middle, as they stand. */
  fit() {
    for (const lens of this.all) lens.change({ zoom: 1, x: 0.5, y: 0.5 });
  }

  /** Shows a pixel of the film as a pixel of the screen. */
  actual() {
    for (const lens of this.all.filter(({ film }) => film)) lens.change({ zoom: 1 / (lens.fit * window.devicePixelRatio) });
  }

  /** Links the sides in one of the ways of LINKS, the hit's window as the query's, or parts them. */
  link(way) {
    this.linked = way;
    if (!way) return;
    for (const one of this.all.filter(({ side }) => side === "query")) {
      const { zoom, x, y, preset, wide, shift, inverted, turn, flipped } = one;
      const hit = this.of("hit", one.view);
      hit.change({ preset, wide, shift, inverted, turn, flipped });
      if (way === "pixel") hit.change(this.#moved(hit, one, one, { zoom, x, y }));
    }
  }
}

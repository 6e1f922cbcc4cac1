// What a pointer does on a film: window, pan, loupe and measures. A tool is asked by the stage that the pointer is on.

import { MEASURES } from "./measures.js";

/** Of a window's width or of its centre, for a pixel of dragging. */
const WINDOW_A_PIXEL = 1 / 200;
/** Pixels of the screen within which a point is taken hold of, and beyond which a press was a drag. */
const NEAR = 12;
const DRAGGED = 4;

/**
 * The tools by name. A tool may have `press`, `drag`, `hover`, `release` and `leave`, each given the stage and the event,
 * `drag` also the pixels moved; `stage.filmPoint(event)` is where that is in pixels of the film. One that sets `points`
 * can be used by the keyboard, in the middle of a stage; `cancel` gives up what is not complete.
 */
export const TOOLS = {
  window: {
    drag({ lens, lenses, side, view }, event, across, down) {
      lenses.change(side, view, {
        wide: lens.wide * Math.exp(across * WINDOW_A_PIXEL), shift: lens.shift + down * WINDOW_A_PIXEL * lens.wide,
      });
    },
  },
  pan: {
    drag: (stage, event, across, down) => stage.pan(across, down),
  },
  loupe: {
    press: (stage, event) => stage.magnify(event),
    hover: (stage, event) => stage.magnify(event),
    leave: (stage) => stage.magnify(null),
    release: (stage, event) => { if (event.pointerType !== "mouse") stage.magnify(null); },
  },
  ...Object.fromEntries(Object.keys(MEASURES).map((kind) => [kind, measuring(kind)])),
  region: marking(),
};

/** Returns the tool that marks a part of the query's film: there is one at a time. */
function marking() {
  const tool = measuring("region");
  let last = null;
  return {
    ...tool,
    press(stage, event) {
      if (stage.side !== "query") return;
      tool.press(stage, event);
      const measure = stage.measures.at(-1);
      if (measure?.kind !== "region" || measure === last?.measure) return;
      if (last?.stage.measures.includes(last.measure)) last.stage.remove(last.measure);
      last = { stage, measure };
    },
  };
}

/** Returns the tool of a measure: its points are set by dragging or by clicking, and moved by dragging. */
function measuring(kind) {
  let open = null;
  let held = null;
  let from = null;

  /** Puts a point that is held where the pointer is; lines of a ratio run across. */
  function put(stage, point) {
    const { measure, at } = held;
    measure.points[at] = point;
    const mate = measure.kind === "ratio" ? measure.points[at ^ 1] : null;
    if (mate && at % 2) point.y = mate.y;
    else if (mate) mate.y = point.y;
    stage.measured();
  }

  /** Returns the point of the film under an event; of a region within the film. */
  function pointOf(stage, event) {
    const { x, y } = stage.filmPoint(event);
    if (kind !== "region") return { x, y };
    const { width, height } = stage.film;
    return { x: Math.min(Math.max(x, 0), width), y: Math.min(Math.max(y, 0), height) };
  }

  const isWhole = ({ points }) => points.length === MEASURES[kind].points;

  /** Leaves the held point where it is; holds the next one of a measure that lacks one. */
  function set(stage) {
    const { measure } = held;
    if (measure !== open || isWhole(measure)) {
      if (measure === open) open = null;
      held = null;
    } else {
      measure.points.push({ ...measure.points.at(-1) });
      held = { measure, at: measure.points.length - 1, stage, fresh: true };
    }
    stage.measured();
  }

  return {
    points: true,
    press(stage, event) {
      const point = pointOf(stage, event);
      from = [event.clientX, event.clientY];
      if (held?.stage === stage) {
        put(stage, point);
        if (!isWhole(held.measure)) set(stage);
        return;
      }
      this.cancel();
      held = hold(stage, point);
      if (held) return;
      open = { kind, points: [point, { ...point }] };
      stage.measures.push(open);
      held = { measure: open, at: 1, stage, fresh: true };
      stage.measured();
    },
    hover(stage, event) {
      if (held?.stage === stage) put(stage, pointOf(stage, event));
    },
    release(stage, event) {
      if (held?.stage !== stage) return;
      const clicked = Math.hypot(event.clientX - from[0], event.clientY - from[1]) <= DRAGGED;
      if (held.fresh && clicked) held.fresh = false; // it follows the pointer to the next click
      else set(stage);
    },
    cancel() {
      if (open) held.stage.remove(open);
      [open, held] = [null, null];
    },
  };
}

/** Returns the point of a stage's measures that is near, to be moved, or null. */
function hold(stage, point) {
  const place = stage.stagePoint(point);
  for (const measure of stage.measures) {
    for (const [at, one] of measure.points.entries()) {
      const there = stage.stagePoint(one);
      if (Math.hypot(there.x - place.x, there.y - place.y) <= NEAR) return { measure, at, stage };
    }
  }
  return null;
}

// Films at their own depth: the PNG of the service as codes, and what its header says of showing and measuring them.

import { unreached } from "../page/api.js";

/** Films that are kept, at most and in bytes: those of a query, and of the hits around the one that is open. */
const KEPT = 16;
const KEPT_BYTES = 2 ** 28;
const TRIES = 4;
/** Answers after which the same film is asked for again: too many were in the making, or the service stops or starts. */
const PASSING = [429, 502, 503, 504];
const kept = new Map();

/**
 * Returns the film of an address of the service. Raises where there is none.
 *
 * It has `codes` (height rows of width), `bits`, `ends`, `slope`, `intercept`, `inverted`, `padding`, `aspect`, `spacing`
 * and `presets`, the first of which is to be shown, as the service describes them.
 */
export function film(address) {
  const found = kept.get(address) ?? fetched(address);
  kept.delete(address);
  kept.set(address, found);
  found.then(forget, () => kept.delete(address));
  return found;
}

/** Forgets films that were asked for longest ago, as long as the others are too many; the last four stay. */
async function forget() {
  const films = await Promise.all([...kept].map(async ([address, found]) => [address, (await found.catch(() => null))?.codes.byteLength ?? 0]));
  let bytes = films.reduce((sum, [, size]) => sum + size, 0);
  for (const [at, [address, size]] of films.slice(0, -4).entries()) {
    if (bytes <= KEPT_BYTES && films.length - at <= KEPT) return;
    kept.delete(address);
    bytes -= size;
  }
}

async function fetched(address, tried = 1) {
  const whole = new URL(address, window.location);
  whole.searchParams.set("depth", "own");
  const response = await fetch(whole).catch(() => { throw unreached(); });
  if (response.ok) return decoded(await response.arrayBuffer());
  if (tried === TRIES || !PASSING.includes(response.status)) throw new Error(`no film: ${response.status}`);
  await new Promise((ready) => { setTimeout(ready, (1 + Math.random()) * 500 * 2 ** tried); });
  return fetched(address, tried + 1);
}

/** Returns the film of a PNG that the service has made: grey, of 8 or 16 bits, in one pass. */
export async function decoded(buffer) {
  const bytes = new DataView(buffer);
  const chunks = { IDAT: [], viEw: [] };
  for (let at = 8; at < buffer.byteLength;) {
    const length = bytes.getUint32(at);
    const kind = String.fromCharCode(...new Uint8Array(buffer, at + 4, 4));
    chunks[kind]?.push(new Uint8Array(buffer, at + 8, length));
    at += 12 + length;
  }
  const said = JSON.parse(new TextDecoder().decode(await inflated(chunks.viEw)));
  const rows = new Uint8Array(await inflated(chunks.IDAT));
  return { ...said, codes: unfiltered(rows, said.width, said.height, bytes.getUint8(24) / 8), presets: said.presets.map(read) };
}

const inflated = (parts) => new Response(new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();

/** Returns a preset with its entries as numbers, where it is a curve. */
function read(preset) {
  if (!preset.entries) return preset;
  const packed = Uint8Array.from(atob(preset.entries), (one) => one.charCodeAt(0));
  const words = new DataView(packed.buffer);
  return { ...preset, entries: Uint16Array.from({ length: packed.length / 2 }, (_, at) => words.getUint16(2 * at, true)) };
}

/** Returns the samples of rows that each begin with their filter (PNG, section 9.2), of 1 or 2 bytes, the high one first. */
function unfiltered(rows, width, height, size) {
  const codes = new Uint16Array(width * height);
  const length = width * size;
  let above = new Uint8Array(length);
  for (let y = 0; y < height; y += 1) {
    const start = y * (length + 1) + 1;
    const row = rows.subarray(start, start + length);
    const filter = rows[start - 1];
    if (filter === 1) for (let at = size; at < length; at += 1) row[at] += row[at - size];
    else if (filter === 2) for (let at = 0; at < length; at += 1) row[at] += above[at];
    else if (filter === 3) for (let at = 0; at < length; at += 1) row[at] += ((at < size ? 0 : row[at - size]) + above[at]) >> 1;
    else if (filter === 4) paeth(row, above, size);
    const to = y * width;
    if (size === 1) codes.set(row, to);
    else for (let x = 0; x < width; x += 1) codes[to + x] = (row[2 * x] << 8) | row[2 * x + 1];
    above = row;
  }
  return codes;
}

function paeth(row, above, size) {
  for (let at = 0; at < row.length; at += 1) {
    const left = at < size ? 0 : row[at - size];
    const up = above[at];
    const corner = at < size ? 0 : above[at - size];
    const guess = left + up - corner;
    const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
    row[at] += a <= b && a <= c ? left : b <= c ? up : corner;
  }
}

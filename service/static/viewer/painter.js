// Draws films: codes of 16 bits become brightness in a shader, or where a browser has no WebGL 2 in a table.

const CODES = 1 << 16;
const KINDS = { LINEAR: 0, SIGMOID: 1, CURVE: 2 };
/** Samples along each side of a pixel of the screen that shows many of the film. */
const SAMPLES = 8;
/** Width of the texture of a curve, which may have more entries than a texture is wide. */
const CURVE_WIDTH = 256;
/** Bytes of films that are kept where they are drawn from; those of one drawing are kept in any case. */
const KEPT_BYTES = 2 ** 28;

const VERTEX = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0, 0.0, 1.0); }`;

/* A pixel of the screen is the mean of the film's pixels that lie below it, or what lies between four of them; padding
   and what is beside the film are black. The mean is taken of codes, before the window. */
const FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
precision highp usampler2D;
uniform usampler2D film, curve;
uniform mat3 place;
uniform vec2 line;
uniform int kind, entries;
uniform bool inverted;
uniform ivec2 padding;
uniform float height;
out vec4 shown;

float codeAt(ivec2 at) { return float(texelFetch(film, clamp(at, ivec2(0), textureSize(film, 0) - 1), 0).r); }

float between(vec2 at) {
  ivec2 low = ivec2(floor(at - 0.5));
  vec2 part = at - 0.5 - vec2(low);
  return mix(mix(codeAt(low), codeAt(low + ivec2(1, 0)), part.x),
    mix(codeAt(low + ivec2(0, 1)), codeAt(low + ivec2(1, 1)), part.x), part.y);
}

float mean(vec2 at, vec2 side) {
  ivec2 count = clamp(ivec2(ceil(side - 0.01)), ivec2(1), ivec2(${SAMPLES}));
  float sum = 0.0;
  for (int y = 0; y < ${SAMPLES}; y++) {
    if (y == count.y) break;
    for (int x = 0; x < ${SAMPLES}; x++) {
      if (x == count.x) break;
      sum += codeAt(ivec2(floor(at + ((vec2(x, y) + 0.5) / vec2(count) - 0.5) * side)));
    }
  }
  return sum / float(count.x * count.y);
}

void main() {
  shown = vec4(0.0, 0.0, 0.0, 1.0);
  vec2 at = (place * vec3(gl_FragCoord.x, height - gl_FragCoord.y, 1.0)).xy;
  if (any(lessThan(at, vec2(0.0))) || any(greaterThanEqual(at, vec2(textureSize(film, 0))))) return;
  int code = int(codeAt(ivec2(at)));
  if (code >= padding.x && code <= padding.y) return;
  vec2 side = abs(mat2(place) * vec2(1.0));
  float value = line.x * (max(side.x, side.y) < 0.99 ? between(at) : mean(at, side)) + line.y;
  if (kind == 1) value = 1.0 / (1.0 + exp(-clamp(value, -80.0, 80.0)));
  if (kind == 2) {
    int entry = clamp(int(floor(value + 0.5)), 0, entries - 1);
    value = float(texelFetch(curve, ivec2(entry % ${CURVE_WIDTH}, entry / ${CURVE_WIDTH}), 0).r) / 65535.0;
  }
  value = clamp(value, 0.0, 1.0);
  shown.rgb = vec3(inverted ? 1.0 - value : value);
}`;

/** Draws with WebGL 2 on one canvas of its own, which every stage copies from. Raises where there is none. */
class Shader {
  #textures = new Map();
  #bytes = 0;
  #uniforms = {};

  constructor() {
    this.canvas = document.createElement("canvas");
    this.gl = this.canvas.getContext("webgl2", { alpha: false, antialias: false, depth: false, powerPreference: "high-performance" });
    if (!this.gl) throw new Error("no WebGL 2");
    const { gl } = this;
    const program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error("the shader cannot be used");
    gl.useProgram(program);
    for (const name of ["film", "curve", "place", "line", "kind", "entries", "inverted", "padding", "height"]) {
      this.#uniforms[name] = gl.getUniformLocation(program, name);
    }
    gl.uniform1i(this.#uniforms.curve, 1);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    this.most = gl.getParameter(gl.MAX_TEXTURE_SIZE);
  }

  fits({ width, height }) {
    return !this.gl.isContextLost() && Math.max(width, height) <= this.most;
  }

  paint(brush, film, tone, place) {
    const { gl } = this;
    const { width, height } = brush.canvas;
    if (this.canvas.width < width || this.canvas.height < height) {
      this.canvas.width = Math.max(this.canvas.width, width);
      this.canvas.height = Math.max(this.canvas.height, height);
    }
    gl.viewport(0, 0, width, height);
    this.#bind(0, film.codes, film.width, film.height);
    const curve = tone.entries ?? NO_CURVE;
    this.#bind(1, curve, CURVE_WIDTH, Math.ceil(curve.length / CURVE_WIDTH));
    const set = this.#uniforms;
    gl.uniformMatrix3fv(set.place, false, [place.a, place.b, 0, place.c, place.d, 0, place.e, place.f, 1]);
    gl.uniform2f(set.line, ...tone.line);
    gl.uniform1i(set.kind, KINDS[tone.kind]);
    gl.uniform1i(set.entries, tone.entries?.length ?? 1);
    gl.uniform1i(set.inverted, tone.inverted ? 1 : 0);
    gl.uniform2i(set.padding, ...(film.padding ?? [-1, -1]));
    gl.uniform1f(set.height, height);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
    brush.drawImage(this.canvas, 0, this.canvas.height - height, width, height, 0, 0, width, height);
  }

  /** Binds the texture of numbers of 16 bits; of those that were not drawn with for long none stays. */
  #bind(unit, numbers, width, height) {
    const { gl } = this;
    gl.activeTexture(gl.TEXTURE0 + unit);
    const known = this.#textures.get(numbers);
    const texture = known ?? gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    this.#textures.delete(numbers);
    this.#textures.set(numbers, texture);
    if (known) return;
    const whole = numbers.length === width * height ? numbers : new Uint16Array(width * height);
    if (whole !== numbers) whole.set(numbers);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.R16UI, width, height, 0, gl.RED_INTEGER, gl.UNSIGNED_SHORT, whole);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    this.#bytes += numbers.byteLength;
    for (const old of [...this.#textures.keys()].slice(0, -2)) if (this.#bytes > KEPT_BYTES) this.#drop(old);
  }

  #drop(numbers) {
    this.gl.deleteTexture(this.#textures.get(numbers));
    this.#textures.delete(numbers);
    this.#bytes -= numbers.byteLength;
  }
}

const NO_CURVE = new Uint16Array(CURVE_WIDTH);

/** Draws with a table of all codes: a film is made 8 bits under its window, and laid by the browser. */
class Table {
  #made = new Map();

  paint(brush, film, tone, place) {
    const { width, height } = brush.canvas;
    brush.resetTransform();
    brush.fillStyle = "#000";
    brush.fillRect(0, 0, width, height);
    brush.imageSmoothingQuality = "high";
    brush.setTransform(place.inverse());
    brush.drawImage(this.#picture(film, tone), 0, 0);
    brush.resetTransform();
  }

  #picture(film, tone) {
    const key = JSON.stringify([tone.kind, tone.line, tone.inverted, tone.entries?.length]);
    const last = this.#made.get(film);
    if (last?.key === key) return last.canvas;
    const canvas = last?.canvas ?? new OffscreenCanvas(film.width, film.height);
    const greys = tableOf(film, tone);
    const data = new ImageData(film.width, film.height);
    const pixels = new Uint32Array(data.data.buffer);
    for (let at = 0; at < pixels.length; at += 1) pixels[at] = greys[film.codes[at]];
    canvas.getContext("2d").putImageData(data, 0, 0);
    this.#made.delete(film);
    this.#made.set(film, { key, canvas });
    if (this.#made.size > 4) this.#made.delete(this.#made.keys().next().value);
    return canvas;
  }
}

/** Returns the opaque grey of each code, as one number of 32 bits. */
function tableOf(film, { kind, entries, line: [a, b], inverted }) {
  const [first, last] = film.padding ?? [-1, -1];
  return Uint32Array.from({ length: CODES }, (_, code) => {
    let value = a * code + b;
    if (kind === "SIGMOID") value = 1 / (1 + Math.exp(-value));
    if (kind === "CURVE") value = entries[Math.min(Math.max(Math.round(value), 0), entries.length - 1)] / 65535;
    value = Math.min(Math.max(value, 0), 1);
    const grey = code >= first && code <= last ? 0 : Math.round(255 * (inverted ? 1 - value : value));
    return (255 << 24) | (grey * 0x010101);
  });
}

const table = new Table();
let shader = shaded();

function shaded() {
  try {
    return new Shader();
  } catch {
    return null;
  }
}

/** Returns what draws a film at present: a lost shader is made anew, and a film beyond its size is drawn without. */
function painterOf(film) {
  if (shader?.gl.isContextLost()) shader = shaded();
  return shader?.fits(film) ? shader : table;
}

/** Draws a film on a canvas: `matrix` says where each of its pixels lies, in pixels of the canvas. */
export function paint(brush, film, tone, matrix) {
  painterOf(film).paint(brush, film, tone, matrix.inverse());
}

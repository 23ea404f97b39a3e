// Colours: of the page, of kinds of units, of layers and chains. Told apart by people with any kind of colour vision, on light and on dark.

export const KIND_NAMES = ['SRAM', 'Tile loads', 'Products', 'Vector', 'Lane moves', 'Links out', 'Links in'];
const KINDS = {
  light: ['#8794a6', '#56b4e9', '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#8f4a74'],
  dark: ['#7c8a9e', '#56b4e9', '#3d8fe0', '#e69f00', '#1fb58b', '#d98cb8', '#a8628c'],
};
const CYCLE = ['#4477aa', '#ee7733', '#228833', '#ccbb44', '#66ccee', '#aa3377', '#99ddff', '#bbcc33', '#ee8866', '#44bb99', '#ffaabb', '#77aadd'];
export const VIA_COLOURS = {
  light: ['#1f5fbf', '#b45309', '#0f766e', '#0072b2', '#5b6573', '#b83280'],
  dark: ['#6ea8fe', '#f5a742', '#3fcdb4', '#56b4e9', '#a7b2bf', '#f08cc0'],
};
export const SHADES = 16;

/** A colour as the number that a canvas' pixels take. */
function pixel(r, g, b) {
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
}

function channels(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

/** `share` of a colour over another. */
function mix(over, under, share) {
  return over.map((c, i) => Math.round(c * share + under[i] * (1 - share)));
}

/** Black or white, whichever reads better on a pixel's colour. */
export function contrast(pixel) {
  const light = 0.3 * (pixel & 255) + 0.59 * ((pixel >> 8) & 255) + 0.11 * ((pixel >> 16) & 255);
  return light > 118 ? '#0d1218' : '#ffffff';
}

export class Theme {
  constructor() {
    const asked = matchMedia('(prefers-color-scheme: dark)');
    this.name = asked.matches ? 'dark' : 'light';
    this.listeners = [];
    asked.addEventListener('change', (e) => this.set(e.matches ? 'dark' : 'light'));
    addEventListener('beforeprint', () => { this.kept = this.name; this.set('light'); });
    addEventListener('afterprint', () => this.set(this.kept || this.name));
    this.apply();
  }

  set(name) {
    this.name = name;
    this.apply();
    this.listeners.forEach((f) => f());
  }

  toggle() {
    this.set(this.name === 'dark' ? 'light' : 'dark');
  }

  apply() {
    document.documentElement.dataset.theme = this.name;
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const name of ['bg', 'panel', 'raised', 'ink', 'soft', 'quiet', 'line', 'faint', 'accent', 'mark', 'mono', 'sans']) this[name] = of(name);
    this.kinds = KINDS[this.name];
    this.vias = VIA_COLOURS[this.name];
    this.cycle = CYCLE;
    const under = channels(this.panel);
    this.ground = pixel(...under);
    this.faintPixel = pixel(...channels(this.faint));
    this.linePixel = pixel(...channels(this.line));
    this.kindShades = this.shades(this.kinds, under);
    this.cycleShades = this.shades(this.cycle, under);
  }

  /** Pixels of every colour in SHADES strengths, colour after colour; the last colour is what does not match a search. */
  shades(colours, under) {
    const all = [...colours, mixHex(this.quiet, this.panel, 0.35)];
    const out = new Uint32Array(all.length * SHADES);
    all.forEach((hex, c) => {
      for (let s = 0; s < SHADES; s++) out[c * SHADES + s] = pixel(...mix(channels(hex), under, (s + 1) / SHADES));
    });
    return out;
  }
}

function mixHex(over, under, share) {
  return `#${mix(channels(over), channels(under), share).map((c) => c.toString(16).padStart(2, '0')).join('')}`;
}


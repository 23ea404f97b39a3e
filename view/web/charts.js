// The charts below the timeline, over the same time: utilisation, SRAM, links, stages.
import { Memory } from './memory.js';
import { contrast, KIND_NAMES, SHADES } from './theme.js';
import { count, el, percent } from './names.js';

export class Charts {
  constructor(canvas, note, state) {
    Object.assign(this, { canvas, note, state, tab: 'use', memory: new Memory(state), ctx: canvas.getContext('2d') });
  }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    this.width = box.width;
    this.view = box.height;
    this.fit(this.view);
  }

  /** Gives the canvas a height, which may be more than is in sight. */
  fit(height) {
    const dpr = Math.min(2, devicePixelRatio || 1);
    const [w, h] = [Math.round(this.width * dpr), Math.round(height * dpr)];
    if (this.canvas.width !== w || this.canvas.height !== h) {
      Object.assign(this.canvas, { width: w, height: h });
      this.canvas.style.height = `${height}px`;
    }
    this.height = height;
    this.ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
  }

  draw() {
    if (!this.width) return;
    const rows = { use: this.useRows(), links: this.linkRows(), bands: this.bandRows() }[this.tab];
    this.fit(Math.max(this.view, rows ? rows.length * this.each(rows) + 6 : this.memory.tall()));
    this.ctx.clearRect(0, 0, this.width, this.height);
    this.said = this.tab === 'sram' ? this.memory.draw(this.ctx, this.width, this.height) : this.curves(rows);
    this.tell();
  }

  /** What is under the pointer, or else what the chart shows and, of SRAM, the colours. */
  tell() {
    const text = this.hover || this.said || '';
    const legend = this.tab === 'sram' && !this.hover && this.width > 700 ? this.memory.legend() : [];
    const key = `${text}${legend.length}`;
    if (key === this.told) return;
    this.told = key;
    this.note.replaceChildren(...legend.map(([colour, name]) => el('span', { class: 'key' }, el('i', { class: 'swatch', style: `background:${colour}` }), name)), text);
  }

  each(rows) {
    return Math.max(this.tab === 'bands' ? 20 : 24, Math.min(44, (this.view - 6) / Math.max(1, rows.length)));
  }

  useRows() {
    const { schedule: s, chipOnly, theme } = this.state;
    return KIND_NAMES.map((name, kind) => ({
      key: `use:${chipOnly}:${kind}`, name, colour: theme.kinds[kind], units: s.about.chips.reduce((n, _, chip) => n + (chipOnly < 0 || chip === chipOnly ? s.part(chip).artifact.units[kind] : 0), 0),
      tracks: s.tracks.filter((t) => t.kind === kind && (chipOnly < 0 || t.chip === chipOnly)),
    })).filter((r) => r.tracks.length);
  }

  linkRows() {
    const { schedule: s, chipOnly, theme } = this.state;
    const far = new Map(s.wires.map(([c, l, to]) => [`${c}.${l}`, to]));
    return s.tracks.filter((t) => t.kind === 5 && (chipOnly < 0 || t.chip === chipOnly)).map((t) => {
      const link = Number(t.name.replace('c2c', ''));
      const part = s.part(t.chip);
      const words = (part.report.link_words || []).find((w) => w.chip === t.chip - part.firstChip && w.link === link);
      const load = words ? (words.words * part.artifact.target.link_cycles_per_word) / part.makespan : 0;
      const to = far.get(`${t.chip}.${link}`);
      return { key: `link:${t.id}`, name: `${s.chipLabel(t.chip)} \u2192 ${to === undefined ? '?' : s.chipLabel(to)}`, colour: theme.kinds[5], tracks: [t], load, words: words ? words.words : 0 };
    });
  }

  bandRows() {
    const { schedule: s, chipOnly } = this.state;
    return s.about.chips.map((_, chip) => chip).filter((c) => chipOnly < 0 || c === chipOnly).map((chip) => ({
      key: `band:${chip}`, name: s.chipName(chip), chip, band: true,
      tracks: s.tracks.filter((t) => t.chip === chip && t.kind >= 2 && t.kind <= 4),
      moves: s.tracks.filter((t) => t.chip === chip && t.kind >= 5),
    }));
  }

  curves(rows) {
    const { ctx } = this;
    const { scale, theme, lod, paint } = this.state;
    const each = this.each(rows);
    ctx.textBaseline = 'middle';
    rows.forEach((row, i) => {
      const y = i * each + 3;
      const [base, tall] = [y + each - 4, each - 8];
      const { bin, cover, top } = lod.level(row.key, row.tracks, scale.per);
      ctx.save();
      ctx.beginPath();
      ctx.rect(scale.left, 0, this.width - scale.left, this.height);
      ctx.clip();
      const from = Math.max(0, Math.floor(scale.t0 / bin));
      const to = Math.min(cover.length, Math.ceil(scale.t1 / bin) + 1);
      let sum = 0;
      if (row.band) {
        this.band(row, y, each, from, to, bin, cover, top, paint.layers);
      } else {
        ctx.beginPath();
        ctx.moveTo(scale.x(from * bin), base);
        for (let b = from; b < to; b++) {
          const h = base - tall * Math.min(1, cover[b]);
          ctx.lineTo(scale.x(b * bin), h);
          ctx.lineTo(scale.x((b + 1) * bin), h);
          sum += cover[b] * bin;
        }
        ctx.lineTo(scale.x(to * bin), base);
        ctx.fillStyle = row.colour;
        ctx.globalAlpha = 0.75;
        ctx.fill();
        ctx.globalAlpha = 1;
      }
      ctx.restore();
      ctx.fillStyle = theme.line;
      ctx.fillRect(0, Math.round(y + each - 3), this.width, 1);
      ctx.fillStyle = theme.soft;
      ctx.font = `12px ${theme.sans}`;
      ctx.fillText(row.name, 12, y + each / 2 - 2);
      if (!row.band && scale.left > 100) {
        ctx.fillStyle = theme.quiet;
        ctx.font = `11px ${theme.sans}`;
        // Of all units there are, as the report counts, of which some may have nothing to do.
        const text = percent((sum * row.tracks.length) / (row.units || row.tracks.length) / (Math.min(to * bin, scale.makespan) - from * bin));
        ctx.fillText(text, scale.left - 10 - ctx.measureText(text).width, y + each / 2 - 2);
      }
    });
    if (!rows.length) return this.tab === 'links' ? 'no link is used' : '';
    return { use: 'share of all units that issue, in the time shown; curves are of those in use', links: `words over each link; ${count(rows.reduce((a, r) => a + (r.words || 0), 0))} in the whole run`, bands: 'layer that each chip computes; below it, transfers' }[this.tab];
  }

  band(row, y, each, from, to, bin, cover, top, layers) {
    const { ctx } = this;
    const { scale, schedule: s, theme, lod } = this.state;
    const h = each - 9;
    let last = -1;
    let begin = from;
    const flush = (b) => {
      if (last < 0) return;
      const [x0, x1] = [scale.x(begin * bin), scale.x(b * bin)];
      ctx.fillStyle = theme.cycle[last % theme.cycle.length];
      ctx.fillRect(x0, y, Math.max(1, x1 - x0), h);
      const name = layers.names[last];
      if (x1 - x0 > 40 && name) {
        ctx.font = `11px ${theme.sans}`;
        ctx.fillStyle = contrast(theme.cycleShades[(last % theme.cycle.length) * SHADES + SHADES - 1]);
        const text = name.slice(0, Math.floor((x1 - x0 - 8) / 6.2));
        ctx.fillText(text, Math.max(x0, scale.left) + 4, y + h / 2 + 0.5);
      }
    };
    for (let b = from; b < to; b++) {
      const layer = top[b] >= 0 ? layers.of[s.origin[top[b]]] : -1;
      if (layer !== last) {
        flush(b);
        [last, begin] = [layer, b];
      }
    }
    flush(to);
    if (!row.moves.length) return;
    const moves = lod.level(`moves:${row.chip}`, row.moves, scale.per);
    ctx.fillStyle = theme.kinds[5];
    for (let b = Math.max(0, Math.floor(scale.t0 / moves.bin)); b < Math.min(moves.cover.length, scale.t1 / moves.bin + 1); b++) {
      if (moves.cover[b] > 0) ctx.fillRect(scale.x(b * moves.bin), y + h + 1, Math.max(1, scale.x((b + 1) * moves.bin) - scale.x(b * moves.bin)), 3);
    }
  }

  /** The row and the time under the pointer, in words. */
  point(x, y) {
    const { scale, schedule: s, lod, paint } = this.state;
    this.hover = undefined;
    let run = -1;
    if (x >= scale.left) {
      if (this.tab === 'sram') {
        const said = this.memory.say(x, y);
        if (said) [this.hover, run] = [said.text, said.run];
      } else {
        const rows = { use: this.useRows(), links: this.linkRows(), bands: this.bandRows() }[this.tab];
        const row = rows[Math.floor((y - 3) / this.each(rows))];
        if (row) {
          const { bin, cover, top } = lod.level(row.key, row.tracks, scale.per);
          const b = Math.floor(scale.t(x) / bin);
          run = top[b] ?? -1;
          const what = row.band ? (run >= 0 ? paint.layers.names[paint.layers.of[s.origin[run]]] : 'idle') : percent(cover[b] || 0);
          this.hover = `${row.name} @${count(Math.max(0, scale.t(x)))}: ${what}${row.words ? `, ${count(row.words)} words in all, load ${percent(row.load)}` : ''}`;
        }
      }
    }
    this.tell();
    return run;
  }
}

// What lies in the SRAM of a chip over time: every value from its first write to its last read, at its rows.
import { bytes, count, layerOf, tail } from './names.js';

export const VALUE_KINDS = ['constant', 'input', 'state', 'scratch', 'next state'];
const KIND_COLOURS = ['#8794a6', '#009e73', '#cc79a7', '#e69f00', '#0072b2'];

/** First and last cycle of every value, and a run that writes and one that reads it. */
export function lifetimes(schedule) {
  if (schedule.lives) return schedule.lives;
  const { values: v, n, value, start } = schedule;
  const count = v.chip.length;
  const from = new Float64Array(count).fill(Infinity);
  const to = new Float64Array(count).fill(0);
  const writer = new Int32Array(count).fill(-1);
  const reader = new Int32Array(count).fill(-1);
  const writing = schedule.meta.texts.map((t) => /^(write|scatter)/.test(t));
  for (let run = 0; run < n; run++) {
    const i = value[run];
    if (i < 0) continue;
    const writes = writing[schedule.programs[schedule.chip[run]].text[schedule.local[run]]];
    if (writes) {
      if (writer[i] < 0 || start[run] < start[writer[i]]) writer[i] = run;
      from[i] = Math.min(from[i], start[run]);
    } else if (reader[i] < 0 || start[run] > start[reader[i]]) {
      reader[i] = run;
    }
    to[i] = Math.max(to[i], start[run] + schedule.span[run]);
  }
  const kept = new Set(schedule.about.outputs.flatMap((o) => o.values));
  for (let i = 0; i < count; i++) {
    if (v.kind[i] < 3) from[i] = 0;
    if (v.kind[i] === 0 || v.kind[i] === 4 || kept.has(i)) to[i] = schedule.part(v.chip[i]).makespan;
    if (from[i] === Infinity) from[i] = to[i];
  }
  schedule.lives = { from, to, writer, reader };
  return schedule.lives;
}

/** A value in words: `scratch, f32 x 12, words 0x0040 .. 0x0070 of mem3.b1`. */
export function describeValue(schedule, i) {
  const { values: v, meta, about } = schedule;
  const { target, states } = schedule.part(v.chip[i]).artifact;
  const hex = (n) => `0x${n.toString(16).padStart(4, '0')}`;
  const tensor = [...about.inputs, ...about.outputs].find((t) => t.values.includes(i));
  const name = tensor ? ` "${tensor.name}"` : v.kind[i] === 2 && states[v.of[i]] ? ` "${states[v.of[i]][0]}"` : '';
  return `${VALUE_KINDS[v.kind[i]]}${name}, ${meta.dtypes[v.dtype[i]]}, ${bytes(v.words[i] * target.word_bytes)} at ${hex(v.base[i])}\u2013${hex(v.base[i] + v.words[i] - 1)} of ${schedule.chipLabel(v.chip[i])}.${target.places[v.bank[i]]}`;
}

export class Memory {
  constructor(state) {
    this.state = state;
    this.bank = -1;
  }

  /** Of every bank of the chip the words that are in use. */
  banks(chip) {
    const { values: v, index } = this.state.schedule;
    const key = `${index}:${chip}`;
    if (this.banksKey === key) return this.used;
    const used = new Array(this.state.schedule.part(chip).artifact.target.places.length).fill(0);
    for (let i = 0; i < v.chip.length; i++) if (v.chip[i] === chip) used[v.bank[i]] = Math.max(used[v.bank[i]], v.base[i] + v.words[i]);
    [this.banksKey, this.used] = [key, used];
    return used;
  }

  /** Height that makes every bank readable. */
  tall() {
    return this.bank < 0 ? 18 * this.banks(this.state.chipShown).filter(Boolean).length : 0;
  }

  draw(ctx, width, height) {
    const { schedule: s, scale, theme, chipShown } = this.state;
    const { values: v } = s;
    const { target } = s.part(chipShown).artifact;
    const lives = lifetimes(s);
    const used = this.banks(chipShown);
    const shown = used.map((u, i) => (u && (this.bank < 0 || this.bank === i) ? i : -1)).filter((i) => i >= 0);
    const most = Math.max(1, ...shown.map((i) => used[i]));
    const each = (height - 4) / Math.max(1, shown.length);
    const slot = new Array(used.length).fill(-1);
    shown.forEach((bank, i) => { slot[bank] = i; });
    this.boxes = [];
    ctx.save();
    ctx.beginPath();
    ctx.rect(scale.left, 0, width - scale.left, height);
    ctx.clip();
    // Constants first, so that what lives shortly lies on top of them.
    for (const i of this.order(chipShown)) {
      if (slot[v.bank[i]] < 0 || lives.to[i] < scale.t0 || lives.from[i] > scale.t1) continue;
      const x = scale.x(lives.from[i]);
      const y = 2 + slot[v.bank[i]] * each + (v.base[i] / most) * (each - 1);
      const h = Math.max(v.kind[i] === 0 ? 0.4 : 1, (v.words[i] / most) * (each - 1) - (each > 60 ? 0.4 : 0));
      const w = Math.max(1, scale.x(lives.to[i]) - x);
      ctx.fillStyle = KIND_COLOURS[v.kind[i]];
      ctx.globalAlpha = v.kind[i] === 0 ? 0.4 : 1;
      ctx.fillRect(x, y, w, h);
      this.boxes.push([x, y, w, h, i]);
      const selected = this.state.selected >= 0 && s.value[this.state.selected] === i;
      if (selected) {
        ctx.globalAlpha = 1;
        ctx.strokeStyle = theme.mark;
        ctx.lineWidth = 2;
        ctx.strokeRect(x, y - 1, w, Math.max(3, h + 2));
      }
    }
    ctx.restore();
    ctx.globalAlpha = 1;
    ctx.textBaseline = 'middle';
    ctx.font = `11px ${theme.mono}`;
    ctx.fillStyle = theme.quiet;
    const skip = Math.max(1, Math.ceil(13 / each));
    shown.forEach((bank, i) => {
      if (i % skip === 0) ctx.fillText(target.places[bank], 12, Math.max(7, 2 + (i + 0.5) * each));
    });
    ctx.fillStyle = theme.line;
    for (let i = 1; each > 6 && i < shown.length; i++) ctx.fillRect(scale.left, 2 + i * each - 0.5, width, 0.5);
    return `${s.chipName(chipShown).replace('Chip', 'chip')}: words up to ${count(most)} of ${count(target.bank_words)} a bank`;
  }

  /** Values of a chip, constants first. */
  order(chip) {
    const { schedule: s } = this.state;
    const key = `${s.index}:${chip}`;
    if (this.orderKey !== key) {
      const all = [...s.values.chip.keys()].filter((i) => s.values.chip[i] === chip);
      this.sorted = [...all.filter((i) => s.values.kind[i] === 0), ...all.filter((i) => s.values.kind[i] !== 0)];
      this.orderKey = key;
    }
    return this.sorted;
  }

  /** What lies at a point. */
  say(x, y) {
    const hit = (this.boxes || []).filter(([bx, by, w, h]) => x >= bx && x <= bx + w && y >= by - 1 && y <= by + Math.max(h, 2) + 1).pop();
    if (!hit) return undefined;
    const { schedule: s } = this.state;
    const lives = lifetimes(s);
    const i = hit[4];
    const run = lives.writer[i] >= 0 ? lives.writer[i] : lives.reader[i];
    const node = run >= 0 ? s.nodes(run)[0] : undefined;
    const life = `@${count(lives.from[i])}\u2013${count(lives.to[i])}`;
    return { text: `${describeValue(s, i)}, ${life}${node ? `, ${tail(layerOf(node), 30)}` : ''}`, run };
  }

  legend() {
    return VALUE_KINDS.map((name, i) => [KIND_COLOURS[i], name]);
  }
}

// The timeline: rows of chips, kinds and queues over time. Bars are written into the canvas' pixels, text and lines drawn over them.
import { contrast, SHADES } from './theme.js';
import { count, tail } from './names.js';

const RULER = 26;
const LANE_FROM = 9; // pixels of a row from which the queues of a kind are told apart when near

export class Timeline {
  constructor(canvas, state) {
    Object.assign(this, { canvas, state, scroll: 0, ctx: canvas.getContext('2d', { alpha: false }) });
  }

  /** Takes the size of its box. */
  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    this.dpr = Math.min(2, devicePixelRatio || 1);
    this.width = Math.max(200, Math.floor(box.width));
    this.height = Math.max(80, Math.floor(box.height));
    this.gutter = this.width < 600 ? 98 : 138;
    const [w, h] = [Math.round(this.width * this.dpr), Math.round(this.height * this.dpr)];
    if (this.canvas.width !== w || this.canvas.height !== h || !this.image) {
      Object.assign(this.canvas, { width: w, height: h });
      this.image = this.ctx.createImageData(w, h);
      this.pixels = new Uint32Array(this.image.data.buffer);
      [this.w, this.h] = [w, h];
    }
    const { scale } = this.state;
    scale.left = this.gutter;
    scale.width = this.width - this.gutter;
  }

  get rows() {
    return this.state.rows;
  }

  clampScroll() {
    const most = Math.max(0, this.rows.height - (this.height - RULER) + 16);
    this.scroll = Math.min(Math.max(0, this.scroll), most);
  }

  /** Where a row begins on the canvas. */
  top(row) {
    return RULER + row.y - this.scroll;
  }

  visible() {
    return this.rows.list.filter((r) => this.top(r) < this.height && this.top(r) + r.h > RULER);
  }

  draw() {
    this.clampScroll();
    const { theme } = this.state;
    this.pixels.fill(theme.ground);
    const rows = this.visible();
    for (const row of rows) this.bars(row);
    this.ctx.setTransform(1, 0, 0, 1, 0, 0);
    this.ctx.putImageData(this.image, 0, 0);
    this.ctx.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    this.grid(rows);
    for (const row of rows) this.words(row);
    this.edges();
    this.names(rows);
    this.ruler();
  }

  /** Fills a rectangle of pixels; coordinates in the canvas' own pixels, clipped. */
  rect(x0, y0, x1, y1, colour) {
    const left = Math.round(this.gutter * this.dpr);
    const a = Math.max(left, x0);
    const b = Math.min(this.w, x1);
    if (b <= a) return;
    const bottom = Math.min(this.h, y1);
    for (let y = Math.max(Math.round(RULER * this.dpr), y0); y < bottom; y++) this.pixels.fill(colour, y * this.w + a, y * this.w + b);
  }

  bars(row) {
    const { scale, lod, paint } = this.state;
    this.paint = row.type === 'chip' ? paint.band : paint;
    const y0 = Math.round((this.top(row) + (row.type === 'chip' ? 6 : 2)) * this.dpr);
    const y1 = Math.round((this.top(row) + row.h - (row.type === 'chip' ? 5 : 1)) * this.dpr);
    if (scale.per / this.dpr > lod.bin) {
      this.far(row, y0, y1);
    } else if (row.type === 'track') {
      this.near(row.track, y0, y1);
    } else if (row.type === 'chip') {
      for (const track of row.tracks) this.near(track, y0, y1);
    } else {
      const lanes = row.tracks.length;
      const h = Math.max(1, (y1 - y0) / lanes);
      row.tracks.forEach((track, i) => {
        const y = Math.floor(y0 + (i * (y1 - y0)) / lanes);
        this.near(track, y, Math.max(y + 1, Math.floor(y + h - (h > 4 ? 1 : 0))));
      });
    }
  }

  /** Far out: per column of pixels how busy the row is, in the colour of the run that fills most of it. */
  far(row, y0, y1) {
    const { scale, lod } = this.state;
    const { bin, cover, top } = lod.level(row.key, row.tracks, scale.per / this.dpr);
    const h = y1 - y0;
    const left = Math.round(this.gutter * this.dpr);
    const step = (scale.t1 - scale.t0) / (this.w - left) / bin;
    let at = scale.t0 / bin;
    const band = row.type !== 'group';
    const { shades, colours } = this.paint;
    for (let x = left; x < this.w; x++, at += step) {
      const b = Math.floor(at);
      if (b >= cover.length) break;
      const last = Math.min(cover.length, Math.max(b + 1, Math.floor(at + step)));
      let share = cover[b];
      for (let i = b + 1; i < last; i++) share = Math.max(share, cover[i]);
      if (share <= 0) continue;
      const run = top[b] >= 0 ? top[b] : top[last - 1];
      if (run < 0) continue;
      const colour = colours[run] * SHADES;
      if (band) {
        const full = row.type === 'chip' ? Math.sqrt(share) : share;
        const shade = shades[colour + Math.min(SHADES - 1, Math.floor((0.25 + 0.75 * Math.min(1, full)) * (SHADES - 0.01)))];
        for (let y = y0; y < y1; y++) this.set(x, y, shade);
      } else {
        const tall = Math.max(this.dpr, Math.round(h * Math.min(1, share)));
        const shade = shades[colour + SHADES - 1];
        for (let y = y1 - tall; y < y1; y++) this.set(x, y, shade);
      }
    }
  }

  set(x, y, colour) {
    if (y >= RULER * this.dpr && y < this.h) this.pixels[y * this.w + x] = colour;
  }

  /** Close: every run, and every issue where there is room. */
  near(track, y0, y1) {
    if (y1 <= RULER * this.dpr || y0 >= this.h) return;
    const { scale, schedule: s } = this.state;
    const { paint } = this;
    const k = this.dpr;
    const x = (t) => Math.round(scale.x(t) * k);
    const per = k / scale.per;
    let run = s.before(track, scale.t0);
    if (run < 0) run = track.from;
    for (; run < track.to && s.start[run] < scale.t1; run++) {
      const colour = paint.colours[run] * SHADES;
      const solid = paint.shades[colour + SHADES - 1];
      const [from, to] = [s.start[run], s.start[run] + s.span[run]];
      if (to <= scale.t0) continue;
      const density = s.busy[run] / Math.max(1, to - from);
      if (density > 0.999 || per < 1.2) {
        const shade = density > 0.999 ? solid : paint.shades[colour + Math.floor((0.35 + 0.65 * density) * (SHADES - 1))];
        const x0 = x(from);
        const wide = Math.max(x0 + 1, x(to) - (per * (to - from) > 5 ? 1 : 0));
        this.rect(x0, y0, wide, y1, shade);
        if (per >= 9 && density > 0.999 && s.busy[run] > s.occupancy(run)) this.issues(run, y0, y1, paint.shades[colour + SHADES - 4], per);
      } else {
        this.rect(x(from), y0, Math.max(x(from) + 1, x(to)), y1, paint.shades[colour + 4]);
        this.issues(run, y0, y1, solid, per);
      }
    }
  }

  /** The issues of a run that are in sight, each as long as it holds the queue. */
  issues(run, y0, y1, colour, per) {
    const { scale, schedule: s } = this.state;
    const [[n0, s0], [n1, s1], [n2, s2]] = s.dims(run);
    const hold = s.occupancy(run);
    const gap = per * hold > 4 ? 1 : 0;
    const [low, high] = [scale.t0 - hold, scale.t1];
    for (let i2 = 0; i2 < n2; i2++) {
      const a = s.start[run] + i2 * s2;
      if (a + (n1 - 1) * s1 + (n0 - 1) * s0 < low || a > high) continue;
      for (let i1 = 0; i1 < n1; i1++) {
        const b = a + i1 * s1;
        if (b + (n0 - 1) * s0 < low || b > high) continue;
        const first = s0 ? Math.max(0, Math.ceil((low - b) / s0)) : 0;
        for (let i0 = first; i0 < n0; i0++) {
          const t = b + i0 * s0;
          if (t > high) break;
          const x0 = Math.round(scale.x(t) * this.dpr);
          this.rect(x0, y0, Math.max(x0 + 1, Math.round(scale.x(t + hold) * this.dpr) - gap), y1, colour);
        }
      }
    }
  }

  grid(rows) {
    const { ctx } = this;
    const { theme, scale } = this.state;
    ctx.lineWidth = 1;
    ctx.strokeStyle = theme.line;
    ctx.beginPath();
    for (const row of rows) {
      if (row.type !== 'chip') continue;
      const y = Math.round(this.top(row)) + 0.5;
      ctx.moveTo(0, y);
      ctx.lineTo(this.width, y);
    }
    ctx.stroke();
    ctx.globalAlpha = theme.name === 'dark' ? 0.5 : 0.6;
    ctx.beginPath();
    for (const t of scale.ticks()) {
      const x = Math.round(scale.x(t)) + 0.5;
      ctx.moveTo(x, RULER);
      ctx.lineTo(x, this.height);
    }
    ctx.stroke();
    ctx.globalAlpha = 1;
    for (const row of rows) {
      const end = scale.x(this.state.schedule.part(row.chip).makespan);
      if (end >= this.width) continue;
      const y = Math.max(RULER, this.top(row));
      const h = this.top(row) + row.h - y;
      ctx.fillStyle = theme.bg;
      ctx.fillRect(Math.ceil(Math.max(end, this.gutter)), y, this.width, h);
      ctx.fillStyle = theme.quiet;
      if (end > this.gutter) ctx.fillRect(Math.round(end), y, 1, h);
    }
  }

  /** Text in bars that have room for it. */
  words(row) {
    const { scale, schedule: s, theme, lod } = this.state;
    if (row.type === 'chip') this.layers(row);
    if (row.type !== 'track' || scale.per / this.dpr > lod.bin) return;
    const { ctx } = this;
    let run = s.before(row.track, scale.t0);
    if (run < 0) run = row.track.from;
    ctx.font = `10.5px ${theme.mono}`;
    ctx.textBaseline = 'middle';
    const y = this.top(row) + row.h / 2 + 1;
    for (; run < row.track.to && s.start[run] < scale.t1; run++) {
      const x0 = Math.max(this.gutter, scale.x(s.start[run]));
      const room = scale.x(s.start[run] + s.span[run]) - x0 - 8;
      if (room < 40) continue;
      const dense = s.busy[run] > 0.999 * s.span[run];
      ctx.fillStyle = dense ? contrast(this.state.paint.shades[this.state.paint.colours[run] * SHADES + SHADES - 1]) : theme.ink;
      ctx.fillText(s.text(run).slice(0, Math.floor(room / 6.4)), x0 + 5, y);
    }
  }

  /** Names of the layers along a chip's band, where one lasts long enough. */
  layers(row) {
    const { ctx } = this;
    const { scale, lod, schedule: s, theme, paint } = this.state;
    const { bin, top } = lod.level(row.key, row.tracks, scale.per * 8);
    ctx.font = `10.5px ${theme.sans}`;
    ctx.textBaseline = 'middle';
    const y = this.top(row) + row.h / 2 + 1;
    const write = (from, to, layer) => {
      const x0 = Math.max(this.gutter, scale.x(from * bin));
      const room = Math.min(this.width, scale.x(to * bin)) - x0 - 8;
      const name = paint.layers.names[layer];
      const width = name ? ctx.measureText(name).width : Infinity;
      if (room < 28 || !name) return;
      const text = width <= room ? name : `${name.slice(0, Math.floor(room / 6.4))}\u2026`;
      ctx.fillStyle = theme.panel;
      ctx.globalAlpha = 0.82;
      ctx.fillRect(x0 + 2, y - 6.5, ctx.measureText(text).width + 6, 13);
      ctx.globalAlpha = 1;
      ctx.fillStyle = theme.ink;
      ctx.fillText(text, x0 + 5, y + 0.5);
    };
    let [begin, last, seen, misses] = [0, -1, 0, 0];
    const end = Math.min(top.length, Math.ceil(scale.t1 / bin) + 1);
    for (let b = Math.max(0, Math.floor(scale.t0 / bin)); b < end; b++) {
      const layer = top[b] < 0 ? -1 : paint.layers.of[s.origin[top[b]]];
      if (layer === last) {
        [seen, misses] = [b + 1, 0];
        continue;
      }
      // A short gap, or a few cycles of another layer, does not end a name.
      if (last >= 0 && (layer < 0 || ++misses < 3)) continue;
      if (last >= 0) write(begin, seen, last);
      [begin, last, seen, misses] = [b, layer, b + 1, 0];
    }
    if (last >= 0) write(begin, seen, last);
  }

  /** The rectangle in which a run is drawn, whether its queue has a row of its own or not. */
  box(run) {
    const { scale, schedule: s } = this.state;
    const track = s.tracks[s.track[run]];
    const row = this.rows.rowOfTrack[track.id];
    if (!row) return undefined;
    const x = scale.x(s.start[run]);
    const w = Math.max(2, scale.x(s.start[run] + s.span[run]) - x);
    let [y, h] = [this.top(row) + 2, row.h - 3];
    if (row.type !== 'track' && row.h >= LANE_FROM) {
      const lane = row.tracks.indexOf(track);
      if (lane >= 0) {
        y += (h * lane) / row.tracks.length;
        h = Math.max(2, h / row.tracks.length);
      }
    }
    return { x, y, w, h };
  }

  /** What is selected, its producers and its consumers, and the lines between them. */
  edges() {
    const { ctx } = this;
    const { theme, selected, schedule: s, edgesOf } = this.state;
    ctx.save();
    ctx.beginPath();
    ctx.rect(this.gutter, RULER, this.width - this.gutter, this.height - RULER);
    ctx.clip();
    this.pathLine();
    if (selected >= 0) {
      const mine = this.box(selected);
      const { chain } = this.state;
      ctx.strokeStyle = theme.ink;
      ctx.globalAlpha = 0.35;
      for (const run of chain) {
        const b = run === selected ? undefined : this.box(run);
        if (b && b.x + b.w > 0 && b.x < this.width) ctx.strokeRect(b.x - 0.5, b.y - 0.5, b.w + 1, b.h + 1);
      }
      ctx.globalAlpha = 1;
      for (const { run, via, into } of edgesOf) {
        const other = this.box(run);
        if (!mine || !other) continue;
        const [from, to] = into ? [other, mine] : [mine, other];
        ctx.strokeStyle = theme.vias[via];
        ctx.lineWidth = 1.5;
        ctx.setLineDash(s.meta.ways[via] === 'link' ? [5, 3] : s.meta.ways[via] === 'row' ? [1, 3] : []);
        const [x0, y0, x1, y1] = [from.x + Math.min(from.w, 6) / 2, from.y + from.h / 2, to.x + Math.min(to.w, 6) / 2, to.y + to.h / 2];
        const bend = Math.max(14, Math.abs(x1 - x0) / 2);
        ctx.beginPath();
        ctx.moveTo(x0, y0);
        ctx.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
        ctx.stroke();
        ctx.setLineDash([]);
        ctx.strokeRect(other.x - 1, other.y - 1, other.w + 2, other.h + 2);
      }
      if (mine) {
        ctx.strokeStyle = theme.panel;
        ctx.lineWidth = 4;
        ctx.strokeRect(mine.x - 2, mine.y - 2, mine.w + 4, mine.h + 4);
        ctx.strokeStyle = theme.mark;
        ctx.lineWidth = 2;
        ctx.strokeRect(mine.x - 2, mine.y - 2, mine.w + 4, mine.h + 4);
      }
    }
    ctx.restore();
  }

  /** The critical path from step to step, while its list is shown. */
  pathLine() {
    const { theme, pathShown, schedule: s } = this.state;
    if (!pathShown) return;
    const { ctx } = this;
    ctx.strokeStyle = theme.mark;
    ctx.lineWidth = 1.5;
    ctx.beginPath();
    let last = -1;
    for (const { run, part } of s.path) {
      const b = run >= 0 ? this.box(run) : undefined;
      if (!b) continue;
      if (part === last) ctx.lineTo(b.x, b.y + b.h / 2);
      else ctx.moveTo(b.x, b.y + b.h / 2);
      last = part;
    }
    ctx.stroke();
  }

  names(rows) {
    const { ctx } = this;
    const { theme } = this.state;
    ctx.fillStyle = theme.panel;
    ctx.fillRect(0, RULER, this.gutter, this.height);
    ctx.fillStyle = theme.line;
    ctx.fillRect(this.gutter - 1, RULER, 1, this.height);
    ctx.textBaseline = 'middle';
    for (const row of rows) {
      const y = this.top(row) + row.h / 2 + 1;
      if (y < RULER - 8) continue;
      const indent = this.gutter > 100 ? { chip: 20, group: 30, track: 38 }[row.type] : { chip: 18, group: 18, track: 26 }[row.type];
      if (row.type !== 'track') {
        ctx.strokeStyle = theme.quiet;
        ctx.lineWidth = 1.4;
        ctx.beginPath();
        const x = indent - 9;
        if (row.open) { ctx.moveTo(x - 3, y - 2); ctx.lineTo(x, y + 1.5); ctx.lineTo(x + 3, y - 2); }
        else { ctx.moveTo(x - 2, y - 3); ctx.lineTo(x + 1.5, y); ctx.lineTo(x - 2, y + 3); }
        ctx.stroke();
      }
      ctx.fillStyle = row.type === 'chip' ? theme.ink : row.type === 'group' ? theme.soft : theme.quiet;
      ctx.font = row.type === 'chip' ? `600 12.5px ${theme.sans}` : row.type === 'group' ? `12px ${theme.sans}` : `11px ${theme.mono}`;
      const twin = row.type === 'track' && row.kind >= 5 ? (row.kind === 5 ? ' out' : ' in') : '';
      ctx.fillText(tail(row.name + twin, Math.floor((this.gutter - indent - 6) / (row.type === 'track' ? 6.7 : 6))), indent, y);
      if (row.type === 'group' && this.gutter > 100) {
        ctx.fillStyle = theme.quiet;
        ctx.font = `11px ${theme.sans}`;
        const text = String(row.tracks.length);
        ctx.fillText(text, this.gutter - 10 - ctx.measureText(text).width, y);
      }
    }
  }

  ruler() {
    const { ctx } = this;
    const { theme, scale } = this.state;
    ctx.fillStyle = theme.panel;
    ctx.fillRect(0, 0, this.width, RULER);
    ctx.fillStyle = theme.line;
    ctx.fillRect(0, RULER - 1, this.width, 1);
    ctx.font = `11px ${theme.sans}`;
    ctx.textBaseline = 'middle';
    ctx.fillStyle = theme.quiet;
    ctx.fillText('cycle', 11, RULER / 2);
    for (const t of scale.ticks()) {
      const x = scale.x(t);
      const text = count(t);
      const room = x + ctx.measureText(text).width + 6;
      if (room < this.width) ctx.fillText(text, x + 4, RULER / 2);
      ctx.fillRect(Math.round(x), RULER - 7, 1, 6);
    }
    if (this.hoverX > this.gutter) {
      const text = `@${count(Math.max(0, Math.floor(scale.t(this.hoverX))))}`;
      ctx.font = `600 11px ${theme.sans}`;
      const w = ctx.measureText(text).width + 10;
      const x = Math.min(this.width - w, Math.max(this.gutter, this.hoverX - w / 2));
      ctx.fillStyle = theme.ink;
      ctx.fillRect(x, 4, w, RULER - 9);
      ctx.fillStyle = theme.panel;
      ctx.fillText(text, x + 5, RULER / 2);
      ctx.fillStyle = theme.quiet;
      ctx.globalAlpha = 0.5;
      ctx.fillRect(Math.round(this.hoverX), RULER, 1, this.height);
      ctx.globalAlpha = 1;
    }
  }

  /** What lies at a point of the canvas: {row, run (or -1), gutter, cycle}. */
  pick(x, y) {
    const { scale, schedule: s, lod } = this.state;
    const cycle = Math.floor(scale.t(x));
    if (y < RULER) return { ruler: true, run: -1, cycle };
    const row = this.rows.at(y - RULER + this.scroll);
    if (!row) return { run: -1, cycle };
    if (x < this.gutter) return { row, gutter: true, run: -1, cycle };
    const slack = Math.max(0, Math.ceil(scale.per * 3));
    const on = (track) => {
      for (let t = cycle; t <= cycle + slack; t += Math.max(1, slack)) {
        const run = s.at(track, t);
        if (run >= 0) return run;
      }
      const before = s.before(track, cycle);
      return before >= 0 && cycle - s.start[before] - s.span[before] < slack ? before : -1;
    };
    let run = -1;
    if (row.type === 'track') {
      run = on(row.track);
    } else if (scale.per / this.dpr > lod.bin) {
      const { bin, top } = lod.level(row.key, row.tracks, scale.per / this.dpr);
      run = top[Math.floor(cycle / bin)] ?? -1;
    } else {
      const share = (y - this.top(row) - 2) / (row.h - 3);
      const lane = Math.min(row.tracks.length - 1, Math.max(0, Math.floor(share * row.tracks.length)));
      for (let d = 0; d < row.tracks.length && run < 0; d++) {
        for (const i of d ? [lane - d, lane + d] : [lane]) if (run < 0 && row.tracks[i]) run = on(row.tracks[i]);
      }
    }
    return { row, run, cycle };
  }

  /** Scrolls so that a row is in sight. */
  show(row) {
    const view = this.height - RULER;
    if (row.y < this.scroll + 30) this.scroll = row.y - 60;
    else if (row.y + row.h > this.scroll + view - 30) this.scroll = row.y + row.h - view + 90;
    this.clampScroll();
  }
}

// The whole run at a glance: how busy products, vector unit, SRAM and links are over time; the part that is shown is framed.
import { count } from './names.js';

export class Minimap {
  constructor(canvas, state) {
    Object.assign(this, { canvas, state, ctx: canvas.getContext('2d') });
    canvas.addEventListener('pointerdown', (e) => this.press(e));
    canvas.addEventListener('pointermove', (e) => this.move(e));
    canvas.addEventListener('pointerup', () => { this.held = undefined; });
  }

  resize() {
    const box = this.canvas.getBoundingClientRect();
    const dpr = Math.min(2, devicePixelRatio || 1);
    [this.width, this.height] = [box.width, box.height];
    Object.assign(this.canvas, { width: Math.round(box.width * dpr), height: Math.round(box.height * dpr) });
    this.ctx.setTransform(dpr, 0, 0, dpr, 0, 0);
    this.picture = undefined;
  }

  x(t) {
    const { scale } = this.state;
    return scale.left + (t * (this.width - scale.left - 10)) / scale.makespan;
  }

  t(x) {
    const { scale } = this.state;
    return ((x - scale.left) * scale.makespan) / (this.width - scale.left - 10);
  }

  /** The curves, which change with entry, size and theme alone. */
  paint() {
    const { theme, schedule: s, lod, scale } = this.state;
    const picture = document.createElement('canvas');
    Object.assign(picture, { width: this.canvas.width, height: this.canvas.height });
    const ctx = picture.getContext('2d');
    const dpr = this.canvas.width / this.width;
    ctx.scale(dpr, dpr);
    const base = this.height - 7;
    const tall = this.height - 16;
    for (const kind of [0, 2, 3, 5]) {
      const tracks = s.tracks.filter((t) => t.kind === kind);
      if (!tracks.length) continue;
      const { bin, cover } = lod.level(`all:${kind}`, tracks, scale.makespan / Math.max(1, this.width - scale.left));
      const peak = cover.reduce((a, b) => Math.max(a, b), 1e-9);
      ctx.beginPath();
      ctx.moveTo(this.x(0), base);
      for (let i = 0; i < cover.length; i++) ctx.lineTo(this.x(Math.min(s.makespan, i * bin)), base - tall * Math.min(1, cover[i] / peak));
      if (kind === 2) {
        ctx.lineTo(this.x(s.makespan), base);
        ctx.fillStyle = theme.kinds[kind];
        ctx.globalAlpha = 0.28;
        ctx.fill();
      }
      ctx.globalAlpha = kind === 0 ? 0.55 : 0.9;
      ctx.strokeStyle = theme.kinds[kind];
      ctx.lineWidth = 1;
      ctx.stroke();
      ctx.globalAlpha = 1;
    }
    s.parts.forEach(({ report, letter }, i) => {
      const bound = report.bound_cycles;
      if (!(bound > 0)) return;
      const x = this.x(bound);
      ctx.strokeStyle = theme.mark;
      ctx.setLineDash([3, 3]);
      ctx.beginPath();
      ctx.moveTo(x, 4);
      ctx.lineTo(x, this.height - 4);
      ctx.stroke();
      ctx.font = `11px ${theme.sans}`;
      ctx.fillStyle = theme.mark;
      ctx.fillText(`${letter ? `${letter}: ` : ''}bound ${count(bound)}`, x + 5, 13 + 13 * i);
    });
    ctx.font = `11px ${theme.sans}`;
    ctx.fillStyle = theme.quiet;
    ctx.fillText('whole run', 11, this.height / 2 + 4);
    this.picture = picture;
    this.key = this.fingerprint();
  }

  fingerprint() {
    const { theme, schedule, scale } = this.state;
    return `${theme.name}${schedule.index}${this.canvas.width}x${this.canvas.height}${scale.left}`;
  }

  draw() {
    const { theme, scale } = this.state;
    const { ctx } = this;
    if (!this.picture || this.key !== this.fingerprint()) this.paint();
    ctx.clearRect(0, 0, this.width, this.height);
    ctx.drawImage(this.picture, 0, 0, this.width, this.height);
    const [a, b] = [this.x(Math.max(0, scale.t0)), this.x(Math.min(scale.makespan, scale.t1))];
    ctx.fillStyle = theme.bg;
    ctx.globalAlpha = 0.72;
    ctx.fillRect(scale.left, 0, a - scale.left, this.height);
    ctx.fillRect(b, 0, this.width - b, this.height);
    ctx.globalAlpha = 1;
    ctx.strokeStyle = theme.accent;
    ctx.lineWidth = 1.5;
    ctx.strokeRect(a - 0.5, 1, Math.max(2, b - a + 1), this.height - 2);
  }

  press(e) {
    const { scale } = this.state;
    this.canvas.setPointerCapture(e.pointerId);
    const t = this.t(e.offsetX);
    const half = (scale.t1 - scale.t0) / 2;
    if (t < scale.t0 || t > scale.t1) scale.set(t - half, t + half);
    this.held = t - scale.t0;
  }

  move(e) {
    if (this.held === undefined) return;
    const { scale } = this.state;
    const length = scale.t1 - scale.t0;
    const from = Math.min(Math.max(0, this.t(e.offsetX) - this.held), Math.max(0, scale.makespan * 1.01 - length));
    scale.set(from, from + length);
  }
}

// The part of time that is shown, and ticks on it.

export class Scale {
  constructor(makespan, changed) {
    Object.assign(this, { makespan, changed, t0: 0, t1: makespan, left: 0, width: 1000 });
  }

  /** Cycles per pixel. */
  get per() {
    return (this.t1 - this.t0) / this.width;
  }

  x(t) {
    return this.left + ((t - this.t0) * this.width) / (this.t1 - this.t0);
  }

  t(x) {
    return this.t0 + (x - this.left) * this.per;
  }

  /** Shows [t0, t1), within the run and at least eight cycles wide. */
  set(t0, t1) {
    cancelAnimationFrame(this.moving);
    this.put(t0, t1);
  }

  put(t0, t1) {
    const all = this.makespan * 1.01;
    const length = Math.min(Math.max(t1 - t0, 8), all);
    const from = Math.min(Math.max(t0 - (length - (t1 - t0)) / 2, 0), all - length);
    Object.assign(this, { t0: from, t1: from + length });
    this.changed();
  }

  /** The same, in a short movement. */
  go(t0, t1) {
    if (matchMedia('(prefers-reduced-motion: reduce)').matches) return this.set(t0, t1);
    cancelAnimationFrame(this.moving);
    const [a0, a1, begin] = [this.t0, this.t1, performance.now()];
    const step = (now) => {
      const k = Math.min(1, (now - begin) / 180);
      const e = 1 - (1 - k) ** 3;
      this.put(a0 + (t0 - a0) * e, a1 + (t1 - a1) * e);
      if (k < 1) this.moving = requestAnimationFrame(step);
    };
    this.moving = requestAnimationFrame(step);
    return undefined;
  }

  zoom(factor, x) {
    const at = this.t(x);
    const length = Math.min(Math.max((this.t1 - this.t0) * factor, 8), this.makespan * 1.01);
    const share = (x - this.left) / this.width;
    this.set(at - length * share, at + length * (1 - share));
  }

  pan(pixels) {
    const by = pixels * this.per;
    const clamped = Math.min(Math.max(by, -this.t0), Math.max(0, this.makespan * 1.01 - this.t1));
    this.set(this.t0 + clamped, this.t1 + clamped);
  }

  fit() {
    this.go(0, this.makespan * 1.01);
  }

  /** Cycles that deserve a tick: about one every 110 pixels, at round numbers. */
  ticks() {
    const raw = Math.max(1, this.per * 110);
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = Math.max(1, [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw));
    const out = [];
    for (let t = Math.ceil(this.t0 / step) * step; t <= this.t1; t += step) out.push(t);
    return out;
  }
}

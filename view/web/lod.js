// Level of detail: how busy a set of queues is over time, in bins of powers of two, and which run fills each bin most.
// A pyramid is made when a row is first drawn far out, in time linear in its runs.

const BINS = 32768;

export class Lod {
  constructor(schedule) {
    this.schedule = schedule;
    this.made = new Map();
    this.bin = 1;
    while (schedule.makespan / this.bin > BINS) this.bin *= 2;
  }

  /** Levels of a set of tracks: [{bin, cover (0..1 of all its queues), top (a run or -1)}], each bin twice that of the level before. */
  levels(key, tracks) {
    let levels = this.made.get(key);
    if (!levels) {
      levels = this.make(tracks);
      this.made.set(key, levels);
    }
    return levels;
  }

  /** The coarsest level whose bins are no wider than this many cycles. */
  level(key, tracks, cycles) {
    const levels = this.levels(key, tracks);
    const at = Math.floor(Math.log2(Math.max(1, cycles / this.bin)));
    return levels[Math.min(at, levels.length - 1)];
  }

  make(tracks) {
    const { schedule: s, bin } = this;
    const n = Math.ceil((s.makespan + 1) / bin);
    let cover = new Float32Array(n);
    let top = new Int32Array(n).fill(-1);
    let most = new Float32Array(n);
    const share = 1 / (bin * Math.max(1, tracks.length));
    for (const track of tracks) {
      for (let run = track.from; run < track.to; run++) {
        const [from, to] = [s.start[run], s.start[run] + s.span[run]];
        const density = s.busy[run] / Math.max(1, to - from);
        const last = Math.min(n - 1, Math.floor((to - 1) / bin));
        for (let b = Math.floor(from / bin); b <= last; b++) {
          const mine = (Math.min(to, (b + 1) * bin) - Math.max(from, b * bin)) * density;
          cover[b] += mine * share;
          if (mine > most[b]) {
            most[b] = mine;
            top[b] = run;
          }
        }
      }
    }
    const levels = [{ bin, cover, top }];
    for (let size = bin * 2; cover.length > 512; size *= 2) {
      const m = Math.ceil(cover.length / 2);
      const [c, t, w] = [new Float32Array(m), new Int32Array(m), new Float32Array(m)];
      for (let i = 0; i < m; i++) {
        const [a, b] = [2 * i, Math.min(2 * i + 1, cover.length - 1)];
        c[i] = (cover[a] + (b > a ? cover[b] : 0)) / 2;
        const first = most[a] >= most[b];
        t[i] = first ? top[a] : top[b];
        w[i] = first ? most[a] : most[b];
      }
      [cover, top, most] = [c, t, w];
      levels.push({ bin: size, cover, top });
    }
    return levels;
  }
}

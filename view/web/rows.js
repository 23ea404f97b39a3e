// Which rows the timeline has: of every chip a band of the layers that it computes, of every kind of unit a row, of every queue of an open kind a row.
import { KIND_NAMES } from './theme.js';

export const HEIGHTS = { chip: 26, group: 24, track: 17 };

export class Rows {
  constructor(schedule) {
    this.schedule = schedule;
    this.only = -1;
    this.open = new Set();
    this.closed = new Set();
    if (schedule.about.chips.length > 16) schedule.about.chips.forEach((_, c) => this.closed.add(c));
    this.groups = schedule.about.chips.map(() => KIND_NAMES.map(() => []));
    for (const track of schedule.tracks) this.groups[track.chip][track.kind].push(track);
    this.lay();
  }

  lay() {
    this.list = [];
    this.rowOfTrack = new Array(this.schedule.tracks.length);
    let y = 0;
    const push = (row) => {
      row.y = y;
      row.h = HEIGHTS[row.type];
      y += row.h;
      this.list.push(row);
      return row;
    };
    this.groups.forEach((groups, chip) => {
      if (this.only >= 0 && this.only !== chip) return;
      const all = groups.flat();
      const working = all.filter((t) => t.kind >= 2 && t.kind <= 4);
      const band = push({ type: 'chip', chip, key: `band:${chip}`, name: this.schedule.chipName(chip), tracks: working.length ? working : all, open: !this.closed.has(chip) });
      for (const t of all) this.rowOfTrack[t.id] = band;
      if (!band.open) return;
      groups.forEach((tracks, kind) => {
        if (!tracks.length) return;
        const key = `${chip}:${kind}`;
        const row = push({ type: 'group', chip, kind, key, name: KIND_NAMES[kind], tracks, open: this.open.has(key) });
        for (const t of tracks) this.rowOfTrack[t.id] = row;
        if (!row.open) return;
        for (const t of tracks) this.rowOfTrack[t.id] = push({ type: 'track', chip, kind, key: `track:${t.id}`, track: t, name: t.name, tracks: [t] });
      });
    });
    this.height = y;
  }

  toggle(row) {
    if (row.type === 'track') return;
    const [set, key] = row.type === 'chip' ? [this.closed, row.chip] : [this.open, row.key];
    if (!set.delete(key)) set.add(key);
    this.lay();
  }

  /** Shows one chip with all its queues, or all chips (-1). */
  show(chip) {
    this.only = chip;
    if (chip >= 0) {
      this.closed.delete(chip);
      this.groups[chip].forEach((tracks, kind) => { if (kind > 0 || tracks.length <= 16) this.open.add(`${chip}:${kind}`); });
    }
    this.lay();
  }

  /** Makes the queue of a run a row of its own. */
  reveal(track) {
    if (this.only >= 0 && this.only !== track.chip) this.only = -1;
    this.closed.delete(track.chip);
    this.open.add(`${track.chip}:${track.kind}`);
    this.lay();
    return this.rowOfTrack[track.id];
  }

  at(y) {
    let [low, high] = [0, this.list.length];
    while (low < high) {
      const mid = (low + high) >> 1;
      if (this.list[mid].y <= y) low = mid + 1;
      else high = mid;
    }
    const row = this.list[low - 1];
    return row && y < row.y + row.h ? row : undefined;
  }
}

// The schedule of an entry as typed arrays: unpacks the blobs of the page.
// Runs are numbered over all chips; a track is a queue of a chip, and its runs lie next to each other, by cycle.

/** Text of an element of the page that holds packed data, as bytes. */
async function unpack(id) {
  const text = document.getElementById(id).textContent;
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Columns of a blob by name. A column that runs beyond 32 bits wraps, which its differences survive. */
async function columns(id) {
  const bytes = await unpack(id);
  const view = new DataView(bytes.buffer);
  const out = {};
  let at = 4;
  for (let left = view.getUint32(0, true); left > 0; left--) {
    const named = bytes[at];
    const name = String.fromCharCode(...bytes.subarray(at + 1, at + 1 + named));
    at += 1 + named;
    const n = view.getUint32(at, true);
    at += 8;
    const column = new Int32Array(n);
    let last = 0;
    for (let i = 0; i < n; i++) {
      let byte = bytes[at++];
      let value = byte & 0x7f;
      if (byte >= 0x80) {
        let scale = 128;
        do {
          byte = bytes[at++];
          value += (byte & 0x7f) * scale;
          scale *= 128;
        } while (byte >= 0x80);
      }
      last += value % 2 ? -(value + 1) / 2 : value / 2;
      column[i] = last;
    }
    out[name] = column;
  }
  return out;
}

/** What the page says of the artifact beside the columns. */
export async function loadMeta() {
  return JSON.parse(new TextDecoder().decode(await unpack('meta')));
}

const programs = new Map();

/** Columns of a program, with the place of each run's numbers. */
async function loadProgram(meta, id) {
  if (!programs.has(id)) {
    const p = await columns(`program-${id}`);
    const holes = meta.texts.map((t) => (t.match(/[#%]/g) || []).length);
    p.at = new Uint32Array(p.text.length);
    const last = meta.texts.map((_, i) => new Float64Array(holes[i]));
    let at = 0;
    let before = 0;
    for (let i = 0; i < p.text.length; i++) {
      p.at[i] = at;
      const mine = last[p.text[i]];
      for (let h = 0; h < mine.length; h++, at++) {
        const sum = p.numbers[at];
        mine[h] += (sum - before) | 0;
        before = sum;
        p.numbers[at] = mine[h];
      }
    }
    programs.set(id, p);
  }
  return programs.get(id);
}

/** One entry of the artifact. */
export class Schedule {
  static async load(meta, index) {
    const about = meta.entries[index];
    const s = new Schedule();
    const [columnsOfEntry, ...progs] = await Promise.all([
      columns(`entry-${index}`),
      ...about.chips.map(([id]) => loadProgram(meta, id)),
    ]);
    Object.assign(s, { meta, about, index, programs: progs, makespan: Math.max(1, about.makespan) });
    s.report = (meta.report && meta.report.entries && meta.report.entries[index]) || {};
    s.place(columnsOfEntry);
    s.connect(columnsOfEntry);
    return s;
  }

  /** Time, track and provenance of every run. */
  place(c) {
    const n = c.chain.length;
    Object.assign(this, {
      n, chain: c.chain, origin: c.origin, value: c.value,
      start: new Float64Array(n), span: new Int32Array(n), chip: new Uint16Array(n), local: new Uint32Array(n),
      track: new Uint32Array(n), busy: new Float64Array(n), tracks: [], firstRun: [],
      chains: { chip: c.chain_chip, to: c.chain_to, origin: c.chain_origin },
      values: { chip: c.v_chip, bank: c.v_bank, base: c.v_base, words: c.v_words, dtype: c.v_dtype, lo: c.v_lo, hi: c.v_hi, kind: c.v_kind, of: c.v_of },
    });
    let run = 0;
    this.about.chips.forEach(([, begin], chip) => {
      const p = this.programs[chip];
      this.firstRun.push(run);
      for (let i = 0; i < p.queue.length; i++, run++) {
        let track = this.tracks[this.tracks.length - 1];
        if (!track || track.chip !== chip || track.queue !== p.queue[i]) {
          const q = this.meta.queues[p.queue[i]];
          track = { id: this.tracks.length, chip, queue: p.queue[i], kind: q.kind, name: q.name, from: run, to: run };
          this.tracks.push(track);
        }
        track.to = run + 1;
        const last = (p.n0[i] - 1) * p.s0[i] + (p.n1[i] - 1) * p.s1[i] + (p.n2[i] - 1) * p.s2[i];
        this.start[run] = begin + p.cycle[i];
        this.span[run] = last + p.occupancy[i];
        this.busy[run] = p.n0[i] * p.n1[i] * p.n2[i] * p.occupancy[i];
        this.chip[run] = chip;
        this.local[run] = i;
        this.track[run] = track.id;
      }
    });
    this.firstRun.push(run);
  }

  /** Sources of every run, and what takes its results: both as ranges of flat arrays. */
  connect(c) {
    const { n } = this;
    const sourceAt = new Uint32Array(n + 1);
    const takerAt = new Uint32Array(n + 1);
    const source = new Uint32Array(c.source.length);
    let before = 0;
    for (let run = 0, at = 0; run < n; run++) {
      for (const end = at + c.n_sources[run]; at < end; at++) {
        source[at] = run - ((c.source[at] - before) | 0);
        before = c.source[at];
        takerAt[source[at] + 1]++;
      }
      sourceAt[run + 1] = at;
    }
    for (let i = 0; i < n; i++) takerAt[i + 1] += takerAt[i];
    const fill = takerAt.slice();
    const taker = new Uint32Array(source.length);
    const takerVia = new Uint8Array(source.length);
    for (let run = 0; run < n; run++) {
      for (let at = sourceAt[run]; at < sourceAt[run + 1]; at++) {
        const to = fill[source[at]]++;
        taker[to] = run;
        takerVia[to] = c.via[at];
      }
    }
    Object.assign(this, { sourceAt, source, sourceVia: c.via, takerAt, taker, takerVia });
  }

  /** Producers of what a run takes: [{run, via}]. */
  producers(run) {
    return pairs(this.source, this.sourceVia, this.sourceAt[run], this.sourceAt[run + 1]);
  }

  /** Runs that take its results. */
  consumers(run) {
    return pairs(this.taker, this.takerVia, this.takerAt[run], this.takerAt[run + 1]);
  }

  /** The run as the disassembler prints it, without queue and cycle. */
  text(run) {
    const p = this.programs[this.chip[run]];
    const i = this.local[run];
    let at = p.at[i];
    return this.meta.texts[p.text[i]].replace(/[#%]/g, (hole) => {
      const n = p.numbers[at++];
      return hole === '%' ? String(n) : `0x${n.toString(16).padStart(4, '0')}`;
    });
  }

  /** Queue with its chip: `c0.mem3.b1`. */
  queue(run) {
    return `c${this.chip[run]}.${this.tracks[this.track[run]].name}`;
  }

  /** Counts and cycle strides of its dimensions, innermost first. */
  dims(run) {
    const p = this.programs[this.chip[run]];
    const i = this.local[run];
    return [[p.n0[i], p.s0[i]], [p.n1[i], p.s1[i]], [p.n2[i], p.s2[i]]];
  }

  occupancy(run) {
    return this.programs[this.chip[run]].occupancy[this.local[run]];
  }

  /** Cycle of its last issue. */
  lastIssue(run) {
    return this.start[run] + this.span[run] - this.occupancy(run);
  }

  /** Cycle after which nothing of it is under way. */
  end(run) {
    return this.lastIssue(run) + this.programs[this.chip[run]].tail[this.local[run]];
  }

  /** IR operation of a run. */
  op(run) {
    const o = this.about.origins[this.origin[run]];
    return o ? o[0] : '';
  }

  /** Model nodes of a run. */
  nodes(run) {
    const o = this.about.origins[this.origin[run]];
    return o ? o[1].map((i) => this.about.nodes[i]) : [];
  }

  /** The run of a track that issues in this cycle, or the last before it; -1 where there is none. */
  before(track, cycle) {
    let [low, high] = [track.from, track.to];
    while (low < high) {
      const mid = (low + high) >> 1;
      if (this.start[mid] <= cycle) low = mid + 1;
      else high = mid;
    }
    return low > track.from ? low - 1 : -1;
  }

  /** The run that holds a track in this cycle; -1 where it is idle. */
  at(track, cycle) {
    const run = this.before(track, cycle);
    return run >= 0 && cycle < this.start[run] + this.span[run] ? run : -1;
  }

  /** All runs of a chain by cycle. */
  chainRuns(chain) {
    if (!this.byChain) {
      const at = new Uint32Array(this.chains.chip.length + 2);
      for (const h of this.chain) at[h + 1]++;
      for (let i = 1; i < at.length; i++) at[i] += at[i - 1];
      const fill = at.slice();
      const runs = new Uint32Array(this.n);
      for (let run = 0; run < this.n; run++) runs[fill[this.chain[run]]++] = run;
      this.byChain = { at, runs };
    }
    const { at, runs } = this.byChain;
    return Array.from(runs.subarray(at[chain], at[chain + 1])).sort((a, b) => this.start[a] - this.start[b] || a - b);
  }
}

function pairs(runs, vias, from, to) {
  const out = [];
  for (let i = from; i < to; i++) out.push({ run: runs[i], via: vias[i] });
  return out;
}

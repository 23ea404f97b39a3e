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

/** Columns of a program (`0-3`: of the first artifact, the fourth), with the place of each run's numbers. */
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

/** Distances from runs to their sources, which are stored as sums. */
function distances(source) {
  let before = 0;
  for (let i = 0; i < source.length; i++) {
    const sum = source[i];
    source[i] = (sum - before) | 0;
    before = sum;
  }
}

/** Columns of several entries as those of one: chips, chains, origins and values of each follow those of the one before. */
function join(all, parts) {
  const out = {};
  for (const name of Object.keys(all[0])) {
    out[name] = new Int32Array(all.reduce((n, c) => n + c[name].length, 0));
    let at = 0;
    all.forEach((c, i) => {
      const { firstChip, firstOrigin, firstChain, firstValue } = parts[i];
      const shift = { chain: firstChain, origin: firstOrigin, chain_origin: firstOrigin, value: firstValue, v_chip: firstChip, chain_chip: firstChip, chain_to: firstChip }[name] || 0;
      // -1 stands for none.
      for (const n of c[name]) out[name][at++] = n < 0 ? n : n + shift;
    });
  }
  return out;
}

/** One entry of an artifact, or of each of several, whose chips then follow each other. */
export class Schedule {
  static async load(meta, index) {
    const s = new Schedule();
    const wanted = meta.artifacts[0].entries[index].name;
    const first = { firstChip: 0, firstOrigin: 0, firstChain: 0, firstValue: 0 };
    const about = { chips: [], nodes: [], origins: [], inputs: [], outputs: [] };
    const loaded = [];
    const parts = [];
    s.path = [];
    s.wires = [];
    let runs = 0;
    for (const [i, artifact] of meta.artifacts.entries()) {
      const named = artifact.entries.findIndex((e) => e.name === wanted);
      const at = named >= 0 ? named : Math.min(index, artifact.entries.length - 1);
      const entry = artifact.entries[at];
      const report = (artifact.report && artifact.report.entries && artifact.report.entries[at]) || {};
      const c = await columns(`entry-${i}-${at}`);
      distances(c.source);
      parts.push({ ...first, artifact, report, makespan: entry.makespan, inputs: entry.inputs, outputs: entry.outputs, letter: meta.artifacts.length > 1 ? String.fromCharCode(65 + i) : '' });
      const [chips, nodes, values, firstRun] = [about.chips.length, about.nodes.length, first.firstValue, runs];
      about.chips.push(...entry.chips.map(([program, begin]) => [`${i}-${program}`, begin, i]));
      for (const node of entry.nodes) about.nodes.push(node);
      for (const [op, of] of entry.origins) about.origins.push([op, of.map((n) => n + nodes)]);
      for (const way of ['inputs', 'outputs']) about[way].push(...entry[way].map((t) => ({ ...t, values: t.values.map((v) => v + values) })));
      (report.critical_path || []).forEach((step, n) => s.path.push({ ...step, part: i, run: entry.critical[n] >= 0 ? entry.critical[n] + firstRun : -1 }));
      s.wires.push(...artifact.wires.map(([a, l, b, far]) => [a + chips, l, b + chips, far]));
      runs += c.chain.length;
      first.firstChip += entry.chips.length;
      first.firstOrigin += entry.origins.length;
      first.firstChain += c.chain_chip.length;
      first.firstValue += c.v_chip.length;
      loaded.push(c);
    }
    const progs = await Promise.all(about.chips.map(([id]) => loadProgram(meta, id)));
    Object.assign(s, { meta, about, index, parts, programs: progs, makespan: Math.max(1, ...parts.map((p) => p.makespan)) });
    const all = loaded.length > 1 ? join(loaded, parts) : loaded[0];
    s.place(all);
    s.connect(all);
    return s;
  }

  /** The artifact's part that a chip belongs to. */
  part(chip) {
    return this.parts[this.about.chips[chip][2]];
  }

  /** `Chip 0`, or `A chip 0` where there are several artifacts. */
  chipName(chip) {
    const { letter, firstChip } = this.part(chip);
    return letter ? `${letter} chip ${chip - firstChip}` : `Chip ${chip}`;
  }

  /** `c0`, or `A.c0`. */
  chipLabel(chip) {
    const { letter, firstChip } = this.part(chip);
    return letter ? `${letter}.c${chip - firstChip}` : `c${chip}`;
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
          const q = this.part(chip).artifact.queues[p.queue[i]];
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
    for (let run = 0, at = 0; run < n; run++) {
      for (const end = at + c.n_sources[run]; at < end; at++) {
        source[at] = run - c.source[at];
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
    return `${this.chipLabel(this.chip[run])}.${this.tracks[this.track[run]].name}`;
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

// Holds what is shown and wires the parts together.
import { loadMeta, Schedule } from './data.js';
import { count, el, layerOf, tail } from './names.js';
import { Theme } from './theme.js';
import { Scale } from './scale.js';
import { Rows } from './rows.js';
import { Lod } from './lod.js';
import { Timeline } from './timeline.js';
import { Minimap } from './minimap.js';
import { Charts } from './charts.js';
import { runsOf, Search } from './search.js';
import { figures, Panel } from './panel.js';
import { listen } from './keys.js';

const $ = (id) => document.getElementById(id);

class State {
  constructor(meta) {
    Object.assign(this, { meta, theme: new Theme(), colourBy: 'unit', selected: -1, edgesOf: [], chain: [], step: -1, chipOnly: -1, chipShown: 0 });
    this.theme.listeners.push(() => { this.makePaint(); this.panel.draw(); this.dirty(); });
    this.scale = new Scale(1, () => this.dirty());
  }

  /** Shows an entry. */
  async open(index) {
    this.schedule = await Schedule.load(this.meta, index);
    Object.assign(this, { selected: -1, edgesOf: [], chain: [], step: -1, matches: undefined });
    this.rows = new Rows(this.schedule);
    this.lod = new Lod(this.schedule);
    this.makePaint();
    Object.assign(this.scale, { makespan: this.schedule.makespan });
    this.chipOnly = -1;
    this.chipShown = 0;
    figures($('figures'), this);
    this.panel.draw();
    this.fillChips();
    this.scale.set(0, this.schedule.makespan * 1.01);
  }

  /** The colour of every run: an index into the shades of the theme. */
  makePaint() {
    const { schedule: s, theme, colourBy, matches } = this;
    if (!s) return;
    if (!s.layers) {
      const names = [];
      const of = s.about.origins.map(([, nodes]) => {
        const name = nodes.length ? layerOf(s.about.nodes[nodes[nodes.length - 1]]) : 'no model node';
        if (!names.includes(name)) names.push(name);
        return names.indexOf(name);
      });
      s.layers = { names, of };
    }
    const shades = colourBy === 'unit' ? theme.kindShades : theme.cycleShades;
    const cycle = theme.cycle.length;
    const colours = new Uint8Array(s.n);
    const bands = new Uint8Array(s.n);
    for (let run = 0; run < s.n; run++) {
      colours[run] = colourBy === 'unit' ? s.tracks[s.track[run]].kind : (colourBy === 'layer' ? s.layers.of[s.origin[run]] : s.chain[run]) % cycle;
      bands[run] = s.layers.of[s.origin[run]] % cycle;
      if (matches && !matches(run)) {
        bands[run] = cycle;
        colours[run] = colourBy === 'unit' ? theme.kinds.length : cycle;
      }
    }
    this.paint = { shades, colours, layers: s.layers, band: { shades: theme.cycleShades, colours: bands } };
  }

  dirty() {
    if (this.asked) return;
    this.asked = true;
    requestAnimationFrame(() => {
      this.asked = false;
      this.draw();
    });
  }

  draw() {
    if (!this.schedule) return;
    this.timeline.draw();
    this.minimap.draw();
    this.charts.draw();
    this.frames = (this.frames || 0) + 1;
  }

  resize() {
    this.timeline.resize();
    this.minimap.resize();
    this.charts.resize();
    this.dirty();
  }

  /** Selects a run; `go` also brings it into sight. */
  select(run, go) {
    const { schedule: s } = this;
    this.selected = run;
    if (run < 0) {
      Object.assign(this, { edgesOf: [], chain: [] });
      this.panel.draw();
      this.dirty();
      return;
    }
    this.edgesOf = [...s.producers(run).slice(0, 48).map((e) => ({ ...e, into: true })), ...s.consumers(run).slice(0, 48).map((e) => ({ ...e, into: false }))];
    this.chain = s.chainRuns(s.chain[run]);
    this.chipShown = s.chip[run];
    if (go) this.bring(run);
    this.side('run');
    $('said').textContent = `${s.queue(run)}, cycle ${s.start[run]}: ${s.text(run)}, ${s.op(run)}`;
    this.dirty();
  }

  /** Gives the queue of a run a row and scrolls and pans to it. */
  bring(run) {
    const { schedule: s, scale } = this;
    const before = this.rows.only;
    const row = this.rows.reveal(s.tracks[s.track[run]]);
    if (before !== this.rows.only) this.chipOnly = this.rows.only;
    $('chip').value = String(this.rows.only);
    this.timeline.show(row);
    const length = scale.t1 - scale.t0;
    const most = Math.max(60, s.span[run] * 30);
    if (length > most * 4) scale.go(s.start[run] - most / 3, s.start[run] + most);
    else if (s.start[run] < scale.t0 + length * 0.05 || s.start[run] + Math.min(s.span[run], length / 2) > scale.t1) scale.go(s.start[run] - length / 3, s.start[run] + (length * 2) / 3);
  }

  zoomToSelected() {
    const { schedule: s, selected: run } = this;
    if (run < 0) return;
    this.timeline.show(this.rows.reveal(s.tracks[s.track[run]]));
    const room = Math.max(6, s.span[run] * 0.4);
    this.scale.go(s.start[run] - room, s.start[run] + s.span[run] + room);
  }

  showChain(chain) {
    const { schedule: s } = this;
    const runs = s.chainRuns(chain);
    const from = runs.reduce((a, r) => Math.min(a, s.start[r]), Infinity);
    const to = runs.reduce((a, r) => Math.max(a, s.start[r] + s.span[r]), 0);
    this.scale.go(from - (to - from) * 0.08 - 4, to + (to - from) * 0.08 + 4);
  }

  along(step) {
    const { schedule: s, selected: run } = this;
    if (run < 0) return;
    const track = s.tracks[s.track[run]];
    const next = run + step;
    if (next >= track.from && next < track.to) this.select(next, true);
  }

  follow(which) {
    if (this.selected < 0) return;
    const [first] = this.schedule[which](this.selected);
    if (first) this.select(first.run, true);
  }

  goStep(i) {
    const steps = this.schedule.path;
    if (!steps[i]) return;
    this.filter(undefined);
    this.step = i;
    this.pathShown = true;
    const { run } = steps[i];
    const length = Math.max(40, steps[i].end - steps[i].start);
    if (run >= 0) {
      this.select(run);
      this.timeline.show(this.rows.rowOfTrack[this.schedule.track[run]] || this.rows.list[0]);
    }
    this.side('path');
    this.scale.go(steps[i].start - length * 0.2, steps[i].end + length * 0.2);
  }

  /** A result of the search was taken. */
  found(result) {
    const { schedule: s } = this;
    if (result.kind === 'cycle') {
      this.scale.go(result.cycle - 40, result.cycle + 40);
      $('said').textContent = `cycle ${result.cycle}`;
      $('timeline').focus();
      return;
    }
    const { test, first, from, to, number } = runsOf(s, result);
    if (first < 0) return;
    this.filter(test);
    this.rows.reveal(s.tracks[s.track[first]]);
    this.select(first);
    this.timeline.show(this.rows.rowOfTrack[s.track[first]]);
    const room = (to - from) * 0.06 + 4;
    this.scale.go(from - room, to + room);
    $('said').textContent = `${result.what}: ${number} runs from cycle ${from} to ${to}`;
    $('timeline').focus();
  }

  /** Greys what does not match; undefined shows everything in colour again. */
  filter(test) {
    if (this.matches === test) return;
    this.matches = test;
    this.makePaint();
    this.dirty();
  }

  colour(by) {
    this.colourBy = by;
    for (const b of $('colour').children) b.setAttribute('aria-checked', String(b.dataset.by === by));
    this.makePaint();
    this.panel.draw();
    this.dirty();
  }

  showChip(chip) {
    if (chip >= this.schedule.about.chips.length) return;
    this.chipOnly = chip;
    if (chip >= 0) this.chipShown = chip;
    this.rows.show(chip);
    this.timeline.scroll = 0;
    $('chip').value = String(chip);
    this.fillBanks();
    this.dirty();
  }

  openAll() {
    const keys = this.rows.list.filter((r) => r.type === 'group').map((r) => r.key);
    const all = keys.every((k) => this.rows.open.has(k));
    for (const k of keys) if (all) this.rows.open.delete(k); else this.rows.open.add(k);
    this.rows.lay();
    this.dirty();
  }

  scrollRows(by) {
    this.timeline.scroll += by;
    this.dirty();
  }

  clear() {
    this.filter(undefined);
    $('search').value = '';
    this.pathShown = false;
    this.select(-1);
  }

  side(tab) {
    this.panel.tab = tab;
    if (tab === 'path') this.pathShown = true;
    choose($('side-tabs'), tab, $('side'));
    this.panel.draw();
    this.dirty();
  }

  lower(tab) {
    this.charts.tab = tab;
    this.charts.hover = undefined;
    choose($('lower-tabs'), tab, $('lower-box'));
    $('bank-field').hidden = tab !== 'sram';
    this.fillBanks();
    this.dirty();
  }

  fillChips() {
    const n = this.schedule.about.chips.length;
    $('chip').replaceChildren(el('option', { value: '-1' }, n > 1 ? `All ${n}` : 'All'), ...this.schedule.about.chips.map((_, c) => el('option', { value: String(c) }, this.schedule.chipName(c))));
    this.fillBanks();
  }

  fillBanks() {
    const used = this.charts.memory.banks(this.chipShown);
    this.charts.memory.bank = -1;
    $('bank').replaceChildren(el('option', { value: '-1' }, 'All used'), ...used.flatMap((u, i) => (u ? [el('option', { value: String(i) }, this.schedule.part(this.chipShown).artifact.target.places[i])] : [])));
  }
}

/** Marks a tab of a list as the one that is shown. */
function choose(list, tab, box) {
  for (const b of list.querySelectorAll('[role=tab]')) {
    const on = b.dataset.tab === tab;
    b.setAttribute('aria-selected', String(on));
    b.tabIndex = on ? 0 : -1;
    if (on) box.setAttribute('aria-labelledby', b.id);
  }
}

/** Clicks and arrow keys on a list of tabs. */
function tabs(list, chosen) {
  list.addEventListener('click', (e) => { const b = e.target.closest('[role=tab]'); if (b) chosen(b.dataset.tab); });
  list.addEventListener('keydown', (e) => {
    if (e.key !== 'ArrowLeft' && e.key !== 'ArrowRight') return;
    const all = [...list.querySelectorAll('[role=tab]')];
    const at = all.findIndex((b) => b.getAttribute('aria-selected') === 'true');
    const next = all[(at + (e.key === 'ArrowRight' ? 1 : all.length - 1)) % all.length];
    chosen(next.dataset.tab);
    next.focus();
    e.stopPropagation();
  });
}

/** Wheel, drag, touch and clicks on the timeline. */
function pointers(state) {
  const canvas = $('timeline');
  const { scale } = state;
  const points = new Map();
  let moved = 0;
  canvas.addEventListener('wheel', (e) => {
    e.preventDefault();
    const unit = e.deltaMode === 1 ? 16 : 1;
    if (e.offsetX < state.timeline.gutter) state.scrollRows(e.deltaY * unit);
    else if (e.shiftKey || Math.abs(e.deltaX) > Math.abs(e.deltaY)) scale.pan((e.deltaX || e.deltaY) * unit);
    else scale.zoom(Math.exp(Math.max(-1, Math.min(1, e.deltaY * unit * (e.ctrlKey ? 0.01 : 0.0022)))), e.offsetX);
  }, { passive: false });
  canvas.addEventListener('pointerdown', (e) => {
    canvas.setPointerCapture(e.pointerId);
    points.set(e.pointerId, [e.offsetX, e.offsetY]);
    if (points.size === 1) moved = 0;
    $('tip').hidden = true;
  });
  canvas.addEventListener('pointermove', (e) => {
    const last = points.get(e.pointerId);
    if (!last) return hover(state, e);
    const [dx, dy] = [e.offsetX - last[0], e.offsetY - last[1]];
    moved += Math.abs(dx) + Math.abs(dy);
    if (points.size === 2) {
      const other = [...points].find(([id]) => id !== e.pointerId)[1];
      const [before, after] = [Math.abs(last[0] - other[0]), Math.abs(e.offsetX - other[0])];
      if (before > 8 && after > 8) scale.zoom(before / after, (other[0] + e.offsetX) / 2);
    } else if (moved > 4) {
      canvas.classList.add('dragging');
      state.timeline.scroll -= dy;
      scale.pan(-dx);
    }
    points.set(e.pointerId, [e.offsetX, e.offsetY]);
    return undefined;
  });
  const release = (e) => {
    const had = points.delete(e.pointerId);
    canvas.classList.remove('dragging');
    if (e.type !== 'pointerup' || !had || moved > 4) return;
    const hit = state.timeline.pick(e.offsetX, e.offsetY);
    if (hit.gutter) {
      state.rows.toggle(hit.row);
      state.dirty();
    } else {
      state.select(hit.run);
    }
  };
  canvas.addEventListener('pointerup', release);
  canvas.addEventListener('pointercancel', release);
  canvas.addEventListener('dblclick', (e) => {
    const hit = state.timeline.pick(e.offsetX, e.offsetY);
    if (hit.run >= 0) {
      state.select(hit.run);
      state.zoomToSelected();
    }
  });
  canvas.addEventListener('pointerleave', () => {
    $('tip').hidden = true;
    state.timeline.hoverX = -1;
    state.dirty();
  });
}

/** What lies under the pointer, in a tip. */
function hover(state, e) {
  if (e.pointerType === 'touch') return;
  const tip = $('tip');
  state.timeline.hoverX = e.offsetX;
  const { run, row, gutter } = state.timeline.pick(e.offsetX, e.offsetY);
  $('timeline').style.cursor = gutter ? 'pointer' : run >= 0 ? 'pointer' : 'grab';
  tip.hidden = run < 0;
  if (run >= 0) {
    const s = state.schedule;
    const node = s.nodes(run)[0];
    tip.replaceChildren(el('code', null, s.text(run)), el('span', null, `${s.queue(run)} @${count(s.start[run])}, h${s.chain[run]} ${s.op(run)}`), node ? el('span', null, tail(node, 80)) : '');
    const [w, h] = [tip.offsetWidth, tip.offsetHeight];
    tip.style.left = `${Math.max(4, Math.min(state.timeline.width - w - 8, e.offsetX + 14))}px`;
    tip.style.top = `${e.offsetY + h + 26 > state.timeline.height ? Math.max(4, e.offsetY - h - 12) : e.offsetY + 18}px`;
  } else if (!row) {
    tip.hidden = true;
  }
  state.dirty();
}

async function begin() {
  const meta = await loadMeta();
  const state = new State(meta);
  state.timeline = new Timeline($('timeline'), state);
  state.minimap = new Minimap($('minimap'), state);
  state.charts = new Charts($('lower-canvas'), $('lower-note'), state);
  state.panel = new Panel($('side'), state);
  const on = (a) => `${a.target.name}, ${a.chips} ${a.chips === 1 ? 'chip' : 'chips'}`;
  const names = [...new Set(meta.artifacts.map((a) => a.model))].join(', ');
  $('model').textContent = names;
  $('model').title = names;
  $('on').textContent = meta.artifacts.map((a, i) => (meta.artifacts.length > 1 ? `${String.fromCharCode(65 + i)}: ${on(a)}` : on(a))).join(' \u00b7 ');
  const [{ entries }] = meta.artifacts;
  $('entry-field').hidden = entries.length < 2;
  $('entry').replaceChildren(...entries.map((e, i) => el('option', { value: String(i) }, e.name)));
  $('entry').addEventListener('change', (e) => state.open(Number(e.target.value)));
  $('chip').addEventListener('change', (e) => state.showChip(Number(e.target.value)));
  $('bank').addEventListener('change', (e) => { state.charts.memory.bank = Number(e.target.value); state.dirty(); });
  $('theme').addEventListener('click', () => state.theme.toggle());
  $('help-open').addEventListener('click', () => $('help').showModal());
  $('zoom-in').addEventListener('click', () => state.scale.zoom(1 / 2, state.scale.left + state.scale.width / 2));
  $('zoom-out').addEventListener('click', () => state.scale.zoom(2, state.scale.left + state.scale.width / 2));
  $('zoom-fit').addEventListener('click', () => state.scale.fit());
  $('colour').addEventListener('click', (e) => { if (e.target.dataset.by) state.colour(e.target.dataset.by); });
  tabs($('side-tabs'), (tab) => state.side(tab));
  tabs($('lower-tabs'), (tab) => state.lower(tab));
  $('lower-canvas').addEventListener('pointermove', (e) => state.charts.point(e.offsetX, e.offsetY));
  $('lower-canvas').addEventListener('click', (e) => { const run = state.charts.point(e.offsetX, e.offsetY); if (run >= 0) state.select(run, true); });
  // The theme has become light by now; what is printed is what is drawn here.
  addEventListener('beforeprint', () => state.draw());
  pointers(state);
  listen(state);
  state.search = new Search($('search'), $('found'), state);
  state.timeline.resize();
  await state.open(0);
  new ResizeObserver(() => state.resize()).observe($('timeline-box'));
  state.resize();
  $('loading').remove();
  // For tests and measurements: the parts, and where a run is drawn.
  globalThis.lockstepView = { state, box: (run) => state.timeline.box(run) };
  document.documentElement.dataset.ready = 'true';
}

begin().catch((error) => {
  const box = $('loading');
  box.classList.add('failed');
  box.textContent = `The schedule cannot be read: ${error.message}`;
  throw error;
});

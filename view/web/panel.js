// The panel at the side: the report, the selected run, the critical path.
import { KIND_NAMES } from './theme.js';
import { bytes, count, el, percent, tail, time } from './names.js';
import { describeValue } from './memory.js';

const LISTED = 12;

export class Panel {
  constructor(box, state) {
    Object.assign(this, { box, state, tab: 'report' });
  }

  draw() {
    const parts = { report: () => this.report(), run: () => this.run(), path: () => this.path() }[this.tab]();
    this.box.replaceChildren(...parts.flat(Infinity));
    const current = this.tab === 'path' && this.box.querySelector('[aria-current=true]');
    if (!current) this.box.scrollTop = 0;
    // Not where the page itself scrolls, which would take the reader away from the timeline.
    if (current && this.box.scrollHeight > this.box.clientHeight + 2) this.box.scrollTop = Math.max(0, current.offsetTop - this.box.offsetTop - this.box.clientHeight / 2);
  }

  /** Instruction, place and provenance of the selected run, and what it is connected with. */
  run() {
    const { schedule: s, selected: run } = this.state;
    if (run < 0) return [el('p', { class: 'empty' }, 'Click a run in the timeline, or search for a model node.')];
    const dims = s.dims(run).filter(([n]) => n > 1);
    const issues = s.dims(run).reduce((a, [n]) => a * n, 1);
    const chain = s.chain[run];
    const runs = s.chainRuns(chain);
    const to = s.chains.to[chain];
    const nodes = s.nodes(run);
    const facts = [
      ['Queue', s.queue(run), 'mono'],
      ['Issues', `@${count(s.start[run])}${issues > 1 ? ` to @${count(s.lastIssue(run))}, ${count(issues)} issues` : ''}`],
      dims.length ? ['Loops', dims.map(([n, step]) => `${n} every ${step}`).join(', then ')] : null,
      ['Done', `@${count(s.end(run))}`],
      ['Chain', `h${chain}${to >= 0 ? `, c${s.chains.chip[chain]} to c${to}` : ''}, ${count(runs.length)} runs`],
      ['IR operation', s.op(run), 'mono'],
      ['Model node', nodes.length ? nodes.join(', ') : 'none: the compiler made it'],
      s.value[run] >= 0 ? ['Value', describeValue(s, s.value[run])] : null,
    ].filter(Boolean);
    return [
      el('div', { class: 'code', id: 'instruction' }, s.text(run)),
      el('dl', { class: 'facts' }, facts.map(([name, value, style]) => [el('dt', null, name), el('dd', { class: style || '', id: `fact-${name.toLowerCase().replace(/\W+/g, '-')}` }, value)])),
      this.connected('Producers', 'producers', s.producers(run), 'Its operands come from rows that nothing in this run wrote.'),
      this.connected('Consumers', 'consumers', s.consumers(run), 'Nothing takes a result of it: it is an output, or stays for the next run.'),
      el('h2', null, `Chain h${chain}`),
      el('div', { class: 'row' }, el('button', { type: 'button', class: 'push', onclick: () => this.state.showChain(chain) }, 'Zoom to chain'), el('span', { class: 'quiet' }, `order ${count(chain + 1)} of ${count(s.chains.chip.length)}`)),
      this.assembly(runs, run),
    ];
  }

  connected(title, id, list, none) {
    const { schedule: s, theme } = this.state;
    const shown = list.slice(0, LISTED);
    return [
      el('h2', null, `${title}${list.length ? ` (${count(list.length)})` : ''}`),
      list.length ? null : el('p', null, none),
      el('ul', { class: 'links', id }, shown.map(({ run, via }) => el('li', null, el('button', { type: 'button', 'data-run': run, 'data-via': s.meta.ways[via], onclick: () => this.state.select(run, true) },
        el('span', { class: 'via' }, el('i', { style: `background:${theme.vias[via]}` }), s.meta.ways[via]),
        el('span', { class: 'it' }, s.text(run)),
        el('span', { class: 'at' }, `${s.queue(run)} @${count(s.start[run])}`))))),
      list.length > LISTED ? el('p', { class: 'quiet' }, `and ${count(list.length - LISTED)} more`) : null,
    ].filter(Boolean);
  }

  /** The runs of a chain around the selected one. */
  assembly(runs, selected) {
    const { schedule: s } = this.state;
    const at = runs.indexOf(selected);
    const from = Math.max(0, Math.min(at - 10, runs.length - 24));
    const shown = runs.slice(from, from + 24);
    return el('ol', { class: 'links steps', 'aria-label': 'Runs of the chain' }, shown.map((run) => el('li', null, el('button', { type: 'button', style: 'grid-template-columns: 64px minmax(0, 1fr)', 'aria-current': run === selected ? 'true' : undefined, title: s.text(run), onclick: () => this.state.select(run, true) },
      el('span', { class: 'quiet' }, `@${count(s.start[run])}`), el('span', { class: 'it' }, `${s.tracks[s.track[run]].name} ${s.text(run)}`)))));
  }

  path() {
    const { schedule: s, step } = this.state;
    const steps = s.path;
    if (!steps.length) return [el('p', { class: 'empty' }, 'The report of this artifact has no critical path.')];
    return [
      el('p', null, 'The chains that decide the makespan, each with what it waited for. Cycles count from its start to the start of the next.'),
      el('div', { class: 'row' },
        el('button', { type: 'button', class: 'push', id: 'step-back', disabled: step <= 0, onclick: () => this.state.goStep(step - 1) }, '\u2190 Back'),
        el('button', { type: 'button', class: 'push', id: 'step-on', disabled: step >= steps.length - 1, onclick: () => this.state.goStep(step + 1) }, 'Next \u2192'),
        el('span', { class: 'quiet', id: 'step-at' }, step >= 0 ? `step ${step + 1} of ${steps.length}` : `${steps.length} steps`)),
      el('ol', { class: 'steps', id: 'steps' }, steps.map((one, i) => el('li', null, el('button', { type: 'button', 'aria-current': i === step ? 'true' : undefined, onclick: () => this.state.goStep(i) },
        el('span', { class: 'i' }, String(i + 1)), el('span', { class: 'mono' }, `${s.parts[one.part].letter ? `${s.parts[one.part].letter}: ` : ''}${one.op}`), el('span', null, count(one.cycles)),
        el('span', { class: 'why' }, [one.waited_for, ...one.nodes.slice(0, 1).map((n) => tail(n, 26))].join(' \u00b7 ')))))),
    ];
  }

  report() {
    return [...this.state.schedule.parts.map((part) => this.reportOf(part)), this.legend()];
  }

  /** The report of an artifact's entry. */
  reportOf(part) {
    const { theme, schedule: s } = this.state;
    const { report: r, makespan, letter, artifact } = part;
    const number = (v) => (typeof v === 'number' ? v : 0);
    const spans = [['Roofline', number(r.roofline_cycles), theme.quiet], ['Bound', number(r.bound_cycles), theme.kinds[4]], ['Makespan', makespan, theme.accent]];
    const waits = new Map();
    for (const step of r.critical_path || []) {
      const why = step.waited_for.replace(/\bc\d+\.\S+/g, 'a queue').replace(/\bh?\d+\b/g, '').trim();
      waits.set(why, (waits.get(why) || 0) + step.cycles);
    }
    const most = [...waits].sort((a, b) => b[1] - a[1]).slice(0, 8);
    const bar = (name, value, all, text, colour) => [el('span', null, name), el('span', { class: 'meter' }, el('i', { style: `width:${Math.min(100, (100 * value) / Math.max(1e-12, all))}%;background:${colour}` })), el('b', null, text)];
    const units = { mem: 0, mxm_load: 1, mxm_mul: 2, vxm: 3, sxm: 4, c2c: 5 };
    const kinds = ['const', 'state', 'scratch', 'lane_padding', 'text'];
    return [
      letter ? el('p', { class: 'part' }, `${letter}: ${artifact.model} on ${artifact.target.name}, ${artifact.chips} ${artifact.chips === 1 ? 'chip' : 'chips'}`) : null,
      el('h2', null, 'From bound to makespan'),
      el('div', { class: 'bars' }, spans.map(([name, v, colour]) => bar(name, v, s.makespan, count(v), colour))),
      r.bound_limit ? el('p', { style: 'margin-top:8px' }, `The bound is ${r.bound_limit === 'critical path' ? 'the critical path' : `what ${r.bound_limit} needs`}: resources ${count(number(r.bound_resource_cycles))} cycles, path ${count(number(r.bound_critical_path_cycles))}.`) : null,
      most.length ? el('h2', null, 'What the critical path waited for') : null,
      most.length ? el('div', { class: 'bars' }, most.map(([name, v]) => bar(tail(name, 28), v, most[0][1], count(v), theme.mark))) : null,
      most.length && r.critical_path[0].start > 0 ? el('p', { style: 'margin-top:8px' }, `The path begins at @${count(r.critical_path[0].start)}: the report does not say what decided the cycles before.`) : null,
      r.utilisation ? el('h2', null, 'Utilisation') : null,
      r.utilisation ? el('div', { class: 'bars', id: 'utilisation' }, Object.entries(units).filter(([k]) => k in r.utilisation).map(([k, kind]) => bar(k === 'c2c' ? 'Links' : KIND_NAMES[kind], r.utilisation[k], 1, percent(r.utilisation[k]), theme.kinds[kind]))) : null,
      el('h2', null, 'SRAM per chip'),
      el('table', { id: 'sram-table' },
        el('tr', null, el('th', null, 'Chip'), ['const', 'scratch', 'text', 'sum'].map((k) => el('th', { class: 'n' }, k))),
        (r.sram_bytes_per_chip || []).map((c, i) => el('tr', null, el('td', null, `c${i}`), el('td', { class: 'n' }, bytes(c.const + c.lane_padding)), el('td', { class: 'n' }, bytes(c.state + c.scratch)), el('td', { class: 'n' }, bytes(c.text)), el('td', { class: 'n' }, bytes(kinds.reduce((a, k) => a + (c[k] || 0), 0)))))),
      r.energy_microjoules ? el('h2', null, 'Energy per run') : null,
      r.energy_microjoules ? el('div', { class: 'bars' }, Object.entries(r.energy_microjoules).filter(([k]) => k !== 'total').sort((a, b) => b[1] - a[1]).map(([k, v]) => bar(k, v, r.energy_microjoules.total, `${v.toFixed(3)} \u00b5J`, theme.kinds[0]))) : null,
      el('h2', null, 'Signature'),
      el('table', null, [['in', part.inputs], ['out', part.outputs]].flatMap(([way, list]) => list.map((t) => el('tr', null, el('td', { class: 'quiet' }, way), el('td', null, t.name), el('td', { class: 'n mono' }, `${t.dtype}[${t.shape.join(',')}]`))))),
      el('h2', null, 'Partition'),
      el('p', null, `${r.partition || ''}${artifact.report && artifact.report.why ? `. Chips: ${artifact.report.why}.` : ''}`),
    ].filter(Boolean);
  }

  legend() {
    const { theme, paint, colourBy, schedule: s } = this.state;
    const list = colourBy === 'unit' ? KIND_NAMES.map((n, i) => [theme.kinds[i], n]).filter((_, i) => s.tracks.some((t) => t.kind === i))
      : paint.layers.names.slice(0, 24).map((n, i) => [theme.cycle[i % theme.cycle.length], n]);
    return el('div', { id: 'legend' }, el('h2', null, colourBy === 'chain' ? 'Colours: twelve in turn, one per chain' : `Colours by ${colourBy}`),
      colourBy === 'chain' ? null : el('div', { style: 'columns:2;font-size:12.5px' }, list.map(([c, n]) => el('div', { title: n }, el('i', { class: 'swatch', style: `background:${c}` }), tail(n, 22)))));
  }
}

/** The figures below the title; the same as `lockstep report --json` has. */
export function figures(box, state) {
  const { schedule: s } = state;
  const per = (f) => s.parts.map((p) => f(p, p.report, p.artifact.target));
  const runs = (p, i) => s.firstRun[i + 1 < s.parts.length ? s.parts[i + 1].firstChip : s.about.chips.length] - s.firstRun[p.firstChip];
  const chains = (p, i) => (i + 1 < s.parts.length ? s.parts[i + 1].firstChain : s.chains.chip.length) - p.firstChain;
  const one = s.parts.length === 1;
  const items = [
    ['makespan', 'Makespan', per((p) => count(p.makespan)), 'cycles'],
    ['time', 'At the clock', per((p, _, t) => time(p.makespan, t.clock_hz)), one ? per((p, _, t) => `${(t.clock_hz / 1e6).toFixed(0)} MHz`)[0] : ''],
    ['bound', 'Bound', per((_, r) => count(r.bound_cycles || 0)), one ? s.parts[0].report.bound_limit || '' : ''],
    ['over', 'Makespan \u00f7 bound', per((_, r) => (r.makespan_over_bound || 0).toFixed(2)), ''],
    ['roofline', 'Roofline', per((_, r) => count(r.roofline_cycles || 0)), one ? 'cycles' : ''],
    ['runs', 'Instructions', s.parts.map((p, i) => count(runs(p, i))), ''],
    ['chains', 'Chains', s.parts.map((p, i) => count(chains(p, i))), ''],
    ['energy', 'Energy', per((_, r) => (r.energy_microjoules ? r.energy_microjoules.total.toFixed(1) : '\u2013')), '\u00b5J a run'],
  ];
  const values = (list) => list.flatMap((v, i) => (i ? [el('small', null, ' / '), v] : [v]));
  box.replaceChildren(...items.map(([id, name, list, unit]) => el('div', null, el('dt', null, name), el('dd', { 'data-figure': id }, ...values(list), unit ? el('small', null, ` ${unit}`) : null))));
}

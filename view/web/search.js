// Search by model node, chain (h12), instruction or cycle (@1234).
import { count, el, tail } from './names.js';

const SHOWN = 40;

/** Results of a query: [{what, where, go: {run} | {cycle} | {origins}}], best first. */
export function find(schedule, query) {
  const q = query.trim().toLowerCase();
  if (!q) return [];
  const out = [];
  const cycle = q.match(/^@?\s*([\d\s\u202f,]+)$/);
  if (cycle) {
    const at = Number(cycle[1].replace(/\D/g, ''));
    if (at <= schedule.makespan) out.push({ kind: 'cycle', what: `@${count(at)}`, where: 'cycle', cycle: at });
  }
  const chain = q.match(/^(?:h|chain\s*)(\d+)$/);
  if (chain && Number(chain[1]) < schedule.chains.chip.length) {
    const runs = schedule.chainRuns(Number(chain[1]));
    if (runs.length) out.push({ kind: 'chain', what: `h${chain[1]} ${schedule.op(runs[0])}`, where: `chain, ${count(runs.length)} runs`, run: runs[0], chain: Number(chain[1]) });
  }
  const byNode = new Map();
  schedule.about.origins.forEach(([op, nodes], origin) => {
    for (const i of nodes) if (schedule.about.nodes[i].toLowerCase().includes(q)) add(byNode, i, origin);
    if (op.toLowerCase().includes(q)) out.push({ kind: 'op', what: op, where: 'IR operation', origins: [origin] });
  });
  for (const [i, origins] of byNode) out.push({ kind: 'node', what: schedule.about.nodes[i], where: 'model node', origins });
  const texts = new Set();
  schedule.meta.texts.forEach((t, i) => { if (t.split(' ')[0].toLowerCase().startsWith(q)) texts.add(i); });
  if (texts.size) out.push({ kind: 'instruction', what: `${q}\u2026`, where: 'instruction', texts });
  const order = ['cycle', 'chain', 'instruction', 'node', 'op'];
  out.sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind) || a.what.length - b.what.length);
  return out;
}

function add(map, key, value) {
  if (!map.has(key)) map.set(key, []);
  map.get(key).push(value);
}

/** The runs that a result stands for, as a test, and the first of them by cycle (from `after` on, round again). */
export function runsOf(schedule, result) {
  const origins = result.origins && new Set(result.origins);
  const test = (run) => (origins ? origins.has(schedule.origin[run])
    : result.texts ? result.texts.has(schedule.programs[schedule.chip[run]].text[schedule.local[run]])
      : schedule.chain[run] === result.chain);
  let [first, from, to, number] = [-1, Infinity, 0, 0];
  for (let run = 0; run < schedule.n; run++) {
    if (!test(run)) continue;
    number++;
    if (schedule.start[run] < from) [first, from] = [run, schedule.start[run]];
    to = Math.max(to, schedule.start[run] + schedule.span[run]);
  }
  return { test, first, from, to, number };
}

export class Search {
  constructor(input, list, state) {
    Object.assign(this, { input, list, state, at: 0, results: [] });
    input.addEventListener('input', () => this.look());
    input.addEventListener('focus', () => this.look());
    input.addEventListener('blur', () => setTimeout(() => this.close(), 150));
    input.addEventListener('keydown', (e) => this.key(e));
  }

  look() {
    this.results = find(this.state.schedule, this.input.value);
    this.at = 0;
    this.show();
    if (!this.input.value) this.state.filter(undefined);
  }

  show() {
    const open = this.input.value.trim() !== '';
    this.list.hidden = !open;
    this.input.setAttribute('aria-expanded', String(open));
    this.list.replaceChildren(...this.results.slice(0, SHOWN).map((r, i) => el('li', {
      role: 'option', id: `found-${i}`, 'aria-selected': String(i === this.at), title: r.what, onpointerdown: (e) => { e.preventDefault(); this.take(r); },
    }, el('span', { class: r.kind === 'node' ? 'what' : 'what ltr' }, r.kind === 'node' ? `\u200e${tail(r.what, 90)}` : r.what), el('span', { class: 'where' }, r.where))));
    if (this.results.length > SHOWN) this.list.append(el('li', { class: 'none' }, `and ${count(this.results.length - SHOWN)} more`));
    if (!this.results.length) this.list.append(el('li', { class: 'none' }, 'Nothing of this name. Try a part of a node, h12 for a chain, read or mul, or @1200.'));
    this.input.setAttribute('aria-activedescendant', open && this.results.length ? `found-${this.at}` : '');
  }

  key(e) {
    if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
      e.preventDefault();
      const n = Math.min(SHOWN, this.results.length);
      if (n) this.at = (this.at + (e.key === 'ArrowDown' ? 1 : n - 1)) % n;
      this.show();
      const item = this.list.children[this.at];
      if (item) item.scrollIntoView({ block: 'nearest' });
    } else if (e.key === 'Enter' && this.results[this.at]) {
      this.take(this.results[this.at]);
    } else if (e.key === 'Escape') {
      this.input.value = '';
      this.look();
      this.input.blur();
    }
    e.stopPropagation();
  }

  take(result) {
    this.close();
    this.state.found(result);
  }

  close() {
    this.list.hidden = true;
    this.input.setAttribute('aria-expanded', 'false');
  }
}

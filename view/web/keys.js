// What keys do. The list is also the help.
import { el } from './names.js';

export function keyTable(state) {
  const { scale } = state;
  const middle = () => scale.left + scale.width / 2;
  return [
    [['\u2190', '\u2192'], 'Pan', { ArrowLeft: () => scale.pan(-scale.width / 8), ArrowRight: () => scale.pan(scale.width / 8), a: () => scale.pan(-scale.width / 8), d: () => scale.pan(scale.width / 8) }],
    [['+', '\u2212'], 'Zoom in, zoom out', { '+': () => scale.zoom(1 / 1.6, middle()), '=': () => scale.zoom(1 / 1.6, middle()), '-': () => scale.zoom(1.6, middle()), w: () => scale.zoom(1 / 1.6, middle()), s: () => scale.zoom(1.6, middle()) }],
    [['\u2191', '\u2193'], 'Scroll the rows', { ArrowUp: () => state.scrollRows(-60), ArrowDown: () => state.scrollRows(60) }],
    [['f'], 'Show the whole run', { f: () => scale.fit(), Home: () => scale.fit() }],
    [['z'], 'Zoom to the selected run', { z: () => state.zoomToSelected() }],
    [['n', 'p'], 'Next, previous run of the queue', { n: () => state.along(1), p: () => state.along(-1) }],
    [['[', ']'], 'To the first producer, to the first consumer', { '[': () => state.follow('producers'), ']': () => state.follow('consumers') }],
    [[',', '.'], 'Critical path: step back, step on', { ',': () => state.goStep(state.step - 1), '.': () => state.goStep(state.step + 1) }],
    [['/'], 'Search', { '/': () => document.getElementById('search').select() }],
    [['u', 'l', 'h'], 'Colour by unit, layer, chain', { u: () => state.colour('unit'), l: () => state.colour('layer'), h: () => state.colour('chain') }],
    [['1\u20269', '0'], 'Show one chip, all chips', Object.fromEntries([...'0123456789'].map((k) => [k, () => state.showChip(Number(k) - 1)]))],
    [['o'], 'Open or close all kinds of units', { o: () => state.openAll() }],
    [['t'], 'Light or dark', { t: () => state.theme.toggle() }],
    [['Esc'], 'Clear selection and search', { Escape: () => state.clear() }],
    [['?'], 'This help', { '?': () => document.getElementById('help').showModal() }],
  ];
}

export function listen(state) {
  const table = keyTable(state);
  const actions = Object.assign({}, ...table.map(([, , a]) => a));
  addEventListener('keydown', (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey || document.getElementById('help').open) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(e.target.tagName)) return;
    // Tabs and buttons keep their own keys.
    if (/^Arrow/.test(e.key) && e.target.id !== 'timeline' && e.target !== document.body) return;
    const action = actions[e.key];
    if (!action) return;
    e.preventDefault();
    action();
  });
  const gestures = [['Wheel'], ['Drag'], ['Shift', 'Wheel'], ['Double click']];
  const does = ['Zoom at the pointer; over the names: scroll', 'Pan; with two fingers: zoom', 'Pan', 'Zoom to the run, or open a row'];
  const rows = [...table.map(([keys, what]) => [keys, what]), ...gestures.map((keys, i) => [keys, does[i]])];
  document.getElementById('keys').replaceChildren(...rows.flatMap(([keys, what]) => [el('dt', null, keys.map((k) => el('kbd', null, k))), el('dd', null, what)]));
}

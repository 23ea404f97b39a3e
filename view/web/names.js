// Names and numbers as people read them: layers of model nodes, counts, bytes, shares.

/** The layer that a model node belongs to: its path up to the first part with a number, or its first parts. */
export function layerOf(node) {
  const path = node.replace(/^\/+/, '').replace(/^F\d+::/, '');
  const parts = path.split(/[/.]/).filter(Boolean);
  const numbered = parts.findIndex((p) => /^\d+$/.test(p) || /(layer|block|stage|h|encoder|decoder|fire|res|bn|conv|inception|dense)[_-]?\d+[a-z]?/i.test(p));
  if (numbered >= 0) return parts.slice(Math.max(0, numbered - (/^\d+$/.test(parts[numbered]) ? 1 : 0)), numbered + 1).join('.');
  return parts.length > 1 ? parts[parts.length - 2] : parts[0] || 'model';
}

/** 12345 as 12 345, with thin spaces. */
export function count(n) {
  return Math.round(n).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const power = Math.min(3, Math.floor(Math.log2(n) / 10));
  return `${(n / 1024 ** power).toFixed(n / 1024 ** power < 100 ? 1 : 0)} ${['B', 'KiB', 'MiB', 'GiB'][power]}`;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

export function time(cycles, hz) {
  const us = (cycles * 1e6) / hz;
  return us >= 1000 ? `${(us / 1000).toFixed(2)} ms` : us >= 1 ? `${us.toFixed(2)} \u00b5s` : `${(us * 1000).toFixed(0)} ns`;
}

/** The end of a long name, which says more than its beginning. */
export function tail(name, length) {
  return name.length <= length ? name : `\u2026${name.slice(1 - length)}`;
}

/** An element with attributes, children and listeners (`onclick`). */
export function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

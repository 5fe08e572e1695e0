// What the server has told of the run, by part; and what of all clients follows from it.

/** A column holds one value where all rows have the same. */
export const cell = (column, i) => (Array.isArray(column) ? column[i] : column);

export class Run {
  #parts = {};
  #epoch = null;
  #sorted = {};

  /** Take what has changed; returns the kinds of it: "head", "live", "names", "clients", "settings", "round", "score", "texts". */
  take({ epoch, parts }) {
    if (epoch !== this.#epoch) this.#parts = {};
    this.#epoch = epoch;
    this.#sorted = {};
    Object.assign(this.#parts, parts);
    return new Set(Object.keys(parts).map((name) => name.split("/")[0]));
  }

  part(name) { return this.#parts[name]; }

  /** [[number, part]] of the rounds, or of the versions' scores or texts, in their order. */
  all(kind) {
    return this.#sorted[kind] ??= Object.keys(this.#parts).filter((name) => name.startsWith(`${kind}/`))
      .map((name) => [Number(name.split("/")[1]), this.#parts[name]]).sort(([a], [b]) => a - b);
  }

  get clients() { return this.#parts.names.clients; }
  get workers() { return this.#parts.names.workers; }
}

const spreads = new WeakMap();

/** [least, 10 %, median, 90 %, most] of a part's column; a part never changes, a new one takes its place. */
export function spread(part, column) {
  const known = spreads.get(part)?.[column];
  if (known) return known;
  const values = part.client.map((_, i) => cell(part[column], i)).filter((value) => value !== null).sort((a, b) => a - b);
  const found = [0, 0.1, 0.5, 0.9, 1].map((share) => (values.length ? values[Math.round(share * (values.length - 1))] : null));
  spreads.set(part, { ...spreads.get(part), [column]: found });
  return found;
}

/** The newest value of each client in a column of these parts: {client: value}. */
export function newest(parts, column) {
  const found = {};
  for (const [, part] of parts) part.client.forEach((client, i) => { found[client] = cell(part[column], i) ?? found[client]; });
  return found;
}

/** Ranges of slots in a pool of fixed size: who has which, and which are free. */
import { type Rows, rowCount } from "../../nn/rows.ts";

/** Hands out ranges of 0..slots. Free ranges that touch are joined. */
export class Slots {
  readonly total: number;
  /** Free ranges, ascending, none touching the next. */
  #free: Rows[];

  constructor(total: number) {
    this.total = total;
    this.#free = total > 0 ? [{ start: 0, end: total }] : [];
  }

  get freeCount(): number {
    return this.#free.reduce((sum, range) => sum + rowCount(range), 0);
  }

  /** Takes one range of so many slots: the smallest free one that holds them. Undefined if none does. */
  take(count: number): Rows | undefined {
    const fitting = this.#free.filter((range) => rowCount(range) >= count);
    const best = smallest(fitting);
    return best && this.#cut(best, count);
  }

  /** Takes so many slots in as few ranges as possible. Undefined if there are fewer; then it takes none. */
  takeParts(count: number): Rows[] | undefined {
    if (this.freeCount < count) return undefined;
    const parts: Rows[] = [];
    for (let missing = count; missing > 0; ) {
      const part = this.take(missing) ?? this.#cut(largest(this.#free), Number.POSITIVE_INFINITY);
      parts.push(part);
      missing -= rowCount(part);
    }
    return parts;
  }

  /** Gives slots back. */
  give({ start, end }: Rows): void {
    if (start === end) return;
    const at = this.#free.findIndex((range) => range.start >= end);
    const index = at < 0 ? this.#free.length : at;
    const [before, after] = [this.#free[index - 1], this.#free[index]];
    if (before && before.end > start) throw new Error(`slots ${start} to ${end} were free already`);
    const joined = {
      start: before?.end === start ? before.start : start,
      end: after?.start === end ? after.end : end,
    };
    const first = before?.end === start ? index - 1 : index;
    const last = after?.start === end ? index + 1 : index;
    this.#free.splice(first, last - first, joined);
  }

  /** Takes the first slots of a free range. */
  #cut(range: Rows, count: number): Rows {
    const end = Math.min(range.end, range.start + count);
    const index = this.#free.indexOf(range);
    if (end === range.end) this.#free.splice(index, 1);
    else this.#free[index] = { start: end, end: range.end };
    return { start: range.start, end };
  }
}

function smallest(ranges: readonly Rows[]): Rows | undefined {
  return ranges.reduce<Rows | undefined>(
    (best, range) => (best && rowCount(best) <= rowCount(range) ? best : range),
    undefined,
  );
}

function largest(ranges: readonly Rows[]): Rows {
  return ranges.reduce((best, range) => (rowCount(best) >= rowCount(range) ? best : range));
}

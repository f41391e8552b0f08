import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SortedSet } from "./sortedSet.ts";

const numbers = () => new SortedSet<number>((a, b) => a - b);

describe("a sorted set", () => {
  it("answers as a sorted array does, whatever is put in and taken out", () => {
    const steps = fc.array(fc.record({ item: fc.nat(2000), key: fc.nat(2000) }), { maxLength: 1500 });
    fc.assert(
      fc.property(steps, (done) => {
        const set = numbers();
        const held = new Set<number>();
        for (const { item, key } of done) {
          if (held.delete(item)) set.remove(item);
          else {
            held.add(item);
            set.insert(item);
          }
          const least = (candidates: number[]) =>
            candidates.length > 0 ? Math.min(...candidates) : undefined;
          expect(set.ceiling(key)).toBe(least([...held].filter((other) => other >= key)));
          if (held.has(item)) expect(set.after(item)).toBe(least([...held].filter((other) => other > item)));
        }
        expect(set.items()).toEqual([...held].sort((a, b) => a - b));
      }),
      { numRuns: 20 },
    );
  });

  it("keeps its order over many chunks", () => {
    const set = numbers();
    for (let n = 0; n < 5000; n++) set.insert((n * 2999) % 5003);
    const items = set.items();
    expect(items).toHaveLength(5000);
    expect(items).toEqual([...items].sort((a, b) => a - b));
    for (const item of items) set.remove(item);
    expect(set.items()).toEqual([]);
    expect(set.ceiling(0)).toBeUndefined();
  });

  it("refuses to take out what it does not hold", () => {
    const set = numbers();
    expect(() => set.remove(1)).toThrow("does not hold");
    set.insert(2);
    expect(() => set.remove(1)).toThrow("does not hold");
  });
});

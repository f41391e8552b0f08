import fc from "fast-check";
import { expect, test } from "vitest";
import { type Rows, rowCount } from "../../nn/rows.ts";
import { Slots } from "./slots.ts";

test("no slot is handed out twice, and all come back, whatever is taken and given", () => {
  const step = fc.record({ take: fc.boolean(), count: fc.integer({ min: 1, max: 40 }), whole: fc.boolean() });
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 100 }), fc.array(step, { maxLength: 60 }), (total, steps) => {
      const slots = new Slots(total);
      const held: Rows[] = [];
      for (const { take, count, whole } of steps) {
        const free = slots.freeCount;
        if (!take) {
          const given = held.splice(count % Math.max(1, held.length), 1);
          for (const range of given) slots.give(range);
          continue;
        }
        const one = whole ? slots.take(count) : undefined;
        const parts = whole ? one && [one] : slots.takeParts(count);
        if (!whole) expect(parts === undefined).toBe(free < count);
        expect(slots.freeCount).toBe(free - (parts ? count : 0));
        held.push(...(parts ?? []));
        const all = held.flatMap(({ start, end }) =>
          Array.from({ length: end - start }, (_, at) => start + at),
        );
        expect(new Set(all).size).toBe(all.length);
        expect(all.every((slot) => slot >= 0 && slot < total)).toBe(true);
      }
      for (const range of held) slots.give(range);
      expect(slots.freeCount).toBe(total);
      expect(rowCount(slots.take(total)!)).toBe(total); // free ranges are joined again
    }),
  );
});

test("slots that are free can't be given back", () => {
  const slots = new Slots(10);
  slots.take(5);
  slots.give({ start: 1, end: 3 });
  expect(() => slots.give({ start: 2, end: 4 })).toThrow("free already");
});

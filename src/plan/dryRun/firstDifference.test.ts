import fc from "fast-check";
import { expect, it } from "vitest";
import { CATEGORIES, type Category } from "../../torch/device.ts";
import type { StepTrace } from "./allocations.ts";
import { firstParting } from "./firstDifference.ts";
import type { TraceEvent } from "./stepEvents.ts";

const OPTIONS = { pool: "device", excessBytes: 1000, roundBytes: 1 } as const;

const events = fc.array(
  fc.record({
    phase: fc.constant("forward"),
    pool: fc.constant("device" as const),
    category: fc.constantFrom<Category>("workingSet", "loss"),
    bytes: fc.integer({ min: -400, max: 400 }),
  }),
  { minLength: 5, maxLength: 60 },
);

function traceOf(of: readonly TraceEvent[], loss = 0): StepTrace {
  const none = Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Record<Category, number>;
  return { before: { device: { ...none, loss }, host: none }, events: [...of] };
}

const extra: TraceEvent = { phase: "loss", pool: "device", category: "loss", bytes: 1000 };

it("traces that are alike do not part, nor where small ones are in another order", () => {
  fc.assert(
    fc.property(events, fc.nat(), (all, place) => {
      expect(firstParting(traceOf(all), traceOf(all), OPTIONS)).toBeUndefined();
      const at = place % (all.length - 1);
      const swapped = [...all.slice(0, at), all[at + 1]!, all[at]!, ...all.slice(at + 2)];
      expect(firstParting(traceOf(all), traceOf(swapped), OPTIONS)).toBeUndefined();
    }),
  );
});

it("an allocation that the plan does not have is found where it is", () => {
  fc.assert(
    fc.property(events, fc.nat(), (all, place) => {
      const at = place % (all.length + 1);
      const measured = [...all.slice(0, at), extra, ...all.slice(at)];
      expect(firstParting(traceOf(all), traceOf(measured), OPTIONS)).toEqual({
        ...{ at: "event", index: at, measured: extra, excessBytes: 1000 },
        planned: all[at],
      });
    }),
  );
});

it("what was held before comes first, and only the pool in question counts", () => {
  expect(firstParting(traceOf([]), traceOf([extra], 1000), OPTIONS)).toEqual({
    ...{ at: "start", category: "loss", plannedBytes: 0, measuredBytes: 1000 },
  });
  expect(firstParting(traceOf([]), traceOf([extra]), { ...OPTIONS, pool: "host" })).toBeUndefined();
});

it("sizes are compared as the allocator rounds them", () => {
  const plan = traceOf([{ ...extra, bytes: 100 }]);
  const run = traceOf([{ ...extra, bytes: 512 }]);
  expect(firstParting(plan, run, { ...OPTIONS, excessBytes: 100, roundBytes: 512 })).toBeUndefined();
  expect(firstParting(plan, run, { ...OPTIONS, excessBytes: 100 })).toMatchObject({ excessBytes: 412 });
});

it("a free that does not come is found where the plan has it", () => {
  const freed = { ...extra, bytes: -1000 };
  const after = { ...extra, bytes: 8 };
  const parting = firstParting(traceOf([extra, freed, after]), traceOf([extra, after]), OPTIONS);
  expect(parting).toMatchObject({ at: "event", index: 1, planned: freed, excessBytes: 1000 });
});

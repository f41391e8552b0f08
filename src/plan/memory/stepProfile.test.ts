import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CATEGORIES, type Category } from "../../torch/device.ts";
import type { StepTrace } from "../dryRun/allocations.ts";
import type { TraceEvent } from "../dryRun/stepEvents.ts";
import { alignedTo, peakOf, profileOf, totalsOf } from "./stepProfile.ts";

const NONE = Object.fromEntries(CATEGORIES.map((name) => [name, 0])) as Record<Category, number>;

function traceOf(events: TraceEvent[], weights = 0): StepTrace {
  return { before: { device: { ...NONE, weights }, host: NONE }, events };
}

const PHASES = ["vision", "forward", "loss", "backward", "update"];

const event = fc.record({
  phase: fc.nat(PHASES.length - 1),
  pool: fc.constantFrom("device" as const, "host" as const),
  category: fc.constantFrom<Category>("workingSet", "loss", "boundaryActivations"),
  bytes: fc.integer({ min: 1, max: 1000 }),
});
/** Allocations in the order of the phases, each followed by its free, or not. */
const steps = fc.array(fc.tuple(event, fc.boolean()), { minLength: 1, maxLength: 3000 }).map((made) =>
  made
    .toSorted(([one], [other]) => one.phase - other.phase)
    .flatMap(([{ phase, ...one }, isFreed]): TraceEvent[] => {
      const begun = { ...one, phase: PHASES[phase]! };
      return isFreed ? [begun, { ...begun, bytes: -begun.bytes }] : [begun];
    }),
);

describe("the profile of a step", () => {
  it("has the peak of each pool that the events come to, and few moments", () => {
    fc.assert(
      fc.property(steps, fc.nat(1e6), (events, weights) => {
        const profile = profileOf(traceOf(events, weights));
        const live = { device: weights, host: 0 };
        const peak = { ...live };
        for (const { pool, bytes } of events) {
          live[pool] += bytes;
          peak[pool] = Math.max(peak[pool], live[pool]);
        }
        expect(peakOf(profile, "device")).toBe(peak.device);
        expect(peakOf(profile, "host")).toBe(peak.host);
        const moments = profile.phases.reduce((sum, phase) => sum + phase.moments, 0);
        expect(moments).toBeLessThanOrEqual(400 + PHASES.length);
        for (const bytes of Object.values(profile.device)) expect(bytes).toHaveLength(moments);
      }),
      { numRuns: 50 },
    );
  });

  it("names the phases in their order, and leaves out categories that hold nothing", () => {
    const profile = profileOf(
      traceOf([
        { phase: "forward", pool: "device", category: "workingSet", bytes: 10 },
        { phase: "backward", pool: "device", category: "workingSet", bytes: -10 },
      ]),
    );
    expect(profile).toEqual({
      phases: [
        { name: "forward", moments: 1 },
        { name: "backward", moments: 1 },
      ],
      device: { workingSet: [10, 10] },
      host: {},
    });
  });

  it("is laid under another one phase by phase", () => {
    const measured = {
      phases: [
        { name: "forward", moments: 3 },
        { name: "update", moments: 1 },
      ],
      device: {},
      host: {},
    };
    const phases = [
      { name: "vision", moments: 2 },
      { name: "forward", moments: 2 },
    ];
    expect(alignedTo(measured, { phases, values: [1, 2, 30, 40] })).toEqual([30, 40, 40, undefined]);
    expect(
      totalsOf({ ...measured, device: { loss: [1, 2, 3, 4], weights: [5, 5, 5, 5] } }, "device"),
    ).toEqual([6, 7, 8, 9]);
  });
});

import { expect, it } from "vitest";
import { machineBytes } from "../../plan/roomToPlanFor.ts";
import { hostRoomOf, limitsOf } from "./modelPlanner.ts";

it("a run beside a card may use the host memory that this machine has, and no more", () => {
  expect(hostRoomOf("cuda:0")).toBeGreaterThan(0);
  expect(hostRoomOf("cuda:0")).toBeLessThan(machineBytes());
});

it("a run on the CPU has the limits that are given, and none if none is given", () => {
  expect(limitsOf({}, "cpu")).toBeUndefined();
  expect(limitsOf({ memory: 5 }, "cpu")).toEqual({ budgetBytes: 5, hostBytes: Number.POSITIVE_INFINITY });
  expect(limitsOf({ host_memory: 0 }, "cpu")).toEqual({
    budgetBytes: Number.POSITIVE_INFINITY,
    hostBytes: 0,
  });
});

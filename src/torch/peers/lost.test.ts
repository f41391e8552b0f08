import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { OutOfMemoryError } from "../device.ts";
import { LostPeersError, lossOf } from "./lost.ts";

it("a rank's own faults are not taken for lost peers, which would start all ranks anew", () => {
  const own = [
    new OutOfMemoryError(1024, 0, 512, 0, 0, ""),
    new UserError("no such file"),
    new TypeError("not a tensor"),
    new Error("sum 3: ranks start different collectives"),
    new Error("a product of [2, 3] and [2, 3]"),
  ];
  expect(own.map(lossOf)).toEqual(own.map(() => undefined));
});

it("the engine's words of a loss name the rank, if anybody knows it, and the reason", () => {
  const named = lossOf(new Error('{"rank":2,"host":"node-b","reason":"it said nothing for 30 s"}'));
  expect(named).toBeInstanceOf(LostPeersError);
  expect(named).toMatchObject({ rank: 2, host: "node-b" });
  const unnamed = lossOf(new Error('{"reason":"sum 3 of float32[2]: Connection reset by \\"peer\\""}'));
  expect(unnamed).toMatchObject({
    rank: undefined,
    reason: 'sum 3 of float32[2]: Connection reset by "peer"',
  });
  expect(lossOf(named)).toBe(named);
});

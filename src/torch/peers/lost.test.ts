import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { OutOfMemoryError } from "../device.ts";
import { LostPeersError, lossOf } from "./lost.ts";
import { isOwnFault } from "./ownFault.ts";

it("a rank's own faults are not taken for lost peers, which would start all ranks anew", () => {
  const own = [
    new OutOfMemoryError(1024, 0, 512, 0, 0, ""),
    new UserError("no such file"),
    new TypeError("not a tensor"),
    new Error("sum 3: ranks start different collectives"),
  ];
  expect(own.map(isOwnFault)).toEqual([true, true, true, true]);
});

it("the engine's words of a loss name the rank; other words are the reason", () => {
  const words = '{"rank":2,"host":"node-b","reason":"it said nothing for 30 s"}';
  expect(isOwnFault(new Error(words))).toBe(false);
  expect(lossOf(new Error(words))).toMatchObject({ rank: 2, host: "node-b" });
  const broken = lossOf(new Error("Connection reset by peer"));
  expect(broken).toBeInstanceOf(LostPeersError);
  expect(broken.message).toContain("Connection reset by peer");
});

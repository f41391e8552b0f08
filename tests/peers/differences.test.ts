import { hostname } from "node:os";
import { expect, test } from "vitest";
import { startRanks } from "../helpers/ranks/ranks.ts";
import type { Scenario } from "./differences.rank.ts";

const BODY = new URL("./differences.rank.ts", import.meta.url);

// biome-ignore format: columns line up
const DIFFERENCES: [Scenario, string][] = [
  ["shape", "ranks start different collectives: rank 1 sum 1 of float32[3], rank 0 sum 1 of float32[2]"],
  ["dtype", "ranks start different collectives: rank 1 sum 1 of int32[2], rank 0 sum 1 of float32[2]"],
  ["name",  "ranks start different collectives: rank 1 broadcast 1 of float32[2] from rank 0, rank 0 sum 1 of float32[2]"],
  ["facts", `The ranks were not started alike:\n  rank 1 (host ${hostname()}) has policy {"rank":8}, rank 0 {"rank":16}`],
];

test.each(DIFFERENCES)(
  "ranks that differ in %s end with an error that says how",
  async (scenario, message) => {
    await using running = await startRanks(2, BODY, { args: { scenario } });
    const ends = await running.ends;
    expect(ends.map(({ code }) => code)).toEqual([1, 1]);
    for (const { error } of ends) expect(error?.message).toContain(message); // its own, or of who said so first
  },
);

test.each(["0", "1"])(
  "the event loop turns while a collective is under way, with checks %s",
  async (checks) => {
    const env = { LORAFIT_CHECK_COLLECTIVES: checks };
    await using running = await startRanks(2, BODY, { args: { scenario: "turns" }, env });
    const ends = await running.ends;
    expect(
      ends.map(({ result }) => result),
      ends.map(({ stderr }) => stderr).join("\n"),
    ).toEqual([
      { turns: 50, most: null }, // JSON has no Infinity
      { turns: 0, most: null },
    ]);
  },
);

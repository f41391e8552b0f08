import { hostname } from "node:os";
import { describe, expect, test } from "vitest";
import { type RankOptions, type RunningRanks, startRanks } from "../helpers/ranks/ranks.ts";
import type { Scenario } from "./failures.rank.ts";

const BODY = new URL("./failures.rank.ts", import.meta.url);
/** The stated time: a rank ends no later than this after another is gone, on a machine that is not busy. */
const LIMIT_MS = 60_000;

function start(
  count: number,
  scenario: Scenario,
  { args, ...options }: RankOptions = {},
): Promise<RunningRanks> {
  return startRanks(count, BODY, { args: { scenario, ...(args as object) }, ...options });
}

/** Expects every rank but the lost one to end with an error that names it, and returns the reasons. */
async function expectLost(running: RunningRanks, lost: number, ranks: number[]): Promise<string[]> {
  const ends = await Promise.all(ranks.map((rank) => running.end(rank)));
  return ends.map(({ code, error, stderr }) => {
    expect({ code, ...error, message: "" }, stderr).toEqual({
      ...{ code: 1, name: "LostPeersError", message: "" },
      ...{ rank: lost, host: hostname() },
    });
    return error!.message;
  });
}

describe.each([2, 3, 4])("of %i ranks", (count) => {
  const last = count - 1;
  const others = Array.from({ length: last }, (_, rank) => rank);

  test.each(["sums", "arrivals", "tells"] as const)(
    "a rank that is killed during %s is named by all others within the stated time",
    async (scenario) => {
      await using running = await start(count, scenario);
      await Promise.all([...others, last].map((rank) => running.said(rank, "summing")));
      const killedMs = performance.now();
      running.children[last]!.kill("SIGKILL");
      const reasons = await expectLost(running, last, others);
      expect(performance.now() - killedMs).toBeLessThan(LIMIT_MS);
      for (const reason of reasons) expect(reason).toContain("it has not been heard from");
    },
  );

  test("the rank with the store is killed: all others say that its store is gone", async () => {
    await using running = await start(count, "sums");
    await Promise.all([...others, last].map((rank) => running.said(rank, "summing")));
    running.children[0]!.kill("SIGKILL");
    const living = [...others.slice(1), last];
    const ends = await Promise.all(living.map((rank) => running.end(rank)));
    for (const { code, error } of ends) {
      expect([code, error?.rank]).toEqual([1, 0]);
      expect(error?.message).toContain("its store, through which ranks find each other, no longer answers");
    }
  });
});

const OPENING = new URL("./opening.rank.ts", import.meta.url);

test("a rank that is killed while the ranks are joined is named by the others", async () => {
  await using running = await startRanks(3, OPENING, { env: { TEST_LAST: "dies" } });
  for (const reason of await expectLost(running, 2, [0, 1]))
    expect(reason).toContain("it has not been heard from");
});

test("a network interface that is not there is this rank's own error, and the others name the rank", async () => {
  await using running = await startRanks(2, OPENING, { env: { TEST_LAST: "eth99" } });
  const [reason] = await expectLost(running, 1, [0]);
  expect(reason).toContain("Ranks can't be joined by the network interface eth99");
  const { code, error } = await running.end(1);
  expect([code, error?.name]).toEqual([1, "UserError"]);
});

test("a rank that is killed is named though another has left in order", async () => {
  await using running = await start(3, "lateDeath");
  await Promise.all([0, 2].map((rank) => running.said(rank, "summing")));
  expect((await running.end(1)).code).toBe(0);
  running.children[2]!.kill("SIGKILL");
  await expectLost(running, 2, [0]);
});

test("a rank that is stopped, as by a frozen machine, is named by the others", async () => {
  await using running = await start(3, "arrivals");
  await Promise.all([0, 1, 2].map((rank) => running.said(rank, "summing")));
  running.children[2]!.kill("SIGSTOP");
  await expectLost(running, 2, [0, 1]);
});

test("the rank with the store is stopped: the others notice that it answers no more", async () => {
  await using running = await start(3, "sums");
  await Promise.all([0, 1, 2].map((rank) => running.said(rank, "summing")));
  running.children[0]!.kill("SIGSTOP");
  const ends = await Promise.all([1, 2].map((rank) => running.end(rank)));
  for (const { code, error } of ends) {
    expect([code, error?.name, error?.rank]).toEqual([1, "LostPeersError", 0]); // its host, or the store's address
    expect(error?.message).toContain("has not answered");
  }
});

test("a rank that hangs, with its event loop blocked, says so itself", async () => {
  await using running = await start(3, "hang", { peers: { rankTimeoutMs: 3000 } });
  const reasons = await expectLost(running, 2, [0, 1]);
  for (const reason of reasons) expect(reason).toMatch(/it has done nothing for \d+ s: it hangs/);
});

test("a rank that computes for longer than the limit is no failure", async () => {
  await using running = await start(2, "compute", {
    args: { computeMs: 9000 },
    peers: { rankTimeoutMs: 3000 },
  });
  for (const { code, stderr } of await running.ends) expect(code, stderr).toBe(0);
});

test("a rank that fails is named by the others, with its error's message", async () => {
  await using running = await start(3, "fails");
  const reasons = await expectLost(running, 2, [0, 1]);
  for (const reason of reasons) expect(reason).toContain("no card is left");
  const { code, error } = await running.end(2);
  expect([code, error?.message]).toEqual([1, "no card is left"]);
});

test("a rank that exits without a word is named by the others, with its exit code", async () => {
  await using running = await start(3, "exits");
  const reasons = await expectLost(running, 2, [0, 1]);
  for (const reason of reasons) expect(reason).toContain("it has ended with exit code 7");
  expect((await running.end(2)).code).toBe(7);
});

test("a rank that leaves before a collective of the others is named", async () => {
  await using running = await start(3, "leaves");
  const reasons = await expectLost(running, 2, [0, 1]);
  for (const reason of reasons) expect(reason).toContain("it has left before sum 1 of float32[1000]");
});

test("ranks that wait for different things end, and say for what", async () => {
  await using running = await start(2, "differ", { peers: { rankTimeoutMs: 3000 } });
  const ends = await running.ends;
  for (const { code, error } of ends) {
    expect([code, error?.name]).toEqual([1, "LostPeersError"]);
    expect(error?.message).toContain(
      'all ranks wait for each other, for 3 s: rank 0 in sum 1 of float32[1000], rank 1 in "steps", fact 1',
    );
  }
});

test("a rank that does not come is named, within the time for opening", async () => {
  await using running = await start(3, "sums", { absent: [1], peers: { openTimeoutMs: 8000 } });
  for (const { code, error } of await running.ends) {
    expect(code).toBe(1);
    expect(error?.message).toContain("Waited 8 s for 3 ranks, but rank 1 did not come."); // or who said so first
  }
});

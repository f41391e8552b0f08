/**
 * Losses of samples that are only evaluated: they are planned in advance, and running out of memory never
 * ends the run.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { planLines } from "../../src/cli/run/planLines.ts";
import { UserError } from "../../src/errors.ts";
import { memoryStats, setCap } from "../../src/torch/device.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { type EvalRecord, readRecords } from "../../src/train/folder/runLog.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, noticesOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const LONG = 4000;
const [short, held] = ["short.jsonl", "held.jsonl"].map((name) => join(folder, name)) as [string, string];
const lines = readFileSync(input.data, "utf8").split("\n");
writeFileSync(short, `${lines[0]}\n${lines[1]}\n`);
writeFileSync(held, samplesWith(LONG));

/** Returns three samples; the second has the given number of tokens. */
function samplesWith(tokens: number): string {
  const input_ids = Array.from({ length: tokens }, (_, at) => 3 + (at % 90));
  const labels = input_ids.map((id, at) => (at >= tokens - 2 ? id : -100));
  return `${lines[0]}\n${JSON.stringify({ input_ids, labels })}\n${lines[1]}\n`;
}

const options: TrainInput = {
  ...{ ...input, data: short, eval_data: held, max_steps: 1, max_length: 5000, planned_step: true },
};

let runs = 0;
async function evaluated(more: Partial<TrainInput>, onFact?: (event: RunFact) => void) {
  const output = join(folder, `run-${++runs}`);
  const { events, ...end } = await runWith({ ...options, ...more, output } as TrainInput, {
    ...(onFact && { onFact }),
  });
  const records = await readRecords<EvalRecord>(join(output, "evals.jsonl")).catch(() => []);
  const [plan] = events.flatMap((event) => (event.fact === "plan" ? [event] : []));
  return { events, end, records, plan, notices: noticesOf(events) };
}

/** Bytes: too few for the long sample, enough for the short ones. */
const TIGHT = 700_000;

it("a sample that has room under some policy is evaluated under it, within what was planned, and the plan tells what it takes", async () => {
  const free = await evaluated({ memory: 50_000_000 });
  const most = free.plan!.evaluation!.loss!;
  expect(most.tokens).toBe(LONG);
  for (const [memory, what] of [
    [50_000_000, "an answer to"],
    [4_000_000, "the loss of"],
  ] as const) {
    const { plan } = await evaluated({ memory });
    const told = planLines(plan!).filter((line) => line.startsWith("an evaluation needs more: "));
    expect(told).toEqual([expect.stringContaining(`for ${what} ${held}:2: sample 1, 4,000 tokens`)]);
  }
  const leaner = await evaluated({ memory: most.limitedBytes - 1 });
  const { loss } = leaner.plan!.evaluation!;
  expect(loss!.concessions).not.toEqual(most.concessions);
  expect(loss!.limitedBytes).toBeLessThan(most.limitedBytes);
  const exactly = await evaluated({ memory: loss!.limitedBytes });
  for (const { end, records, notices } of [free, leaner, exactly]) {
    expect(end).toMatchObject({ result: { ended: "finished" } });
    expect(notices.filter((text) => text.startsWith("Evaluation"))).toEqual([]);
    expect(records[0]).toMatchObject({ samples: 3 });
    expect(records[0]!.loss).toBeCloseTo(free.records[0]!.loss, 4);
  }
});

it("one that has no room is refused at the start, with what would fit; each way that is named does", async () => {
  const { end, plan, records } = await evaluated({ memory: TIGHT });
  const { error } = end as { error: UserError };
  expect(error).toBeInstanceOf(UserError);
  expect(plan).toBeUndefined();
  expect(records).toEqual([]);
  expect(error.message).toContain(`${held}:2: sample 1: it has 4,000 tokens`);
  const [, fitting] = /fit up to ([\d,]+) tokens/.exec(error.message)!;
  const fittingTokens = Number(fitting!.replace(",", ""));
  expect(fittingTokens).toBeLessThan(LONG);
  const shorter = join(folder, "shorter.jsonl");
  writeFileSync(shorter, samplesWith(fittingTokens));
  expect((await evaluated({ memory: TIGHT, eval_data: shorter })).records).toMatchObject([{ samples: 3 }]);
  const [, memory] = /--memory (\d+MiB)/.exec(error.fix!)!;
  expect(error.fix).toContain("--skip-bad  (leaves out 1 of the evaluation's 3 samples)");
  const enough = await evaluated({ memory: memory! });
  expect(enough.records).toMatchObject([{ samples: 3 }]);
  const skipped = await evaluated({ memory: TIGHT, skip_bad: true });
  expect(skipped.records).toMatchObject([{ samples: 2 }]);
  expect(planLines(skipped.plan!)).toEqual(
    expect.arrayContaining([
      expect.stringMatching(/^1 sample of the evaluation would not fit and is left out/),
    ]),
  );
});

it("where another policy of the run would have room for it, the refusal has that policy", async () => {
  const { end } = await evaluated({ memory: 2_700_000 });
  const { error } = end as { error: UserError };
  const [, policy] = /--policy '(\{.*\})'/.exec(error.fix!)!;
  const enough = await evaluated({ memory: 2_700_000, policy: policy! });
  expect(enough.records).toMatchObject([{ samples: 3 }]);
  expect(enough.notices.filter((text) => text.startsWith("Evaluation"))).toEqual([]);
});

it("memory that is gone in the midst of a run costs the samples that need it, told one by one, and not the run", async () => {
  const cap = (spareBytes: number) => (event: RunFact) => {
    if (event.fact === "step") setCap("cpu", memoryStats("cpu").liveBytes + spareBytes);
  };
  const some = await evaluated({}, cap(400_000));
  expect(some.end).toMatchObject({ result: { ended: "finished" } });
  expect(some.records).toMatchObject([{ samples: 2, unevaluated: 1 }]);
  const last = `Evaluation: ${held}:2: sample 1 (4,000 tokens): out of memory`;
  expect(
    some.notices.filter((text) => text.startsWith(last) && text.includes("skips the sample")),
  ).toHaveLength(1);
  const none = await evaluated({}, cap(2_000));
  expect(none.end).toMatchObject({ result: { ended: "finished" } });
  expect(none.records).toEqual([]);
  expect(none.notices.filter((text) => text.includes("skips the sample"))).toHaveLength(3);
});

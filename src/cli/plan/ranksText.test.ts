import { describe, expect, it } from "vitest";
import { smallConfig } from "../../../tests/helpers/randomModel.ts";
import type { Answer } from "../../answer/answer.ts";
import { answerOf } from "../../answer/answerOf.ts";
import { PlanOptions } from "../../answer/options.ts";
import { type Question, questionOf, servingQuestionOf, wiringFor } from "../../answer/question.ts";
import { samplesMs } from "../../answer/summary.ts";
import { trainCommand } from "../../answer/trainCommand.ts";
import { Planner } from "../../plan/planner.ts";
import { planHtml } from "./planPage.ts";
import { planText } from "./planText.ts";
import { recordOf } from "./record.ts";

const SIZES = { hd_num: 1, max_length: 600, lora_r: 8 };

/** A small model's question about ranks. */
function questionFor(given: Record<string, unknown>): Question {
  const asked = questionOf(PlanOptions.parse({ ...SIZES, ...given }));
  const model = smallConfig({ layers: 3 });
  const alone = new Planner({ model, dtype: "float32", target: asked.card!, mapsWeights: false });
  const wiring = wiringFor(asked.options, asked.card);
  const ofRank = wiring ? alone.amongRanks(0, wiring) : alone;
  const planner = ofRank.sharingRows(asked.options.sequence_parallel);
  return { ...asked, planner, ...(wiring && { alone }) };
}

function answerFor(given: Record<string, unknown>): Answer {
  return answerOf(questionFor(given));
}

describe("a plan of several cards", () => {
  it("says how they are joined, what a step sends and takes, and what they buy beside one", () => {
    const text = planText(answerFor({ gpu: "rtx-3090", gpus: 2 }));
    expect(text).toMatch(
      / {2}Cards +2, in one machine; pcie4x8 \(7\.9 GB\/s, assumed\) between cards; --link changes it\n/,
    );
    expect(text).toMatch(/ {2}Step +[\d.]+ s a step of 8 micro-batches, 4 a rank\n/);
    expect(text).toMatch(
      / {2}Link +each rank sends [\d.]+ \w+ a step; waiting for the sum of gradients takes /,
    );
    expect(text).toMatch(/What 2 cards buy, beside one:\n.*1,000 samples +VRAM of each +RAM a machine/);
    expect(text).toMatch(/\n {2}one card by itself +\S.*\n {2}2 cards, each with its own samples +\S/);
    expect(text).toMatch(/Train: {2}npx lorafit train .*--gpus 2/);
  });

  it("names what was given without calling it assumed, and both links of several machines", () => {
    const text = planText(answerFor({ gpu: "rtx-3090", gpus: 2, nodes: 2, link: "nvlink" }));
    expect(text).toContain(
      "4, 2 in each of 2 machines; nvlink3-bridge (45 GB/s) between cards, 10GbE (1.0 GB/s, assumed) between machines; --link changes it",
    );
    expect(text).toMatch(
      /Train: {2}torchrun --no-python --nnodes 2 --nproc-per-node 2 .*npx lorafit train(?!.*--gpus)/,
    );
    const given = planText(answerFor({ gpu: "rtx-3090", gpus: 2, link: "12GB/s" }));
    expect(given).toContain("2, in one machine; 12GB/s between cards\n");
  });

  it("has a row for ranks that share each sample, which compute every micro-batch together", () => {
    const answer = answerFor({ gpu: "rtx-3090", gpus: 2, sequence_parallel: 2 });
    const text = planText(answer);
    expect(text).toMatch(/ a step of 8 micro-batches, 8 a rank\n/);
    expect(text).toMatch(
      /\n {2}2 cards, each with its own samples +\S.*\n {2}2 cards that share each sample +\S/,
    );
    expect(text).toMatch(/--gpus 2 --sequence-parallel 2/);
    const [, whole, rows] = answer.ranks!.ways;
    expect(rows!.leastBytes).toBeLessThan(whole!.leastBytes);
  });

  it("takes the time of its busiest rank, and reports idle ranks of the last round", () => {
    const alone = answerFor({ gpu: "rtx-3090" });
    const three = answerFor({ gpu: "rtx-3090", gpus: 3 });
    const { microBatchMs, updateMs, sumMs = 0 } = three.plan.time;
    expect(samplesMs(three.plan, 800)).toBeCloseTo(100 * (3 * microBatchMs + sumMs + updateMs), 3);
    expect(samplesMs(three.plan, 10)).toBeCloseTo(4 * microBatchMs + 2 * (sumMs + updateMs), 3);
    expect(samplesMs(alone.plan, 10)).toBeCloseTo(
      10 * alone.plan.time.microBatchMs + 2 * alone.plan.time.updateMs,
      3,
    );
    expect(planText(three)).toContain(
      "3 a rank; 1 rank of the last round without work: raise --gradient-accumulation",
    );
  });

  it("gives scripts the number of ranks, the memory of each, and the bytes of a step", () => {
    const record = recordOf(answerFor({ gpu: "rtx-3090", gpus: 4 }));
    const { peakBytes, hostPeakBytes } = record;
    expect(record).toMatchObject({
      ...{ ranks: 4, link: { name: "pcie4x8" }, network: null },
      perRank: Array.from({ length: 4 }, () => ({ peakBytes, hostPeakBytes })),
      ways: [{ name: "alone" }, { name: "whole" }, { name: "shared" }],
    });
    expect(recordOf(answerFor({ gpu: "rtx-3090" }))).not.toHaveProperty("ranks");
  });

  it("counts the host's memory of all ranks of a machine, and answers --solve for one rank", () => {
    const [one, four] = [1, 4].map((gpus) => answerFor({ gpu: "rtx-3090", gpus }).plan.hostPoolBytes);
    expect(four).toBe(one);
    const { plan } = answerFor({ gpu: "rtx-3090", gpus: 4 });
    expect(plan.hostBytes).toBe(4 * plan.hostPoolBytes + plan.mappedBytes);
    const solved = answerFor({ gpu: "rtx-3060-12gb", gpus: 2, solve: "lora-r" });
    expect(solved.solved?.value).toBeGreaterThan(8);
    expect(solved.ranks?.count).toBe(2);
  });

  it("plans the whole base apart from a shared one, which sends more over the link", () => {
    const { ranks } = answerFor({ gpu: "rtx-3090", gpus: 4 });
    const [, whole, shared] = ranks!.ways;
    expect(whole!.plan.policy.weights.source).not.toBe("shared");
    expect(shared!.plan.policy.weights.source).toBe("shared");
    const text = planText(answerFor({ gpu: "rtx-3090", gpus: 4 }));
    expect(text).toMatch(/\n {2}4 cards that share the base +\S/);
    expect(answerFor({ gpu: "rtx-3090", gpus: 4, weights: "shared" }).ranks!.linkBytes).toBeGreaterThan(
      answerFor({ gpu: "rtx-3090", gpus: 4, weights: "resident" }).ranks!.linkBytes,
    );
  });

  it("draws a page", () => {
    expect(planHtml(answerFor({ gpu: "rtx-3090", gpus: 2, html: "x.html", explain: true }))).toContain(
      "What 2 cards buy, beside one:",
    );
  });

  it("plans common cards with each card's own link if no card is named", () => {
    const answer = answerFor({ gpus: 2 });
    expect(answer.cards?.rows.every(({ plans }) => plans.every(({ time }) => time.atOnce === 2))).toBe(true);
    expect(answer.ranks?.ways).toEqual([]);
  });
});

describe("options about several cards that don't go together", () => {
  const ask = (given: Record<string, unknown>) => () => questionOf(PlanOptions.parse({ ...SIZES, ...given }));

  it.each([
    [{ device: "cpu", gpus: 2 }, "--gpus 2 counts cards"],
    [{ gpu: "a30", cpu_ranks: 2 }, "--cpu-ranks 2 counts ranks on a CPU"],
    [{ gpu: "a30", link: "nvlink" }, "joins several cards"],
    [{ gpu: "a30", gpus: 2, link: "wire" }, '"wire" is no link'],
    [{ gpu: "a30", gpus: 4, sequence_parallel: 2 }, "--sequence-parallel 2 was given for 4 ranks"],
    [{ gpu: "a30", gpus: 3, sequence_parallel: 3 }, "sequence_parallel 3 does not divide"],
  ])("%j", (given, message) => {
    expect(ask(given)).toThrow(message);
  });

  it("a server of several cards", () => {
    expect(() =>
      servingQuestionOf(PlanOptions.parse({ ...SIZES, gpu: "a30", gpus: 2, serve: true })),
    ).toThrow("--serve plans a server, which uses one card.");
  });
});

it("a command for several ranks of a CPU leaves each its part of the machine's memory", () => {
  const { plan, asked } = answerFor({ gpu: "a30" });
  const options = { ...asked.options, device: "cpu", cpu_ranks: 4 } as const;
  const limits = { deviceBytes: 8e9, sumBytes: 8e9 };
  const command = trainCommand({
    plan: { ...plan, deviceBytes: 1e9, hostBytes: 2e9 },
    asked: { ...asked, options, limits },
  });
  expect(command).toMatch(/--cpu-ranks 4/);
  const memory = Number(/--memory ([\d.]+)GiB/.exec(command)![1]) * 2 ** 30;
  expect(memory).toBeGreaterThan(1.35e9);
  expect(memory).toBeLessThanOrEqual(1.5e9);
});

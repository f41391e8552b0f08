import { describe, expect, it } from "vitest";
import { smallConfig } from "../../../tests/helpers/randomModel.ts";
import type { Answer } from "../../answer/answer.ts";
import { answerOf } from "../../answer/answerOf.ts";
import { PlanOptions } from "../../answer/options.ts";
import { limitsOfCpu, type Question, questionOf } from "../../answer/question.ts";
import { trainCommand } from "../../answer/trainCommand.ts";
import { parseBytes } from "../../errors.ts";
import type { XComposerConfig } from "../../models/xcomposer2/spec.ts";
import { Planner } from "../../plan/planner.ts";
import { usableMachineBytes } from "../../plan/roomToPlanFor.ts";
import { planRungs } from "../../plan/search.ts";
import { findDevice, listDevices } from "../../plan/time/cards.ts";
import { speedOf } from "../../plan/time/stepTime.ts";
import { trainOptions } from "../../train/options/options.ts";
import { planHtml } from "./planPage.ts";
import { planText } from "./planText.ts";
import { recordOf } from "./record.ts";

const GIB = 2 ** 30;
const model = smallConfig({ layers: 4 });

/** A small model's question, on a card or on a CPU whose speed nobody measures. */
function questionFor(given: Record<string, unknown>, isCpu = false): Question {
  const asked = questionOf(PlanOptions.parse({ hd_num: 1, max_length: 1200, lora_r: 8, ...given }));
  const card = isCpu ? undefined : asked.card;
  const target = card ?? "cpu";
  const planner = new Planner(
    { model, dtype: "float32", target, mapsWeights: false },
    isCpu ? speedOf(findDevice("a100-80gb")) : undefined,
  );
  const options = { ...asked.options, device: isCpu ? "cpu" : "cuda" } as const;
  return { ...asked, options, card, planner, device: isCpu ? "this machine's CPU" : asked.device };
}

function answerFor(given: Record<string, unknown>, isCpu = false): Answer {
  return answerOf(questionFor(given, isCpu));
}

function textOf(given: Record<string, unknown>, isCpu = false): string {
  return planText(answerFor(given, isCpu));
}

function linesWith(text: string, word: string): string[] {
  return text.split("\n").filter((line) => line.includes(word));
}

it("plans the rank that a run has: lorafit's own, the official recipe's, or the one that is given", () => {
  const asked = (given: Record<string, unknown>) => questionOf(PlanOptions.parse({ hd_num: 1, ...given }));
  for (const given of [{}, { recipe: "official" }, { recipe: "official", lora_r: 5 }] as const) {
    const run = trainOptions({ model: "m", data: "d", ...given });
    expect(asked(given).workload.rank).toBe(run.lora_r);
  }
  expect(asked({ recipe: "official" }).workload.rank).toBe(64);
});

describe("an answer", () => {
  it.each([
    { gpu: "a30", compare: "official", explain: true, html: "x.html", samples: 4000 },
    { memory: "1MiB", explain: true, html: "x.html" },
    { memory: "24GiB", solve: "lora-r", explain: true, html: "x.html" },
    { explain: true, html: "x.html" },
  ])("is plain JSON from which text, page and record come out the same: %j", (given) => {
    const answer = answerFor(given);
    const read = JSON.parse(JSON.stringify(answer)) as Answer;
    expect(planText(read)).toBe(planText(answer));
    expect(planHtml(read)).toBe(planHtml(answer));
    expect(recordOf(read)).toEqual(JSON.parse(JSON.stringify(recordOf(answer))));
  });

  it("has what takes time only when it is asked for", () => {
    const { alternatives, details, page, cards } = answerFor({ gpu: "a30" });
    expect([alternatives, details, page, cards]).toEqual([undefined, undefined, undefined, undefined]);
  });
});

describe("a plan in words", () => {
  it("says what matters in at most 15 lines: whether it fits, memory, time, and the command", () => {
    const given = { gpu: "v100-32gb", hd_num: 9, max_length: 33_000, samples: 5000, batch_size: 2 };
    const lines = textOf(given).split("\n");
    expect(lines.length).toBeLessThanOrEqual(15);
    expect(lines[0]).toBe("Fits a Tesla V100-SXM2-32GB.");
    const [vram] = linesWith(lines.join("\n"), "  VRAM");
    expect(vram).toMatch(/\d [GM]iB of 30\.7 GiB \(31\.7 GiB less --margin\)/);
    expect(lines.join("\n")).toMatch(
      /Time .* a micro-batch, .* for 1,000 samples, .* for an epoch of 5,000 /,
    );
    expect(lines.join("\n")).toMatch(/\nTrain: {2}npx lorafit train --model internlm\/\S+ --data data\.txt /);
  });

  it("adds up the time of samples: as many micro-batches as they need, and an update for each step", () => {
    const { plan } = answerFor({ gpu: "a30", batch_size: 3, gradient_accumulation: 4 });
    const { microBatchMs, updateMs } = plan.time;
    const { thousandSamplesMs } = recordOf(
      answerFor({ gpu: "a30", batch_size: 3, gradient_accumulation: 4 }),
    );
    expect(thousandSamplesMs).toBeCloseTo(334 * microBatchMs + 84 * updateMs, 3);
  });

  it("says with --explain what the whole memory would be enough for, as far as the model was trained", () => {
    const text = textOf({ gpu: "a30", explain: true });
    expect(text).toMatch(
      /Room to spare: \S+ GiB\. .* all of the 22\.7 GiB .*:\n {2}--max-length +up to 32,768 \(.*training/,
    );
    expect(text).toMatch(/\n {2}--lora-r +up to 256 \(more rarely helps\)/);
  });

  it("speaks of one machine's memory on a CPU: no VRAM, no card, no RAM beside memory", () => {
    for (const given of [{ memory: "1GiB", explain: true }, { memory: "1MiB" }, {}]) {
      const text = textOf(given, true);
      expect(text).not.toMatch(/VRAM|\bRAM\b|\bcard\b|CUDA|GPU/);
    }
  });

  it("tells of a small model in MiB, and never 0.00 GiB or +0.000", () => {
    const text = textOf({ memory: "1GiB", compare: "official", explain: true });
    expect(linesWith(text, "per unit of rank")[0]).toMatch(/\+\d+\.\d MiB per unit/);
    expect(text).not.toMatch(/\b0\.0\d GiB|0\.000/);
  });

  it("keeps the columns of its slower options aligned", () => {
    const rows = linesWith(textOf({ memory: "24GiB", max_length: 4096, explain: true }), "  fits  ").filter(
      (line) => line.startsWith("  fits"),
    );
    expect(rows.length).toBeGreaterThan(2);
    expect(new Set(rows.map((line) => line.search(/[GM]iB/))).size).toBe(1);
  });

  it("says what a vision tower in fewer bits would save, and nothing once it was asked for", () => {
    const wide = {
      hidden: 512,
      layers: 4,
      heads: 4,
      ffn: 2048,
      imagePixels: 336,
      patchPixels: 14,
      eps: 1e-5,
    };
    const asked = questionFor({ gpu: "a30" });
    const text = (visionBase?: "bf16" | "nf4"): string => {
      const planner = new Planner({
        ...{ model: { ...model, vision: wide } as XComposerConfig, dtype: "float32" },
        ...{ target: asked.card!, mapsWeights: false },
        visionBase,
      });
      const options = { ...asked.options, vision_base: visionBase, explain: true };
      return planText(answerOf({ ...asked, planner, options }));
    };
    const plain = text();
    const [lever] = linesWith(plain, "  vision tower");
    expect(lever).toMatch(
      /in int8 -\d+\.\d MiB; in nf4 -\d+\.\d MiB; changes results a little, so never chosen.*--vision-base/,
    );
    expect(plain).not.toContain("--vision-base nf4");
    const asFull = text("bf16");
    expect(linesWith(asFull, "  vision tower")).toEqual([]);
    expect(asFull).toContain("--vision-base bf16");
    const quantised = text("nf4");
    expect(quantised).toMatch(/fp32 base, nf4 vision tower, LoRA/);
    expect(quantised).toMatch(/frozen model .*\(tower and projector in nf4\)/);
    expect(quantised).toMatch(/npx lorafit train .*--vision-base nf4/);
    expect(quantised).toContain("vision_base: nf4");
    expect(linesWith(quantised, "  vision tower")).toEqual([]);
  });

  it("ends with a command whose memory is the plan's to the byte, for every card and amount", () => {
    const { plan, asked } = answerFor({ gpu: "a30" });
    for (const given of [...listDevices().map(({ name }) => ({ gpu: name })), { memory: "24GB" }]) {
      const { limits } = questionFor(given);
      const planned = { plan, asked: { ...asked, limits: { deviceBytes: limits.budgetBytes } } };
      const [, amount] = /--memory (\S+)/.exec(trainCommand(planned))!;
      expect(parseBytes(amount!), JSON.stringify(given)).toBe(limits.budgetBytes);
      expect(amount, JSON.stringify(given)).toMatch(/^[\d.]+G/);
    }
  });

  it("parts a CPU's memory so that the run has room for the plan, and both together fit the machine", () => {
    const { plan, asked } = answerFor({}, true);
    for (const [deviceBytes, hostBytes, sumBytes] of [
      [3.06 * GIB, 19.26 * GIB, 22.36 * GIB],
      [12e6, 7e6, 19e6 + 500],
      [1e9, 0, 8e9],
    ] as const) {
      const limits = { deviceBytes: 16 * GIB, sumBytes };
      const planned = { plan: { ...plan, deviceBytes, hostBytes }, asked: { ...asked, limits } };
      const [, memory, host] = /--memory (\S+) --host-memory (\S+)/.exec(trainCommand(planned))!;
      const given = { device: parseBytes(memory!), host: host === "0" ? 0 : parseBytes(host!) };
      expect(given.device).toBeGreaterThanOrEqual(deviceBytes);
      expect(given.host).toBeGreaterThanOrEqual(hostBytes);
      expect(given.device + given.host).toBeLessThanOrEqual(sumBytes);
    }
  });

  it("begins with what is needed where nothing fits, and offers changes but no command", () => {
    const text = textOf({ memory: "100MiB" });
    expect(text).toMatch(/^Needs at least \d+\.\d+ [GM]iB of VRAM: the limit is 100\.0 MiB\.\n/);
    expect(text).not.toContain("npx lorafit train");
    expect(recordOf(answerFor({ memory: "100MiB" }))).toMatchObject({ fits: false, train: null });
  });

  it("names changes with which something fits, and says if there are none", { timeout: 300_000 }, () => {
    const ways = (given: Record<string, unknown>): string =>
      planText(answerOf(questionOf(PlanOptions.parse({ hd_num: 1, max_length: 600, lora_r: 8, ...given }))));
    expect(ways({ memory: "8GiB", host_memory: "8GiB" })).toMatch(
      /What would fit, each alone:\n {2}--host-memory 1\d\.\dGiB +1\.\d GiB +and 1\d\.\d\d GiB of RAM\n {2}--base nf4 +1\.\d GiB +and \d\.\d\d GiB of RAM +4 bits/,
    );
    expect(ways({ memory: "3GiB", host_memory: "0", weights: "resident" })).toMatch(
      /What would fit, each alone:\n {2}--host-memory 1\d\.\dGiB without --weights resident +1\.\d GiB/,
    );
    expect(ways({ memory: "100MiB" })).toContain("Neither a shorter max_length, a lower rank");
  });

  it("warns of a picture that leaves no room for text, and names no lower hd_num than 1", () => {
    const text = textOf({ memory: "600MiB", max_length: 300 });
    expect(text).toContain("Pass --max-length 569. ");
    expect(textOf({ memory: "600MiB", max_length: 1000, hd_num: 9 })).toContain("or a lower --hd-num. ");
  });

  it("lists only slower options that need less than all before them", () => {
    const asked = { gpu: "rtx-4090", hd_num: 1, max_length: 300, compare: "official" }; // attention in four parts takes more there than in two
    const question = questionOf(PlanOptions.parse({ ...asked, solve: "memory" }));
    const { alternatives, plan } = answerOf(question);
    const isFalling = (bytes: number[]): boolean =>
      bytes.every((one, index) => index === 0 || one < bytes[index - 1]!);
    const rungs = planRungs(question.planner, plan.workload, question.limits, {});
    expect(isFalling(rungs.map(({ run }) => run.budgetedBytes))).toBe(false);
    expect(isFalling(alternatives!.map(({ deviceBytes }) => deviceBytes))).toBe(true);
  });

  it("says where times come from, and times the phases of the step alone", () => {
    expect(textOf({ gpu: "a30" })).toContain("estimated from the card's data sheet");
    expect(textOf({ memory: "600MiB" })).toMatch(/estimated for a GeForce .*: no --gpu is given/);
    expect(textOf({ memory: "1MiB" }, true)).toContain("estimated from this CPU's measured speed");
    const phases = textOf({ memory: "600MiB", explain: true }).split("Phases: ")[1]!.split("\n");
    const isTimed = (name: string): boolean =>
      / s +\d/.test(phases.find((line) => line.startsWith(`  ${name} `))!);
    expect(["backward", "update"].every(isTimed)).toBe(true);
    expect(["start", "resume", "save"].some(isTimed)).toBe(false);
  });
});

describe("limits of a plan", () => {
  it("leave a margin of a card, none of an amount that the user names, and as much as --margin says", () => {
    const budgetOf = (given: Record<string, unknown>): number => questionFor(given).limits.budgetBytes;
    expect(budgetOf({ gpu: "a30" })).toBe(parseBytes("22.7GiB"));
    expect(budgetOf({ gpu: "rtx-4060" })).toBe(parseBytes("7.1GiB"));
    expect(budgetOf({ gpu: "a30", margin: "0" })).toBe(findDevice("a30").memoryBytes);
    expect(budgetOf({ gpu: "a30", margin: "4GiB" })).toBe(parseBytes("19.5GiB"));
    expect(budgetOf({ gpu: "a30", memory: "20GiB" })).toBe(20 * GIB);
    expect(budgetOf({ gpu: "a30", memory: "40GiB" })).toBe(findDevice("a30").memoryBytes);
    expect(budgetOf({ memory: "40GiB" })).toBe(40 * GIB);
  });

  it("have 64 GiB of host memory for a card that is elsewhere, and for a CPU this machine's memory in all", () => {
    const elsewhere = questionFor({ gpu: "h20" });
    if (!elsewhere.isHere) expect(elsewhere.limits).toMatchObject({ hostBytes: 64 * GIB });
    expect(questionFor({ gpu: "h20", host_memory: "8GiB" }).limits.hostBytes).toBe(8 * GIB);
    const usable = usableMachineBytes();
    const all = { budgetBytes: usable, hostBytes: usable, sumBytes: usable };
    expect(limitsOfCpu({ memory: 900 * GIB, host_memory: undefined })).toEqual(all);
    expect(limitsOfCpu({ memory: undefined, host_memory: undefined })).toEqual(all);
    expect(limitsOfCpu({ memory: GIB, host_memory: 5 })).toEqual({ budgetBytes: GIB, hostBytes: 5 });
    const limits = { ...all, sumBytes: 30e6 };
    const { plan } = answerOf({ ...questionFor({}, true), limits });
    expect(plan.deviceBytes + plan.hostBytes).toBeLessThanOrEqual(30e6);
  });

  it("keep --solve within what the model was trained with, and name the largest possible", () => {
    const trained = { maxLength: 1500, pictureLimit: 3 }; // a small model's search would go to millions of tokens
    const solved = (given: Record<string, unknown>): Answer =>
      answerOf({ ...questionFor({ memory: "580MiB", ...given }), trained });
    const longest = solved({ solve: "max-length" });
    expect(longest.solved).toMatchObject({ value: 1500, isCapped: true });
    expect(longest.plan).toMatchObject({ fits: true, workload: { maxLength: 1500 } });
    const { value } = longest.solved!.largest!;
    expect(value).toBeGreaterThan(1500);
    const beyond = solved({ solve: "max-length", beyond_training: true });
    expect(beyond.solved).toEqual({ what: "max-length", value, isCapped: false });
    expect(beyond.plan).toMatchObject({ fits: true, workload: { maxLength: value } });
    expect(solved({ solve: "hd_num" }).solved).toMatchObject({ what: "hd-num", value: 3, isCapped: true });
    expect(solved({ solve: "lora-r" }).solved).toMatchObject({ value: 256, isCapped: true });
    const text = planText(longest);
    expect(text).toMatch(
      /^The largest max_length that fits 580\.0 MiB of VRAM is 1,500, the most .* trained with\.\n/,
    );
    expect(text).toMatch(
      /\nNote: The largest that would fit is [\d,]+ .* a micro-batch\); --beyond-training/,
    );
    expect(planText(beyond)).toMatch(/\nNote: max_length [\d,]+ is beyond the 1,500 tokens/);
    expect(planText(beyond)).toMatch(/\n {2}Time /);
  });
});

describe("a question of a plan", () => {
  const refused = (given: Record<string, unknown>): unknown => {
    try {
      return questionOf(PlanOptions.parse(given));
    } catch (thrown) {
      return thrown;
    }
  };

  it("is refused with the way out where it cannot be meant", () => {
    expect(refused({ solve: "hd-num", image_share: 0.8, memory: "8GiB" })).toMatchObject({
      fix: "Leave --image-share out, or pass --solve max-length.",
    });
    expect(refused({ solve: "lora-r" })).toMatchObject({ fix: "Pass --gpu NAME or --memory AMOUNT." });
    expect(refused({ memory: "8GiB", max_length: 100_000_000 })).toMatchObject({
      message: expect.stringContaining("more than fits any card"),
    });
  });

  it("takes the names of settings with dashes or underscores", () => {
    for (const [typed, solve] of [
      ["max_length", "max-length"],
      ["hd-num", "hd-num"],
      ["lora_r", "lora-r"],
      ["batch_size", "batch-size"],
    ])
      expect(PlanOptions.parse({ solve: typed }).solve).toBe(solve);
    expect(() => PlanOptions.parse({ solve: "maxlength" })).toThrow();
  });
});

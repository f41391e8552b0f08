import { describe, expect, it } from "vitest";
import { smallConfig } from "../../../tests/helpers/randomModel.ts";
import { parseBytes } from "../../errors.ts";
import type { XComposerConfig } from "../../models/xcomposer2/spec.ts";
import { type Plan, Planner } from "../../plan/planner.ts";
import { planRungs } from "../../plan/search.ts";
import { findDevice, listDevices } from "../../plan/time/cards.ts";
import { speedOf } from "../../plan/time/stepTime.ts";
import { trainOptions } from "../../train/options/options.ts";
import { alternativesOf, answerOf } from "./answer.ts";
import { PlanOptions } from "./options.ts";
import { wayOut } from "./otherWays.ts";
import { type Question, questionOf } from "./question.ts";
import { planText, trainCommand } from "./report.ts";

const model = smallConfig({ layers: 4 });

/** What a small model's plan asks, on a card or on a CPU whose speed nobody measures. */
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

function textOf(given: Record<string, unknown>, isCpu = false): string {
  const question = questionFor(given, isCpu);
  return planText(question, answerOf(question));
}

it("plans the rank that a run has: lorafit's own, the official recipe's, or the one that is given", () => {
  const asked = (given: Record<string, unknown>) => questionOf(PlanOptions.parse({ hd_num: 1, ...given }));
  for (const given of [{}, { recipe: "official" }, { recipe: "official", lora_r: 5 }] as const) {
    const run = trainOptions({ model: "m", data: "d", ...given });
    expect(asked(given).workload.rank).toBe(run.lora_r);
  }
  expect(asked({ recipe: "official" }).workload.rank).toBe(64);
});

function linesWith(text: string, word: string): string[] {
  return text.split("\n").filter((line) => line.includes(word));
}

describe("a plan in words", () => {
  it("says that the whole memory would be enough under the leanest policy, not the room to spare", () => {
    const text = textOf({ gpu: "a30" });
    expect(text).toContain("23.5 GiB of VRAM on an A30\n");
    expect(text).toMatch(
      /Room to spare: \S+ GiB\. Under the leanest policy all of the 23\.5 GiB would be enough for, each alone:\n {2}--max-length +up to [\d,]+ or more +and \S+ [GM]iB of RAM/,
    );
    expect(text).toMatch(/--lora-r +up to 4,096 or more .*\(4 to 32 is usual\)/);
  });

  it("calls the least memory what was asked for, though faster policies fit", () => {
    const [least] = linesWith(textOf({ memory: "24GiB", solve: "memory" }), "lorafit, least memory");
    expect(least).toMatch(/<- the least, as asked$/);
  });

  it("speaks of one machine's memory on a CPU: no VRAM, no card, no RAM beside memory", () => {
    for (const given of [{ memory: "1GiB", explain: true }, { memory: "1MiB" }, {}]) {
      const text = textOf(given, true);
      expect(text).not.toMatch(/VRAM|\bRAM\b|\bcard\b|CUDA|GPU/);
      expect(text).toContain("set aside");
    }
  });

  it("tells of a small model in MiB, and never 0.00 GiB or +0.000", () => {
    const text = textOf({ memory: "1GiB", compare: "official" });
    expect(linesWith(text, "per unit of rank")[0]).toMatch(/\+\d+\.\d MiB per unit/);
    expect(text).not.toMatch(/\b0\.0\d GiB|0\.000/);
  });

  it("keeps the columns of its other policies aligned", () => {
    const rows = linesWith(textOf({ memory: "24GiB", max_length: 4096 }), "  fits  ").filter((line) =>
      line.startsWith("  fits"),
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
        ...{
          model: { ...model, vision: wide } as XComposerConfig,
          dtype: "float32",
          target: asked.card!,
          mapsWeights: false,
        },
        visionBase,
      });
      const question = {
        ...asked,
        planner,
        options: { ...asked.options, vision_base: visionBase, explain: true },
      };
      return planText(question, answerOf(question));
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
    const { plan } = answerOf(questionFor({ gpu: "a30" }));
    for (const given of [...listDevices().map(({ name }) => ({ gpu: name })), { memory: "24GB" }]) {
      const question = questionFor(given);
      const [, amount] = /--memory (\S+)/.exec(trainCommand(question, plan))!;
      expect(parseBytes(amount!), JSON.stringify(given)).toBe(question.limits.budgetBytes);
    }
  });

  it("tells what would fit where nothing does, and where nothing can", () => {
    const ways = (given: Record<string, unknown>): string => {
      const question = questionOf(PlanOptions.parse({ hd_num: 1, max_length: 600, lora_r: 8, ...given }));
      return wayOut(question, answerOf(question).plan);
    };
    expect(ways({ memory: "8GiB", host_memory: "8GiB" })).toMatch(
      /^What would fit, each alone:\n {2}--host-memory 1\d\.\dGiB +1\.\d GiB +and 1\d\.\d\d GiB of RAM\n {2}--base nf4 +1\.\d GiB +and \d\.\d\d GiB of RAM +4 bits/,
    );
    expect(ways({ memory: "3GiB", host_memory: "0", weights: "resident" })).toMatch(
      /^What would fit, each alone:\n {2}--host-memory 1\d\.\dGiB without --weights resident +1\.\d GiB/,
    );
    expect(ways({ memory: "100MiB" })).toBe(
      "Neither a shorter max_length, a lower rank, nor fewer bits of the base make it fit.",
    );
  });

  it("says where no picture is planned, and names no lower hd_num than 1", () => {
    const text = textOf({ memory: "600MiB", max_length: 300 });
    expect(text).toContain("Pass --max-length 569. The plan below has no picture");
    expect(textOf({ memory: "600MiB", max_length: 1000, hd_num: 9 })).toContain(
      "or a lower --hd-num. The plan below has the largest picture",
    );
  });

  it("lists only policies that take less than all before them", () => {
    const asked = { gpu: "rtx-4090", hd_num: 1, max_length: 300 }; // attention in four parts takes more there than in two
    const question = questionOf(PlanOptions.parse(asked));
    const { plan } = answerOf({ ...question, options: { ...question.options, solve: "memory" } });
    const bytesOf = (plans: Plan[]): number[] => plans.map(({ run }) => run.budgetedBytes);
    const isFalling = (bytes: number[]): boolean =>
      bytes.every((one, index) => index === 0 || one < bytes[index - 1]!);
    expect(isFalling(bytesOf(planRungs(question.planner, plan.workload, question.limits, {})))).toBe(false);
    expect(isFalling(bytesOf(alternativesOf(question, plan)))).toBe(true);
  });

  it("says where times come from", () => {
    expect(textOf({ memory: "600MiB" })).toContain(
      "Times are from the card's data sheet, none was timed; a step of training is 8 micro-batches and an update.",
    );
    expect(textOf({ memory: "1MiB" }, true)).toContain("Times are by what was measured of this CPU");
    const phases = textOf({ memory: "600MiB", explain: true }).split("Phases: ")[1]!.split("\n");
    const isTimed = (name: string): boolean =>
      / s +\d/.test(phases.find((line) => line.startsWith(`  ${name} `))!);
    expect(["backward", "update"].every(isTimed)).toBe(true);
    expect(["start", "resume", "save"].some(isTimed)).toBe(false);
  });

  it("offers no command to train with where nothing fits", () => {
    const text = textOf({ memory: "100MiB" });
    expect(text).toContain("As asked it does not fit");
    expect(text).not.toContain("npx lorafit train");
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
      message: expect.stringContaining("more than any card takes"),
    });
  });
});

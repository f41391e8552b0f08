import { describe, expect, it } from "vitest";
import { answerOf } from "../../../answer/answerOf.ts";
import { questionOf } from "../../../answer/question.ts";
import { GIB, UserError } from "../../../errors.ts";
import { openDesk } from "./desk.ts";
import type { PlanQuestion, PlanReply, PlanView } from "./planApi.ts";
import { planOptionsOf } from "./planOptions.ts";
import { type Asking, type Memory, STEPS } from "./planSteps.ts";
import { warmTools } from "./warmPlanners.ts";

const memory: Memory = { tools: warmTools(() => {}), found: new Map() };
const CARD = { gpu: "rtx-3060-12gb", base: "nf4", max_length: 2048, hd_num: 4 };

/** All replies to a question, as the planner's thread sends them. */
function replies(question: PlanQuestion, asking: Asking = "plan"): PlanReply[] {
  const sent: PlanReply[] = [];
  let thrown: unknown;
  const desk = openDesk({
    look: () => {},
    done: () => {},
    failed: (_, cause) => {
      thrown = cause;
    },
  });
  desk.add(
    1,
    STEPS[asking](question, memory, (reply) => sent.push(reply)),
  );
  while (desk.work());
  if (thrown) throw thrown;
  return sent;
}

function plansIn(sent: PlanReply[]): { stage: string; plan: PlanView }[] {
  return sent.filter((reply) => reply.kind === "plan");
}

describe("a question of the page", () => {
  it("is answered as `lorafit plan` answers it, after a quick plan, beside the official recipe", () => {
    const sent = replies({ options: CARD });
    const answer = answerOf(questionOf(planOptionsOf(CARD)));
    const plans = plansIn(sent);
    expect(plans.map(({ stage }) => stage)).toEqual(["leanest", "fastest"]);
    const { plan } = plans[1]!;
    expect(plan.policy).toEqual(answer.plan.policy);
    expect(plan.deviceBytes).toBe(answer.plan.deviceBytes);
    expect(plan.parts.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(plan.deviceBytes);
    const official = sent.find((reply) => reply.kind === "official")!.official;
    expect(official.deviceBytes).toBe(answer.official!.deviceBytes);
    expect(official.parts.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(official.deviceBytes);
    expect(plan.command).toContain("--base nf4");
    expect(plan.yaml).toContain("base: nf4\n");
  });

  it("is planned first for the policy that is shown, and found again at once", () => {
    const { policy } = plansIn(replies({ options: CARD }))[0]!.plan;
    const moved = { ...CARD, lora_r: 24 };
    const sent = replies({ options: moved, policy });
    expect(plansIn(sent).map(({ stage }) => stage)).toEqual(["kept", "fastest"]);
    expect(plansIn(sent)[0]!.plan.workload.rank).toBe(24);
    const again = replies({ options: moved, policy });
    expect(plansIn(again)).toEqual(plansIn(sent).slice(1));
  });

  it("that fits nowhere gets the least memory and what would help", () => {
    const sent = replies({ options: { ...CARD, base: "bf16", weights: "resident" } });
    const { plan } = plansIn(sent).at(-1)!;
    expect(plan.fits).toBe(false);
    expect(plan.deviceBytes).toBeGreaterThan(12 * GIB);
    const ways = sent.find((reply) => reply.kind === "ways")!.ways;
    expect(ways.map(({ option }) => option)).toContain("--base nf4");
  });

  it("about what frees memory is answered by plans, one change each, under the policy of a run", () => {
    const options = { ...CARD, base: "bf16", weights: "streamed" };
    const { plan } = plansIn(replies({ options })).at(-1)!;
    const [frees] = replies({ options, policy: plan.policy }, "frees");
    const { changes } = frees as Extract<PlanReply, { kind: "frees" }>;
    const bytes = changes.map(({ freedBytes }) => freedBytes);
    expect(bytes).toEqual(bytes.toSorted((one, other) => other - one));
    expect(Math.min(...bytes)).toBeGreaterThan(0);
    const { planner, workload, limits } = questionOf(planOptionsOf(options), memory.tools);
    const bytesOf = (rank: number): number =>
      planner.plan({ ...workload, rank }, plan.policy, limits).run.budgetedBytes;
    const half = workload.rank / 2;
    expect(changes).toContainEqual({
      ...{ change: `lora_r ${half}`, changesResults: true },
      freedBytes: bytesOf(workload.rank) - bytesOf(half),
    });
    expect(changes.map(({ change }) => change)).not.toContain("weights streamed");
  });

  it("names the option that limits the model's pictures; a run's record may have another beside it", () => {
    const qwen = { ...CARD, model: "qwen2.5-vl-3b", hd_num: undefined, max_pixels: 200_704 };
    const [first] = replies({ options: qwen });
    expect(first).toMatchObject({ kind: "pictures", pictures: { option: "max_pixels", unit: "pixels" } });
    expect(() => replies({ options: { ...qwen, hd_num: 16 } })).toThrow(/--hd-num does not limit/);
    const [frees] = replies({ options: { ...qwen, hd_num: 16 } }, "frees");
    expect(frees!.kind).toBe("frees");
    const cells = replies({ options: { ...qwen, max_pixels: 256 * 784 } }, "sizes");
    expect(cells[0]).toMatchObject({ pictureLimit: 256 * 784, maxLength: 2048 });
  });

  it("about several cards is planned for each of them, and a step takes less time", () => {
    const options = { ...CARD, lora_r: 8, weights: "streamed" };
    const [one, four] = [{}, { gpus: 4 }].map((more) =>
      plansIn(replies({ options: { ...options, ...more } })),
    );
    const [alone, ranks] = [one!.at(-1)!.plan, four!.at(-1)!.plan];
    expect(ranks.device).toBe(`each of 4 ${alone.device}`);
    expect(ranks.command).toContain("--gpus 4");
    expect(ranks.stepMs!).toBeLessThan(0.3 * alone.stepMs!);
    expect(ranks.stepMs!).toBeGreaterThan(0.2 * alone.stepMs!);
  });

  it("about nonsense is refused in the words of the command line", () => {
    expect(() => replies({ options: { gpu: "rtx-9999" } })).toThrow(UserError);
    expect(() => replies({ options: { memory: "24" } })).toThrow(/--memory 24 is 24 B, too little/);
    expect(() => replies({ options: { lora_r: "many" } })).toThrow(/--lora-r takes a whole number/);
  });

  it("may bring any policy: an impossible one is left aside", () => {
    for (const policy of [{ headGroups: 7 }, { plora: "folded", weights: { source: "streamed" } }, "x", null])
      expect(plansIn(replies({ options: { ...CARD, lora_r: 8 }, policy })).at(-1)!.plan.fits).toBe(true);
  });

  it("never writes or reads a file that it names", () => {
    const options = planOptionsOf({
      ...{ ...CARD, html: "/tmp/x.html", policy: "/etc/passwd", list_gpus: true, gpus: "all" },
    });
    expect(options.gpus).toBeUndefined();
    expect(options.list_gpus).toBe(false);
    for (const file of ["html", "policy"] as const) expect(options[file]).toBeUndefined();
  });
});

it("the table of sizes has a cell for each pair, the nearest first, and none where a picture is too long", () => {
  const cells = replies({ options: CARD }, "sizes").filter((reply) => reply.kind === "cell");
  expect(cells).toHaveLength(30);
  expect(cells[0]).toMatchObject({ pictureLimit: 4, maxLength: 2048 });
  expect(
    cells.find(({ pictureLimit, maxLength }) => pictureLimit === 55 && maxLength === 2048)?.bytes,
  ).toBeNull();
  const at = (tiles: number, maxLength: number) =>
    cells.find((cell) => cell.pictureLimit === tiles && cell.maxLength === maxLength)!.bytes!;
  expect(at(16, 32768)).toBeGreaterThan(at(16, 8192));
});

import { expect, it } from "vitest";
import { answerOf } from "../../answer/answerOf.ts";
import { PlanOptions } from "../../answer/options.ts";
import { questionOf } from "../../answer/question.ts";
import { Planner } from "../../plan/planner.ts";
import { marginOf } from "../../plan/roomToPlanFor.ts";
import { fastestPlan } from "../../plan/search.ts";
import { findDevice } from "../../plan/time/cards.ts";
import { planText } from "./planText.ts";

// of the 7B size: what a small model could take of a card would be searched for long
it("a row for each common card has what plans for it have, alone and for four, less its margin", {
  timeout: 600_000,
}, () => {
  const question = questionOf(PlanOptions.parse({ lora_r: 8, hd_num: 1, max_length: 600 }));
  const answer = answerOf(question);
  const { rows } = answer.cards!;
  for (const { name, plans } of [rows[0]!, rows.at(-1)!]) {
    const card = findDevice(name);
    const alone = new Planner({
      ...{ model: question.planner.config, dtype: "bfloat16", mapsWeights: true, target: card },
    });
    const [held] = plans;
    const budgetBytes = card.memoryBytes - marginOf(card);
    const expected = fastestPlan(alone, question.workload, { ...question.limits, budgetBytes });
    expect(held!.policy).toEqual(expected.policy);
    expect(held!.deviceBytes).toBe(expected.run.budgetedBytes);
    expect(held!.time.microBatchMs).toBe(expected.stepMs);
    expect(held!.deviceBytes).toBeLessThanOrEqual(budgetBytes);
  }
  for (const { name, several } of [rows[0]!, rows.at(-2)!]) {
    expect(several).toHaveLength(3); // on 2, 4 and 8
    const asked = questionOf(
      PlanOptions.parse({ lora_r: 8, hd_num: 1, max_length: 600, gpu: name, gpus: 4 }),
    );
    const expected = fastestPlan(asked.planner, asked.workload, asked.limits);
    expect(several[1]!.time.microBatchMs / expected.stepMs).toBeCloseTo(1, 2);
    expect(several[1]!.fits).toBe(true);
  }
  const lines = planText(answer).split("\n");
  const head = lines.find((line) => line.startsWith("  --gpu"));
  expect(head).toMatch(
    /--gpu +VRAM +bf16 base +1,000 samples +RAM +nf4 base +1,000 samples +RAM +2 cards +4 cards +8 cards$/,
  );
  const first = lines.find((line) => line.startsWith("  rtx-4060 "));
  expect(first).toMatch(
    /^ {2}rtx-4060 +7\.6 GiB +\S+ s +\d.* +\S+ GiB +\S+ s +\d.* +\S+ [GM]iB( +\d+ \w+( \d+ \w+)?){3}$/,
  );
});

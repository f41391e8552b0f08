import { expect, it } from "vitest";
import { Planner } from "../../plan/planner.ts";
import { fastestPlan } from "../../plan/search.ts";
import { answerOf } from "./answer.ts";
import { cardsText, commonCards } from "./commonCards.ts";
import { PlanOptions } from "./options.ts";
import { questionOf } from "./question.ts";

// of the 7B size: what a small model could take of a card would be searched for long
it("a row for each common card has what a plan for it alone has, and more memory takes longer samples", {
  timeout: 600_000,
}, () => {
  const question = questionOf(PlanOptions.parse({ lora_r: 8, hd_num: 1, max_length: 600 }));
  const { plan } = answerOf(question);
  const common = commonCards(question, plan);
  for (const { card, plans } of [common.rows[0]!, common.rows.at(-1)!]) {
    const alone = new Planner({
      ...{ model: question.planner.config, dtype: "bfloat16", mapsWeights: true, target: card },
    });
    const limits = { ...question.limits, budgetBytes: card.memoryBytes };
    const expected = fastestPlan(alone, plan.workload, limits);
    expect(plans[0]!.policy).toEqual(expected.policy);
    expect(plans[0]!.run.budgetedBytes).toBe(expected.run.budgetedBytes);
    expect(plans[0]!.stepMs).toBe(expected.stepMs);
  }
  const lengths = common.rows.map(({ longest }) => longest!);
  expect(lengths).toEqual(lengths.toSorted((one, other) => one - other));
  const [, head, first] = cardsText(common).split("\n");
  expect(head).toMatch(/--gpu +VRAM +bf16 base +RAM +nf4 base +RAM +max_length$/);
  expect(first).toMatch(/^ {2}rtx-4060 +7\.6 GiB +\S+ s +\S+ GiB +\S+ s +\S+ [GM]iB +up to [\d,]+$/);
});

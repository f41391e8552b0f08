/** Draws docs/step-memory.svg, the memory of one step over time, from the plan of a run. */
import { answerOf } from "../src/answer/answerOf.ts";
import { PlanOptions } from "../src/answer/options.ts";
import { questionOf } from "../src/answer/question.ts";
import { memoryChart } from "../src/cli/plan/planPage.ts";

/** A card of 12 GB, on which a 4K picture leaves no room for all weights and activations at once. */
const ASKED = { gpu: "rtx-3060-12gb", base: "nf4", hd_num: 16, max_length: 4096 };

export function stepChart(): string {
  const question = questionOf(PlanOptions.parse(ASKED));
  const answer = answerOf(question);
  const { workload, policy } = answer.plan;
  const { run } = question.planner.plan(workload, policy, question.limits);
  const chart = memoryChart(answer, run.timeline());
  // an image in a page has no style of the page: paper, ink and letters of its own
  return `${chart.replace("<svg ", '<svg style="background:#fff;color:#17202b;font-family:sans-serif" ')}\n`;
}

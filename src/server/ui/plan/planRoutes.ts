/** Routes of the Plan screen, whose questions a process of its own answers. */
import { z } from "zod";
import { PlanOptions } from "../../../answer/options.ts";
import { MAX_LENGTHS } from "../../../answer/planSizes.ts";
import { DEFAULT_RULES, pictureForm } from "../../../data/pictures/forms.ts";
import { LIMIT_OPTIONS } from "../../../data/pictures/limits.ts";
import { BASES } from "../../../models/precision/bases.ts";
import { isAnyHere, isHere } from "../../../plan/roomToPlanFor.ts";
import { listDevices } from "../../../plan/time/cards.ts";
import { trainOptions } from "../../../train/options/options.ts";
import { readBody } from "../../http/body.ts";
import type { RouteModule } from "../context.ts";
import { findData } from "../data/findData.ts";
import { openHelper } from "../helper/helperProcess.ts";
import { streamReplies } from "../helper/streamReplies.ts";
import { pictureChoice } from "./pictureChoice.ts";
import type { PlanChoices, PlanReply } from "./planApi.ts";
import type { PlanAsk } from "./planThread.ts";

const Question = z.strictObject({
  options: z.record(z.string(), z.unknown()),
  policy: z.unknown().optional(),
});

export const planRoutes: RouteModule = (app, context) => {
  const planner = openHelper<PlanAsk, PlanReply>(new URL("./planProcess.js", import.meta.url), "the planner");
  context.signal.addEventListener("abort", () => planner.close());
  app.get("/api/plan/choices", async (of) => of.json(await choices(context.folder)));
  app.post("/api/plan", async (of) => {
    const question = await readBody(of, Question);
    return streamReplies(of, context, planner, { asking: "plan", question });
  });
  for (const asking of ["sizes", "frees"] as const)
    app.post(`/api/plan/${asking}`, async (of) => {
      const question = await readBody(of, Question);
      return streamReplies(of, context, planner, { asking, question });
    });
};

async function choices(folder: string): Promise<PlanChoices> {
  const { models } = await findData(folder);
  const cards = listDevices();
  const card = cards.find((one) => isHere(one));
  const { max_length, lora_r, gradient_accumulation } = trainOptions({ model: "-", data: "-" });
  return {
    cards: cards.map(({ name, title, memoryBytes }) => ({ name, title, memoryBytes })),
    models: [PlanOptions.shape.model.parse(undefined), ...models],
    bases: [...BASES],
    here: card ? { device: "cuda", gpu: card.name } : { device: isAnyHere() ? "cuda" : "cpu" },
    defaults: { maxLength: max_length, rank: lora_r, accumulation: gradient_accumulation },
    limits: [...LIMIT_OPTIONS],
    pictures: pictureChoice(pictureForm(DEFAULT_RULES).limit),
    maxLengths: MAX_LENGTHS,
  };
}

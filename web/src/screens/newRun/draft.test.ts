import { expect, it } from "vitest";
import type { RunField, RunForm } from "../../../../src/server/ui/newRun/newRunApi.ts";
import { draftOf, freeOutput, planOptionsOf } from "./draft.ts";

const field = (key: string, more: Partial<RunField> = {}): RunField => ({
  ...{ key, flag: `--${key}`, kind: "value", numeric: false, many: false, required: false },
  ...{ help: "", takes: "", value: "" },
  ...more,
});
const FORM: RunForm = {
  folder: "/f",
  groups: [
    { name: "Model", fields: [field("model")] },
    {
      name: "Data",
      fields: [field("data", { many: true }), field("lora_r", { numeric: true }), field("device")],
    },
  ],
};

it("a list is a line each, and fields that nobody touched are absent", () => {
  expect(draftOf(FORM, { data: "a.json\nb.json", pack: true })).toEqual({
    options: { data: ["a.json", "b.json"] },
  });
});

it("a plan is for this machine's device, unless the form names one", () => {
  expect(planOptionsOf(FORM, {}, { device: "cpu" })).toBeUndefined();
  const filled = { model: "m", lora_r: " 8 " };
  expect(planOptionsOf(FORM, filled, { device: "cpu" })).toEqual({ model: "m", lora_r: 8, device: "cpu" });
  const card = { device: "cuda", gpu: "t4" } as const;
  expect(planOptionsOf(FORM, filled, card)).toMatchObject({ device: "cuda", gpu: "t4" });
  const onCpu = planOptionsOf(FORM, { ...filled, device: "cpu" }, card);
  expect(onCpu).toMatchObject({ device: "cpu" });
  expect(onCpu).not.toHaveProperty("gpu");
});

it("a number that is none goes to the server as it is, which says so", () => {
  expect(planOptionsOf(FORM, { model: "m", lora_r: "x" }, { device: "cpu" })).toMatchObject({ lora_r: "x" });
});

it("the first output folder is one that no run has", () => {
  expect(freeOutput([])).toBe("runs/1");
  expect(freeOutput(["runs/1", "runs/2", "other"])).toBe("runs/3");
});

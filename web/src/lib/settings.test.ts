import { expect, it } from "vitest";
import { differingSettings, settingText } from "./settings.ts";

it("finds the settings that differ, the most different first, and no places", () => {
  const runs = [
    { lora_r: 8, learning_rate: 1e-4, seed: 1, output: "a", targets: ["wo"] },
    { lora_r: 8, learning_rate: 2e-4, seed: 1, output: "b", targets: ["wo"] },
    { lora_r: 16, learning_rate: 3e-4, output: "c", targets: ["wo"] },
    {},
  ];
  expect(differingSettings(runs)).toEqual(["learning_rate", "lora_r", "seed"]);
  expect(differingSettings([{ a: 1 }])).toEqual([]);
});

it.each([
  [5e-5, "5e-5"],
  [0.001, "0.001"],
  [16, "16"],
  [true, "yes"],
  ["/data/models/4khd/7b", "…/4khd/7b"],
  [["wqkv", "wo"], "wqkv, wo"],
  [undefined, "–"],
])("%j reads %s", (value, text) => expect(settingText(value)).toBe(text));

it("amounts of memory have their unit", () => expect(settingText(2 ** 25, "memory")).toBe("32.0 MiB"));

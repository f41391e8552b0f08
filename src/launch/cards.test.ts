import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { countCards, ranksOfGpus } from "./cards.ts";

const devices = mkdtempSync(join(tmpdir(), "devices-"));
for (const name of ["nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"])
  writeFileSync(join(devices, name), "");
mkdirSync(join(devices, "nvidia-caps"));
afterAll(() => rmSync(devices, { recursive: true }));

it.each([
  [undefined, 3],
  ["", 0],
  ["-1", 0],
  ["2", 1],
  ["0,3", 2],
  ["0, 1 ,2", 3],
  ["0,-1,2", 1],
  ["GPU-5a,MIG-77", 2],
])("counts the cards that CUDA_VISIBLE_DEVICES=%s leaves", (visible, cards) => {
  expect(countCards({ visible, devices })).toBe(cards);
});

it("takes as many ranks as were asked for, or all, and refuses more than there are", () => {
  expect(ranksOfGpus("all", { visible: undefined, devices })).toBe(3);
  expect(ranksOfGpus(2, { visible: undefined, devices })).toBe(2);
  expect(() => ranksOfGpus(4, { visible: undefined, devices })).toThrow("this machine has 3 GPUs");
  expect(() => ranksOfGpus(2, { visible: "1", devices })).toThrow("CUDA_VISIBLE_DEVICES=1 names 1 GPU.");
  expect(() => ranksOfGpus("all", { visible: "", devices })).toThrow("no NVIDIA GPU is visible here");
});

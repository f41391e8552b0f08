import type { Page } from "playwright-core";
import { beforeAll, describe, expect, it } from "vitest";
import { records } from "../e2e/lorafit.ts";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

let workshop: Workshop;
let ui: Ui;

beforeAll(async () => {
  workshop = makeWorkshop();
  const evaluate = ["--eval-data", workshop.evalData, "--eval-every", "4"];
  workshop.train("runs/r4", ["--lora-r", "4", "--max-steps", "8", ...evaluate]);
  workshop.train("runs/r16", ["--lora-r", "16", "--max-steps", "6", ...evaluate]);
  workshop.sweep("sweep", [
    "--lora-r",
    "4,8,16",
    "--learning-rate",
    "1e-3,2e-3",
    "--max-steps",
    "4",
    ...evaluate,
  ]);
  ui = await startUi(workshop.folder);
});

async function compareRuns(page: Page): Promise<void> {
  for (const name of ["runs/r4", "runs/r16"])
    await page.getByRole("checkbox", { name: `Choose ${name}` }).check();
  await page.getByRole("link", { name: "Compare 2 runs" }).click();
  await page.getByRole("slider", { name: "Loss, smoothed, by step" }).waitFor();
}

async function openSweep(page: Page): Promise<void> {
  await page
    .getByRole("region", { name: "Sweeps" })
    .getByRole("link", { name: "sweep", exact: true })
    .click();
  await page.getByRole("heading", { level: 1, name: "Sweep sweep" }).waitFor();
}

const LOOKS = [
  { theme: "light", phone: false },
  { theme: "dark", phone: false },
  { theme: "light", phone: true },
  { theme: "dark", phone: true },
] as const;

describe("compared runs", () => {
  it.each(LOOKS)("open without a fault: %j", async (options) => {
    const { page, faults } = await openPage(ui.url, options);
    await compareRuns(page);
    await page.getByRole("slider", { name: "Evaluation loss, by step" }).waitFor();
    expect(await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")).toBe(true);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("differ in the settings of the table, over steps, tokens or time, and one can be left out", async () => {
    const { page, faults } = await openPage(ui.url);
    await compareRuns(page);
    const table = page.getByRole("region", { name: "Table of settings and results" });
    const cellsOf = (name: string): Promise<string[]> =>
      table.getByRole("row", { name }).getByRole("cell").allTextContents();
    expect((await cellsOf("lora_r")).sort()).toEqual(["16", "4"]);
    expect((await cellsOf("max_steps")).sort()).toEqual(["6", "8"]);
    expect(await table.getByRole("row", { name: "learning_rate" }).count()).toBe(0);
    for (const axis of ["tokens", "time"]) {
      await page.getByRole("combobox", { name: "Over" }).selectOption(axis);
      const slider = page.getByRole("slider", { name: `Loss, smoothed, by ${axis}` });
      await expect.poll(() => slider.getAttribute("aria-valuetext")).toMatch(/runs\/r16 \d.*runs\/r4 \d/);
    }
    await page.reload();
    await page.getByRole("slider", { name: "Loss, smoothed, by time" }).waitFor();
    await page.getByRole("button", { name: "Leave out runs/r4" }).click();
    await page.getByRole("heading", { level: 1, name: "One run" }).waitFor();
    expect(faults).toEqual([]);
  });
});

describe("a sweep", () => {
  it.each(LOOKS)("opens without a fault: %j", async (options) => {
    const { page, faults } = await openPage(ui.url, options);
    await openSweep(page);
    await page.getByRole("group", { name: "evaluation loss and peak memory" }).waitFor();
    expect(await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")).toBe(true);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("shows each trial's metric against each option and against memory, as its table has them", async () => {
    const { page, faults } = await openPage(ui.url);
    await openSweep(page);
    const shown = records(
      workshop.lorafit(["sweep", "show", `${workshop.folder}/sweep`, "--json"]),
    ) as Trial[];
    const trials = shown.filter(({ trial }) => trial !== undefined);
    expect(trials).toHaveLength(6);
    for (const plot of ["peak memory", "lora_r", "learning_rate"]) {
      const points = page.getByRole("group", { name: `evaluation loss and ${plot}` }).getByRole("link");
      await expect.poll(() => points.count()).toBe(6);
    }
    await page.getByText("lora_r (logarithmic)").waitFor();
    const best = [...trials].sort((one, other) => one.evalLoss - other.evalLoss)[0]!;
    const table = page.getByRole("region", { name: "Table of trials" });
    const first = table.locator("tbody tr").first();
    expect(await first.textContent()).toContain("best");
    expect(await first.getByRole("link").textContent()).toBe(String(best.trial));
    await page
      .getByText(/lorafit train .*--lora-r/)
      .first()
      .waitFor();
    expect(faults).toEqual([]);
  });

  it("marks the front of trials that no other beats in loss and memory", async () => {
    const { page, faults } = await openPage(ui.url);
    await openSweep(page);
    const plot = page.getByRole("group", { name: "evaluation loss and peak memory" });
    await plot.getByRole("link").first().waitFor();
    const trials = records(
      workshop.lorafit(["sweep", "show", `${workshop.folder}/sweep`, "--json"]),
    ) as Trial[];
    const done = trials.filter(({ evalLoss }) => typeof evalLoss === "number");
    const front = done.filter(
      (one) =>
        !done.some(
          (by) =>
            by.peakBytes <= one.peakBytes &&
            by.evalLoss <= one.evalLoss &&
            (by.peakBytes < one.peakBytes || by.evalLoss < one.evalLoss),
        ),
    );
    expect(await plot.locator(".front, .best").count()).toBe(front.length);
    expect(faults).toEqual([]);
  });

  it("leads from a point to its run, and from its trials to their curves", async () => {
    const { page, faults } = await openPage(ui.url);
    await openSweep(page);
    await page.getByRole("link", { name: "Curves of its trials" }).click();
    await page.getByRole("heading", { level: 1, name: "Compare 6 runs" }).waitFor();
    await page.goBack();
    const point = page.getByRole("group", { name: "evaluation loss and lora_r" }).getByRole("link").first();
    await point.focus();
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: /^trial \d of a sweep$/ }).click();
    await page.getByRole("heading", { level: 1, name: "Sweep sweep" }).waitFor();
    expect(faults).toEqual([]);
  });
});

interface Trial {
  trial: number;
  evalLoss: number;
  peakBytes: number;
}

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

let workshop: Workshop;
let ui: Ui;
let done: string;

beforeAll(async () => {
  workshop = makeWorkshop();
  const evaluate = ["--eval-data", workshop.evalData, "--eval-every", "6", "--save-every", "6"];
  done = workshop.train("runs/done", ["--max-steps", "18", ...evaluate]);
  ui = await startUi(workshop.folder);
});

/** Opens a run from the list. */
async function openRun(page: Page, path: string): Promise<void> {
  await page.getByRole("link", { name: path, exact: true }).click();
  await page.getByRole("heading", { level: 1, name: path }).waitFor();
}

/** Returns the lines of a chart's table as texts of its cells. */
async function tableOf(page: Page, title: string): Promise<string[][]> {
  const chart = page.locator("figure", { has: page.getByText(title, { exact: true }) });
  const details = chart.locator("details");
  if ((await details.getAttribute("open")) === null) await details.locator("summary").click();
  await details.locator("tbody tr").first().waitFor();
  return chart
    .locator("tbody tr")
    .evaluateAll((rows) =>
      rows.map((row) =>
        Array.from(row.children as unknown as { textContent: string }[], (cell) => cell.textContent),
      ),
    );
}

interface Logged {
  step: number;
  loss: number;
  peakBytes: number;
}

function logged(output: string): Logged[] {
  const lines = readFileSync(join(output, "steps.jsonl"), "utf8").split("\n").filter(Boolean);
  return lines.map((line) => JSON.parse(line) as Logged);
}

describe("a run that has ended", () => {
  it.each([
    { theme: "light", phone: false },
    { theme: "dark", phone: false },
    { theme: "light", phone: true },
    { theme: "dark", phone: true },
  ] as const)("opens without a fault: %j", async (options) => {
    const { page, faults } = await openPage(ui.url, options);
    await openRun(page, "runs/done");
    await page.getByRole("slider", { name: "Loss, by step" }).waitFor();
    await page.getByRole("slider", { name: /^Over step \d+, by / }).waitFor();
    await page.getByRole("img", { name: /with its tiles/ }).waitFor();
    const width = "document.querySelector('.picture img').naturalWidth";
    await expect.poll(() => page.evaluate(width)).toBeGreaterThan(100);
    expect(await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")).toBe(true);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("shows the numbers that it has logged", async () => {
    const { page, faults } = await openPage(ui.url);
    await openRun(page, "runs/done");
    const steps = logged(done);
    const rows = await tableOf(page, "Loss");
    expect(rows).toHaveLength(steps.length);
    for (const [index, { step, loss }] of steps.entries()) {
      expect(rows[index]![0]).toBe(String(step));
      expect(Number(rows[index]![1])).toBeCloseTo(loss, 3);
    }
    expect(rows.filter(([, , , evaluation]) => evaluation !== "").map(([step]) => step)).toEqual([
      "6",
      "12",
      "18",
    ]);
    const peaks = await tableOf(page, "Peak of each step");
    const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    expect(peaks.map(([, peak]) => peak)).toEqual(steps.map(({ peakBytes }) => mib(peakBytes)));
    await page.getByText("limit", { exact: false }).first().waitFor();
    expect(faults).toEqual([]);
  });

  it("is read along its curves by arrow keys, on all charts at once", async () => {
    const { page, faults } = await openPage(ui.url);
    await openRun(page, "runs/done");
    const loss = page.getByRole("slider", { name: "Loss, by step" });
    await loss.focus();
    await page.keyboard.press("Home");
    await expect.poll(() => loss.getAttribute("aria-valuetext")).toMatch(/^step 1: loss \d/);
    await page.keyboard.press("ArrowRight");
    await expect.poll(() => loss.getAttribute("aria-valuetext")).toMatch(/^step 2: loss \d/);
    const rate = page.getByRole("slider", { name: "Learning rate, by step" });
    await expect.poll(() => rate.getAttribute("aria-valuetext")).toMatch(/^step 2: rate /);
    await page.getByRole("combobox", { name: "Over" }).selectOption("tokens");
    await page.getByRole("slider", { name: "Loss, by tokens" }).waitFor();
    expect(page.url()).toContain("x=tokens");
    expect(faults).toEqual([]);
  });

  it("plans what would free most", async () => {
    const { page, faults } = await openPage(ui.url);
    await openRun(page, "runs/done");
    await page.getByRole("button", { name: "What frees most?" }).click();
    const table = page.getByRole("table", { name: "By plan, one change alone frees" });
    await table.waitFor();
    expect(await table.locator("td").count()).toBeGreaterThan(2);
    expect(await table.locator("th").allTextContents()).toContain("base nf4");
    expect(faults).toEqual([]);
  });

  it("shows answers of each evaluation beside what was expected, and copies the command", async () => {
    const { page, faults } = await openPage(ui.url);
    await openRun(page, "runs/done");
    const answers = page.getByRole("region", { name: "Answers" });
    expect(await answers.locator("ol > li").allTextContents()).toEqual(
      ["18", "12", "6"].map((step) => expect.stringContaining(`step ${step}`)),
    );
    const first = await answers.getByLabel("Sample", { exact: true }).inputValue();
    await answers.getByRole("button", { name: "Next sample" }).click();
    await expect.poll(() => answers.getByLabel("Sample", { exact: true }).inputValue()).not.toBe(first);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.getByRole("button", { name: "Copy: Train it again" }).click();
    await page.getByRole("button", { name: "Copied: Train it again" }).waitFor();
    expect(await page.evaluate("navigator.clipboard.readText()")).toMatch(/lorafit train .*done/);
    expect(faults).toEqual([]);
  });

  it("says so if there is no such run", async () => {
    const { page } = await openPage(ui.url);
    await page.goto(`${ui.origin}/#/run/nothing`);
    await page.getByRole("alert").waitFor();
  });
});

describe("a run that trains", () => {
  it("is watched to its end, with its history loaded once", async () => {
    const { page, faults } = await openPage(ui.url);
    const asked: string[] = [];
    page.on("request", (request) => asked.push(new URL(request.url()).pathname));
    const run = workshop.start("runs/live", ["--max-steps", "60", "--eval-data", workshop.evalData]);
    await run.steps(2);
    await openRun(page, "runs/live");
    const loss = page.getByRole("slider", { name: "Loss, by step" });
    const seen = async (): Promise<number> => Number(await loss.getAttribute("aria-valuemax")) + 1;
    const before = await seen();
    expect(before).toBeLessThan(60);
    expect(await run.exit).toBe(0);
    await page.getByText("finished", { exact: true }).first().waitFor();
    await expect.poll(seen).toBe(60);
    const rows = await tableOf(page, "Loss");
    expect(rows.map(([step]) => step)).toEqual(logged(run.output).map(({ step }) => String(step)));
    expect(asked.filter((path) => path.endsWith("/steps"))).toHaveLength(1);
    expect(faults).toEqual([]);
  });

  it("is followed on after the server was started again", async () => {
    const own = await startUi(workshop.folder);
    const { page } = await openPage(own.url); // its faults are what this test causes
    const run = workshop.start("runs/outlives", ["--max-steps", "100000", "--save-every", "1000"]);
    await run.steps(2);
    await openRun(page, "runs/outlives");
    await own.stop();
    await page.getByText("The server does not answer").waitFor();
    expect(run.child.exitCode).toBeNull();
    const again = await startUi(workshop.folder, ["--port", String(own.port)]);
    const other = await page.context().newPage(); // the new token comes into the browser as a user brings it
    await other.goto(again.url);
    await other.close();
    await page.getByText("The server does not answer").waitFor({ state: "detached" });
    const loss = page.getByRole("slider", { name: "Loss, by step" });
    const seen = async (): Promise<number> => Number(await loss.getAttribute("aria-valuemax")) + 1;
    const before = await seen();
    await expect.poll(seen).toBeGreaterThan(before);
    run.child.kill("SIGKILL");
    await page.getByText("crashed", { exact: true }).first().waitFor();
  });

  it("is stopped by the button, after one more question, and saves", async () => {
    const { page, faults } = await openPage(ui.url);
    const run = workshop.start("runs/stopped", ["--max-steps", "100000", "--save-every", "100000"]);
    await run.steps(3);
    await openRun(page, "runs/stopped");
    await page.getByRole("button", { name: "Stop…" }).click();
    await page.getByRole("button", { name: "Keep running" }).click();
    await page.getByRole("button", { name: "Stop…" }).click();
    expect(await axeFaults(page)).toEqual([]);
    await page.getByRole("button", { name: "Save and stop" }).click();
    await run.exit;
    await page.getByText("stopped", { exact: true }).first().waitFor();
    const step = logged(run.output).at(-1)!.step;
    await page.getByRole("rowheader", { name: new RegExp(`^checkpoint-${step}`) }).waitFor();
    expect(existsSync(join(run.output, `checkpoint-${step}`))).toBe(true);
    await page.getByText(/lorafit train --resume/).waitFor();
    expect(await page.getByRole("button", { name: "Stop…" }).count()).toBe(0);
    expect(faults).toEqual([]);
  });
});

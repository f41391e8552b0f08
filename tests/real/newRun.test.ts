import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

let ui: Ui;
let shop: Workshop;

beforeAll(async () => {
  shop = makeWorkshop({ pages: 8 });
  ui = await startUi(shop.folder);
});

async function openForm(options: Parameters<typeof openPage>[1] = {}) {
  const opened = await openPage(ui.url, options);
  await opened.page.getByRole("link", { name: "New run", exact: true }).click();
  await opened.page.getByRole("button", { name: "Start" }).waitFor();
  return opened;
}

const field = (page: Page, name: string) => page.getByRole("textbox", { name, exact: true });

async function openGroup(page: Page, name: string): Promise<void> {
  await page.locator("summary", { hasText: name }).click();
}

/** Fills in a run that takes a moment: so many steps of one small picture each. */
async function fillIn(page: Page, { output, steps }: { output: string; steps: number }): Promise<void> {
  await field(page, "output").fill(output);
  await field(page, "hd_num").fill("1");
  await openGroup(page, "LoRA");
  await field(page, "lora_r").fill("4");
  await openGroup(page, "Optimization");
  await field(page, "max_steps").fill(String(steps));
  await field(page, "gradient_accumulation").fill("1");
  await openGroup(page, "Device and memory");
  await field(page, "memory").fill("64MiB");
}

describe("the New run screen", () => {
  it("shows every option with its help, the plan beside it, and no serious fault", async () => {
    const { page, faults } = await openForm();
    for (const group of ["LoRA", "Optimization", "Checkpoints and evaluation", "Device and memory"])
      await openGroup(page, group);
    await page.getByText("Peak learning rate of the schedule", { exact: false }).waitFor();
    await page.getByRole("heading", { name: /^Fits .* of this machine's CPU/ }).waitFor();
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("says at the field what is wrong, in the words of the command line, and starts nothing", async () => {
    const { page, faults } = await openForm();
    await fillIn(page, { output: "runs/wrong", steps: 1 });
    await field(page, "lora_r").fill("<i>many</i>");
    await page.getByText('--lora-r takes a whole number, 1 or more (got the text "<i>many</i>").').waitFor();
    await page.getByRole("button", { name: "Start" }).click();
    await expect
      .poll(() => page.evaluate("document.activeElement.getAttribute('aria-invalid')"))
      .toBe("true");
    expect(existsSync(join(shop.folder, "runs", "wrong"))).toBe(false);
    await field(page, "lora_r").fill("4");
    await page.getByText("--lora-r takes").waitFor({ state: "detached" });
    expect(faults).toEqual([]);
  });

  it("starts a run, which outlives the page and its server, shows it, and stops it", async () => {
    const { page, faults } = await openForm();
    await fillIn(page, { output: "runs/first", steps: 5_000 });
    await page.getByRole("button", { name: "Start" }).click();
    await page.waitForURL(/#\/run\//);
    const output = join(shop.folder, "runs", "first");
    const log = join(output, "steps.jsonl");
    const steps = (): number => (existsSync(log) ? readFileSync(log, "utf8").split("\n").length - 1 : 0);
    await expect.poll(steps, { timeout: 120_000 }).toBeGreaterThan(1);
    const { pid } = JSON.parse(readFileSync(join(output, "run.lock"), "utf8")) as { pid: number };
    await page.close();
    await ui.stop();
    const then = steps();
    await expect.poll(steps, { timeout: 120_000 }).toBeGreaterThan(then + 2);

    ui = await startUi(shop.folder);
    const again = await openPage(ui.url);
    await again.page.getByRole("link", { name: /first/ }).first().click();
    await again.page.getByRole("button", { name: "Stop…" }).click();
    await again.page.getByRole("button", { name: "Save and stop" }).click();
    await expect.poll(() => isAlive(pid), { timeout: 120_000 }).toBe(false);
    await again.page.getByText("stopped", { exact: true }).first().waitFor();
    expect(readFileSync(join(output, "train.log"), "utf8")).toContain("checkpoint-");
    expect([...faults, ...again.faults]).toEqual([]);
  });

  it("shows why a run could not begin", async () => {
    const { page } = await openForm({ expected: /./ });
    await fillIn(page, { output: "runs/tight", steps: 2 });
    await field(page, "memory").fill("1MiB");
    await page.getByRole("button", { name: "Start" }).click();
    await page
      .getByRole("alert")
      .filter({ hasText: /^error: / })
      .waitFor();
    expect(page.url()).toContain("#/newRun");
  });

  it("is readable in the dark and on a phone", async () => {
    for (const options of [{ theme: "dark" }, { phone: true }] as const) {
      const { page, faults } = await openForm(options);
      await page.getByRole("heading", { name: /^Fits / }).waitFor();
      expect(await axeFaults(page)).toEqual([]);
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBeLessThanOrEqual(0);
      expect(faults).toEqual([]);
    }
  });
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1)?.[0] !== "Z";
  } catch {
    return false;
  }
}

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";

const folder = mkdtempSync(join(tmpdir(), "plan-screen-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let ui: Ui;
beforeAll(async () => {
  ui = await startUi(folder);
});

/** Opens the Plan screen as its address asks for it. */
async function openPlan(query: string, options: Parameters<typeof openPage>[1] = {}) {
  const opened = await openPage(ui.url, options);
  await opened.page.getByRole("link", { name: "Plan", exact: true }).waitFor();
  await opened.page.goto(`${ui.origin}/#/plan?${query}`);
  return opened;
}

const bar = (page: Page) => page.getByRole("img", { name: /^lorafit: / });
const fitting = (page: Page) => page.getByText("Shown is the fastest policy that fits.");

const SMALL_CARD = "device=rtx-3060-12gb&base=nf4&hd_num=4&maxLength=2048";

describe("the Plan screen", () => {
  it("plans a card: the bar beside the limit and the official recipe, and a command", async () => {
    const { page, faults } = await openPlan(SMALL_CARD);
    await fitting(page).waitFor();
    await page.getByRole("heading", { name: /^Fits 11\.\d GiB of GeForce RTX 3060/ }).waitFor();
    await page.getByRole("img", { name: /^official recipe: .* of 11\.\d GiB/ }).waitFor();
    const command = await page.getByRole("region", { name: "Command" }).textContent();
    expect(command).toMatch(/train --model .* --max-length 2048 .*--base nf4/);
    expect(await page.getByRole("region", { name: /^Configuration/ }).textContent()).toContain("base: nf4");
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("follows a slider that the keyboard moves, and keeps the sizes in its address", async () => {
    const { page, faults } = await openPlan(SMALL_CARD);
    await fitting(page).waitFor();
    const before = await bar(page).getAttribute("aria-label");
    await page.getByRole("slider", { name: "lora_r" }).focus();
    for (const key of ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft"])
      await page.keyboard.press(key);
    await fitting(page).waitFor();
    expect(await page.getByRole("spinbutton", { name: "lora_r, exactly" }).inputValue()).toBe("48");
    const after = await bar(page).getAttribute("aria-label");
    expect(after).not.toBe(before);
    const factors = (label: string | null) => Number(/LoRA factors ([\d.]+) MiB/.exec(label ?? "")?.[1]);
    expect(factors(after)).toBeCloseTo(3 * factors(before), -1);
    expect(page.url()).toContain("rank=48");
    await page.reload();
    await fitting(page).waitFor();
    expect(await bar(page).getAttribute("aria-label")).toBe(after);
    expect(faults).toEqual([]);
  });

  it("says what would fit if nothing does", async () => {
    const { page, faults } = await openPlan("device=memory&memory=8GiB&weights=resident");
    await page
      .getByRole("heading", { name: /^Does not fit 8\.0 GiB of .*: needs at least 1\d\.\d GiB$/ })
      .waitFor();
    await page.getByRole("heading", { name: "What would fit" }).waitFor();
    await page.getByText("--base nf4", { exact: true }).waitFor();
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("fills the table of sizes, and plans for a cell that is chosen", async () => {
    const { page, faults } = await openPlan(SMALL_CARD);
    const cells = page.locator(".plan-sizes button");
    await expect.poll(() => cells.count(), { timeout: 240_000 }).toBeGreaterThanOrEqual(22);
    await expect
      .poll(() => page.locator(".plan-sizes td", { hasText: "…" }).count(), { timeout: 240_000 })
      .toBe(0);
    await page.getByRole("button", { name: /^hd_num 9, max_length 4,096: .* fits$/ }).press("Enter");
    await fitting(page).waitFor();
    expect(page.url()).toMatch(/hd_num=9&maxLength=4096/);
    expect(await page.getByRole("slider", { name: "hd_num" }).getAttribute("aria-valuetext")).toBe("9 tiles");
    expect(faults).toEqual([]);
  });

  it("states what is wrong with an amount, and plans again when it is right", async () => {
    const { page } = await openPlan("device=memory", { expected: /400/ });
    const memory = page.getByRole("textbox", { name: "Memory" });
    await memory.fill("<b>24</b>");
    await memory.press("Enter");
    await page.getByRole("alert").filter({ hasText: "--memory takes an amount of memory" }).waitFor();
    expect(await page.locator("main b").count()).toBe(0);
    await memory.fill("24GiB");
    await memory.press("Enter");
    await fitting(page).waitFor();
  });

  it("is readable in the dark and on a phone", async () => {
    for (const options of [{ theme: "dark" }, { phone: true }] as const) {
      const { page, faults } = await openPlan(SMALL_CARD, options);
      await fitting(page).waitFor();
      expect(await axeFaults(page)).toEqual([]);
      const wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth");
      expect(wider).toBeLessThanOrEqual(0);
      expect(faults).toEqual([]);
    }
  });
});

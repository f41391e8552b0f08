import { existsSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

let workshop: Workshop;
let ui: Ui;

beforeAll(async () => {
  workshop = makeWorkshop();
  const evaluate = ["--eval-data", workshop.evalData, "--eval-every", "4"];
  workshop.train("runs/r4", ["--lora-r", "4", "--max-steps", "8", ...evaluate]);
  workshop.train("runs/r16", ["--lora-r", "16", "--max-steps", "6", ...evaluate]);
  workshop.train("runs/<img src=x onerror=alert(1)>", ["--max-steps", "2"]);
  ui = await startUi(workshop.folder);
});

describe("the list of runs", () => {
  it.each([
    { theme: "light", phone: false },
    { theme: "dark", phone: false },
    { theme: "light", phone: true },
    { theme: "dark", phone: true },
  ] as const)("opens without a fault: %j", async (options) => {
    const { page, faults } = await openPage(ui.url, options);
    const row = page.getByRole("row", { name: /r16/ });
    await row.getByText("finished").waitFor();
    expect(await row.getByRole("img", { name: /^loss from \d/ }).count()).toBe(1);
    expect(await row.textContent()).toMatch(/lora_r 16/);
    expect(await row.textContent()).toMatch(/\d MiB/);
    expect(await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")).toBe(true);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("shows a run's name as text, whatever it is", async () => {
    const { page, faults } = await openPage(ui.url);
    await page.getByRole("link", { name: "runs/<img src=x onerror=alert(1)>" }).click();
    await page.getByRole("heading", { level: 1, name: "<img src=x onerror=alert(1)>" }).waitFor();
    expect(await page.locator("img[src=x]").count()).toBe(0);
    expect(faults).toEqual([]);
  });

  it("finds, sorts and opens runs by keyboard alone, and a link keeps what was found", async () => {
    const { page, faults } = await openPage(ui.url);
    const names = page.locator("tbody th a");
    await names.first().waitFor();
    await page.keyboard.press("/");
    await page.keyboard.type("lora_r=4");
    await expect.poll(() => names.allTextContents()).toEqual(["runs/r4"]);
    await page.reload();
    await expect.poll(() => names.allTextContents()).toEqual(["runs/r4"]);
    await page.getByRole("searchbox").fill("runs/r");
    await expect.poll(() => names.count()).toBe(2);
    await page.getByRole("button", { name: "Step" }).click();
    await expect.poll(() => names.allTextContents()).toEqual(["runs/r16", "runs/r4"]);
    await page.getByRole("button", { name: "Step" }).click();
    await expect.poll(() => names.allTextContents()).toEqual(["runs/r4", "runs/r16"]);
    expect(await page.getByRole("columnheader", { name: "Step" }).getAttribute("aria-sort")).toBe(
      "descending",
    );
    await page.locator("h1").click(); // away from the button
    await page.keyboard.press("ArrowDown");
    await expect.poll(() => page.evaluate("document.activeElement.textContent")).toBe("runs/r16");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { level: 1, name: "runs/r16" }).waitFor();
    expect(faults).toEqual([]);
  });

  it("chooses runs by Space, and compares them", async () => {
    const { page, faults } = await openPage(ui.url);
    await page.locator("tbody th a").first().waitFor();
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press(" ");
    await page.keyboard.press("ArrowUp");
    await page.keyboard.press(" ");
    await page.getByRole("link", { name: "Compare 2 runs" }).click();
    await page.getByRole("heading", { level: 1, name: "Compare 2 runs" }).waitFor();
    expect(faults).toEqual([]);
  });

  it("gets a new run without a reload, and shows it crashed after kill -9", async () => {
    const { page, faults } = await openPage(ui.url);
    await page.locator("tbody th a").first().waitFor();
    const run = workshop.start("runs/killed", ["--max-steps", "100000", "--save-every", "5"]);
    const row = page.getByRole("row", { name: /runs\/killed/ });
    await row.getByText("running").waitFor();
    await run.steps(8);
    run.child.kill("SIGKILL");
    expect(await run.exit).toBeNull();
    await row.getByText("crashed").waitFor();
    await page.getByLabel("State", { exact: true }).selectOption("crashed");
    await expect.poll(() => page.locator("tbody th a").allTextContents()).toEqual(["runs/killed"]);
    expect(existsSync(join(run.output, "steps.jsonl"))).toBe(true);
    expect(faults).toEqual([]);
  });

  it("keeps the theme that was chosen", async () => {
    const { page, faults } = await openPage(ui.url, { theme: "light" });
    const ground = (): Promise<unknown> =>
      page.evaluate("getComputedStyle(document.documentElement).backgroundColor");
    await page.getByLabel("Theme").selectOption("dark");
    const dark = await ground();
    await page.reload();
    await page.locator("tbody th a").first().waitFor();
    expect(await ground()).toBe(dark);
    await page.getByLabel("Theme").selectOption("light");
    expect(await ground()).not.toBe(dark);
    expect(faults).toEqual([]);
  });
});

describe("many runs", () => {
  it("only those in sight are drawn, and the keys reach all", async () => {
    const { page, faults } = await openPage("about:blank");
    await page.route("**/api/runs", async (route) => {
      const response = await route.fetch();
      const list = (await response.json()) as { runs: { id: string; path: string }[] };
      const [first] = list.runs;
      list.runs = Array.from({ length: 1_000 }, (_, index) => {
        return { ...first!, id: `many${index}`, path: `many/${String(index).padStart(4, "0")}` };
      });
      await route.fulfill({ response, json: list });
    });
    await page.goto(ui.url);
    await page.getByText("1,000 runs").waitFor();
    expect(await page.locator("tbody th a").count()).toBeLessThan(80);
    await page.keyboard.press("End");
    await page.getByRole("link", { name: "many/0999" }).waitFor();
    expect(await page.locator("tbody th a").count()).toBeLessThan(80);
    expect(faults).toEqual([]);
  });
});

import { readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

const HOSTILE = `<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>\u202egnp.exe`;

let ui: Ui;
let shop: Workshop;

beforeAll(async () => {
  shop = makeWorkshop({ pages: 8 });
  const [first] = JSON.parse(readFileSync(join(shop.folder, "pages", "pages.json"), "utf8")) as {
    image: string[] | string;
  }[];
  const picture = [first!.image].flat()[0]!;
  const name = '"><img src=x onerror=window.hurt=1>.png';
  symlinkSync("/etc/hostname", join(shop.folder, "pages", "outside.png"));
  writeFileSync(
    join(shop.folder, "pages", "hostile.jsonl"),
    [
      {
        image: [picture],
        conversations: [
          { from: "human", value: `<ImageHere>${HOSTILE}` },
          { from: "gpt", value: HOSTILE },
        ],
      },
      {
        image: ["outside.png"],
        conversations: [
          { from: "human", value: "<ImageHere>?" },
          { from: "gpt", value: "no" },
        ],
      },
      {
        image: [name],
        conversations: [
          { from: "human", value: "<ImageHere>?" },
          { from: "gpt", value: "no" },
        ],
      },
      {
        [HOSTILE]: 1,
        conversations: [
          { from: "human", value: "why" },
          { from: "gpt", value: "so" },
        ],
      },
    ]
      .map((record) => `${JSON.stringify(record)}\n`)
      .join(""),
  );
  ui = await startUi(shop.folder);
});

async function openData(query: string, options: Parameters<typeof openPage>[1] = {}) {
  const opened = await openPage(ui.url, options);
  await opened.page.getByRole("link", { name: "Data", exact: true }).waitFor();
  await opened.page.goto(`${ui.origin}/#/data?${query}`);
  return opened;
}

const line = (page: Page) => page.getByRole("slider", { name: "max_length" });
const fact = (page: Page, name: string) =>
  page.locator(".facts div", { has: page.getByText(name, { exact: true }) }).locator("dd");

describe("the Data screen", () => {
  it("shows samples with their pictures and colours, and counts them all", async () => {
    const { page, faults } = await openData("file=pages/data.txt&hd_num=4&maxLength=4096");
    await page.getByText("All samples fit max_length 4,096.").waitFor();
    expect(await fact(page, "Samples").textContent()).toBe("8");
    expect(await fact(page, "Pictures").textContent()).toBe("8");
    const picture = page.getByRole("img", { name: /with its tiles and the global view/ }).first();
    await picture.scrollIntoViewIfNeeded(); // it loads when it is seen
    await expect
      .poll(() => picture.evaluate((image) => (image as unknown as { naturalWidth: number }).naturalWidth), {
        timeout: 60_000,
      })
      .toBeGreaterThan(500);
    expect(await page.locator(".data-text .data-answer").count()).toBeGreaterThan(5);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("says how many samples would not fit as the keyboard moves max_length", async () => {
    const { page, faults } = await openData("file=pages/data.txt&hd_num=4&maxLength=4096");
    await page.getByText("All samples fit max_length 4,096.").waitFor();
    await line(page).focus();
    await page.keyboard.press("Home");
    await page.getByText("8 samples would not fit max_length 1.").waitFor();
    expect(await line(page).getAttribute("aria-valuenow")).toBe("1");
    await page.keyboard.press("End");
    await page.getByText(/^All samples fit max_length/).waitFor();
    expect(page.url()).toMatch(/maxLength=\d+/);
    expect(faults).toEqual([]);
  });

  it("moves max_length with the mouse", async () => {
    const { page, faults } = await openData("file=pages/data.txt&hd_num=4&maxLength=4096");
    await page.getByText("All samples fit max_length 4,096.").waitFor();
    const plot = (await page.locator(".histogram-plot").boundingBox())!;
    const handle = (await line(page).boundingBox())!;
    await page.mouse.move(handle.x + handle.width / 2, handle.y + handle.height / 2);
    await page.mouse.down();
    await page.mouse.move(plot.x + 3, plot.y + 20, { steps: 4 });
    await page.mouse.up();
    await page.getByText(/^8 samples would not fit max_length/).waitFor();
    expect(faults).toEqual([]);
  });

  it("shows hostile texts, names and fields as text, and no file from outside", async () => {
    const { page, faults } = await openData("file=pages/hostile.jsonl&hd_num=1");
    await page.getByText("2 samples can't be used.").waitFor();
    const text = await page.locator(".data-text").first().textContent();
    expect(text).toContain("<script>window.hurt=1</script>\\u202egnp.exe");
    expect(text).not.toContain("\u202e");
    await page.getByText("outside.png: not below the page's folder, or not readable").waitFor();
    await page.getByText(/these fields are not read/).waitFor();
    expect(await page.evaluate("window.hurt")).toBeUndefined();
    expect(await page.locator("main script, main img[src=x]").count()).toBe(0);
    const answer = await page.request.get(
      `${ui.origin}/api/data/picture?file=pages/hostile.jsonl&hd_num=1&index=1&picture=0`,
    );
    expect(answer.status()).toBe(404);
    expect(await axeFaults(page)).toEqual([]);
    expect(faults).toEqual([]);
  });

  it("opens a bad sample from what validate finds", async () => {
    const { page, faults } = await openData("file=pages/hostile.jsonl&hd_num=1");
    const found = page
      .locator("section")
      .filter({ has: page.getByRole("heading", { name: "What validate finds" }) });
    await found.getByRole("button", { name: "2", exact: true }).press("Enter");
    await page.waitForURL(/from=2/);
    await page.locator("article").filter({ hasText: "sample 2" }).locator(".problem").waitFor();
    expect(faults).toEqual([]);
  });

  it("reads nothing outside of its folder", async () => {
    const { page } = await openData("file=../../../etc/passwd", { expected: /./ });
    await page.getByRole("alert").filter({ hasText: "../../../etc/passwd is not below" }).waitFor();
    expect(await page.getByText("root:").count()).toBe(0);
  });

  it("is readable in the dark and on a phone", async () => {
    for (const options of [{ theme: "dark" }, { phone: true }] as const) {
      const { page, faults } = await openData("file=pages/data.txt&hd_num=1", options);
      await page.getByText(/^All samples fit/).waitFor();
      expect(await axeFaults(page)).toEqual([]);
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBeLessThanOrEqual(0);
      expect(faults).toEqual([]);
    }
  });
});

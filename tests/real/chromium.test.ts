import { chromium } from "playwright-core";
import { expect, it } from "vitest";

it("a real browser runs", async () => {
  const executablePath = process.env.LORAFIT_CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
  try {
    const page = await browser.newPage();
    await page.setContent("<title>lorafit</title>");
    expect(await page.title()).toBe("lorafit");
  } finally {
    await browser.close();
  }
});

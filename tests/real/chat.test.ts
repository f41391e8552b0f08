import { readdirSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { axeFaults, openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop, type Workshop } from "./tinyRuns.ts";

let ui: Ui;
let shop: Workshop;

beforeAll(async () => {
  shop = makeWorkshop({ pages: 4 });
  shop.train("one", ["--max-steps", "2"]);
  shop.train("two", ["--max-steps", "2", "--seed", "7"]);
  ui = await startUi(shop.folder);
});

describe("the Chat screen", () => {
  it("asks two adapters about one picture, side by side, and ends their server", async () => {
    const { page, faults } = await openPage(ui.url);
    await page.getByRole("link", { name: "Chat", exact: true }).click();
    await page.getByRole("combobox", { name: "Left" }).selectOption({ label: "one/adapter" });
    await page.getByRole("combobox", { name: "Right" }).selectOption({ label: "two/adapter" });
    await page.getByRole("button", { name: "Load", exact: true }).click();
    await page.getByText("Ready.").waitFor();
    const images = join(shop.folder, "pages", "images");
    await page.getByLabel("Picture").setInputFiles(join(images, readdirSync(images)[0]!));
    await page.getByRole("img", { name: "Shown to both" }).waitFor();
    await page.getByRole("textbox", { name: "Question" }).fill("<b>What</b> is it?");
    await page.getByRole("button", { name: "Ask both" }).click();
    await page.getByRole("heading", { name: "<b>What</b> is it?" }).waitFor();
    await page.getByRole("button", { name: "Begin anew" }).waitFor(); // both are done
    for (const side of ["left", "right"])
      expect(
        await page
          .getByRole("article", { name: `Answer of ${side}` })
          .getByRole("alert")
          .count(),
      ).toBe(0);
    expect(await page.locator("main b").count()).toBe(0);
    expect(await axeFaults(page)).toEqual([]);
    await page.getByRole("button", { name: "Unload" }).click();
    await page.getByText("Not loaded.").waitFor();
    expect(faults).toEqual([]);
  });

  it("says why a model could not be loaded", async () => {
    const { page, faults } = await openPage(ui.url);
    await page.getByRole("link", { name: "Chat", exact: true }).click();
    await page.getByRole("textbox", { name: "Memory limit" }).fill("nonsense");
    await page.getByRole("button", { name: /^Load/ }).click();
    await page.getByText("It has ended.").waitFor();
    await page
      .getByRole("region", { name: "What the server printed" })
      .getByText(/--memory/)
      .waitFor();
    expect(faults).toEqual([]);
  });

  it("serves no adapter from outside of the folder", async () => {
    const answer = await fetch(`${ui.origin}/api/chat/start`, {
      method: "POST",
      headers: { Authorization: `Bearer ${ui.token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ model: shop.model, adapters: { left: "/etc" }, memory: "" }),
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ error: expect.stringContaining("is no adapter below") });
  });
});

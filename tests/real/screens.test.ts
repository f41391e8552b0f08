/** Takes the pictures of README from real runs: `make screens`. */
import { statSync } from "node:fs";
import { fileURLToPath } from "node:url";
import sharp from "sharp";
import { beforeAll, expect, it } from "vitest";
import { openPage, startUi, type Ui } from "./browser.ts";
import { makeWorkshop } from "./tinyRuns.ts";

let ui: Ui;

beforeAll(async () => {
  const workshop = makeWorkshop({ pages: 16, evaluated: 4 });
  const evaluate = ["--eval-data", workshop.evalData, "--eval-every", "40", "--save-every", "40"];
  const steps = ["--max-steps", "240", "--warmup-steps", "12", "--memory", "32MiB", ...evaluate];
  workshop.sweep("ranks", ["--lora-r", "4,8,16", "--max-steps", "24", "--eval-data", workshop.evalData]);
  workshop.train("pages/r8-rate-5e-4", ["--lora-r", "8", "--learning-rate", "5e-4", ...steps]);
  workshop.train("pages/r32-rate-1e-3", ["--lora-r", "32", "--learning-rate", "1e-3", ...steps]);
  const killed = workshop.start("pages/r32-rate-1e-2", [
    "--lora-r",
    "32",
    "--learning-rate",
    "1e-2",
    ...steps,
  ]);
  await killed.steps(60);
  killed.child.kill("SIGKILL");
  await killed.exit;
  const running = workshop.start("pages/r64-rate-1e-3", [
    "--lora-r",
    "64",
    "--max-steps",
    "2000",
    ...evaluate,
  ]);
  await running.steps(90);
  ui = await startUi(workshop.folder);
});

it.each([
  { screen: "runs", link: undefined, height: 620 },
  { screen: "run", link: "pages/r32-rate-1e-3", height: 1500 },
])("takes the picture of the screen: $screen", async ({ screen, link, height }) => {
  const { page, faults } = await openPage(ui.url);
  await page.setViewportSize({ width: 1360, height });
  await page.getByRole("link", { name: "pages/r64-rate-1e-3" }).waitFor();
  if (link) {
    await page.getByRole("link", { name: link }).click();
    await page.getByRole("slider", { name: /^Over step/ }).waitFor();
  }
  await page.waitForLoadState("domcontentloaded");
  const picture = await page.screenshot({ animations: "disabled" });
  const file = fileURLToPath(new URL(`../../docs/ui-${screen}.png`, import.meta.url));
  await sharp(picture).png({ palette: true, colours: 128, compressionLevel: 9 }).toFile(file);
  expect(statSync(file).size).toBeLessThan(200 * 1024);
  expect(faults).toEqual([]);
});

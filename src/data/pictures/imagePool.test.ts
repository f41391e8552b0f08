import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { golden } from "../../../tests/helpers/shared.ts";
import { DEFAULT_RULES } from "./forms.ts";
import { type LoadedHdImage, loadHdImage } from "./hdTiles/hdImage.ts";
import * as sources from "./imagePool.ts";

const root = fileURLToPath(new URL("../../../", import.meta.url));
const picture = golden("hd_pixels/a_grad_500x311.in.png");
let folder: string;
let compiled: typeof sources;

beforeAll(async () => {
  mkdirSync(join(root, ".cache"), { recursive: true });
  folder = mkdtempSync(join(root, ".cache", "imagePool-"));
  compiled = await compile();
});
afterAll(() => rmSync(folder, { recursive: true }));

describe.each([
  ["worker threads", () => compiled],
  ["this thread", () => sources],
])("in %s", (_place, pool) => {
  test("pictures equal those loaded one by one, more of them than workers", async () => {
    const names = ["a_grad_500x311", "b_text_1200x300", "c_noise_37x29", "q_rgba_120x80", "q_palette_140x90"];
    const paths = names.map((name) => golden(`hd_pixels/${name}.in.png`));
    const images = pool().openImagePool({ workers: 2, rules: DEFAULT_RULES, compat: "official" });
    const loaded = await Promise.all(paths.map((path, i) => images.load(path, i + 1)));
    await images.close();
    for (const [i, path] of paths.entries()) {
      const expected = await loadHdImage(path, i + 1, "official");
      const { rows, cols, pixels, globalView } = loaded[i] as LoadedHdImage;
      expect({ rows, cols }).toEqual({ rows: expected.rows, cols: expected.cols });
      expect(Buffer.compare(pixels, expected.pixels)).toBe(0);
      expect(globalView).toMatchArray(expected.globalView);
    }
  });

  test("a bad picture rejects its own promise alone, with its remedy", async () => {
    const images = pool().openImagePool({ workers: 1, rules: DEFAULT_RULES, compat: "lorafit" });
    const bad = join(folder, "bad.png");
    writeFileSync(bad, "not a picture");
    const results = await Promise.allSettled([picture, bad, picture].map((path) => images.load(path, 1)));
    await images.close();
    expect(results.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(results[1]).toMatchObject({
      reason: { name: "UserError", message: expect.stringContaining(bad) },
    });
    expect(results[1]).toMatchObject({ reason: { fix: expect.stringContaining("Save it anew") } });
  });

  test("the limit on pixels holds", async () => {
    const images = pool().openImagePool({
      workers: 1,
      rules: DEFAULT_RULES,
      compat: "lorafit",
      maxPixels: 100,
    });
    await expect(images.load(picture, 1)).rejects.toThrow("more than the limit of 100");
    await images.close();
  });

  test("closing rejects what waits, and what is asked for afterwards", async () => {
    const images = pool().openImagePool({ workers: 1, rules: DEFAULT_RULES, compat: "lorafit" });
    const loads = Array.from({ length: 4 }, () => images.load(picture, 16));
    await images.close();
    const results = await Promise.allSettled([...loads.slice(1), images.load(picture, 1)]);
    for (const result of results)
      expect(String(result.status === "rejected" && result.reason)).toMatch(/was closed/);
  });
});

test("a worker that dies costs its picture alone, which is named", async () => {
  const elsewhere = join(folder, "dying");
  cpSync(join(folder, "data"), join(elsewhere, "data"), { recursive: true });
  for (const name of ["errors", "options", "printable"].flatMap((file) => [`${file}.js`, `${file}.js.map`]))
    cpSync(join(folder, name), join(elsewhere, name));
  const worker = `
    import { parentPort } from "node:worker_threads";
    parentPort.on("message", ({ path }) => {
      if (path === "throws.png") throw new Error("no room");
      if (path === "exits.png") process.exit(3);
      const arrays = { pixels: new Uint8Array(1), globalView: new Float32Array(1) };
      parentPort.postMessage({ kind: "image", image: { rows: 1, cols: 1, ...arrays } });
    });`;
  writeFileSync(join(elsewhere, "data", "pictures", "imageWorker.js"), worker);
  const dying: typeof sources = await import(
    pathToFileURL(join(elsewhere, "data", "pictures", "imagePool.js")).href
  );
  const images = dying.openImagePool({ workers: 1, rules: DEFAULT_RULES, compat: "lorafit" });
  const results = await Promise.allSettled(
    ["a.png", "throws.png", "b.png", "exits.png", "c.png"].map((path) => images.load(path, 1)),
  );
  await images.close();
  const whys = results.map((result) => (result.status === "rejected" ? String(result.reason) : "loaded"));
  expect(whys).toEqual([
    "loaded",
    "Error: throws.png: its worker thread ended: no room",
    "loaded",
    "Error: exits.png: its worker thread ended with code 3",
    "loaded",
  ]);
});

test("worker threads leave this one free", async () => {
  const images = compiled.openImagePool({ workers: 1, rules: DEFAULT_RULES, compat: "lorafit" });
  await images.load(picture, 1);
  const before = performance.eventLoopUtilization();
  await images.load(picture, 100);
  expect(performance.eventLoopUtilization(before).utilization).toBeLessThan(0.5);
  await images.close();
});

test("an open pool keeps no process alive, and one picture at work does", () => {
  const script = `
    const { openImagePool } = await import(${JSON.stringify(compiledUrl())});
    const images = openImagePool({ workers: 1, rules: { form: "hdTiles" }, compat: "lorafit" });
    images.load(${JSON.stringify(picture)}, 4).then(({ rows }) => console.log(rows));`;
  const out = execFileSync(process.execPath, ["--input-type=module", "-e", script], { timeout: 240_000 });
  expect(out.toString()).toBe("2\n");
});

/** Workers run only what tsc has compiled. */
async function compile(): Promise<typeof sources> {
  const config = {
    extends: "../../tsconfig.build.json",
    compilerOptions: { rootDir: "../../src", outDir: ".", incremental: false, declaration: false },
    files: ["data/pictures/imagePool.ts", "data/pictures/imageWorker.ts", "drawing/opentype.d.ts"].map(
      (file) => `../../src/${file}`,
    ),
    include: [],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  execFileSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], {
    stdio: "inherit",
  });
  return import(compiledUrl());
}

function compiledUrl(): string {
  return pathToFileURL(join(folder, "data", "pictures", "imagePool.js")).href;
}

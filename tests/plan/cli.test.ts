import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { KnownPreset } from "../../src/answer/knownModels.ts";
import { Policy } from "../../src/step/policy.ts";
import { libtorchVersion } from "../../src/torch/device.ts";
import { driverVersion } from "../../src/torch/install/driver.ts";
import { lorafit, records } from "../e2e/lorafit.ts";
import { golden } from "../helpers/shared.ts";

interface Record_ {
  fits: boolean;
  solved?: number;
  largest?: number;
  peakBytes: number;
  hostPeakBytes: number;
  budgetBytes: number;
  categories: Record<string, number>;
  stepMs: number;
  tokens: number;
  policy: unknown;
  attention: string;
  train: string | null;
  /** Present if nothing fits. */
  reason?: string;
  official?: { peakBytes: number; fits: boolean };
}

const GIB = 2 ** 30;
const folder = mkdtempSync(join(tmpdir(), "plan-"));
afterAll(() => rmSync(folder, { recursive: true }));
const plan = (...args: string[]): Record_ => records(lorafit(["plan", ...args, "--json"]))[0] as Record_;

// Plans of the 7B size take seconds each, and much longer on a busy machine.
describe("lorafit plan", { timeout: 600_000 }, () => {
  it("prints a plan whose categories make up its peak, and whose policy can be planned again", () => {
    const found = plan("--memory", "24GiB", "--lora-r", "16", "--compare", "official");
    expect(found).toMatchObject({ fits: true, budgetBytes: 24 * GIB, tokens: 4096 });
    expect(found.peakBytes).toBeLessThanOrEqual(24 * GIB);
    expect(Object.values(found.categories).reduce((sum, bytes) => sum + bytes, 0)).toBe(found.peakBytes);
    expect(found.train).toContain("--memory 24GiB");
    expect(found.official!.peakBytes).toBeGreaterThan(found.peakBytes - 4 * GIB);
    const file = join(folder, "policy.json");
    writeFileSync(file, JSON.stringify(Policy.parse(found.policy)));
    expect(plan("--memory", "24GiB", "--lora-r", "16", "--policy", file).peakBytes).toBe(found.peakBytes);
  });

  it("spells out in the command to train what was fixed, and a broken policy is an error", () => {
    const { train, policy } = plan("--memory", "8GiB", "--host-memory", "64GiB", "--weights", "streamed");
    expect(train).toContain("--host-memory 64GiB");
    expect(train).toContain(`--policy '${JSON.stringify(policy)}'`);
    const { code, stderr } = lorafit([
      "train",
      "--model",
      golden("tiny"),
      "--data",
      "x",
      "--policy",
      "{headGroups",
    ]);
    expect(code).toBe(2);
    expect(stderr).toContain("error: The policy is not JSON");
  });

  it("solves for the longest sample, as far as the model was trained, and with a flag beyond; each then fits", () => {
    const shape = ["--memory", "8GiB", "--lora-r", "16", "--image-share", "0.8", "--weights", "streamed"];
    const { solved, largest } = plan(...shape, "--solve", "max_length");
    expect(solved).toBe(32_768);
    expect(plan(...shape, "--max-length", "32768").fits).toBe(true);
    const beyond = plan(...shape, "--solve", "max-length", "--beyond-training");
    expect(beyond).toMatchObject({ solved: largest, fits: true });
    expect(beyond.solved).toBeGreaterThan(50_000);
    expect(beyond.hostPeakBytes).toBeLessThanOrEqual(64 * GIB);
  });

  it("writes for people, warns where no token would be left, explains its numbers where asked, and ends with what to train with", () => {
    const { stdout, code } = lorafit([
      "plan",
      "--gpu",
      "v100-32gb",
      "--hd-num",
      "55",
      "--max-length",
      "4096",
      "--explain",
    ]);
    expect(code).toBe(0);
    expect(stdout).toContain("Note: A picture at hd_num 55 can take 8,737 tokens");
    expect(stdout).toContain("npx lorafit train --model internlm/internlm-xcomposer2-4khd-7b");
    expect(stdout).toContain("CUDA 12.6");
    expect(stdout).toContain("docs/memory.md");
    expect(stdout).toMatch(/saved activations +\d+\.\d\d GiB +█\S* +each layer's input/);
    expect(stdout).toContain("headGroups:");
  });

  it("answers in 15 lines, and names policies and their parts only when asked", () => {
    const { stdout, stderr } = lorafit(["plan", "--memory", "8GiB", "--samples", "5000"]);
    const lines = stdout.trimEnd().split("\n");
    expect(lines.length).toBeLessThanOrEqual(15);
    expect(lines[0]).toBe("Fits 8.0 GiB of VRAM.");
    expect(stdout).toMatch(/\n {2}VRAM +[67]\.\d\d GiB of 8\.0 GiB/);
    expect(stdout).toMatch(/\n {2}Official recipe +at least 2\d\.\d\d GiB of VRAM, does not fit\n/);
    expect(stdout).toMatch(/\n {2}Time .* for 1,000 samples, .* for an epoch of 5,000 .* no --gpu is given/);
    expect(stdout).toMatch(/\nTrain: {2}npx lorafit train .*--memory 8GiB --host-memory 64GiB\n/);
    expect(stdout).not.toMatch(/headGroups|Slower options|Cost of/);
    for (const line of stderr.trimEnd().split("\n")) expect(line).toMatch(/^$|^planning, \d+ %: /);
  });

  it("ends with 1 and begins with what is needed where nothing fits, and says what would", () => {
    const shape = ["--memory", "6GiB", "--weights", "resident"];
    const { stdout, code } = lorafit(["plan", ...shape, "--max-length", "8192"]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/^Needs at least 1\d\.\d\d GiB of VRAM: the limit is 6\.0 GiB\.\n/);
    expect(stdout).toMatch(/\n {2}without --weights resident +2\.\d GiB +and \d+\.\d\d GiB of RAM\n/);
    const script = lorafit(["plan", ...shape, "--max-length", "512", "--hd-num", "1", "--json"]);
    expect(script.code).toBe(1);
    const record = JSON.parse(script.stdout) as Record_;
    expect(record).toMatchObject({ fits: false, train: null });
    expect(record.reason).toMatch(/^needs at least 1\d\.\d\d GiB of VRAM: the limit is 6\.0 GiB$/);
  });

  it("takes the attention kernel that a run has chosen on this machine's card, and says so; other cards have the rule's", () => {
    const cache = join(folder, "cache");
    mkdirSync(join(cache, "lorafit"), { recursive: true });
    const machine = `driver ${driverVersion()}, libtorch ${libtorchVersion()}`;
    const choice = { kernel: "efficient", timings: { flash: { ms: 3 }, efficient: { ms: 2 } } };
    writeFileSync(
      join(cache, "lorafit", "attention.json"),
      JSON.stringify({ [`NVIDIA GeForce RTX 4090, ${machine}, bfloat16, 32, 8, 128, 8192, single`]: choice }),
    );
    const env = { XDG_CACHE_HOME: cache };
    const policy = join(folder, "streamed.json");
    const lean = {
      embeddings: "host",
      head: "host",
      vision: "host",
      mlpTileTokens: 512,
      lossChunkTokens: 64,
    };
    const layers = [{ count: 1, boundary: "host" }];
    writeFileSync(policy, JSON.stringify({ ...lean, weights: { source: "streamed" }, layers })); // the peak is in attention
    const small = ["--policy", policy, "--hd-num", "1", "--max-length", "16384"];
    const onCard = (gpu: string, given: object): Record_ =>
      records(lorafit(["plan", "--gpu", gpu, ...small, "--json"], given))[0] as Record_;
    const timed = onCard("rtx-4090", { env });
    expect(timed.attention).toMatch(
      /^efficient, the fastest .* on this machine: flash 3\.00 ms, efficient 2\.00 ms$/,
    );
    expect(timed.policy).toMatchObject({ attention: "efficient" });
    expect(onCard("rtx-3090", { env })).toMatchObject({ policy: { attention: "measured" } });
    const byRule = onCard("rtx-4090", { env: { XDG_CACHE_HOME: join(folder, "none") } });
    expect(byRule.categories.workingSet).not.toBe(timed.categories.workingSet);
    const { stdout } = lorafit(["plan", "--gpu", "rtx-4090", ...small, "--explain"], { env });
    expect(stdout).toContain(
      "Attention kernel: efficient, the fastest as a run has timed them on this machine",
    );
  });

  it("knows models without their weights, each with its family, size and limit of pictures", () => {
    const models = records(lorafit(["plan", "--list-models", "--json"])) as KnownPreset[];
    const find = (name: string) => models.find((model) => model.name === name);
    expect(find("4khd-7b")).toMatchObject({ pictures: { flag: "hd-num", limit: 16, tokens: 2653 } });
    expect(find("qwen2.5-vl-7b")).toMatchObject({
      ...{ family: "Qwen2.5-VL", maxLength: 32_768 },
      pictures: { flag: "max-pixels", limit: 12_845_056, tokens: 16_384 },
    });
    expect(find("qwen2.5-vl-7b")?.parameters).toBeCloseTo(8.29e9, -8);
  });

  it("knows cards, and says which it might be where it does not", () => {
    expect(records(lorafit(["plan", "--list-gpus", "--json"])).length).toBeGreaterThanOrEqual(25);
    const { code, stderr } = lorafit(["plan", "--gpu", "rtx-4099"]);
    expect(code).not.toBe(0);
    expect(stderr).toContain("rtx-4090");
  });
});

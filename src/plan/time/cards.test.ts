import { describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import { findDevice, listDevices, unknownCard } from "./cards.ts";

const GIB = 2 ** 30;

function refusal(name: string): UserError {
  try {
    findDevice(name);
  } catch (thrown) {
    if (thrown instanceof UserError) return thrown;
    throw thrown;
  }
  throw new Error(`${name} was found`);
}

describe("the table of cards", () => {
  it("has at least 30, by memory", () => {
    const cards = listDevices();
    expect(cards.length).toBeGreaterThanOrEqual(30);
    const bytes = cards.map(({ memoryBytes }) => memoryBytes);
    expect(bytes).toEqual([...bytes].sort((one, other) => one - other));
  });

  it("gives every card less memory than its name says, but at least 92 %", () => {
    for (const { name, memoryBytes } of listDevices()) {
      const sold = /-(\d+)gb/.exec(name)?.[1];
      if (!sold) continue;
      expect(memoryBytes).toBeLessThan(Number(sold) * GIB);
      expect(memoryBytes).toBeGreaterThan(0.92 * Number(sold) * GIB);
    }
  });

  it.each(listDevices())("keeps to the architecture's proportions: $name", (card) => {
    const { float32, float16, bfloat16, float8_e4m3fn, int8 } = card.peakFlopsPerSecond;
    const capability = Number(card.computeCapability);
    expect(bfloat16).toBe(capability >= 8 ? float16 : undefined);
    expect(float8_e4m3fn).toBe(capability >= 8.9 ? 2 * float16! : undefined);
    const int8Ratio = int8! / float16!; // fp16 with fp32 accumulation runs at half rate on GeForce cards
    if (capability >= 7.5)
      expect(Math.min(Math.abs(int8Ratio - 2), Math.abs(int8Ratio - 4))).toBeLessThan(0.05);
    if (capability >= 7) expect(float16! / float32).toBeGreaterThanOrEqual(1.9);
    else expect(float16).toBe(float32); // no tensor cores
    expect(float16! / card.memoryBytesPerSecond).toBeLessThan(500); // FLOPs a byte: a slipped digit would show
    expect(float16! / card.memoryBytesPerSecond).toBeGreaterThan(10);
    expect(card.linkBytesPerSecond).toBeLessThan(card.memoryBytesPerSecond);
  });

  it("takes PyTorch's workspace: 32 MiB on Hopper, 8,519,680 bytes elsewhere", () => {
    for (const { computeCapability, workspaceBytes } of listDevices()) {
      expect(workspaceBytes).toEqual([computeCapability === "9.0" ? 32 * 2 ** 20 : 8_519_680, 2 ** 20]);
    }
  });

  it("says of cards that libtorch's CUDA 13 build has dropped what they take", () => {
    for (const card of listDevices()) {
      if (Number(card.computeCapability) < 7.5) expect(card.note).toContain("CUDA 12.6 build");
      else expect(card.note ?? "").not.toContain("CUDA 12.6");
    }
    expect(findDevice("v100-32gb").note).toContain("no bf16");
  });
});

describe("finding a card", () => {
  it.each([
    ["v100-32gb", "v100-32gb"],
    ["RTX 4090", "rtx-4090"],
    ["4090", "rtx-4090"],
    ["NVIDIA GeForce RTX 4090", "rtx-4090"],
    ["rtx3060", "rtx-3060-12gb"],
    ["Tesla V100-SXM2-16GB", "v100-16gb"],
    ["NVIDIA A100 80GB PCIe", "a100-80gb-pcie"],
    ["a10", "a10"],
  ])("knows %s as %s", (typed, name) => {
    expect(findDevice(typed).name).toBe(name);
  });

  it("finds every card by its name and by its title", () => {
    for (const { name, title } of listDevices()) {
      expect(findDevice(name).name).toBe(name);
      expect(findDevice(title).name).toBe(name);
    }
  });

  it("asks which one where several fit", () => {
    expect(refusal("v100").fix).toBe("Did you mean v100-16gb, v100-32gb?");
  });

  it("says which name is near a mistyped one", () => {
    expect(refusal("rtx-4909").fix).toContain("rtx-4090");
    expect(refusal("h200x").fix).toContain("h200");
  });

  it("points to the list where nothing is near", () => {
    expect(refusal("mi300x").fix).toContain("--list-gpus");
    expect(refusal("").fix).toContain("--list-gpus");
  });
});

describe("a card that the table lacks", () => {
  it.each([
    [90, 80, "9.0", 32768],
    [87, 30, "8.6", 8320],
    [121, 119, "12.0", 8320],
    [50, 8, "6.0", 8320],
  ] as const)(
    "of capability %d has what the nearest known generation has",
    (capability, gib, nearest, kib) => {
      const card = unknownCard({ capability, totalBytes: gib * GIB });
      expect(card.computeCapability).toBe(nearest);
      expect(card.memoryBytes).toBe(gib * GIB);
      expect(card.workspaceBytes[0]).toBe(kib * 2 ** 10);
      expect(card.peakFlopsPerSecond.bfloat16 !== undefined).toBe(capability >= 80);
    },
  );
});

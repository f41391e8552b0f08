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
    expect(float16! / card.memoryBytesPerSecond).toBeLessThan(500); // FLOPs per byte: a slipped digit would show
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
      if (Number(card.computeCapability) < 7.5)
        expect(card.note).toMatch(/CUDA 12\.6 build: .* setup --cuda 12\.6/);
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
    ["rtx 4090 24gb", "rtx-4090"],
    ["GeForce RTX 4090 24 GiB", "rtx-4090"],
    ["4070", "rtx-4070"],
    ["RTX 4070 Ti", "rtx-4070-ti"],
    ["t4 16gb", "t4"],
    ["v100 32g", "v100-32gb"],
    ["A100-SXM-80GB", "a100-80gb"],
    ["NVIDIA H100 80GB HBM3", "h100-80gb"],
    ["NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"],
    ["NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtx-pro-6000"],
    ["NVIDIA L40S", "l40s"],
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

  it("takes no name for a similar card: other chips, variants and sizes are asked back", () => {
    for (const name of [
      ...["NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 3060 Ti", "RTX 4070 SUPER", "rtx 2080", "TITAN V"],
      ...[
        "Tesla V100-PCIE-32GB",
        "NVIDIA H200 NVL",
        "NVIDIA A100X",
        "T4G",
        "Quadro RTX 4000",
        "h100",
        "a100",
      ],
      ...["rtx 3060 8gb", "RTX 3080 12GB", "4060 ti 8gb"],
    ])
      expect(refusal(name).fix, name).toMatch(/^Did you mean [\w, -]+\?$|--list-gpus/);
    expect(refusal("rtx 3060 8gb").message).toContain("8 GB");
  });

  it.each([
    "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA GeForce RTX 2080 with Max-Q Design",
    "NVIDIA RTX A5000 Laptop GPU",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    "GRID A100-10C",
    "NVIDIA A40-48Q",
  ])("asks for the memory of %s", (name) => {
    expect(refusal(name).fix).toContain("--memory");
  });

  it.each([
    "mi300",
    "AMD Instinct MI300X",
    "Radeon RX 7900 XTX",
    "rx7900",
    "Intel Arc A770",
    "Ascend 910B",
    "m3 max",
  ])("says that %s is no NVIDIA card", (name) => {
    expect(refusal(name).message).toContain("NVIDIA cards only");
  });

  it("knows a MIG instance as a part of its card, as CUDA and nvidia-smi name it", () => {
    const whole = findDevice("a100-40gb");
    for (const name of [
      "NVIDIA A100-SXM4-40GB MIG 3g.20gb",
      "a100-40gb 3g.20gb",
      "A100-SXM4-40GB MIG 1c.3g.20gb",
    ]) {
      const part = findDevice(name);
      expect(part.title, name).toBe("A100-SXM4-40GB MIG 3g.20gb");
      expect(part.memoryBytes / GIB).toBeGreaterThan(18.5); // nvidia-smi: 20,096 MiB
      expect(part.memoryBytes / GIB).toBeLessThan(19.7);
      expect(part.peakFlopsPerSecond.float16! / whole.peakFlopsPerSecond.float16!).toBeCloseTo(3 / 7);
      expect(part.memoryBytesPerSecond / whole.memoryBytesPerSecond).toBe(0.5);
      expect(part.contextBytes).toBe(whole.contextBytes);
    }
    const small = findDevice("NVIDIA H100 80GB HBM3 MIG 1g.10gb");
    expect(small.memoryBytes / GIB).toBeGreaterThan(9);
    expect(small.memoryBytes / GIB).toBeLessThan(9.75);
    expect(findDevice("NVIDIA A30 MIG 2g.12gb").peakFlopsPerSecond.float16).toBe(
      findDevice("a30").peakFlopsPerSecond.float16! / 2,
    );
    expect(refusal("MIG 3g.20gb").fix).toContain("--list-gpus");
    expect(refusal("RTX 4090 MIG 3g.20gb").message).toContain("no MIG instance");
    expect(refusal("A100-SXM4-40GB MIG 3g.80gb").message).toContain("no MIG instance");
  });

  it("asks which card a MIG instance is of, and keeps the instance in the question", () => {
    const { message, fix } = refusal("A100 MIG 3g.20gb");
    expect(message).toBe('"A100 MIG 3g.20gb" could be any of several cards.');
    const [name] = /"[^"]+ MIG 3g\.20gb"/.exec(fix!)!;
    expect(findDevice(JSON.parse(name)).title).toContain("MIG 3g.20gb");
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

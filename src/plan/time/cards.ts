/** Cards that a plan can be made for without having them: memory, rates, links, and CUDA's own memory. */
import { GIB, UsageError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import type { CardInfo } from "../../torch/device.ts";
import type { DType } from "../../torch/dtypes.ts";
import { type MigSlice, recogniseCard, slicesOf } from "./cardNames.ts";

const KIB = 2 ** 10;
const MIB = 2 ** 20;
const GIGA = 1e9;
const TERA = 1e12;

/**
 * Bytes per second in each direction between host and card. Source: PCI Express rates less 128b/130b coding;
 * NVLink-C2C of Grace Hopper.
 */
const LINKS = {
  "PCIe 3.0 x16": 15.75 * GIGA,
  "PCIe 4.0 x8": 15.75 * GIGA,
  "PCIe 4.0 x16": 31.5 * GIGA,
  "PCIe 5.0 x8": 31.5 * GIGA,
  "PCIe 5.0 x16": 63 * GIGA,
  "NVLink-C2C": 450 * GIGA,
} as const satisfies Record<string, number>;

const CUDA_12_6 = `This card needs libtorch's CUDA 12.6 build: ${commandLine("setup --cuda 12.6")}`;
const NO_BF16 = "It has no bf16 and no flash attention: times are for fp16 with memory-efficient attention";
const OLD_PASCAL = `${CUDA_12_6}. It has no tensor cores.`;
const OLD_VOLTA = `${CUDA_12_6}. ${NO_BF16}.`;
const TURING = `${NO_BF16}.`;

interface Generation {
  /** Whether the tensor cores compute in bf16, at the rate of fp16. */
  bf16: boolean;
  /** Whether the tensor cores compute in fp8, at twice the rate of fp16. */
  fp8: boolean;
  /**
   * Share of the fp16 rate that PyTorch's attention kernel reaches on long sequences. FlashAttention-2
   * reaches 50 to 73 % on A100 (arXiv:2307.08691) and 35 % on H100 (arXiv:2407.08608). The memory-efficient
   * kernel replaces it below 8.0; it is assumed to reach 30 %.
   */
  attention: number;
  /**
   * MiB of the CUDA context outside PyTorch's allocator: driver, local memory of every multiprocessor,
   * kernels from their first use on. Reports with lazily loaded kernels (CUDA 11.7 and later) say 300 to 400
   * MB after the first tensor (pytorch/pytorch#107667, #109888). A training step's kernels add to this, and
   * chips with more multiprocessors need more. Rounded up, not measured for each card.
   */
  contextMib: number;
  /**
   * KiB that PyTorch allocates for cuBLAS from its caching allocator, once a stream: 4096 KiB x 2 + 16 KiB x
   * 8, except 32 MiB on 9.0. Source: CublasHandlePool.cpp of libtorch 2.11.0, and its allocations on
   * tests/cuda/phantom.
   */
  workspaceKib: number;
  /** Limits of the card, and what they require. */
  note: string | undefined;
}

/** KiB of cuBLASLt's workspace. cuBLASLt multiplies if a bias is added (the vision tower). */
const LT_WORKSPACE_KIB = 1024;

/**
 * Facts by compute capability. libtorch's builds: release 2.11's support matrix has 7.5 to 12.0 for CUDA
 * 13.0, and 5.0 to 9.0 for CUDA 12.6 (pytorch/pytorch, RELEASE.md).
 */
// biome-ignore format: columns line up
const GENERATIONS = {
  "6.0":  { bf16: false, fp8: false, attention: 0.3,  contextMib: 512, workspaceKib: 8320,  note: OLD_PASCAL },
  "7.0":  { bf16: false, fp8: false, attention: 0.3,  contextMib: 512, workspaceKib: 8320,  note: OLD_VOLTA },
  "7.5":  { bf16: false, fp8: false, attention: 0.3,  contextMib: 512, workspaceKib: 8320,  note: TURING },
  "8.0":  { bf16: true,  fp8: false, attention: 0.6,  contextMib: 640, workspaceKib: 8320,  note: undefined },
  "8.6":  { bf16: true,  fp8: false, attention: 0.6,  contextMib: 512, workspaceKib: 8320,  note: undefined },
  "8.9":  { bf16: true,  fp8: true,  attention: 0.6,  contextMib: 512, workspaceKib: 8320,  note: undefined },
  "9.0":  { bf16: true,  fp8: true,  attention: 0.35, contextMib: 640, workspaceKib: 32768, note: undefined },
  "10.0": { bf16: true,  fp8: true,  attention: 0.35, contextMib: 640, workspaceKib: 8320,  note: undefined },
  "12.0": { bf16: true,  fp8: true,  attention: 0.6,  contextMib: 512, workspaceKib: 8320,  note: undefined },
} as const satisfies Record<string, Generation>;

export type ComputeCapability = keyof typeof GENERATIONS;

type Row = readonly [
  /** CUDA's name of the card, without "NVIDIA". */
  title: string,
  capability: ComputeCapability,
  /** Total that CUDA reports: less than nvidia-smi's, and far less than on the box. */
  memoryGib: number,
  memoryGigabytesPerSecond: number,
  /** Rate without sparsity, outside the tensor cores. */
  float32Teraflops: number,
  /**
   * Rate on tensor cores if there are any, accumulating in float32 as PyTorch does; on Pascal the rate of
   * float32.
   */
  float16Teraflops: number,
  int8Teraops: number,
  link: keyof typeof LINKS,
];

/**
 * Rates and bandwidths come from NVIDIA's data sheet of each data-centre and workstation card. For other
 * cards they come from the appendices of the architecture white papers (GP100, V100, TU102, A100, GA102, Ada,
 * H100, RTX Blackwell). GeForce cards halve fp16 with fp32 accumulation. GiB are the totals in PyTorch's
 * out-of-memory messages on Linux, or nvidia-smi's less the 2 to 4 % that the driver keeps, rounded down.
 * Drivers differ by 0.1 to 0.2. ECC uses another 6 % of GDDR6 workstation cards.
 */
// biome-ignore format: columns line up
const ROWS = {
  // name               title                        cc      GiB    GB/s  fp32   fp16   int8   link
  "p100":              ["Tesla P100-PCIE-16GB",      "6.0",  15.8,  732,  9.3,   9.3,   9.3,   "PCIe 3.0 x16"],
  "v100-16gb":         ["Tesla V100-SXM2-16GB",      "7.0",  15.7,  900,  15.7,  125,   62.8,  "PCIe 3.0 x16"],
  "v100-32gb":         ["Tesla V100-SXM2-32GB",      "7.0",  31.7,  900,  15.7,  125,   62.8,  "PCIe 3.0 x16"],
  "t4":                ["Tesla T4",                  "7.5",  14.5,  320,  8.1,   65,    130,   "PCIe 3.0 x16"],
  "rtx-2080-ti":       ["GeForce RTX 2080 Ti",       "7.5",  10.5,  616,  13.4,  53.8,  215.2, "PCIe 3.0 x16"],
  "titan-rtx":         ["TITAN RTX",                 "7.5",  23.5,  672,  16.3,  130.5, 261,   "PCIe 3.0 x16"],
  "quadro-rtx-8000":   ["Quadro RTX 8000",           "7.5",  47.4,  672,  16.3,  130.5, 261,   "PCIe 3.0 x16"],
  "a100-40gb":         ["A100-SXM4-40GB",            "8.0",  39.3,  1555, 19.5,  312,   624,   "PCIe 4.0 x16"],
  "a100-80gb":         ["A100-SXM4-80GB",            "8.0",  79.1,  2039, 19.5,  312,   624,   "PCIe 4.0 x16"],
  "a100-80gb-pcie":    ["A100 80GB PCIe",            "8.0",  79.1,  1935, 19.5,  312,   624,   "PCIe 4.0 x16"],
  "a30":               ["A30",                       "8.0",  23.5,  933,  10.3,  165,   330,   "PCIe 4.0 x16"],
  "a10":               ["A10",                       "8.6",  21.9,  600,  31.2,  125,   250,   "PCIe 4.0 x16"],
  "a10g":              ["A10G",                      "8.6",  21.9,  600,  35,    70,    140,   "PCIe 4.0 x16"],
  "a40":               ["A40",                       "8.6",  44.3,  696,  37.4,  149.7, 299.3, "PCIe 4.0 x16"],
  "a6000":             ["RTX A6000",                 "8.6",  47.4,  768,  38.7,  154.8, 309.7, "PCIe 4.0 x16"],
  "a5000":             ["RTX A5000",                 "8.6",  23.5,  768,  27.8,  111.1, 222.2, "PCIe 4.0 x16"],
  "a4000":             ["RTX A4000",                 "8.6",  15.6,  448,  19.2,  76.7,  153.4, "PCIe 4.0 x16"],
  "rtx-3060-12gb":     ["GeForce RTX 3060",          "8.6",  11.6,  360,  12.7,  25.5,  102,   "PCIe 4.0 x16"],
  "rtx-3070":          ["GeForce RTX 3070",          "8.6",  7.6,   448,  20.3,  40.6,  162.6, "PCIe 4.0 x16"],
  "rtx-3080":          ["GeForce RTX 3080",          "8.6",  9.6,   760,  29.8,  59.5,  238,   "PCIe 4.0 x16"],
  "rtx-3090":          ["GeForce RTX 3090",          "8.6",  23.5,  936,  35.6,  71,    284,   "PCIe 4.0 x16"],
  "rtx-3090-ti":       ["GeForce RTX 3090 Ti",       "8.6",  23.5,  1008, 40,    80,    320,   "PCIe 4.0 x16"],
  "l4":                ["L4",                        "8.9",  21.9,  300,  30.3,  121,   242,   "PCIe 4.0 x16"],
  "l40":               ["L40",                       "8.9",  44.3,  864,  90.5,  181,   362,   "PCIe 4.0 x16"],
  "l40s":              ["L40S",                      "8.9",  44.3,  864,  91.6,  362,   733,   "PCIe 4.0 x16"],
  "rtx-5000-ada":      ["RTX 5000 Ada Generation",   "8.9",  31.4,  576,  65.3,  261.1, 522.1, "PCIe 4.0 x16"],
  "rtx-6000-ada":      ["RTX 6000 Ada Generation",   "8.9",  47.4,  960,  91.1,  364.2, 728.5, "PCIe 4.0 x16"],
  "rtx-4060":          ["GeForce RTX 4060",          "8.9",  7.6,   272,  15.1,  30.2,  121,   "PCIe 4.0 x8"],
  "rtx-4060-ti-16gb":  ["GeForce RTX 4060 Ti",       "8.9",  15.5,  288,  22.1,  44.1,  176.5, "PCIe 4.0 x8"],
  "rtx-4070":          ["GeForce RTX 4070",          "8.9",  11.5,  504,  29.1,  58.3,  233.2, "PCIe 4.0 x16"],
  "rtx-4070-ti":       ["GeForce RTX 4070 Ti",       "8.9",  11.5,  504,  40.1,  80.2,  320.7, "PCIe 4.0 x16"],
  "rtx-4070-ti-super": ["GeForce RTX 4070 Ti SUPER", "8.9",  15.5,  672,  44.1,  88.2,  352.8, "PCIe 4.0 x16"],
  "rtx-4080":          ["GeForce RTX 4080",          "8.9",  15.5,  717,  48.7,  97.5,  389.9, "PCIe 4.0 x16"],
  "rtx-4090":          ["GeForce RTX 4090",          "8.9",  23.5,  1008, 82.6,  165.2, 660.6, "PCIe 4.0 x16"],
  "h100-80gb":         ["H100 80GB HBM3",            "9.0",  79.1,  3350, 66.9,  989,   1979,  "PCIe 5.0 x16"],
  "h100-pcie":         ["H100 PCIe",                 "9.0",  79.1,  2039, 51.2,  756,   1513,  "PCIe 5.0 x16"],
  "h100-nvl":          ["H100 NVL",                  "9.0",  93.0,  3938, 60,    835,   1671,  "PCIe 5.0 x16"],
  "h20":               ["H20",                       "9.0",  95.0,  4000, 44,    148,   296,   "PCIe 5.0 x16"],
  "h200":              ["H200",                      "9.0",  139.7, 4800, 66.9,  989,   1979,  "PCIe 5.0 x16"],
  "gh200":             ["GH200 480GB",               "9.0",  94.5,  4000, 66.9,  989,   1979,  "NVLink-C2C"],
  "b200":              ["B200",                      "10.0", 178.3, 7700, 75,    2250,  4500,  "PCIe 5.0 x16"],
  "rtx-5060-ti-16gb":  ["GeForce RTX 5060 Ti",       "12.0", 15.4,  448,  23.7,  47.4,  189.9, "PCIe 5.0 x8"],
  "rtx-5070":          ["GeForce RTX 5070",          "12.0", 11.4,  672,  30.9,  61.7,  246.9, "PCIe 5.0 x16"],
  "rtx-5070-ti":       ["GeForce RTX 5070 Ti",       "12.0", 15.4,  896,  43.9,  87.9,  351.5, "PCIe 5.0 x16"],
  "rtx-5080":          ["GeForce RTX 5080",          "12.0", 15.4,  960,  56.3,  112.6, 450.2, "PCIe 5.0 x16"],
  "rtx-5090":          ["GeForce RTX 5090",          "12.0", 31.3,  1792, 104.8, 209.5, 838,   "PCIe 5.0 x16"],
  "rtx-pro-6000":      ["RTX PRO 6000 Blackwell",    "12.0", 94.9,  1792, 125,   503.8, 1008,  "PCIe 5.0 x16"],
} as const satisfies Record<string, Row>;

export type CardName = keyof typeof ROWS;

export interface Card {
  name: CardName;
  title: string;
  computeCapability: ComputeCapability;
  memoryBytes: number;
  memoryBytesPerSecond: number;
  /** Peak rates without sparsity. A dtype is absent if the card has no arithmetic for it. */
  peakFlopsPerSecond: Partial<Record<DType, number>> & { float32: number };
  /** Share of the peak rate that attention reaches. */
  attentionFraction: number;
  link: keyof typeof LINKS;
  /** Rate in one direction. */
  linkBytesPerSecond: number;
  /** CUDA's memory outside PyTorch's allocator. */
  contextBytes: number;
  /** Bytes of the blocks that cuBLAS and cuBLASLt hold from the allocator, from their first product on. */
  workspaceBytes: readonly number[];
  note: string | undefined;
}

/**
 * Returns the card of a name as the table, nvidia-smi or people write it, or a MIG instance of a card:
 * "rtx-4090", "RTX 4090 24GB", "NVIDIA A100-SXM4-40GB MIG 3g.20gb". Throws UsageError for no card, several
 * cards, or a card that the table cannot have.
 */
export function findDevice(name: string): Card {
  const found = recogniseCard(name, NAMED);
  if (found.is === "card") return found.slice ? partOf(cardOf(found.name), found.slice) : cardOf(found.name);
  if (found.is === "other") throw new UsageError(found.why, { fix: found.fix });
  const fix =
    found.near.length > 0
      ? `Did you mean ${found.near.join(", ")}?`
      : "--list-gpus shows all cards; --memory 24GiB plans for a card that is not among them.";
  throw new UsageError(found.why, { fix });
}

/**
 * Number of memory slices of a card with MIG instances, and the share of a slice that an instance can use. On
 * A100-SXM4-40GB, 1g.5gb has 4,864 MiB of an eighth of 40,536 MiB (nvidia-smi mig -lgip).
 */
const MEMORY_SLICES = { count: 8, usable: 0.96 };

/** Returns a MIG instance as a card: its slices of the memory and of the rates. */
function partOf(card: Card, { profile, computeSlices, gigabytes }: MigSlice): Card {
  const compute = Math.min(1, computeSlices / slicesOf(card)!);
  const sold = gigabytes / (card.memoryBytes / GIB);
  const memory = Math.min(1, Math.round(MEMORY_SLICES.count * sold) / MEMORY_SLICES.count);
  const rates = Object.entries(card.peakFlopsPerSecond).map(([dtype, rate]) => [dtype, rate * compute]);
  return {
    ...card,
    title: `${card.title} MIG ${profile}`,
    memoryBytes: Math.floor(card.memoryBytes * memory * MEMORY_SLICES.usable),
    memoryBytesPerSecond: card.memoryBytesPerSecond * memory,
    peakFlopsPerSecond: Object.fromEntries(rates) as Card["peakFlopsPerSecond"],
  };
}

/**
 * Returns a card for a plan that only knows an amount of memory: the smallest of Ampere or later with as much
 * memory, whose speed stands for it. Returns the largest card if none has as much.
 */
export function cardOfMemory(memoryBytes: number): Card {
  const modern = listDevices().filter(({ peakFlopsPerSecond }) => peakFlopsPerSecond.bfloat16 !== undefined);
  return modern.find((card) => card.memoryBytes >= memoryBytes * (1 - DRIVER_SHARE)) ?? modern.at(-1)!;
}

/** Largest share that drivers keep of the memory that a card is sold with: 8 GB cards report 7.6 GiB. */
const DRIVER_SHARE = 0.05;

/** Returns all cards, by memory. */
export function listDevices(): Card[] {
  const names = Object.keys(ROWS) as CardName[];
  return names.map((name) => cardOf(name)).sort((one, other) => one.memoryBytes - other.memoryBytes);
}

/** Returns the compute capability as a whole number, for example 89. */
export function capabilityOf({ computeCapability }: Pick<Card, "computeCapability">): number {
  return Math.round(10 * Number(computeCapability));
}

/**
 * Returns a card that the table lacks: its memory and its generation, with the speed of a known card of the
 * same size.
 */
export function unknownCard({ capability, totalBytes }: Pick<CardInfo, "capability" | "totalBytes">): Card {
  const known = Object.keys(GENERATIONS) as ComputeCapability[];
  const [first, ...later] = known.sort((one, other) => Number(one) - Number(other));
  const nearest = later.findLast((computeCapability) => capabilityOf({ computeCapability }) <= capability);
  return { ...cardOf(cardOfMemory(totalBytes).name, nearest ?? first), memoryBytes: totalBytes };
}

/** Returns a card of the table, or that card with the generation of another compute capability. */
function cardOf(name: CardName, otherCapability?: ComputeCapability): Card {
  const row: Row = ROWS[name];
  const [title, ownCapability, memoryGib, memoryGigabytesPerSecond, float32, float16, int8, link] = row;
  const capability = otherCapability ?? ownCapability;
  const generation: Generation = GENERATIONS[capability];
  const half = float16 * TERA;
  return {
    name,
    title,
    computeCapability: capability,
    memoryBytes: Math.round(memoryGib * GIB), // same as parseBytes for this number of GiB
    memoryBytesPerSecond: memoryGigabytesPerSecond * GIGA,
    peakFlopsPerSecond: {
      float32: float32 * TERA,
      float16: half,
      int8: int8 * TERA,
      ...(generation.bf16 && { bfloat16: half }),
      ...(generation.fp8 && { float8_e4m3fn: 2 * half, float8_e5m2: 2 * half }),
    },
    attentionFraction: generation.attention,
    link,
    linkBytesPerSecond: LINKS[link],
    contextBytes: generation.contextMib * MIB,
    workspaceBytes: [generation.workspaceKib * KIB, LT_WORKSPACE_KIB * KIB],
    note: generation.note,
  };
}

const NAMED = (Object.keys(ROWS) as CardName[]).map((name) => ({
  name,
  title: ROWS[name][0],
  memoryGib: ROWS[name][2],
}));

/**
 * Links between cards and between machines that ranks exchange tensors over: rates, delays and their sources.
 * `--link` names one, or gives a rate.
 */
import { parseBytes, UsageError, UserError } from "../../../errors.ts";
import type { Card, CardName } from "../cards.ts";

const GIGA = 1e9;
const MICRO = 1e-3;

/** The things that a link connects. */
export type Span = "cards" | "machines";

export interface Link {
  /** Name for --link, or the rate as the user wrote it. */
  name: string;
  /** Undefined for a rate that the user gives: it is between whatever is slowest. */
  span: Span | undefined;
  /** Bytes per second in one direction that collectives reach. */
  bytesPerSecond: number;
  /** Milliseconds that a message takes to the next rank, whatever its size. */
  hopMs: number;
  source: string;
}

/**
 * Share of a link's rate that collectives reach. Copies between two cards reach 380 of 450 GB/s over NVLink 4
 * (NVIDIA/nccl#1264) and 56 of 63 GB/s over PCIe 5.0 x16. Collectives are assumed to reach a little less.
 */
const REACHED = 0.8;

/**
 * Share for cards whose driver has no peer-to-peer copies (GeForce): every byte goes through the host's
 * memory. 4 and 8 GeForce RTX 5090 reach 35 and 28 of 63 GB/s (NVIDIA/nccl#1639).
 */
const REACHED_THROUGH_HOST = 0.5;

/**
 * Milliseconds to the next rank. Source: delays of NCCL's ring with its Simple protocol (src/graph/tuning.cc
 * of NVIDIA/nccl). ethernet: over TCP (an assumption). loopback: spike of Gloo between two busy processes.
 */
const HOP_MS = { nvlink: 3.4 * MICRO, pcie: 5.7 * MICRO, infiniband: 14 * MICRO, ethernet: 50 * MICRO };

const PCIE = "PCI Express rates less 128b/130b coding";
const NVLINK = "NVIDIA's data sheets: half of the rate of both directions";
const NET = "the link's rate";

type Row = readonly [span: Span, gigabytesPerSecond: number, hopMs: number, source: string];

/** Rates of a link in one direction, before REACHED. */
// biome-ignore format: columns line up
const ROWS = {
  "nvlink2":        ["cards",    150,    HOP_MS.nvlink,     NVLINK],
  "nvlink3":        ["cards",    300,    HOP_MS.nvlink,     NVLINK],
  "nvlink4":        ["cards",    450,    HOP_MS.nvlink,     NVLINK],
  "nvlink5":        ["cards",    900,    HOP_MS.nvlink,     NVLINK],
  "nvlink2-bridge": ["cards",    50,     HOP_MS.nvlink,     NVLINK],
  "nvlink3-bridge": ["cards",    56.25,  HOP_MS.nvlink,     NVLINK],
  "nvlink4-bridge": ["cards",    300,    HOP_MS.nvlink,     NVLINK],
  "pcie3x4":        ["cards",    3.94,   HOP_MS.pcie,       PCIE],
  "pcie3x8":        ["cards",    7.88,   HOP_MS.pcie,       PCIE],
  "pcie3x16":       ["cards",    15.75,  HOP_MS.pcie,       PCIE],
  "pcie4x4":        ["cards",    7.88,   HOP_MS.pcie,       PCIE],
  "pcie4x8":        ["cards",    15.75,  HOP_MS.pcie,       PCIE],
  "pcie4x16":       ["cards",    31.5,   HOP_MS.pcie,       PCIE],
  "pcie5x4":        ["cards",    15.75,  HOP_MS.pcie,       PCIE],
  "pcie5x8":        ["cards",    31.5,   HOP_MS.pcie,       PCIE],
  "pcie5x16":       ["cards",    63,     HOP_MS.pcie,       PCIE],
  "10GbE":          ["machines", 1.25,   HOP_MS.ethernet,   NET],
  "25GbE":          ["machines", 3.125,  HOP_MS.ethernet,   NET],
  "100GbE":         ["machines", 12.5,   HOP_MS.ethernet,   NET],
  "200GbE":         ["machines", 25,     HOP_MS.ethernet,   NET],
  "400GbE":         ["machines", 50,     HOP_MS.ethernet,   NET],
  "ib100":          ["machines", 12.5,   HOP_MS.infiniband, NET],
  "ib200":          ["machines", 25,     HOP_MS.infiniband, NET],
  "ib400":          ["machines", 50,     HOP_MS.infiniband, NET],
} as const satisfies Record<string, Row>;

export type LinkName = keyof typeof ROWS;

export const LINK_NAMES = Object.keys(ROWS) as LinkName[];

/**
 * Processes of one CPU, over TCP. Measured between two processes of two busy cores with Gloo: 0.45 to 0.52 GB
 * of a sum a second, and 0.7 ms for one number.
 */
export const LOOPBACK: Link = {
  name: "loopback",
  span: "cards",
  bytesPerSecond: 0.5 * GIGA,
  hopMs: 0.35,
  source: "measured with Gloo between two processes of two busy cores",
};

/** Link between machines that a plan assumes. */
const USUAL_NETWORK: LinkName = "10GbE";

/** NVLink of the cards that have it. Bridges join two cards. */
const NVLINKS: Partial<Record<CardName, LinkName>> = {
  ...{ "v100-16gb": "nvlink2", "v100-32gb": "nvlink2" },
  ...{ "rtx-2080-ti": "nvlink2-bridge", "titan-rtx": "nvlink2-bridge", "quadro-rtx-8000": "nvlink2-bridge" },
  ...{ "a100-40gb": "nvlink3", "a100-80gb": "nvlink3", "a100-80gb-pcie": "nvlink3" },
  ...{ a40: "nvlink3-bridge", a6000: "nvlink3-bridge", a5000: "nvlink3-bridge" },
  ...{ "rtx-3090": "nvlink3-bridge", "rtx-3090-ti": "nvlink3-bridge" },
  ...{ "h100-80gb": "nvlink4", h200: "nvlink4", h20: "nvlink4", gh200: "nvlink4" },
  ...{ "h100-pcie": "nvlink4-bridge", "h100-nvl": "nvlink4-bridge" },
  b200: "nvlink5",
};

/** Cards that are sold on boards which join all of them by NVLink. */
const JOINED: ReadonlySet<CardName> = new Set([
  ...(["v100-16gb", "v100-32gb", "a100-40gb", "a100-80gb"] as const),
  ...(["h100-80gb", "h200", "h20", "gh200", "b200"] as const),
]);

/** How ranks are joined. */
export interface Wiring {
  /** Ranks of all machines. */
  count: number;
  /** Ranks of a machine. */
  perMachine: number;
  /** Between the cards of a machine. */
  link: Link;
  /** Between machines, if there are several. One link for each machine. */
  network?: Link;
}

/** Returns how a group of ranks that follow each other is joined: within a machine if they fit there. */
export function wiringOfGroup(wiring: Wiring, count: number): Wiring {
  const { perMachine, link, network } = wiring;
  if (count <= perMachine || !network) return { count, perMachine: Math.min(count, perMachine), link };
  return { ...wiring, count };
}

/** Ranks as the options of a plan say it. */
export interface AskedRanks {
  /** Cards, or processes of a CPU, of each machine. */
  perMachine: number;
  machines: number;
  /** Names or rates, separated by commas: one between cards and one between machines. */
  link?: string | undefined;
}

/** Returns how ranks on a card, or on a CPU, are joined. Throws UserError for a link that is not known. */
export function wiringOf({ perMachine, machines, link = "" }: AskedRanks, card: Card | undefined): Wiring {
  const asked = link.split(",").flatMap((text) => (text.trim() === "" ? [] : [readLink(text.trim(), card)]));
  const between = (span: Span): Link | undefined => asked.find((one) => one.span === span);
  const rate = asked.find(({ span }) => span === undefined);
  const network = between("machines") ?? (machines > 1 ? rate : undefined);
  const cards = between("cards") ?? (machines > 1 ? undefined : (rate ?? network)) ?? usualLink(card);
  return {
    count: perMachine * machines,
    perMachine,
    link: cards,
    ...(machines > 1 && { network: network ?? linkOf(USUAL_NETWORK, card) }),
  };
}

/** Returns the link of a name or a rate. Throws UserError for anything else. */
export function readLink(text: string, card: Card | undefined): Link {
  const name = text.toLowerCase();
  if (name === LOOPBACK.name) return LOOPBACK;
  if (name === "nvlink") return linkOf(nvlinkOf(card), card);
  const known = LINK_NAMES.find((one) => one.toLowerCase() === name);
  if (known !== undefined) return linkOf(known, card);
  const rate = /^(.*\S)\s*\/s$/.exec(text)?.[1];
  if (rate === undefined) throw unknownLink(text);
  try {
    const bytesPerSecond = parseBytes(rate);
    return { name: text, span: undefined, bytesPerSecond, hopMs: HOP_MS.infiniband, source: "as given" };
  } catch (thrown) {
    throw thrown instanceof UserError ? unknownLink(text) : thrown;
  }
}

function unknownLink(text: string): UsageError {
  return new UsageError(`"${text}" is no link that is known, and no rate.`, {
    fix: `Pass nvlink, ${LINK_NAMES.join(", ")} or loopback, or what collectives reach in one direction: 12GB/s.`,
  });
}

function nvlinkOf(card: Card | undefined): LinkName {
  const found = card && NVLINKS[card.name];
  if (found !== undefined) return found;
  throw new UsageError(`${card ? `${card.title} has no NVLink` : "A CPU has no NVLink"} that is known.`, {
    fix: "Pass --link pcie4x8, or what collectives reach in one direction: --link 100GB/s.",
  });
}

/**
 * Returns the link between cards that a plan assumes: NVLink where the card's boards have it, all lanes of
 * the card in servers and workstations, and 8 lanes for GeForce cards, as main boards give two of them.
 */
function usualLink(card: Card | undefined): Link {
  if (!card) return LOOPBACK;
  if (JOINED.has(card.name)) return linkOf(NVLINKS[card.name]!, card);
  const [, generation, lanes] = /^PCIe (\d)\.0 x(\d+)$/.exec(card.link) ?? [undefined, "5", "16"];
  return linkOf(`pcie${generation}x${goesThroughHost(card) ? 8 : lanes}` as LinkName, card);
}

function linkOf(name: LinkName, card: Card | undefined): Link {
  const [span, gigabytesPerSecond, hopMs, source]: Row = ROWS[name];
  const reached = name.startsWith("pcie") && goesThroughHost(card) ? REACHED_THROUGH_HOST : REACHED;
  return { name, span, bytesPerSecond: gigabytesPerSecond * GIGA * reached, hopMs, source };
}

/** Tells whether the driver gives cards of this kind no peer-to-peer copies over PCI Express. */
function goesThroughHost(card: Card | undefined): boolean {
  return card !== undefined && /\b(GeForce|TITAN)\b/.test(card.title);
}

/** Knows the commonest faults between ranks by their symptoms, from facts and measurements. */
import { formatBytes } from "../../errors.ts";
import type { Link } from "./links.ts";
import type { RankFacts } from "./rankFacts.ts";

export interface Finding {
  /** error: training would fail or be wrong; warning: it works, but slowly or with a risk. */
  level: "error" | "warning";
  text: string;
  fix: string;
}

export interface Measured {
  ranks: readonly RankFacts[];
  links: readonly Link[];
  /** Milliseconds that each rank's clock is ahead of rank 0's. */
  clocksMs: readonly number[];
}

const MOST_CLOCK_MS = 5_000;
/** NCCL keeps buffers for each pair of ranks there; Docker's default is 64 MiB. */
const LEAST_SHARED_BYTES = 256 * 2 ** 20;
/** Bytes a second below which a link is remarkably slow: two cards of one machine; two machines. */
const SLOW = { cards: 2e9, machines: 0.2e9 };

export function findingsOf(measured: Measured): Finding[] {
  return [
    ...differences(measured.ranks),
    ...sameCards(measured.ranks),
    ...loopback(measured.ranks),
    ...sharedMemory(measured.ranks),
    ...clocks(measured),
    ...brokenLinks(measured),
    ...slowLinks(measured),
  ];
}

/** Facts that must be the same on all ranks, with the fix. */
// biome-ignore format: columns line up
const ALIKE = [
  { key: "lorafit",  name: "lorafit's program",  level: "error",   fix: "Install the same version of lorafit on all machines, for example from one shared folder." },
  { key: "libtorch", name: "libtorch's version", level: "error",   fix: "Install the same libtorch on all machines, or name one by LORAFIT_LIBTORCH." },
  { key: "data",     name: "the data",           level: "error",   fix: "Copy the same files to all machines, or read them from one shared folder." },
  { key: "model",    name: "the model",          level: "error",   fix: "Copy the same model folder to all machines, or read it from one shared folder." },
  { key: "node",     name: "Node's version",     level: "warning", fix: "Install the same version of Node on all machines." },
] as const;

function differences(ranks: readonly RankFacts[]): Finding[] {
  const found = ALIKE.flatMap(({ key, name, level, fix }): Finding[] => {
    const others = ranks.filter((rank) => rank[key] !== ranks[0]![key]);
    if (others.length === 0) return [];
    return [
      { level, text: `${name} differs: ${namesOf([ranks[0]!, ...others], (rank) => rank[key])}.`, fix },
    ];
  });
  const onCards = ranks.filter(({ card }) => card !== null);
  if (onCards.length === 0 || onCards.length === ranks.length) return found;
  const text = `Some ranks compute on a card, and others on the CPU: ${namesOf(ranks, ({ device }) => device)}.`;
  return [
    ...found,
    { level: "error", text, fix: "lorafit doctor, on the machines without a card, says what is missing." },
  ];
}

function sameCards(ranks: readonly RankFacts[]): Finding[] {
  return ranks.flatMap((rank, index): Finding[] => {
    if (rank.card === null) return [];
    const other = ranks.slice(0, index).find((earlier) => cardOf(earlier) === cardOf(rank));
    if (!other) return [];
    return [
      {
        level: "error",
        text: `Ranks ${other.rank} and ${rank.rank} use the same card of ${rank.host} (${rank.device}).`,
        fix: "Start one rank for each card: LOCAL_RANK, or Slurm's --gpus-per-task=1, picks it.",
      },
    ];
  });
}

function cardOf({ host, visible, device }: RankFacts): string {
  return `${host} ${visible} ${device}`;
}

function loopback(ranks: readonly RankFacts[]): Finding[] {
  if (new Set(ranks.map(({ host }) => host)).size === 1) return [];
  const lost = ranks.filter(({ address }) => address.startsWith("127.") || address === "lo");
  if (lost.length === 0) return [];
  return [
    {
      level: "error",
      text: `Other machines can't reach ${namesOf(lost, ({ address }) => address)}.`,
      fix: "Name the network interface by which machines reach each other:  export GLOO_SOCKET_IFNAME=eth0",
    },
  ];
}

function sharedMemory(ranks: readonly RankFacts[]): Finding[] {
  const hosts = new Map<string, RankFacts[]>();
  for (const rank of ranks) hosts.set(rank.host, [...(hosts.get(rank.host) ?? []), rank]);
  return [...hosts].flatMap(([host, own]): Finding[] => {
    const bytes = own[0]!.sharedBytes ?? 0;
    if (own.length < 2 || own[0]!.card === null || bytes >= LEAST_SHARED_BYTES) return [];
    return [
      {
        level: "warning",
        text: `/dev/shm of ${host} has ${formatBytes(bytes)}, which NCCL may find too small for ${own.length} cards.`,
        fix: "Start the container with --shm-size=1g or --ipc=host; in Kubernetes mount an emptyDir of medium Memory at /dev/shm.",
      },
    ];
  });
}

function clocks({ ranks, clocksMs }: Measured): Finding[] {
  const off = ranks.filter(({ rank }) => Math.abs(clocksMs[rank] ?? 0) > MOST_CLOCK_MS);
  if (off.length === 0) return [];
  const text = `Clocks differ from rank 0's: ${namesOf(off, ({ rank }) => `${((clocksMs[rank] ?? 0) / 1000).toFixed(0)} s`)}.`;
  return [
    {
      level: "warning",
      text,
      fix: "Set the clocks by NTP (chronyd or systemd-timesyncd): times in logs don't fit together.",
    },
  ];
}

function brokenLinks({ ranks, links }: Measured): Finding[] {
  const broken = links.filter(({ error }) => error !== null);
  const seen = new Set<string>();
  return broken.flatMap((link): Finding[] => {
    const [one, other] = [ranks[link.from]!, ranks[link.to]!];
    const key = [one.rank, other.rank].sort((a, b) => a - b).join(" and ");
    if (seen.has(key)) return [];
    seen.add(key);
    const text = `Ranks ${key} (${one.host} and ${other.host}) can't exchange data: ${link.error}`;
    return [{ level: "error", text, fix: fixOfBroken(one, other, link.error ?? "") }];
  });
}

const P2P_FIX =
  "Try NCCL_P2P_DISABLE=1. If that helps, direct copies between cards fail on this machine: disable ACS in the BIOS, or boot with iommu=pt.";

function fixOfBroken(one: RankFacts, other: RankFacts, error: string): string {
  if (/libnccl|NCCL.*(found|load|missing)/i.test(error))
    return "Install NCCL with libtorch's wheels (lorafit setup --cuda), or name libnccl.so.2 by LORAFIT_NCCL.";
  if (one.host === other.host) return one.card === null ? "Read the logs of both ranks." : P2P_FIX;
  const nccl = one.card === null ? "" : " NCCL_SOCKET_IFNAME=eth0";
  return `Machines must reach each other on all TCP ports: open the firewall between ${one.address} and ${other.address}.\nIf an address is of the wrong network, name the right interface:  export GLOO_SOCKET_IFNAME=eth0${nccl}`;
}

function slowLinks({ ranks, links }: Measured): Finding[] {
  const slow = links.filter((link): link is Link & { bytesPerSecond: number } => {
    const [one, other] = [ranks[link.from]!, ranks[link.to]!];
    if (link.bytesPerSecond === null) return false;
    if (one.host !== other.host) return link.bytesPerSecond < SLOW.machines;
    return one.card !== null && other.card !== null && link.bytesPerSecond < SLOW.cards;
  });
  const [first] = slow;
  if (!first) return [];
  const [one, other] = [ranks[first.from]!, ranks[first.to]!];
  const rate = `${(first.bytesPerSecond / 1e9).toFixed(2)} GB/s from rank ${one.rank} to rank ${other.rank}`;
  const more = slow.length > 1 ? `, and ${slow.length - 1} more` : "";
  if (one.host !== other.host) {
    const fix =
      "Data parallel works over it. Weights that are shared out, and long samples that are split, need a faster link: see docs/cluster.md.\nIf there is a faster network, name its interface in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME.";
    return [{ level: "warning", text: `The link between machines is slow: ${rate}${more}.`, fix }];
  }
  const why = one.iommu
    ? " An IOMMU translates addresses there, which slows direct copies or breaks them."
    : "";
  return [
    {
      level: "warning",
      text: `The link between cards of ${one.host} is slow: ${rate}${more}.${why}`,
      fix: P2P_FIX,
    },
  ];
}

/** Writes "rank 0 (node1): 2.11.0, rank 3 (node2): 2.10.0", shortened. */
function namesOf(ranks: readonly RankFacts[], textOf: (rank: RankFacts) => unknown): string {
  const most = 6;
  const shown = ranks.slice(0, most).map((rank) => `rank ${rank.rank} (${rank.host}): ${textOf(rank)}`);
  return `${shown.join(", ")}${ranks.length > most ? `, and ${ranks.length - most} more` : ""}`;
}

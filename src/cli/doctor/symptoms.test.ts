import { describe, expect, it } from "vitest";
import type { Link } from "./links.ts";
import type { RankFacts } from "./rankFacts.ts";
import { findingsOf, type Measured } from "./symptoms.ts";

const GOOD_LINK = 5e9;

/** Ranks on two machines with two cards each, as all is well. */
function facts(rank: number, changes: Partial<RankFacts> = {}): RankFacts {
  return {
    ...{ rank, host: rank < 2 ? "node1" : "node2", device: `cuda:${rank % 2}`, card: "NVIDIA H200" },
    ...{ visible: null, threads: 8, address: rank < 2 ? "10.0.0.4" : "10.0.0.5", node: "v22.1.0" },
    ...{
      libtorch: "2.11.0",
      lorafit: "5ca1ab1e",
      data: null,
      model: null,
      iommu: false,
      sharedBytes: 2 ** 33,
    },
    ...changes,
  };
}

function link(from: number, to: number, changes: Partial<Link> = {}): Link {
  return { from, to, bytesPerSecond: GOOD_LINK, latencyMs: 0.1, error: null, ...changes };
}

function measured(changes: Partial<Record<number, Partial<RankFacts>>> = {}, links: Link[] = []): Measured {
  const ranks = [0, 1, 2, 3].map((rank) => facts(rank, changes[rank]));
  const all = ranks.flatMap(({ rank: from }) =>
    ranks.flatMap(({ rank: to }) =>
      from === to ? [] : (links.find((own) => own.from === from && own.to === to) ?? link(from, to)),
    ),
  );
  return { ranks, links: all, clocksMs: [0, 1, -2, 3] };
}

it("finds nothing where all is well", () => {
  expect(findingsOf(measured())).toEqual([]);
});

describe("what differs between ranks", () => {
  it.each([
    ["lorafit", "error", "lorafit's program differs"],
    ["libtorch", "error", "libtorch's version differs"],
    ["data", "error", "the data differs"],
    ["model", "error", "the model differs"],
    ["node", "warning", "Node's version differs"],
  ] as const)("names the rank with another %s", (key, level, words) => {
    const [finding, ...others] = findingsOf(measured({ 3: { [key]: "other" } }));
    expect(others).toEqual([]);
    expect(finding).toMatchObject({ level });
    expect(finding?.text).toContain(words);
    expect(finding?.text).toContain("rank 3 (node2): other");
  });

  it("refuses ranks on the CPU beside ranks on cards", () => {
    expect(findingsOf(measured({ 1: { card: null, device: "cpu" } }))).toMatchObject([
      { level: "error", text: expect.stringContaining("rank 1 (node1): cpu") },
    ]);
  });
});

it("notices two ranks on one card, unless each sees its own", () => {
  expect(findingsOf(measured({ 1: { device: "cuda:0" } }))).toMatchObject([
    { level: "error", text: "Ranks 0 and 1 use the same card of node1 (cuda:0)." },
  ]);
  const own = { 0: { visible: "0" }, 1: { visible: "1", device: "cuda:0" } };
  expect(findingsOf(measured(own))).toEqual([]);
});

it("notices an address that other machines can't reach, but not on one machine", () => {
  const local = { address: "127.0.0.1" };
  expect(findingsOf(measured({ 0: local, 1: local }))[0]?.fix).toContain("GLOO_SOCKET_IFNAME");
  const ranks = [facts(0, local), facts(1, local)];
  expect(findingsOf({ ranks, links: [link(0, 1), link(1, 0)], clocksMs: [0, 0] })).toEqual([]);
});

it("warns of Docker's small /dev/shm where a machine has several cards", () => {
  const small = { sharedBytes: 64 * 2 ** 20 };
  const found = findingsOf(measured({ 2: small, 3: small }));
  expect(found).toMatchObject([
    { level: "warning", text: expect.stringContaining("/dev/shm of node2 has 64.0 MiB") },
  ]);
  expect(found[0]?.fix).toContain("--shm-size");
});

it("warns of clocks that are far apart", () => {
  const found = findingsOf({ ...measured(), clocksMs: [0, 0, -61_000, -60_900] });
  expect(found).toMatchObject([{ level: "warning", text: expect.stringContaining("rank 2 (node2): -61 s") }]);
});

describe("links", () => {
  const broken = (from: number, to: number, error: string): Link =>
    link(from, to, { bytesPerSecond: null, latencyMs: null, error });

  it("a broken link between machines is the firewall's, or the interface's", () => {
    const links = [broken(0, 2, "timed out"), broken(2, 0, "timed out")];
    const found = findingsOf(measured({}, links));
    expect(found).toHaveLength(1);
    expect(found[0]).toMatchObject({
      level: "error",
      text: "Ranks 0 and 2 (node1 and node2) can't exchange data: timed out",
    });
    expect(found[0]?.fix).toMatch(
      /firewall between 10.0.0.[45] and 10.0.0.[45][\s\S]*GLOO_SOCKET_IFNAME=eth0 NCCL_SOCKET_IFNAME/,
    );
  });

  it("a broken link between cards of one machine is that of direct copies", () => {
    expect(findingsOf(measured({}, [broken(0, 1, "timed out")]))[0]?.fix).toContain("NCCL_P2P_DISABLE=1");
  });

  it("a missing NCCL says how to get it", () => {
    expect(findingsOf(measured({}, [broken(0, 1, "libnccl.so.2: cannot open")]))[0]?.fix).toContain(
      "LORAFIT_NCCL",
    );
  });

  it("a slow link between cards is blamed on an IOMMU only where there is one", () => {
    const links = [link(2, 3, { bytesPerSecond: 0.9e9 })];
    const [without] = findingsOf(measured({}, links));
    expect(without).toMatchObject({
      level: "warning",
      text: expect.stringContaining("0.90 GB/s from rank 2 to rank 3"),
    });
    expect(without?.text).not.toContain("IOMMU");
    expect(findingsOf(measured({ 2: { iommu: true } }, links))[0]?.text).toContain("IOMMU");
  });

  it("a slow link between machines is said once, with the slow ones counted", () => {
    const links = [link(0, 2, { bytesPerSecond: 0.1e9 }), link(2, 0, { bytesPerSecond: 0.1e9 })];
    expect(findingsOf(measured({}, links))).toMatchObject([
      {
        level: "warning",
        text: "The link between machines is slow: 0.10 GB/s from rank 0 to rank 2, and 1 more.",
      },
    ]);
  });

  it("links of ranks on the CPU of one machine are not called slow", () => {
    const cpu = { card: null, device: "cpu" };
    const ranks = [facts(0, cpu), facts(1, cpu)];
    const links = [link(0, 1, { bytesPerSecond: 0.1e9 }), link(1, 0, { bytesPerSecond: 0.1e9 })];
    expect(findingsOf({ ranks, links, clocksMs: [0, 0] })).toEqual([]);
  });
});

import { expect, test } from "vitest";
import { UsageError } from "../../../errors.ts";
import { findDevice } from "../cards.ts";
import { collectiveSeconds, sentBytes } from "./collectives.ts";
import { LINK_NAMES, readLink, type Wiring, wiringOf } from "./links.ts";

const GB = 1e9;

function wired(gpu: string, perMachine: number, link?: string, machines = 1): Wiring {
  return wiringOf({ perMachine, machines, link }, findDevice(gpu));
}

test("a card's usual link: NVLink on boards that have it, 8 lanes for GeForce, all lanes elsewhere", () => {
  const named = (gpu: string): string => wired(gpu, 2).link.name;
  expect(named("h100-80gb")).toBe("nvlink4");
  expect(named("rtx-3090")).toBe("pcie4x8");
  expect(named("rtx-5090")).toBe("pcie5x8");
  expect(named("l40s")).toBe("pcie4x16");
  expect(named("t4")).toBe("pcie3x16");
  expect(wiringOf({ perMachine: 2, machines: 1 }, undefined).link.name).toBe("loopback");
});

test("a link is named in any case, by its family or by a rate", () => {
  expect(wired("rtx-3090", 2, "NVLink").link).toMatchObject({
    name: "nvlink3-bridge",
    bytesPerSecond: 45 * GB,
  });
  expect(wired("b200", 8, "nvlink").link.name).toBe("nvlink5");
  expect(wired("rtx-4090", 2, "12GB/s").link.bytesPerSecond).toBe(12 * GB);
  expect(wired("rtx-4090", 2, "10gbe").link.name).toBe("10GbE");
  for (const name of LINK_NAMES) expect(readLink(name.toUpperCase(), undefined).name).toBe(name);
});

test("with several machines a network's name or a rate is the link between them", () => {
  expect(wired("h100-80gb", 8, undefined, 2)).toMatchObject({
    ...{ count: 16, perMachine: 8, link: { name: "nvlink4" }, network: { name: "10GbE" } },
  });
  expect(wired("h100-80gb", 8, "ib400", 2)).toMatchObject({
    ...{ link: { name: "nvlink4" }, network: { name: "ib400" } },
  });
  expect(wired("rtx-4090", 2, "3GB/s", 2)).toMatchObject({
    ...{ link: { name: "pcie4x8" }, network: { bytesPerSecond: 3 * GB } },
  });
  expect(wired("rtx-3090", 2, "nvlink,25GbE", 2)).toMatchObject({
    ...{ link: { name: "nvlink3-bridge" }, network: { name: "25GbE" } },
  });
});

test("an unknown link, and NVLink of a card without it, name what can be passed", () => {
  for (const link of ["pcie6x16", "12GB", "fast/s"])
    expect(() => wired("rtx-4090", 2, link)).toThrow(UsageError);
  expect(() => wired("rtx-4090", 2, "nvlink")).toThrow("GeForce RTX 4090 has no NVLink");
});

test("GeForce cards copy through the host, so that PCIe gives them less", () => {
  expect(wired("rtx-4090", 2, "pcie4x16").link.bytesPerSecond).toBeLessThan(
    wired("l40s", 2, "pcie4x16").link.bytesPerSecond,
  );
});

test("a ring sends each byte of a sum twice and of a gather once, less the own part; one rank sends none", () => {
  expect(sentBytes("sum", 80, 4)).toBe(120);
  expect(sentBytes("gather", 80, 4)).toBe(60);
  expect(sentBytes("exchange", 80, 4)).toBe(60);
  for (const kind of ["sum", "gather", "exchange", "broadcast"] as const) {
    expect(sentBytes(kind, 80, 1)).toBe(0);
    expect(collectiveSeconds(kind, 80, wired("rtx-3090", 1))).toBe(0);
  }
});

test("the slowest link decides a ring, and the network's share of a machine an exchange", () => {
  const twoMachines = wired("h100-80gb", 8, "ib400", 2); // 40 GB/s between machines, 360 between cards
  const seconds = collectiveSeconds("sum", 40 * GB, twoMachines);
  expect(seconds).toBeCloseTo((2 * 15) / 16, 2);
  const exchanged = collectiveSeconds("exchange", 16 * GB, twoMachines); // 8 ranks send 8 parts of 1 GB each
  expect(exchanged).toBeCloseTo(64 / 40, 2);
  expect(collectiveSeconds("gather", 45 * GB, wired("rtx-3090", 2, "nvlink"))).toBeCloseTo(0.5, 3);
});

test("a sum of almost nothing takes the hops of a tree among many machines, not of the whole ring", () => {
  const many = wired("h100-80gb", 8, "ib400", 128);
  expect(collectiveSeconds("sum", 4, many)).toBeLessThan(0.001);
  expect(collectiveSeconds("gather", 4, many)).toBeCloseTo(1023 * 14e-6, 4);
});

import fc from "fast-check";
import { expect, it } from "vitest";
import { hostsOf, tasksOf, unstartedTasks } from "./slurm.ts";

// biome-ignore format: a row a list
it.each([
  ["node1", ["node1"]],
  ["node1,node2", ["node1", "node2"]],
  ["host0 host1", ["host0", "host1"]],
  ["node[01-03,7]", ["node01", "node02", "node03", "node7"]],
  ["gnode[10,20,25,37]", ["gnode10", "gnode20", "gnode25", "gnode37"]],
  ["a[1-2],b5,c[098-101]", ["a1", "a2", "b5", "c098", "c099", "c100", "c101"]],
  ["rack[1-2]n[1-2]", ["rack1n1", "rack1n2", "rack2n1", "rack2n2"]],
  ["node[3]-ib", ["node3-ib"]],
  ["gpu-1.cluster.org", ["gpu-1.cluster.org"]],
])("reads Slurm's nodes %s", (list, hosts) => {
  expect(hostsOf(list)).toEqual(hosts);
});

it.each(["node[1-", "node[a]", "node[3-1]", "node[1-9999999]", "n[1-9999]n[1-9999]"])(
  "refuses the nodes %s",
  (list) => {
    expect(() => hostsOf(list)).toThrow("list of nodes can't be read");
  },
);

it("reads any range of nodes with its zeros", () => {
  fc.assert(
    fc.property(fc.nat(500), fc.nat(50), fc.integer({ min: 1, max: 5 }), (first, more, digits) => {
      const names = Array.from({ length: more + 1 }, (_, i) => `n${String(first + i).padStart(digits, "0")}`);
      const [from, to] = [names[0]!.slice(1), String(first + more).padStart(digits, "0")];
      expect(hostsOf(`n[${from}-${to}]`)).toEqual(names);
    }),
  );
});

it("reads Slurm's tasks per node", () => {
  expect(tasksOf("2(x3),1")).toEqual([2, 2, 2, 1]);
  expect(tasksOf("4")).toEqual([4]);
  expect(() => tasksOf("all")).toThrow("tasks per node can't be read");
});

it("counts the tasks that a batch script has not started", () => {
  expect(unstartedTasks({ SLURM_JOB_ID: "1", SLURM_NTASKS: "4", SLURM_PROCID: "0" })).toBe(4);
  expect(unstartedTasks({ SLURM_JOB_ID: "1", SLURM_NTASKS: "1" })).toBeUndefined();
  expect(unstartedTasks({ SLURM_JOB_ID: "1", SLURM_NTASKS: "4", SLURM_STEP_ID: "0" })).toBeUndefined();
});

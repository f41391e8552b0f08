import { describe, expect, it } from "vitest";
import { setThreadsToSleep } from "./libtorch.ts";

describe("setThreadsToSleep", () => {
  it.each([
    { name: "nothing", given: {}, set: { OMP_WAIT_POLICY: "passive" } },
    { name: "how threads wait", given: { OMP_WAIT_POLICY: "active" }, set: { OMP_WAIT_POLICY: "active" } },
    { name: "how long they spin", given: { GOMP_SPINCOUNT: "20000" }, set: { GOMP_SPINCOUNT: "20000" } },
  ])("leaves to users what they have set: $name", ({ given, set }) => {
    const environment: NodeJS.ProcessEnv = { ...given };
    setThreadsToSleep(environment);
    expect(environment).toEqual(set);
  });
});

import { describe, expect, it } from "vitest";
import { limitSpinning } from "./libtorch.ts";

describe("limitSpinning", () => {
  it.each([
    { name: "nothing", given: {}, set: { GOMP_SPINCOUNT: "2000" } },
    { name: "how threads wait", given: { OMP_WAIT_POLICY: "active" }, set: { OMP_WAIT_POLICY: "active" } },
    { name: "how long they spin", given: { GOMP_SPINCOUNT: "7" }, set: { GOMP_SPINCOUNT: "7" } },
  ])("leaves to users what they have set: $name", ({ given, set }) => {
    const environment: NodeJS.ProcessEnv = { ...given };
    limitSpinning(environment);
    expect(environment).toEqual(set);
  });
});

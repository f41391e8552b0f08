import { expect, it } from "vitest";
import { buildFor, cardProblem, hasKernelsFor, leastDriverFor, setupCommand } from "./cudaBuilds.ts";

it.each([
  { capabilities: [70], driver: 580, build: "12.6" }, // V100
  { capabilities: [60], driver: 550, build: "12.6" },
  { capabilities: [75], driver: 580, build: "13.0" },
  { capabilities: [90], driver: 550, build: "12.6" }, // H100 under an older driver
  { capabilities: [120], driver: 575, build: "13.0" }, // no build supports it: a newer driver is needed
  { capabilities: [70, 120], driver: 580, build: "13.0" }, // no build supports both
  { capabilities: [], driver: undefined, build: "13.0" }, // a login node without cards
  { capabilities: [], driver: 535, build: "12.6" },
])("of cards of $capabilities under driver $driver, CUDA $build", ({ build, ...cards }) => {
  expect(buildFor(cards)).toBe(build);
  expect(setupCommand(cards)).toBe(`npx lorafit setup --cuda${build === "12.6" ? " 12.6" : ""}`);
});

it("a card without kernels is told with the command that gets them, or that nothing does", () => {
  expect(cardProblem("13.0", 70)).toEqual({
    why: "libtorch for CUDA 13.0 has no kernels for a card of compute capability 7.0",
    fix: "Install the one for CUDA 12.6: npx lorafit setup --cuda 12.6",
  });
  expect(cardProblem("12.6", 120)?.fix).toMatch(/setup --cuda 13\.0$/);
  expect(cardProblem("13.0", 35)?.fix).toBe("None of its builds has: they begin at 5.0.");
  expect(cardProblem("12.6", 70)).toBeUndefined();
});

it("of a CUDA that is not in the table nothing is said, but for the driver of its generation", () => {
  expect(hasKernelsFor("12.8", 70)).toBe(true);
  expect(hasKernelsFor(undefined, 70)).toBe(true);
  expect(leastDriverFor("12.8")).toBe(525);
  expect(leastDriverFor(undefined)).toBe(580);
});

/**
 * Copies by several threads at once, as they go to a card. This test has its own file, and so its own
 * process, because the number of threads is read once.
 */
import { expect, test } from "vitest";
import { startCopy } from "./copies.ts";
import { empty, randn } from "./create.ts";
import { scope } from "./tensor.ts";

process.env.LORAFIT_COPY_THREADS = "3";

test.each([1, 262_143, 262_145, 786_433, 1_048_577, 3_000_001])(
  "three threads bring %d numbers, whatever does not divide by them",
  (elements) => {
    scope(() => {
      const [from, to] = [randn([elements]), empty([elements]).fill_(0)];
      startCopy(to, from).wait();
      expect(to.equal(from)).toBe(true);
    });
  },
);

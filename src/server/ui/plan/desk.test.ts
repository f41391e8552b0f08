import { expect, it } from "vitest";
import { type Desk, openDesk, type Step } from "./desk.ts";

/** A desk that records what its steps do; `arrivals` come in at the next pauses, one at each. */
function recordingDesk(arrivals: ((desk: Desk) => void)[] = []) {
  const did: string[] = [];
  const desk: Desk = openDesk({
    look: () => arrivals.shift()?.(desk),
    done: (id) => did.push(`done ${id}`),
    failed: (id, cause) => did.push(`failed ${id}: ${cause}`),
  });
  /** A step that pauses so many times. */
  const step = (name: string, rank: number, pauses = 0, more?: Step[]): Step => ({
    rank,
    run: () => {
      did.push(`${name} begins`);
      for (let pause = 0; pause < pauses; pause++) desk.pause();
      did.push(`${name} ends`);
      return more;
    },
  });
  const runAll = (): string[] => {
    while (desk.work());
    return did;
  };
  return { desk, step, runAll };
}

it("does the steps of a question in their order, with those that a step adds", () => {
  const { desk, step, runAll } = recordingDesk();
  desk.add(1, [step("first", 0, 0, [step("added", 1)])]);
  expect(runAll()).toEqual(["first begins", "first ends", "added begins", "added ends", "done 1"]);
});

it("a quick step that arrives during a long one comes first, and the long one begins anew", () => {
  const { desk, step, runAll } = recordingDesk([(open) => open.add(2, [step("quick", 0)])]);
  desk.add(1, [step("search", 2, 1)]);
  expect(runAll()).toEqual([
    ...["search begins", "quick begins", "quick ends", "done 2"],
    ...["search begins", "search ends", "done 1"],
  ]);
});

it("a cancelled question ends at its next pause and is heard of no more", () => {
  const { desk, step, runAll } = recordingDesk([(open) => open.cancel(1)]);
  desk.add(1, [step("search", 2, 3)]);
  expect(runAll()).toEqual(["search begins"]);
});

it("a step of the same rank does not end the one in work, and the newest question is next", () => {
  const { desk, step, runAll } = recordingDesk([(open) => open.add(3, [step("newest", 2)])]);
  desk.add(1, [step("waiting", 2)]);
  desk.add(2, [step("search", 2, 1)]);
  const did = runAll().filter((what) => what.endsWith("ends"));
  expect(did).toEqual(["search ends", "newest ends", "waiting ends"]);
});

it("a step that throws fails its own question alone", () => {
  const { desk, step, runAll } = recordingDesk();
  const broken: Step = {
    rank: 0,
    run: () => {
      throw new Error("broken");
    },
  };
  desk.add(1, [broken, step("never", 0)]);
  desk.add(2, [step("other", 1)]);
  expect(runAll()).toEqual(["failed 1: Error: broken", "other begins", "other ends", "done 2"]);
});

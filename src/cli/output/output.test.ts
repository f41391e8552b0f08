import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bar, checkProgress, formatDuration, Output, Pace, sparkline, table } from "./output.ts";

class Recorder {
  text = "";
  readonly isTTY: boolean;
  readonly columns = 20;

  constructor(isTTY: boolean) {
    this.isTTY = isTTY;
  }

  write(text: string): void {
    this.text += text;
  }
}

const open = ({ json = false, terminal = false, environment = {} as Record<string, string> } = {}) => {
  const [stdout, stderr, clock] = [new Recorder(terminal), new Recorder(terminal), { ms: 0 }];
  const output = new Output({ json, stdout, stderr, environment, now: () => clock.ms });
  return { stdout, stderr, clock, output };
};

describe("output", () => {
  it("is for people or for scripts, never both", () => {
    for (const json of [false, true]) {
      const { output, stdout, stderr } = open({ json });
      output.answer("text");
      output.record({ a: 1 });
      output.note("note");
      expect(stdout.text).toBe(json ? '{"a":1}\n' : "text\n");
      expect(stderr.text).toBe("note\n");
    }
  });

  it("tells a caveat to people once and to scripts in each record that follows", () => {
    const { output, stdout, stderr } = open({ json: true });
    output.record({ a: 1 });
    output.caveat("no card", "idleCard");
    output.caveat("no card", "idleCard");
    output.record({ a: 2 });
    output.record([3]);
    expect(stdout.text).toBe('{"a":1}\n{"a":2,"idleCard":"no card"}\n[3]\n');
    expect(stderr.text).toBe("no card\n");
  });

  it("replaces the live line on a terminal and cuts it to the width", () => {
    const { output, stderr } = open({ terminal: true });
    output.live("a line that is longer than the terminal");
    output.note("note");
    expect(stderr.text).toBe("\ra line that is long\x1b[K\r\x1b[Knote\n");
  });

  it("writes the live line now and then in a pipe", () => {
    const { output, stderr, clock } = open();
    for (clock.ms = 0; clock.ms < 25_000; clock.ms += 1000) output.live(`second ${clock.ms / 1000}`);
    output.flicker("phase");
    expect(stderr.text).toBe("second 0\nsecond 10\nsecond 20\n");
  });

  it("shows how many samples are checked, of a check that takes its time, and on a terminal alone", () => {
    for (const terminal of [true, false]) {
      const { output, stderr, clock } = open({ terminal });
      const check = checkProgress(output, () => clock.ms);
      for (let done = 1; done <= 50; done++, clock.ms += 10) check(done, 50);
      expect(stderr.text.split("\r").map((line) => line.slice(0, 17))).toEqual(
        terminal ? ["", "checking sample 2", "checking sample 4"] : [""],
      );
    }
  });

  it("sends no control character but those of its own styles", () => {
    const hostile = "\x1b[8mhidden\x9b\u202e";
    const shown = "\\u001b[8mhidden\\u009b\\u202e";
    const { output, stdout, stderr } = open({ terminal: true });
    output.answer(`${output.paint("red", hostile)} ${hostile}`);
    output.piece(hostile);
    expect(stdout.text).toBe(`\x1b[31m${shown}\x1b[39m ${shown}\n${shown}`);
    output.note(hostile);
    output.flicker("a\n\x1bb");
    expect(stderr.text).toBe(`${shown}\n\ra \\u001bb\x1b[K`);
    const scripts = open({ json: true });
    scripts.output.record({ hostile });
    expect(scripts.stdout.text).toBe(`{"hostile":"${shown}"}\n`);
  });

  it("has colours on a terminal that wants them only", () => {
    const colourful = (options: Parameters<typeof open>[0]): boolean =>
      open(options).output.paint("red", "x") !== "x";
    expect(colourful({ terminal: true })).toBe(true);
    expect(colourful({ terminal: false })).toBe(false);
    expect(colourful({ terminal: true, environment: { NO_COLOR: "1" } })).toBe(false);
    expect(colourful({ terminal: true, environment: { TERM: "dumb" } })).toBe(false);
  });
});

it("lines the columns of a table up", () => {
  expect(
    table([
      ["a", 1, "x"],
      ["bcd", 23],
    ]),
  ).toBe("a     1  x\nbcd  23");
});

describe("bars", () => {
  it("are as long as the share, in eighths of a character", () => {
    expect(bar(0.5, 4)).toBe("██");
    expect(bar(0.53, 4)).toBe("██▏");
    expect(bar(2, 4)).toBe("████");
    expect(bar(-1, 4)).toBe("");
  });

  it("never reach beyond their columns", () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true }), fc.integer({ min: 0, max: 40 }), (share, columns) => {
        expect(bar(share, columns).length).toBeLessThanOrEqual(columns);
      }),
    );
  });
});

it("draws the last values from their smallest to their largest", () => {
  expect(sparkline([9, 1, 4, 8, Number.NaN], 3)).toBe("▁▄█");
  expect(sparkline([2, 2], 3)).toBe("▁▁");
  expect(sparkline([], 3)).toBe("");
});

it("tells durations in the units that people use", () => {
  const times = [120, 8600, 59_600, 318_000, 7_199_000, 7_500_000, Number.POSITIVE_INFINITY];
  expect(times.map(formatDuration)).toEqual([
    ...["0.12 s", "8.6 s", "1 min 0 s", "5 min 18 s", "2 h 0 min", "2 h 5 min", "…"],
  ]);
});

it("tells the time left from the share that is done", () => {
  let nowMs = 0;
  const pace = new Pace(() => nowMs);
  nowMs = 1000;
  expect(pace.leftMs(0.25)).toBe(3000);
});

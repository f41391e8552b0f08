/**
 * Runs the bundle's launcher with a stand-in for Node. The stand-in records its arguments and environment.
 */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, expect, it } from "vitest";

const LAUNCHER = fileURLToPath(new URL("../../scripts/bundleLauncher.sh", import.meta.url));

let bundle: string;
beforeEach(() => {
  bundle = mkdtempSync(join(tmpdir(), "launcher-"));
  for (const folder of ["bin", "native/build", "tools", "site/torch/lib"]) {
    mkdirSync(join(bundle, folder), { recursive: true });
  }
  copyFileSync(LAUNCHER, join(bundle, "lorafit"));
  chmodSync(join(bundle, "lorafit"), 0o755);
  node({ loads: true, sets: true });
  script("tools/python3", `echo ${bundle}/site/torch`);
});
afterEach(() => rmSync(bundle, { recursive: true }));

function script(path: string, text: string): void {
  writeFileSync(join(bundle, path), `#!/bin/sh\n${text}\n`);
  chmodSync(join(bundle, path), 0o755);
}

/** Writes the stand-in for Node. loads: whether the engine loads; sets: whether setup succeeds. */
function node({ loads, sets }: { loads: boolean; sets: boolean }): void {
  const note = (what: string): string => `echo "${what}" >> ${bundle}/calls`;
  script(
    "bin/node",
    `case "$*" in
      *libtorch.js) ${note("check $LD_BIND_NOW")}; exit ${loads ? 0 : 1};;
      *"main.js setup") ${note("setup")}; exit ${sets ? 0 : 1};;
      *) ${note("run $(basename $1) $2 with $LORAFIT_LIBTORCH in $LD_LIBRARY_PATH.")};;
    esac`,
  );
}

/** Starts the launcher. Returns the calls of Node, without the bundle's folder in the paths. */
function start(args: string[], libtorch = ""): { calls: string[]; code: number | null; stderr: string } {
  const env = { PATH: `${join(bundle, "tools")}:/usr/bin:/bin`, LORAFIT_LIBTORCH: libtorch };
  const { status, stderr } = spawnSync(join(bundle, "lorafit"), args, { env, encoding: "utf8" });
  const file = join(bundle, "calls");
  const calls = existsSync(file)
    ? readFileSync(file, "utf8").replaceAll(`${bundle}/`, "").trim().split("\n")
    : [];
  rmSync(file, { force: true });
  return { calls, code: status, stderr };
}

it("takes Python's torch, and tries the engine with it once", () => {
  const run = "run main.js plan with site/torch in site/torch/lib.";
  expect(start(["plan"])).toEqual({ calls: ["check 1", run], code: 0, stderr: "" });
  expect(start(["plan"]).calls).toEqual([run]);
  mkdirSync(join(bundle, "other/torch/lib"), { recursive: true });
  const other = "run main.js plan with other/torch in other/torch/lib.";
  expect(start(["plan"], join(bundle, "other")).calls).toEqual(["check 1", other]); // site-packages is accepted too
});

it("tells the program by what name it was started", () => {
  script("bin/node", `echo "$LORAFIT_PROGRAM" >> ${bundle}/calls`);
  expect(start(["doctor"]).calls).toEqual(["lorafit"]); // the full path, here without the bundle's folder
});

it("prefers the libtorch that was installed into the bundle", () => {
  mkdirSync(join(bundle, ".libtorch/torch/lib"), { recursive: true });
  expect(start(["plan"]).calls.at(-1)).toContain("with .libtorch/torch in");
});

it("without a torch sets nothing up: the command says what is missing", () => {
  script("tools/python3", "echo");
  expect(start(["plan"]).calls).toEqual(["run main.js plan with  in ."]);
  expect(start(["plan"], "/nowhere").calls).toEqual(["run main.js plan with /nowhere in ."]);
});

it("sets up where the engine does not load, then goes on; where that fails it ends, and tries again the next time", () => {
  node({ loads: false, sets: false });
  expect(start(["plan"])).toMatchObject({ calls: ["check 1", "setup"], code: 1 });
  node({ loads: false, sets: true });
  const { calls, code, stderr } = start(["plan"]);
  expect({ calls: calls.slice(0, 2), code }).toEqual({ calls: ["check 1", "setup"], code: 0 });
  expect(calls[2]).toContain("run main.js plan");
  expect(stderr).toContain("does not load with the libtorch in");
});

it("doctor and setup run whatever is there, and --node runs a script of the bundle", () => {
  node({ loads: false, sets: true });
  expect(start(["doctor"]).calls).toEqual(["run main.js doctor with site/torch in site/torch/lib."]);
  expect(start(["setup"]).calls).toEqual(["setup"]);
  node({ loads: true, sets: true });
  expect(start(["--node", "bench/gpu/run.js", "--help"]).calls.at(-1)).toContain("run run.js --help with");
});

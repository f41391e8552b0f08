import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, expect, test, vi } from "vitest";
import { driverProblem, whyCardIdles, whyNoCard } from "./driver.ts";
import { findLibtorch } from "./libtorch.ts";

const folder = mkdtempSync(join(tmpdir(), "driver-"));
afterEach(() => vi.unstubAllEnvs());
afterAll(() => rmSync(folder, { recursive: true }));

const CUDA_13 = { cuda: true, cudaVersion: "13.0", folder: "/torch" };
const CUDA_12 = { cuda: true, cudaVersion: "12.6", folder: "/torch" };

function problemOf(line: string): string | undefined {
  const file = join(folder, "version");
  writeFileSync(file, `${line}\nGCC version:  gcc version 12.3.0\n`);
  return driverProblem(CUDA_13, file);
}

test("a driver that is missing or too old is named as what is in the way, a new one is not", () => {
  expect(driverProblem(CUDA_13, join(folder, "none"))).toBe("there is no NVIDIA driver");
  expect(
    problemOf("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023"),
  ).toBe("the NVIDIA driver is version 535.104.05, and 580 or newer is needed for CUDA 13.0");
  expect(driverProblem(CUDA_12, join(folder, "version"))).toBeUndefined();
  expect(
    problemOf("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build"),
  ).toBeUndefined();
  expect(problemOf("something else")).toBeUndefined();
});

/** Makes a folder with the files of a package torch that the search checks. */
function fakeLibtorch(name: string, parts: string[]): ReturnType<typeof findLibtorch> {
  const torch = join(folder, name);
  const files = ["lib/libtorch_cpu.so", "lib/libc10.so", "include/ATen/core/Tensor.h", ...parts];
  for (const part of files) {
    mkdirSync(join(torch, part, ".."), { recursive: true });
    writeFileSync(join(torch, part), "");
  }
  writeFileSync(join(torch, "version.py"), "__version__ = '2.11.0+cpu'\n");
  vi.stubEnv("LORAFIT_LIBTORCH", torch);
  return findLibtorch();
}

test("what keeps a card from being used is named, with what mends it", () => {
  const driver = join(folder, "new");
  writeFileSync(driver, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Release Build\n");
  const old = join(folder, "old");
  writeFileSync(old, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n");
  const cpu = fakeLibtorch("cpu", []);
  expect(whyNoCard(cpu, "no such file", driver)).toEqual({
    why: `libtorch in ${cpu.folder} is one for the CPU: it has no libtorch_cuda.so`,
    fix: expect.stringMatching(/^npx lorafit setup --cuda installs libtorch with CUDA/),
  });
  const cuda = fakeLibtorch("cuda", ["lib/libtorch_cuda.so"]);
  expect(whyNoCard(cuda, "CUDA can't be used: libcudnn.so.9: cannot open", driver)).toEqual({
    why: "libcudnn.so.9: cannot open",
    fix: expect.stringMatching(/^npx lorafit setup --cuda installs what CUDA's half/),
  });
  expect(whyNoCard(cuda, "CUDA can't be used: no device", old)).toEqual({
    why: "the NVIDIA driver is version 535.104.05, and 580 or newer is needed",
    fix: expect.stringMatching(
      /^Install an NVIDIA driver of version 580 or newer\. Or take libtorch for CUDA 12\.6, which runs on this one: npx lorafit setup --cuda 12\.6\n/,
    ),
  });
  expect(whyNoCard(cpu, undefined, join(folder, "none")).why).toMatch(
    /^there is no NVIDIA driver; libtorch in/,
  );
});

test("a card that is left idle is told with what mends it, and nothing where there is none or the user hides it", () => {
  const driver = join(folder, "idle");
  writeFileSync(driver, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Release Build\n");
  const devices = join(folder, "dev");
  mkdirSync(devices);
  writeFileSync(join(devices, "nvidiactl"), "");
  const cpu = { cuda: false, folder: "/torch" };
  const cuda = { cuda: true, folder: "/torch" };
  vi.stubEnv("CUDA_VISIBLE_DEVICES", undefined);
  expect(whyCardIdles(cpu, "no such file", { driver, devices })).toBeUndefined();
  writeFileSync(join(devices, "nvidia3"), "");
  expect(whyCardIdles(cpu, "no such file", { driver: join(folder, "none"), devices })).toBeUndefined();
  expect(whyCardIdles(cpu, "no such file", { driver, devices })).toBe(
    "Computing on the CPU, though there is a GPU: libtorch in /torch is one for the CPU: it has no libtorch_cuda.so. " +
      "npx lorafit setup --cuda installs libtorch with CUDA; or set LORAFIT_LIBTORCH to one that has it.",
  );
  expect(whyCardIdles(cuda, "CUDA can't be used: libcudnn.so.9", { driver, devices })).toContain(
    "libcudnn.so.9. npx lorafit setup --cuda installs what",
  );
  expect(whyCardIdles(cuda, undefined, { driver, devices })).toBeUndefined();
  vi.stubEnv("CUDA_VISIBLE_DEVICES", "1");
  expect(whyCardIdles(cpu, undefined, { driver, devices })).toBeDefined();
  for (const hidden of ["", "-1"]) {
    vi.stubEnv("CUDA_VISIBLE_DEVICES", hidden);
    expect(whyCardIdles(cpu, undefined, { driver, devices })).toBeUndefined();
  }
});

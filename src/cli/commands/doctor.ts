/** `lorafit doctor`: reports what is on this machine, what is missing, and the command that installs it. */
import { existsSync, mkdtempSync } from "node:fs";
import { availableParallelism, freemem, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { cacheFolder } from "../../checkpoint/download/cache.ts";
import { formatBytes, messageOf, UserError } from "../../errors.ts";
import { watchLauncher } from "../../launch/watchLauncher.ts";
import { commandLine } from "../../program.ts";
import { isBuilt } from "../../torch/install/buildEngine.ts";
import { cardProblem, setupCommand } from "../../torch/install/cudaBuilds.ts";
import {
  driverFix,
  driverProblem,
  driverVersion,
  machineCards,
  whyNoCard,
} from "../../torch/install/driver.ts";
import { describeLibtorch, isForCards, type Libtorch, searchLibtorch } from "../../torch/install/libtorch.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { type Output, table } from "../output/output.ts";
import { startRanks, startsRanks } from "../run/startRanks.ts";

interface Finding {
  what: string;
  found: string;
  /** Command that installs what is missing; absent if nothing is. */
  fix?: string;
}

const LEAST_NODE = [20, 19] as const;
const FIRST_CARD = "/dev/nvidia0";

export async function run(options: OptionsOf<"doctor">, output: Output): Promise<void> {
  if (options.peers || options.gpus !== undefined || options.cpu_ranks !== undefined)
    return checkPeers(options, output);
  const libtorch = searchLibtorch();
  const findings = [nodeFinding(), machineFinding(), ...libtorchFindings(libtorch)];
  const cards = await usableCards(libtorch.at(-1));
  findings.push(await engineFinding(libtorch.at(-1)), gpuFinding(libtorch.at(-1), cards));
  findings.push(...(await cardFindings(libtorch.at(-1), cards)));
  findings.push(cacheFinding());
  for (const finding of findings) output.record(finding);
  const rows = findings.map(({ what, found, fix }) => [fix ? "missing" : "ok", what, found]);
  output.answer(table(rows));
  const fixes = findings.flatMap(({ fix }) => fix ?? []);
  if (fixes.length > 0) throw new UserError("Something is missing.", { fix: [...new Set(fixes)].join("\n") });
}

/** Checks the ranks of a job, as one of them; or starts ranks that do. */
async function checkPeers(options: OptionsOf<"doctor">, output: Output): Promise<void> {
  if (startsRanks(options, process.env))
    return startRanks(options, mkdtempSync(join(tmpdir(), "lorafit-ranks-")), output);
  watchLauncher(process.env);
  const { checkRanks } = await import("../doctor/checkRanks.ts");
  await checkRanks(options, output);
}

function nodeFinding(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const enough = major > LEAST_NODE[0] || (major === LEAST_NODE[0] && minor >= LEAST_NODE[1]);
  const fix = { fix: `Install Node ${LEAST_NODE.join(".")} or newer.` };
  return {
    what: "Node",
    found: `${process.version} (${process.platform} ${process.arch})`,
    ...(!enough && fix),
  };
}

function machineFinding(): Finding {
  const memory = `${formatBytes(freemem())} free of ${formatBytes(totalmem())}`;
  return { what: "machine", found: `${availableParallelism()} cores, ${memory}` };
}

/** Reports the libtorch that was found; if none was, every place that was searched. */
function libtorchFindings(places: Libtorch[]): Finding[] {
  const last = places.at(-1);
  if (last?.usable) {
    return [{ what: "libtorch", found: `${describeLibtorch(last)}, in ${last.folder} (${last.from})` }];
  }
  return places.flatMap((place) =>
    place.usable
      ? []
      : [{ what: "libtorch", found: `${place.from}: ${place.problem}`, fix: commandLine("setup") }],
  );
}

async function engineFinding(libtorch: Libtorch | undefined): Promise<Finding> {
  const missing = (found: string): Finding => ({ what: "engine", found, fix: commandLine("setup") });
  if (!libtorch?.usable) return missing("needs libtorch first");
  if (!isBuilt(libtorch)) return missing("not built for this libtorch and this version");
  try {
    const { cudaDevices, getThreads } = await import("../../torch/device.ts");
    const devices = Array.from({ length: cudaDevices() }, (_, index) => `cuda:${index}`);
    return {
      what: "engine",
      found: `built; devices cpu (${getThreads()} threads)${["", ...devices].join(", ")}`,
    };
  } catch (thrown) {
    return missing(messageOf(thrown));
  }
}

/** Counts the cards that the engine can use. Under WSL they have no device file. */
async function usableCards(libtorch: Libtorch | undefined): Promise<number> {
  if (!libtorch?.usable || !isBuilt(libtorch)) return 0;
  try {
    const { cudaDevices } = await import("../../torch/device.ts");
    return cudaDevices();
  } catch {
    return 0; // reported by engineFinding
  }
}

/** Reports what each card can do, and whether kernels can be compiled for it. */
async function cardFindings(libtorch: Libtorch | undefined, usable: number): Promise<Finding[]> {
  if (!libtorch?.usable || !isBuilt(libtorch)) return [];
  const isExpected = isForCards(libtorch) && existsSync(FIRST_CARD) && driverProblem(libtorch) === undefined;
  if (usable === 0 && !isExpected) return [];
  const { cardInfo, cudaProblem, describeCard } = await import("../../torch/device.ts");
  const problem = cudaProblem();
  if (problem)
    return [{ what: "CUDA", found: problem, fix: whyNoCard(libtorch, problem).fix.split("\n")[0]! }];
  const cards = Array.from({ length: usable }, (_, index) => `cuda:${index}` as const);
  const found = cards.map((device): Finding => {
    const card = cardInfo(device);
    const lacking = cardProblem(libtorch.cudaVersion, card.capability);
    if (!lacking) return { what: device, found: describeCard(card) };
    return { what: device, found: `${describeCard(card)}; ${lacking.why}`, fix: lacking.fix };
  });
  return [...found, await kernelFinding()];
}

async function kernelFinding(): Promise<Finding> {
  try {
    const { findNvrtc } = await import("../../torch/kernels/nvrtc.ts");
    const { version, library } = findNvrtc();
    return { what: "kernels", found: `NVRTC ${version} (${library})` };
  } catch (thrown) {
    return { what: "kernels", found: messageOf(thrown), fix: commandLine("setup --cuda") };
  }
}

function gpuFinding(libtorch: Libtorch | undefined, cards: number): Finding {
  const what = "GPU";
  if (cards > 0 && !existsSync(FIRST_CARD))
    return { what, found: "usable (the driver has no device file here)" };
  if (!existsSync(FIRST_CARD)) return { what, found: "no NVIDIA driver: lorafit computes on the CPU" };
  const usable = libtorch?.usable ? libtorch : undefined;
  const problem = driverProblem(usable);
  if (problem) return { what, found: problem, fix: driverFix(usable) };
  const found = `NVIDIA driver ${driverVersion()}`;
  if (!usable || isForCards(usable)) return { what, found };
  return { what, found: `${found}, but this libtorch is for the CPU`, fix: setupCommand(machineCards()) };
}

/** Reports where downloaded models are. */
function cacheFinding(): Finding {
  const folder = cacheFolder();
  const found = existsSync(folder)
    ? folder
    : `none yet: ${commandLine("pull")} downloads into ${folder} (HF_HOME changes it)`;
  return { what: "models", found };
}

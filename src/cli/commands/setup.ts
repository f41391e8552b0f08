/** `lorafit setup`: finds or installs libtorch, and builds the engine. */
import { existsSync } from "node:fs";
import { UsageError } from "../../errors.ts";
import { listOfChoices } from "../../options.ts";
import { commandLine } from "../../program.ts";
import { setupEngine } from "../../torch/install/buildEngine.ts";
import { CUDA_VERSIONS, type CudaVersion } from "../../torch/install/cudaBuilds.ts";
import type { WantedCuda } from "../../torch/install/installLibtorch.ts";
import { findLibtorch, isForCards } from "../../torch/install/libtorch.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { bar, formatDuration, type Output, Pace } from "../output/output.ts";

export async function run({ cuda }: OptionsOf<"setup">, output: Output): Promise<void> {
  let pace: Pace | undefined;
  const wanted = wantedCuda(cuda, process.env.LORAFIT_CUDA);
  await setupEngine({
    ...(wanted && { cuda: wanted }),
    log: (line) => output.note(line),
    onCompiled: (done, total) => {
      pace ??= new Pace();
      output.live(buildLine(done, total, pace));
    },
  });
  const libtorch = findLibtorch();
  const { folder, version, cuda: hasCuda, cudaVersion } = libtorch;
  if (existsSync("/dev/nvidia0") && !isForCards(libtorch))
    output.note(`this machine has an NVIDIA card. To compute on it:  ${commandLine("setup --cuda")}`);
  output.record({
    folder,
    version,
    cuda: hasCuda,
    cudaVersion: cudaVersion ?? null,
    forCards: isForCards(libtorch),
  });
}

/**
 * Share of a build after which the time that it has taken tells how long the rest takes: its largest files
 * are compiled first.
 */
const SETTLED_SHARE = 0.4;

function buildLine(done: number, total: number, pace: Pace): string {
  const share = done / total;
  const left = share < SETTLED_SHARE ? "" : `, ${formatDuration(pace.leftMs(share))} left`;
  return `${bar(share, 20).padEnd(20)} ${share < 1 ? `compiling: ${Math.floor(100 * share)} %${left}` : "linking"}`;
}

/**
 * Returns the CUDA version that the flag or the environment asks for. Throws UsageError if there is no such
 * version.
 */
function wantedCuda(flag: boolean | CudaVersion, environment: string | undefined): WantedCuda | undefined {
  if (flag) return flag === true ? "fitting" : flag;
  if (!environment || environment === "0") return undefined;
  if (environment === "1") return "fitting";
  const version = CUDA_VERSIONS.find((known) => known === environment);
  if (version) return version;
  throw new UsageError(
    `LORAFIT_CUDA takes ${listOfChoices(["1", ...CUDA_VERSIONS])} (got "${environment}").`,
  );
}

/** Counts the cards of this machine without loading libtorch. */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { UserError } from "../errors.ts";
import { commandLine } from "../program.ts";

/** Where the number of cards can be seen. */
export interface CardPlaces {
  /** CUDA_VISIBLE_DEVICES. */
  visible: string | undefined;
  /** Folder of device files. */
  devices: string;
}

/** Returns the number of ranks for --gpus. Throws UserError if the machine has fewer cards, or none. */
export function ranksOfGpus(gpus: number | "all", places: CardPlaces): number {
  const cards = countCards(places);
  if (cards > 0 && (gpus === "all" || gpus <= cards)) return gpus === "all" ? cards : gpus;
  const all = `--gpus ${gpus} does not fit this machine:`;
  if (cards > 0) {
    const whose =
      places.visible === undefined ? "this machine has" : `CUDA_VISIBLE_DEVICES=${places.visible} names`;
    throw new UserError(`${all} ${whose} ${cards} GPU${cards === 1 ? "" : "s"}.`, {
      fix: `Pass --gpus ${cards}, or --gpus all.`,
    });
  }
  throw new UserError(`${all} no NVIDIA GPU is visible here.`, {
    fix: `${commandLine("doctor")} says what was found. To try several ranks on the CPU: --cpu-ranks 2`,
  });
}

/** Returns the cards that a process started here may use. */
export function countCards({ visible, devices }: CardPlaces): number {
  if (visible !== undefined) {
    const names = visible.split(",").map((name) => name.trim());
    const end = names.findIndex((name) => name === "" || name === "-1"); // CUDA stops at the first wrong one
    return end < 0 ? names.length : end;
  }
  const files = existsSync(devices) ? readdirSync(devices).filter((name) => /^nvidia\d+$/.test(name)) : [];
  return files.length > 0 ? files.length : listedCards();
}

/** Counts cards as nvidia-smi lists them: under WSL they have no device files. */
function listedCards(): number {
  const { status, stdout } = spawnSync("nvidia-smi", ["-L"], { encoding: "utf8", timeout: 20_000 });
  return status === 0 ? [...stdout.matchAll(/^GPU \d+:/gm)].length : 0;
}

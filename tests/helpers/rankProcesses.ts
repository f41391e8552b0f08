/** Finds the processes of ranks in /proc, as a person would with ps. */
import { readdirSync, readFileSync } from "node:fs";
import { vi } from "vitest";

/** Waits for the process of a rank whose command line has this word, and returns its id. */
export async function rankProcess(rank: number, word: string): Promise<number> {
  return await vi.waitFor(
    () => {
      const pid = processes().find((each) => isRank(each, rank, word));
      if (pid === undefined) throw new Error(`rank ${rank} does not run`);
      return pid;
    },
    { timeout: 120_000, interval: 50 },
  );
}

/** Returns the processes whose command line has this word. */
export function processesWith(word: string): number[] {
  return processes().filter((pid) => textOf(pid, "cmdline").includes(word));
}

function processes(): number[] {
  return readdirSync("/proc").map(Number).filter(Boolean);
}

function isRank(pid: number, rank: number, word: string): boolean {
  const variables = textOf(pid, "environ").split("\0");
  return variables.includes(`RANK=${rank}`) && textOf(pid, "cmdline").includes(word);
}

function textOf(pid: number, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return ""; // it has ended
  }
}

/** Reads the variables by which launchers tell processes where they are. */
import { UserError } from "../../../errors.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

/** A place as one launcher's variables give it. What they leave out is undefined. */
export interface Ranked {
  launcher: string;
  rank: number;
  count: number;
  localRank: number | undefined;
  localCount: number | undefined;
  host: string | undefined;
  port: number | undefined;
}

/** Variables of torchrun, which many launchers set. */
export const TORCH_NAMES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"] as const;

/** Port of the store if the launcher names none; PyTorch's own default. */
export const USUAL_PORT = 29500;

/** Returns a variable's text; undefined if it is missing or empty. */
export function textIn(env: Environment, name: string): string | undefined {
  return env[name]?.trim() || undefined;
}

/** Returns a whole number; undefined if the variable is missing or empty. Throws UserError for other text. */
export function numberIn(env: Environment, name: string): number | undefined {
  const text = textIn(env, name);
  if (text === undefined) return undefined;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new UserError(`The variable ${name} is "${text}", which is not a whole number.`, {
    fix: `Launchers set ${name} themselves. To train with one process:  unset ${name}`,
  });
}

/** Returns the number in the first of these variables that is set. */
export function firstNumber(env: Environment, names: readonly string[]): number | undefined {
  for (const name of names) {
    const value = numberIn(env, name);
    if (value !== undefined) return value;
  }
  return undefined;
}

/** Returns a variable's port, or the default. Throws UserError for what is no port. */
export function portIn(env: Environment, name: string, usual: number): number {
  const port = numberIn(env, name) ?? usual;
  if (port >= 1 && port <= 65535) return port;
  throw new UserError(`The variable ${name} is ${port}, which is no port.`, {
    fix: `Set a free port from 1024 to 65535, the same on all machines:  export ${name}=${USUAL_PORT}`,
  });
}

/** Whether a host's name means this very machine. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || host.startsWith("127.");
}

/** Returns the variables that are set among these, as "RANK=1, WORLD_SIZE=4". */
export function stated(env: Environment, names: readonly string[]): string {
  return names
    .filter((name) => textIn(env, name) !== undefined)
    .map((name) => `${name}=${textIn(env, name)}`)
    .join(", ");
}

export function noHost(launcher: string): UserError {
  return new UserError(`MASTER_ADDR is missing: ${launcher} has started ranks on several machines.`, {
    fix: `Name the machine of rank 0, the same everywhere:  export MASTER_ADDR=node1 MASTER_PORT=${USUAL_PORT}`,
  });
}

export function incomplete(env: Environment, names: readonly string[]): UserError {
  const missing = `${names.join(" and ")} ${names.length > 1 ? "are" : "is"} missing`;
  const given = stated(env, [...TORCH_NAMES, "PET_NNODES", "PMIX_RANK"]);
  return new UserError(`${missing}, although the environment has ${given}.`, {
    fix: `Set RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT, as torchrun does.\nTo train with one process:  unset ${TORCH_NAMES.join(" ")}`,
  });
}

export function contradiction(what: string, launcher: string): UserError {
  return new UserError(`The environment contradicts itself: ${what}.`, {
    fix: `Start a new shell, or remove what does not come from ${launcher}:  unset ${TORCH_NAMES.join(" ")}`,
  });
}

/** Names the launcher that has set the environment. */
import { type Environment, textIn } from "./variables.ts";

/** Variables of lorafit's own launcher. */
export const OWN_VARIABLES = {
  /** Name of the launcher, for people. */
  launcher: "LORAFIT_LAUNCHER",
  /** Flags of the command that started the ranks, such as --gpus 4. */
  flags: "LORAFIT_LAUNCH_FLAGS",
  /** Descriptor of rank 0's listening socket. */
  listenFd: "LORAFIT_STORE_FD",
  /** Descriptor of a pipe that closes when the launcher is gone. */
  watchFd: "LORAFIT_LAUNCHER_FD",
} as const;

/** Returns the name of the launcher that has set RANK and WORLD_SIZE. */
export function launcherOf(env: Environment): string {
  const own = textIn(env, OWN_VARIABLES.launcher);
  if (own !== undefined) return own;
  if (textIn(env, "TORCHELASTIC_RUN_ID") !== undefined) return "torchrun";
  if (textIn(env, "LOCAL_RANK") !== undefined) return "environment variables";
  if (textIn(env, "NPROC_PER_NODE") !== undefined && textIn(env, "MASTER_ADDR")?.startsWith("dlc"))
    return "PAI-DLC";
  return textIn(env, "KUBERNETES_SERVICE_HOST") === undefined ? "environment variables" : "PyTorchJob";
}

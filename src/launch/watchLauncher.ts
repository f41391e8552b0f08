/**
 * Ends a rank when the launcher that started it is gone, however it ended. A thread of its own waits for
 * that, because a step may keep the event loop busy for long.
 */
import { Worker } from "node:worker_threads";
import { OWN_VARIABLES } from "../torch/peers/launchers/launcherName.ts";
import { type Environment, numberIn } from "../torch/peers/launchers/variables.ts";

/** Milliseconds from SIGTERM, on which a run saves, to SIGKILL. */
const GRACE_MS = 30_000;

/** In a thread: waits until the pipe closes, then ends the process. */
const WATCH = `
const { workerData: { fd, graceMs } } = require("node:worker_threads");
const { Socket } = require("node:net");
let isGone = false;
const end = () => {
  if (isGone) return;
  isGone = true;
  process.kill(process.pid, "SIGTERM");
  setTimeout(() => process.kill(process.pid, "SIGKILL"), graceMs);
};
new Socket({ fd, readable: true, writable: false }).on("error", end).on("close", end).resume();
`;

/** Starts to watch, if this process is a rank of lorafit's launcher. The thread keeps no process alive. */
export function watchLauncher(environment: Environment, graceMs = GRACE_MS): void {
  const fd = numberIn(environment, OWN_VARIABLES.watchFd);
  if (fd === undefined) return;
  new Worker(WATCH, { eval: true, workerData: { fd, graceMs }, execArgv: [] }).unref();
}

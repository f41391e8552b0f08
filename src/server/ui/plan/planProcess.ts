/** The planner's process: passes messages between the server and the thread that plans. */
import { Worker } from "node:worker_threads";

const thread = new Worker(new URL("./planThread.js", import.meta.url));
process.on("message", (message) => thread.postMessage(message));
process.on("disconnect", () => process.exit()); // the server has ended
for (const signal of ["SIGINT", "SIGHUP"] as const) process.on(signal, () => {}); // the server's to handle
thread.on("message", (message) => process.send?.(message));
thread.on("error", (error) => {
  throw error;
});

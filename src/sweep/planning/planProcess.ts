/**
 * A process that plans trials: it reads their options as a JSON list from stdin, and writes the number of
 * cards, and then the plan of each trial, as a line. Planning takes a while, and on a card it needs memory
 * there, so it has a process of its own.
 */
import { text } from "node:stream/consumers";
import { cudaDevices } from "../../torch/device.ts";
import type { TrainInput } from "../../train/options/options.ts";
import { planTrial } from "./trialPlan.ts";

process.stdout.write(`${cudaDevices()}\n`);
for (const options of JSON.parse(await text(process.stdin)) as TrainInput[])
  process.stdout.write(`${JSON.stringify(await planTrial(options))}\n`);

/** One rank of startRanks: opens the peers, runs the body's `rank` function, and writes what came of it. */
import { writeFileSync } from "node:fs";
import { openPeers } from "../../../src/torch/peers/open.ts";
import { placeOf } from "../../../src/torch/peers/place.ts";
import type { RankBody, RankReport } from "./ranks.ts";

const { body, args, peers: options } = JSON.parse(process.env.TEST_RANKS!);
const report = (all: RankReport): void => writeFileSync(process.env.TEST_REPORT!, JSON.stringify(all));

try {
  const { rank } = (await import(body)) as { rank: RankBody };
  const peers = await openPeers(placeOf(process.env)!, options);
  try {
    report({ result: await rank(peers, args) });
  } catch (error) {
    await peers.fail(error);
    throw error;
  } finally {
    await peers[Symbol.asyncDispose]();
  }
} catch (error) {
  const { name, message, rank, host } = error as Error & { rank?: number; host?: string };
  report({ error: { name, message, rank, host } });
  console.error(error);
  process.exitCode = 1;
}

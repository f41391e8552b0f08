/** `lorafit doctor --peers` in one rank: finds the others, measures the links, and rank 0 reports. */
import { hostname } from "node:os";
import { UsageError, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { cudaDevices, setThreads } from "../../torch/device.ts";
import { ownAddress } from "../../torch/peers/address.ts";
import { openPeers } from "../../torch/peers/open.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import { describePlace, type PlaceOfRank, placeOf } from "../../torch/peers/place.ts";
import type { Device } from "../../torch/tensor.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { rankDevice, rankThreads } from "../run/rank.ts";
import { measureClocks, measureLinks, measureRing } from "./links.ts";
import { checkInterfaces, explained } from "./opening.ts";
import { factsOf, type RankFacts } from "./rankFacts.ts";
import { type Checked, checkedText } from "./ranksText.ts";
import { type Finding, findingsOf } from "./symptoms.ts";

type Options = OptionsOf<"doctor">;

export async function checkRanks(options: Options, output: Output): Promise<void> {
  const place = placeOf(process.env);
  if (!place) throw noRanks();
  checkInterfaces(process.env);
  const device = rankDevice(place, options.cpu_ranks === undefined ? undefined : "cpu", cudaDevices());
  setThreads(rankThreads(place, process.env));
  output.note(describePlace(place, hostname(), device));
  const openTimeoutMs = options.timeout * 1000;
  const peers = await openPeers(place, { device, openTimeoutMs }).catch(async (thrown) => {
    throw await explained(thrown, place);
  });
  try {
    const checked = await measured(peers, place, device, options, output);
    await peers.barrier();
    if (place.rank === 0) report(checked, output);
  } catch (thrown) {
    await peers.fail(thrown);
    throw thrown;
  } finally {
    await peers[Symbol.asyncDispose]();
  }
}

async function measured(
  peers: Peers,
  place: PlaceOfRank,
  device: Device,
  { data, model, timeout }: Options,
  output: Output,
): Promise<Checked> {
  const own = factsOf(place, device, { address: await ownAddress(place), data, model });
  const ranks = (await peers.tell("facts", own)) as RankFacts[];
  const clocksMs = await measureClocks(peers);
  const hosts = ranks.map(({ host }) => host);
  const isShown = place.rank === 0;
  const links = await measureLinks(peers, place, {
    ...{ hosts, device, timeoutMs: timeout * 1000 },
    onPair: (done, total) => isShown && output.live(`measured ${done} of ${total} pairs of ranks`),
  });
  const isWhole = links.every(({ error }) => error === null);
  const ringBytesPerSecond = isWhole ? await measureRing(peers, device) : 0; // it would hang where a pair does
  return { ranks, links, clocksMs, ringBytesPerSecond };
}

/** Prints everything. Throws UserError if training would fail. */
function report(checked: Checked, output: Output): void {
  const findings = findingsOf(checked);
  const { ranks, links, clocksMs, ringBytesPerSecond } = checked;
  for (const rank of ranks) output.record({ what: "rank", ...rank, clockMs: clocksMs[rank.rank] });
  for (const link of links) output.record({ what: "link", ...link });
  output.record({ what: "ring", bytesPerSecond: ringBytesPerSecond });
  for (const finding of findings) output.record({ what: "finding", ...finding });
  output.answer(checkedText(checked));
  for (const { text, fix } of findings.filter(({ level }) => level === "warning"))
    output.note(`warning: ${text}\n  ${fix.replaceAll("\n", "\n  ")}`);
  const errors = findings.filter(({ level }) => level === "error");
  if (errors.length > 0) throw failure(errors);
  output.answer("The ranks can train together.");
}

function failure(errors: readonly Finding[]): UserError {
  const message = ["These ranks can't train together:", ...errors.map(({ text }) => `  ${text}`)].join("\n");
  return new UserError(message, { fix: [...new Set(errors.map(({ fix }) => fix))].join("\n") });
}

function noRanks(): UsageError {
  return new UsageError("doctor --peers checks ranks, and this process is alone.", {
    fix: `Start it as the training will be started, for example:\n  torchrun --no-python --nproc-per-node 4 lorafit doctor --peers\n  srun lorafit doctor --peers\nOr on this machine alone:  ${commandLine("doctor --peers --gpus all")}`,
  });
}

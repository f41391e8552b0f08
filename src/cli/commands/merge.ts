/** `lorafit merge`: writes a checkpoint with an adapter merged into its weights. */
import { resolveModel } from "../../checkpoint/folder.ts";
import { mergeCheckpoint } from "../../checkpoint/merge.ts";
import { formatBytes } from "../../errors.ts";
import { quoted } from "../../program.ts";
import { chooseDevice, DTYPES, noticeIdleCard } from "../../train/machine/compute.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { stoppable } from "../output/interruption.ts";
import { byteProgress, noteLeftovers, type Output } from "../output/output.ts";

export async function run(options: OptionsOf<"merge">, output: Output): Promise<void> {
  const { output: folder } = options;
  noteLeftovers(folder, output);
  const bytes = await stoppable(output, (signal) => merge(options, output, signal));
  if (bytes === undefined) return;
  output.record({ output: folder, bytes });
  output.answer(`wrote ${folder} (${formatBytes(bytes)})`);
  output.next({ "Talk with it": `chat --model ${quoted(folder)}` });
}

/** Returns the bytes written. */
async function merge(
  { model, adapter, output: folder, shard, dtype, device }: OptionsOf<"merge">,
  output: Output,
  signal: AbortSignal,
): Promise<number> {
  let bytes = 0;
  noticeIdleCard(device, (text, about) => output.caveat(text, about));
  const progress = byteProgress(output);
  await mergeCheckpoint(resolveModel(model), adapter, folder, {
    ...(shard !== undefined && { shardBytes: shard }),
    ...(dtype && { dtype: DTYPES[dtype] }),
    device: chooseDevice(device),
    signal,
    onProgress: (at) => {
      bytes = at.totalBytes;
      progress(at);
    },
  });
  return bytes;
}

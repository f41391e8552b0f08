/** `lorafit merge`: a checkpoint with an adapter in its weights. */
import { resolveModel } from "../../checkpoint/folder.ts";
import { mergeCheckpoint } from "../../checkpoint/merge.ts";
import { formatBytes } from "../../errors.ts";
import { chooseDevice, DTYPES } from "../../train/compute.ts";
import { EXIT_INTERRUPTED, interruptible } from "../interruption.ts";
import type { OptionsOf } from "../options.ts";
import { bar, type Output } from "../report.ts";

export async function run(options: OptionsOf<"merge">, output: Output): Promise<void> {
  const { output: folder } = options;
  const bytes = await interruptible(output, "stopping", (signal) => merge(options, output, signal));
  if (bytes === undefined) {
    output.note("stopped: nothing was written");
    process.exitCode = EXIT_INTERRUPTED;
    return;
  }
  output.record({ output: folder, bytes });
  output.answer(`wrote ${folder} (${formatBytes(bytes)})`);
}

/** Bytes written; undefined where the signal came before the end. */
async function merge(
  { model, adapter, output: folder, shard, dtype, device }: OptionsOf<"merge">,
  output: Output,
  signal: AbortSignal,
): Promise<number | undefined> {
  let bytes = 0;
  try {
    await mergeCheckpoint(resolveModel(model), adapter, folder, {
      ...(shard !== undefined && { shardBytes: shard }),
      ...(dtype && { dtype: DTYPES[dtype] }),
      device: chooseDevice(device),
      signal,
      onNotice: (text) => output.note(text),
      onProgress: ({ doneBytes, totalBytes }) => {
        bytes = totalBytes;
        const share = doneBytes / totalBytes;
        output.live(`${bar(share, 20).padEnd(20)} ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`);
      },
    });
    return bytes;
  } catch (thrown) {
    if (signal.aborted && thrown === signal.reason) return undefined;
    throw thrown;
  }
}

/** `lorafit merge`: a checkpoint with an adapter in its weights. */
import { resolveModel } from "../../checkpoint/folder.ts";
import { mergeCheckpoint } from "../../checkpoint/merge.ts";
import { formatBytes } from "../../errors.ts";
import { chooseDevice, DTYPES } from "../../train/compute.ts";
import type { OptionsOf } from "../options.ts";
import { bar, type Output } from "../report.ts";

export async function run(options: OptionsOf<"merge">, output: Output): Promise<void> {
  const { model, adapter, output: folder, shard, dtype } = options;
  let bytes = 0;
  await mergeCheckpoint(resolveModel(model), adapter, folder, {
    ...(shard !== undefined && { shardBytes: shard }),
    ...(dtype && { dtype: DTYPES[dtype] }),
    device: chooseDevice(options.device),
    onNotice: (text) => output.note(text),
    onProgress: ({ doneBytes, totalBytes }) => {
      bytes = totalBytes;
      const share = doneBytes / totalBytes;
      output.live(`${bar(share, 20).padEnd(20)} ${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`);
    },
  });
  output.record({ output: folder, bytes });
  output.answer(`wrote ${folder} (${formatBytes(bytes)})`);
}

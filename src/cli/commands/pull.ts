/** `lorafit pull`: downloads a model from a hub. */
import { pull } from "../../checkpoint/download/hub.ts";
import { formatBytes } from "../../errors.ts";
import { quoted } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { bar, formatDuration, type Output, Pace } from "../output/output.ts";

export async function run(options: OptionsOf<"pull">, output: Output): Promise<void> {
  const { repository, from, revision, folder } = options;
  const pace = new Pace();
  const target = await pull(repository, {
    from,
    ...(revision !== undefined && { revision }),
    ...(folder !== undefined && { folder }),
    onProgress: ({ file, doneBytes, totalBytes }) => {
      const share = doneBytes / totalBytes;
      const left = formatDuration(pace.leftMs(share));
      const amount = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
      output.live(`${bar(share, 20).padEnd(20)} ${amount}  ${left} left  ${file}`);
    },
  });
  output.record({ folder: target });
  output.answer(target);
  const model = folder === undefined ? repository : quoted(folder);
  output.next({ "Train on it": `train --model ${model} --data data.txt` });
}

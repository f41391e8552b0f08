/** `lorafit pages`: a data set of synthetic document pages. */
import { requireNewFolder } from "../../checkpoint/disk.ts";
import { writePages } from "../../data/pages.ts";
import type { OptionsOf } from "../options.ts";
import type { Output } from "../report.ts";

export async function run(options: OptionsOf<"pages">, output: Output): Promise<void> {
  const { output: folder, eval_count: evalCount, ...pages } = options;
  requireNewFolder(folder);
  const files = await writePages(folder, {
    ...pages,
    evalCount,
    onProgress: (done, total) => output.live(`page ${done} of ${total}`),
  });
  output.record({ output: folder, pages: options.count, ...files });
  output.answer(`wrote ${options.count} pages: ${Object.values(files).join(", ")}`);
}

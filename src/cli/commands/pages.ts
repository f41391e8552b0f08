/** `lorafit pages`: writes a data set of synthetic document pages. */
import { basename, join } from "node:path";
import { cannotWrite } from "../../checkpoint/faults.ts";
import { openAsideFolder, requireNewFolder } from "../../checkpoint/files/disk.ts";
import { plural } from "../../errors.ts";
import { type PagesOptions, writePages } from "../../pages/writePages.ts";
import { quoted } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { stoppable } from "../output/interruption.ts";
import { countProgress, noteLeftovers, type Output } from "../output/output.ts";

export async function run(options: OptionsOf<"pages">, output: Output): Promise<void> {
  const { output: folder, eval_count: evalCount, ...pages } = options;
  requireNewFolder(folder);
  noteLeftovers(folder, output);
  const onProgress = countProgress(output, "page", options.count + evalCount);
  const files = await stoppable(output, (signal) =>
    writeWhole(folder, { ...pages, evalCount, onProgress, signal }),
  );
  if (!files) return;
  output.record({ output: folder, pages: options.count, ...files });
  output.answer(`wrote ${plural(options.count, "page")}: ${Object.values(files).join(", ")}`);
  output.next({
    "Look at a page": `preview --image ${quoted(join(folder, "images", "page-0001.png"))}`,
    "Train on them": `train --model <folder> --data ${quoted(files.data)}`,
  });
}

/** Writes into a hidden folder beside, which takes the name once it is complete. */
async function writeWhole(folder: string, options: PagesOptions): ReturnType<typeof writePages> {
  const aside = openAsideFolder(folder);
  try {
    const { data, evalData } = await writePages(aside.folder, options);
    aside.commit();
    const inFolder = (path: string): string => join(folder, basename(path));
    return { data: inFolder(data), ...(evalData !== undefined && { evalData: inFolder(evalData) }) };
  } catch (cause) {
    throw cannotWrite(folder, cause);
  } finally {
    aside.discard();
  }
}

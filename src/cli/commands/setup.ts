/** `lorafit setup`: libtorch and the engine. */
import { findLibtorch } from "../../torch/libtorch.ts";
import { setupEngine } from "../../torch/setup.ts";
import type { OptionsOf } from "../options.ts";
import type { Output } from "../report.ts";

export async function run({ cuda }: OptionsOf<"setup">, output: Output): Promise<void> {
  const asked = cuda || process.env.LORAFIT_CUDA === "1";
  await setupEngine({ cuda: asked, log: (line) => output.note(line) });
  const { folder, version, cuda: hasCuda } = findLibtorch();
  output.record({ folder, version, cuda: hasCuda });
}

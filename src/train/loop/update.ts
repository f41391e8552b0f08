/**
 * The optimizer's update, which one lack of memory does not end: it goes on where it stood, in smaller tiles, and at last without the copy
 * of the gradients. Nothing is updated twice, and a tile's size is no matter of the result.
 */
import { formatBytes } from "../../errors.ts";
import { type AdamW, beginUpdate, continueUpdate, normOfGradients } from "../../step/optimizer/optimizer.ts";
import type { GradientScale } from "../../step/optimizer/updateGate.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { keep, scope, type Tensor } from "../../torch/tensor.ts";
import { freeCache } from "../machine/compute.ts";
import type { Run } from "./openRun.ts";
import { ranOut } from "./stopErrors.ts";

/** By so much tiles are cut; the least takes some 30 KiB. */
const TILE_PARTS = 8;
const LEAST_TILE_ELEMENTS = 2 ** 10;

/** One step of the optimizer. Throws UserError where not even the smallest tile fits. */
export function updateWithin(run: Run, learningRate: number, gradientScale: () => GradientScale): void {
  using update = insisting(run, () => scope(() => beginUpdate(run.optimizer, learningRate, gradientScale())));
  insisting(run, () => continueUpdate(run.optimizer, update));
}

/** L2 norm of all gradients of a step, (), for the caller to dispose. Throws UserError as the update does. */
export function normWithin(run: Run): Tensor {
  return insisting(run, () => keep(normOfGradients(run.optimizer.parameters)));
}

function insisting<T>(run: Run, body: () => T): T {
  const subject = `The update of step ${run.state.step + 1}`;
  for (;;) {
    try {
      return body();
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
      freeCache(run.model.device);
      const given = giveUp(run);
      if (!given) throw ranOut(subject, thrown, run);
      run.notice(`${subject}: ${thrown.message}. It goes on ${given}, with the same result.`);
    }
  }
}

/** Gives up the next thing that takes memory in an update, and says what; undefined where nothing is left. */
function giveUp({ optimizer, backup }: Run): string | undefined {
  const { tileElements } = optimizer;
  if (tileElements > LEAST_TILE_ELEMENTS) return inSmallerTiles(optimizer);
  return backup.release()
    ? "without the copy of the gradients, which the next micro-batch makes anew"
    : undefined;
}

function inSmallerTiles(optimizer: AdamW): string {
  optimizer.tileElements = Math.max(LEAST_TILE_ELEMENTS, optimizer.tileElements / TILE_PARTS);
  return `in tiles of ${formatBytes(4 * optimizer.tileElements)}`;
}

/**
 * The optimizer's update. If memory runs out, it continues where it stopped: in smaller tiles, and at last
 * without the copy of the gradients. No element is updated twice, and the size of a tile does not change the
 * result.
 */
import { formatBytes } from "../../errors.ts";
import { type AdamW, beginUpdate, continueUpdate, normOfGradients } from "../../step/optimizer/optimizer.ts";
import type { GradientScale } from "../../step/optimizer/updateGate.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { keep, scope, type Tensor } from "../../torch/tensor.ts";
import { freeCache } from "../machine/compute.ts";
import type { Run } from "./run.ts";
import { ranOut } from "./stopErrors.ts";

/** A tile is cut into so many; the smallest needs some 30 KiB. */
const TILE_PARTS = 8;
const LEAST_TILE_ELEMENTS = 2 ** 10;

/** The groups of a run that an update uses: no plan. */
type Updating = Omit<Run, "planned">;

/** Takes one step of the optimizer. Throws UserError if not even the smallest tile fits. */
export function updateWithin(run: Updating, learningRate: number, gradientScale: () => GradientScale): void {
  const { optimizer } = run.loaded;
  using update = insisting(run, () => scope(() => beginUpdate(optimizer, learningRate, gradientScale())));
  insisting(run, () => continueUpdate(optimizer, update));
}

/**
 * Returns the L2 norm of all gradients of a step, (), for the caller to dispose. Throws UserError as the
 * update does.
 */
export function normWithin(run: Updating): Tensor {
  return insisting(run, () => keep(normOfGradients(run.loaded.optimizer.parameters)));
}

function insisting<T>(run: Updating, body: () => T): T {
  const step = run.progress.state.step + 1;
  const subject = `The update of step ${step}`;
  for (;;) {
    try {
      return body();
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
      freeCache(run.loaded.model.device);
      const concession = concede(run);
      if (!concession) throw ranOut(subject, thrown, run);
      const text = `${subject}: ${thrown.message}. It continues ${concession}, with the same result.`;
      const { message: cause, pool, requestedBytes } = thrown;
      run.facts.say({
        fact: "leaner",
        ...{ step, subject, cause, pool, requestedBytes, concessions: [concession], text },
      });
    }
  }
}

/**
 * Frees or saves the next thing that needs memory in an update, and returns what in words; undefined if
 * nothing is left.
 */
function concede({ loaded: { optimizer, backup } }: Pick<Run, "loaded">): string | undefined {
  const { tileElements } = optimizer;
  if (tileElements > LEAST_TILE_ELEMENTS) return inSmallerTiles(optimizer);
  return backup.release()
    ? "without the copy of the gradients, which the next micro-batch makes again"
    : undefined;
}

function inSmallerTiles(optimizer: AdamW): string {
  optimizer.tileElements = Math.max(LEAST_TILE_ELEMENTS, optimizer.tileElements / TILE_PARTS);
  return `in tiles of ${formatBytes(4 * optimizer.tileElements)}`;
}

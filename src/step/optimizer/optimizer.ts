/**
 * AdamW as torch has it, over the LoRA factors: decoupled decay, bias corrections, epsilon outside the root.
 * Everything happens in place and in tiles, so that no step holds a second copy of anything. The state lies
 * on the device, or on the host and visits the device tile by tile.
 */
import { FACTORS, type Lora, layerOfModule } from "../../models/lora.ts";
import { type Fetch, type Place, startFetch } from "../../models/places.ts";
import { forEachPart } from "../../nn/rows.ts";
import { type PendingCopy, startCopy } from "../../torch/copies.ts";
import { stack } from "../../torch/create.ts";
import { category } from "../../torch/device.ts";
import { Owner } from "../../torch/owner.ts";
import { type Device, dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { isAbridging, repeated } from "../../torch/trace.ts";
import type { AdamWOptions } from "./adamW.ts";
import type { LayerGradient } from "./gradientSum.ts";
import {
  type CodeTables,
  codeTables,
  flatSpan,
  isCodes,
  type Moment,
  type Moments,
  momentSpan,
  type Precision,
  spansOf,
  zeroMoments,
} from "./moments.ts";
import { type Gate, type GradientScale, gateOf } from "./updateGate.ts";
import { type Parameter, type Tile, type TileState, updateTile_ } from "./updateTile.ts";

/** Where and how the moments are held. */
export interface StateOptions {
  place?: Place;
  precision?: Precision;
  /** Elements that are updated at a time: a multiple of 256. */
  tileElements?: number;
}

export interface AdamW {
  options: AdamWOptions;
  parameters: Parameter[];
  /** In the order of the parameters. */
  moments: Moments[];
  place: Place;
  precision: Precision;
  /** Where moments are in 8 bits. */
  tables: CodeTables | undefined;
  tileElements: number;
  stepsDone: number;
}

/**
 * 1 MiB of float32: long enough to keep a device busy. An update needs memory for a handful of such tiles.
 */
const TILE_ELEMENTS = 2 ** 18;

/** An optimizer before its first step; the caller disposes it with disposeAdamW. */
export function createAdamW(
  parameters: Parameter[],
  options: AdamWOptions,
  { place = "device", precision = "fp32", tileElements = TILE_ELEMENTS }: StateOptions = {},
): AdamW {
  const device = deviceOf(parameters);
  const { tables, moments } = category("optimizerState", () =>
    keep(
      scope(() => {
        const tables = precision === "8bit" ? codeTables(device) : undefined;
        const newMoments = ({ value }: Parameter): Moments => zeroMoments(value, { device, place, tables });
        return { tables, moments: parameters.map(newMoments) };
      }),
    ),
  );
  return { options, parameters, moments, place, precision, tables, tileElements, stepsDone: 0 };
}

export function disposeAdamW({ moments, tables }: AdamW): void {
  dispose([moments, tables]);
}

/** The factors of a LoRA made with gradients, in the order of its modules. */
export function loraParameters(lora: Lora): Parameter[] {
  return [...lora.modules].flatMap(([name, module]) =>
    FACTORS.map((factor): Parameter => {
      const { value, master, gradient } = module[factor];
      if (!gradient) throw new Error(`the LoRA of ${name} was made without gradients`);
      return {
        name: `${name}.lora_${factor.toUpperCase()}`,
        ...(master ? { value: master, copy: value } : { value }),
        gradient,
      };
    }),
  );
}

/** In the order of the parameters. */
export function gradientsOf(parameters: readonly Parameter[]): Tensor[] {
  return parameters.map(({ gradient }) => gradient);
}

/** Returns the gradients with the layers that they are of. */
export function layerGradientsOf(parameters: readonly Parameter[]): LayerGradient[] {
  return parameters.map(({ name, gradient }) => ({ gradient, layer: layerOfModule(name) }));
}

/** L2 norm of all gradients together; NaN or Infinity where any of them is. */
export function gradientNorm(parameters: readonly Parameter[]): number {
  return scope(() => normOfGradients(parameters).item());
}

/**
 * Returns the norm as a tensor, without waiting for it. Gradients in half precision are widened a tile at a
 * time.
 */
export function normOfGradients(parameters: readonly Parameter[]): Tensor {
  return scope(() => {
    const norms = parameters.flatMap(({ gradient }) => {
      if (gradient.dtype !== "bfloat16") return gradient.linalgVectorNorm();
      return spansOf(gradient, TILE_ELEMENTS).map((span) =>
        scope(() => flatSpan(gradient, span).to({ dtype: "float32" }).linalgVectorNorm()),
      );
    });
    return stack(norms).linalgVectorNorm();
  });
}

/** One step with the gradients times `gradientScale`, which are zero afterwards. */
export function stepAdamW(optimizer: AdamW, learningRate: number, gradientScale: GradientScale): void {
  using update = beginUpdate(optimizer, learningRate, gradientScale);
  continueUpdate(optimizer, update);
}

/** A step under way. */
export interface Update extends Disposable {
  learningRate: number;
  gate: Gate;
  /** Elements that are updated, the parameters one after the other. */
  doneElements: number;
}

/** A step of which nothing is done yet; behind a closed gate it counts all the same. */
export function beginUpdate(optimizer: AdamW, learningRate: number, gradientScale: GradientScale): Update {
  const { parameters } = optimizer;
  const like = { dtype: parameters[0]?.value.dtype ?? "float32", device: deviceOf(parameters) };
  const gate = keep(gateOf(gradientScale, like));
  optimizer.stepsDone += 1;
  return { learningRate, gate, doneElements: 0, [Symbol.dispose]: () => dispose(gate) };
}

/**
 * Does the rest of a step. If it throws OutOfMemoryError, the next call continues where it stopped, with
 * tiles of any size.
 */
export function continueUpdate(optimizer: AdamW, update: Update): void {
  const tiles = tilesAfter(update.doneElements, optimizer);
  const { learningRate, gate } = update;
  const change = (tile: Tile, state: TileState): void =>
    updateTile_(tile, state, { ...optimizer, learningRate, gate });
  const done = ({ endElements }: Tile): void => {
    update.doneElements = endElements;
  };
  const onDevice = (tile: Tile): void => {
    scope(() => change(tile, stateOf(tile)));
    done(tile);
  };
  if (optimizer.place === "device") forEachPart(tiles, kindOfTile, onDevice);
  else updateThroughDevice(tiles, deviceOf(optimizer.parameters), change, done);
}

function tilesAfter(doneElements: number, { parameters, moments, tileElements }: AdamW): Tile[] {
  let before = 0;
  return parameters.flatMap((parameter, index) => {
    const start = before;
    before += parameter.value.numel;
    return spansOf(parameter.value, tileElements, Math.max(0, doneElements - start)).map((span) => ({
      ...{ parameter, span, moments: moments[index]! },
      endElements: start + span.start + span.elements,
    }));
  });
}

function kindOfTile({ span, moments }: Tile): string {
  return `${span.elements} ${isCodes(moments.mean)}`;
}

/** Views. */
function stateOf({ parameter: { value, copy }, moments, span }: Tile): TileState {
  return {
    value: copy && flatSpan(value, span),
    mean: momentSpan(moments.mean, span),
    square: momentSpan(moments.square, span),
  };
}

/** One tile is fetched while the one before it is updated, and the one before that goes back. */
function updateThroughDevice(
  tiles: readonly Tile[],
  device: Device,
  change: (tile: Tile, state: TileState) => void,
  done: (tile: Tile) => void,
): void {
  using owner = new Owner();
  const visits = visitsOf(tiles);
  const fetch = ({ tile, times }: Visit): Fetch<TileState> =>
    repeated(times, () =>
      owner.own(scope(() => startFetch(stateOf(tile), "host", device, "optimizerState"))),
    );
  let next = visits[0] && fetch(visits[0]);
  let returning: PendingCopy[] = [];
  for (const [index, { tile, times }] of visits.entries()) {
    const fetched = next!;
    const following = visits[index + 1];
    next = following && fetch(following);
    const state = fetched.wait();
    repeated(times, () => change(tile, state));
    finish(returning, owner);
    returning = repeated(times, () => scope(() => startReturn(stateOf(tile), state)));
    for (const copy of returning) owner.own(copy);
    done(tile); // whatever comes now, the owner waits for these copies
    owner.free(fetched); // its memory stays until the copies are waited for
  }
  finish(returning, owner); // the host doesn't: whoever saves what came back does
}

interface Visit {
  tile: Tile;
  /** How many tiles it stands for: itself, but in an abridged plan. */
  times: number;
}

/** Alike tiles in a row that a plan computes: one is fetched, one computed and one goes back at a time. */
const ALIKE_IN_A_ROW = 3;

/**
 * Returns the tiles that a plan computes. In an abridged plan, three of more tiles in a row that are alike
 * stand for all, the first of each kind; others are like one of them.
 */
function visitsOf(tiles: readonly Tile[]): Visit[] {
  if (!isAbridging()) return tiles.map((tile) => ({ tile, times: 1 }));
  const visits = withoutLongRuns(tiles);
  const kinds = visits.map(({ tile }) => kindOfTile(tile));
  const seen = new Set<string>();
  let length = 0;
  kinds.forEach((_, index) => {
    const three = kinds.slice(Math.max(0, index - 1), index + 2).join();
    if (!seen.has(three)) length = index + 2;
    seen.add(three);
  });
  visits.slice(length).forEach(({ times }, index) => {
    visits[kinds.indexOf(kinds[length + index]!)]!.times += times;
  });
  return visits.slice(0, length);
}

function withoutLongRuns(tiles: readonly Tile[]): Visit[] {
  const visits: Visit[] = [];
  let [kindBefore, inARow] = ["", 0];
  for (const tile of tiles) {
    const kind = kindOfTile(tile);
    inARow = kind === kindBefore ? inARow + 1 : 1;
    kindBefore = kind;
    if (inARow > ALIKE_IN_A_ROW) visits.at(-1)!.times += 1;
    else visits.push({ tile, times: 1 });
  }
  return visits;
}

function startReturn(home: TileState, visitor: TileState): PendingCopy[] {
  const targets = tensorsOf(home);
  return tensorsOf(visitor).map((tensor, index) => startCopy(targets[index]!, tensor));
}

function tensorsOf({ value, mean, square }: TileState): Tensor[] {
  const ofMoment = (moment: Moment): Tensor[] => (isCodes(moment) ? [moment.codes, moment.absmax] : [moment]);
  return [...(value ? [value] : []), ...ofMoment(mean), ...ofMoment(square)];
}

function finish(copies: readonly PendingCopy[], owner: Owner): void {
  for (const copy of copies) {
    copy.wait();
    owner.free(copy);
  }
}

function deviceOf(parameters: readonly Parameter[]): Device {
  return parameters[0]?.gradient.device ?? "cpu";
}

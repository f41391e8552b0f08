/**
 * A model family as two records: facts that are known without the engine (facts.ts), and the family, which
 * includes them (families.ts). Other code reaches a family's folder only through these two tables. It knows
 * no tensor names and no packed weights. A picture's layout and pixels belong to its form (data/pictures), a
 * prompt's to the form of dialogues (data/samples): a family chooses among them. docs/architecture.md,
 * "Adding a family", lists what a folder needs.
 */

import type { AdapterKeys, ModulePrefix } from "../checkpoint/adapter/moduleNames.ts";
import type { ModelFolder } from "../checkpoint/folder.ts";
import type { PictureLayout } from "../data/pictures/form.ts";
import type { PictureRules } from "../data/pictures/forms.ts";
import type { Tokenizer } from "../data/text/tokenizer.ts";
import type { Positions, RopeForm } from "../nn/attention/rope.ts";
import type { FrozenMatrix } from "../nn/frozen/frozen.ts";
import type { Plora } from "../nn/plora.ts";
import type { Rows } from "../nn/rows.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import type { Tensor } from "../torch/tensor.ts";
import type { PlacedRows } from "./positions.ts";
import type { Base, BasePart } from "./precision/bases.ts";

/** The sizes of a decoder. A family's own configuration adds what only the family reads. */
export interface ModelConfig extends RopeForm {
  /** The family's name in FAMILIES. */
  family: string;
  hidden: number;
  layers: number;
  /** Query heads; their dims, headDim each, need not add up to hidden. */
  heads: number;
  kvHeads: number;
  ffn: number;
  vocab: number;
  rmsEps: number;
  /** Whether queries and keys have an RMS norm over a head's dims, before they are rotated; default false. */
  hasHeadNorms?: boolean;
  /** Whether the embeddings are the output head too; default false. */
  tiedHead?: boolean;
  bosId: number;
  /** Ids that end an answer, if there is no tokenizer to ask. */
  eosIds: readonly number[];
  /** Fewest pixels that a picture is scaled to, if the user says; default: as the family's rules say. */
  minPixels?: number;
}

/** A linear of a decoder layer, by its name within the layer: "attention.wqkv". */
export type LinearName = string;

export interface LinearSpec<Config extends ModelConfig = ModelConfig> {
  /** [rows, columns]: the linear maps columns features to rows features. */
  shape(config: Config): readonly [rows: number, columns: number];
  /** Whether the linear has a bias, (rows): a tensor named after the linear, "bias". */
  bias(config: Config): boolean;
  /** A low-rank branch of the model's own, which acts on the rows of pictures. */
  branch?: {
    /** Names of its factors, after the linear's own. */
    names: { a: string; b: string };
    of(config: Config): { rank: number; scale: number };
  };
}

/** Rows of a linear whose outputs are a kv head's queries, its key or its value. */
export interface QkvPart {
  linear: LinearName;
  rows: Rows;
  as: "q" | "k" | "v";
}

/** The linears of a decoder layer that have one task each. */
export type LinearRole = "output" | "gate" | "up" | "down";

export interface TensorSpec {
  shape: readonly number[];
  /** The part of the model that the tensor belongs to. */
  part: "embeddings" | "layer" | "norm" | "head" | "vision";
  /** Index of the layer, of the decoder or of the vision tower. */
  layer?: number;
  /** The linear whose weight it is, by its name within the layer. */
  linear?: LinearName;
  /** The option that sets its precision, for a matrix that can be held in fewer bits. */
  precision?: BasePart;
}

/** Official names of the tensors that every decoder has. */
export interface DecoderNames {
  embeddings: string;
  norm: string;
  head: string;
  /** After the layer's prefix. */
  attentionNorm: string;
  ffnNorm: string;
  /** Norms of queries and keys, if models of the family have them. */
  headNorms?: { query: string; key: string };
  /** Returns the beginning of the names of a layer's tensors. */
  layerPrefix(layer: number): string;
}

/**
 * Reads weights by their official names to one place. folded: a branch that is added to the matrix while it
 * is read.
 */
export interface PlacedReader {
  tensor(name: string): Tensor;
  matrix(name: string, base: Base | undefined, folded?: Plora): FrozenMatrix;
}

export interface EncodeOptions {
  dtype: DType;
  device: Device;
  /** Units of a picture that are encoded at a time. */
  visionBatch: number;
  /**
   * The units to encode, a range of the picture's. Rows of other units are left alone; rows of no unit, such
   * as separators, belong to the first unit. Default: all.
   */
  units?: Rows | undefined;
  /**
   * Room for the features that the decoder's first layers add, (tokens, C) for each; default: they are not
   * computed. Only for models with deepstackLayers.
   */
  deepstack?: readonly Tensor[] | undefined;
}

/** The weights that make image tokens of pictures: a record of tensors that only its family reads. */
export type PictureWeights = object;

/**
 * The largest sizes that a model was trained with. Larger ones can be computed, but nobody knows how well the
 * model does there.
 */
export interface TrainedSizes {
  /** Tokens of a sample. */
  maxLength: number;
  /** Limit of the tokens of a picture, as the form of its pictures takes it. */
  pictureLimit: number;
}

/** How PEFT names the modules of a family's decoder. */
export interface PeftNames {
  prefix: Record<AdapterKeys, ModulePrefix>;
  /** Whether linears of the tower end in the same names, so that only a pattern can name the decoder's. */
  isSharedWithTower: boolean;
}

/** How a family makes image tokens of pictures. */
export interface PictureTower<Config extends ModelConfig = ModelConfig> {
  /** Reads the weights that make image tokens; base: the precision of their linears. */
  assemble(config: Config, reader: PlacedReader, base: Base | undefined): PictureWeights;
  /**
   * Whether `encodeInto` can encode some units without the others, so that ranks share a picture. Otherwise a
   * picture is one rank's, and `units` is never given. Default: false.
   */
  unitsApart?: boolean;
  /** How many decoder layers, from the first on, add features of pictures (deepstack.ts). Default: 0. */
  deepstackLayers?(config: Config): number;
  /**
   * Writes the image tokens of a picture into their rows, (tokens, C), with weights on the device. Yields
   * with no scope open.
   */
  encodeInto(
    rows: Tensor,
    weights: PictureWeights,
    config: Config,
    picture: PictureLayout,
    options: EncodeOptions,
  ): Generator<{ done: number; total: number }, void>;
}

/** The part of a family that is known without the engine. */
export interface FamilyFacts<Config extends ModelConfig = ModelConfig> {
  /** Name of its models in messages. */
  title: string;
  /** Returns whether a checkpoint's config.json is of this family. */
  recognises(config: Record<string, unknown>): boolean;
  /** Models that can be planned without a checkpoint. */
  presets: Record<string, Config>;
  /** Returns the name of a preset's model in messages, and its repository on the Hugging Face hub. */
  published(preset: string): { name: string; repository: string };
  trained(config: Config): TrainedSizes;
  /** The linears of a decoder layer, each a LoRA target, in their order everywhere. */
  linearNames: readonly LinearName[];
  /** The official LoRA targets: a regular expression that a module's name must match somewhere. */
  targets: string;
  /** How a model lays out pictures, decodes and transforms them. */
  pictureRules(config: Config): PictureRules;
}

export interface Family<Config extends ModelConfig = ModelConfig> extends FamilyFacts<Config> {
  /** Reads the sizes of the model. Throws UserError if the folder's files do not agree with one another. */
  readConfig(folder: ModelFolder): Config;
  /**
   * Loads the tokenizer in a folder, with the family's form of dialogues; undefined if the folder has no
   * tokenizer.
   */
  tokenizer(folder: string): Promise<Tokenizer | undefined>;
  /** Every tensor of a checkpoint by its official name. */
  tensors(config: Config): Map<string, TensorSpec>;
  names: DecoderNames;
  /** Returns the official name of a tensor that some checkpoints store under another; default: the same. */
  officialName?(stored: string): string;
  /** Every name of linearNames. */
  linears: Record<LinearName, LinearSpec<Config>>;
  /** Attention's output linear, and those of the gated MLP. */
  roles: Record<LinearRole, LinearName>;
  /**
   * Returns the rows of linears that make a kv head's queries, key and value, whether these are packed in one
   * linear or not.
   */
  qkv(config: Config, kvHead: number): readonly QkvPart[];
  /** Returns the positions of rows; countedPositions counts them within each sample. */
  positions(rows: PlacedRows): Positions;
  /** Whether the repetition penalty counts the prompt's ids, as transformers does; default false. */
  penalisesPrompt?: boolean;
  pictures: PictureTower<Config>;
  peft: PeftNames;
  /** Modules that a checkpoint quantised in bitsandbytes' form names as left in full. */
  modulesInFull: Record<"visionBase" | "headBase" | "branches", readonly string[]>;
}

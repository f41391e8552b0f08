/**
 * `lorafit tiny`: writes a small random checkpoint whose tokenizer knows the words of the synthetic pages.
 */
import { openAsideFolder, requireNewFolder } from "../../checkpoint/files/disk.ts";
import { trainBpe } from "../../data/text/tinyBpe.ts";
import { trainTokenizer } from "../../data/text/tinyTokenizer.ts";
import { formatBytes, formatCount } from "../../errors.ts";
import { FAMILY_FACTS, type FamilyName } from "../../models/facts.ts";
import { tensorsOf } from "../../models/families.ts";
import type { ModelConfig } from "../../models/family.ts";
import { INTERNVL_ADDED_TOKENS, tinyInternVlConfig, writeTinyInternVl } from "../../models/internvl/tiny.ts";
import { tinyQwenConfig, writeTinyQwen } from "../../models/qwen2_5_vl/tiny.ts";
import { tinyQwen3Config, writeTinyQwen3 } from "../../models/qwen3_vl/tiny.ts";
import { type TinyOptions, tinyConfig, writeTinyCheckpoint } from "../../models/xcomposer2/tiny.ts";
import { pageDice } from "../../pages/dice.ts";
import { drawForm } from "../../pages/form.ts";
import { drawReceipts } from "../../pages/receipts.ts";
import { drawTable } from "../../pages/table.ts";
import { quoted } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { noteLeftovers, type Output } from "../output/output.ts";

/** Pages whose texts train the tokenizer: enough to have every word that pages are made of. */
const TEXT_PAGES = 60;
const TEXT_PAGE_SIZE = { width: 3840, height: 2160 };

/** How each kind of model writes a tiny checkpoint, with a tokenizer trained on texts. */
export const TINY_FAMILIES = {
  "xcomposer2-4khd": xcomposer("4khd-7b", "--hd-num 1"),
  xcomposer2_5: xcomposer("xcomposer2.5-7b", "--hd-num 1"),
  xcomposer2_vl: xcomposer("xcomposer2-vl-7b", "--max-tiles 1"),
  qwen2_5_vl: {
    presets: presetsOf("qwen2_5_vl"),
    limit: "--max-pixels 200704",
    config: tinyQwenConfig,
    write: (folder, tiny, texts) => writeTinyQwen(folder, tiny, trainBpe(texts, { vocabSize: tiny.vocab })),
  },
  internvl: {
    presets: presetsOf("internvl"),
    limit: "--max-tiles 1",
    config: tinyInternVlConfig,
    write: (folder, tiny, texts) =>
      writeTinyInternVl(
        folder,
        tiny,
        trainBpe(texts, { vocabSize: tiny.vocab, addedTokens: INTERNVL_ADDED_TOKENS }),
      ),
  },
  qwen3_vl: {
    presets: presetsOf("qwen3_vl"),
    limit: "--max-pixels 262144",
    config: tinyQwen3Config,
    write: (folder, tiny, texts) => writeTinyQwen3(folder, tiny, trainBpe(texts, { vocabSize: tiny.vocab })),
  },
} as const satisfies Record<string, TinyFamily>;

function presetsOf(family: FamilyName): string[] {
  return Object.keys(FAMILY_FACTS[family].presets);
}

function xcomposer(preset: NonNullable<TinyOptions["preset"]>, limit: string): TinyFamily {
  return {
    presets: [preset],
    limit,
    config: (tiny) => tinyConfig({ ...tiny, preset }),
    write: (folder, tiny, texts) =>
      writeTinyCheckpoint(folder, { ...tiny, preset }, trainTokenizer(texts, { vocabSize: tiny.vocab })),
  };
}

export type TinyFamilyName = keyof typeof TINY_FAMILIES;

export interface TinyFamily {
  /** The published models that it stands for. */
  presets: readonly string[];
  /** A limit of pictures that trains quickly. */
  limit: string;
  config(tiny: TinyOptions): ModelConfig;
  write(folder: string, tiny: TinyOptions, texts: string[]): void;
}

export async function run(options: OptionsOf<"tiny">, output: Output): Promise<void> {
  const tiny = tinyOptions(options);
  noteLeftovers(options.output, output);
  const family: TinyFamily = TINY_FAMILIES[options.family];
  writeWhole(options.output, tiny, family);
  const parameters = parametersOf(family.config(tiny));
  const bytes = parameters * (tiny.dtype === "float32" ? 4 : 2);
  output.record({ output: options.output, parameters, bytes });
  output.answer(`wrote ${options.output}: ${formatCount(parameters)} parameters, ${formatBytes(bytes)}`);
  output.next({
    "Draw pages to train it on": "pages --output pages",
    "Train it": `train --model ${quoted(options.output)} --data pages/data.txt ${family.limit}`,
  });
}

/** Writes into a hidden folder beside, which takes the name once it is complete. */
function writeWhole(folder: string, tiny: TinyOptions, { config, write }: TinyFamily): void {
  config(tiny); // refuses wrong sizes before it looks at the folder
  requireNewFolder(folder);
  const aside = openAsideFolder(folder);
  try {
    write(aside.folder, tiny, pageTexts());
    aside.commit();
  } finally {
    aside.discard();
  }
}

function tinyOptions(options: OptionsOf<"tiny">): TinyOptions {
  const { hidden, layers, heads, ffn, vocab, seed } = options;
  return {
    ...{ hidden, layers, heads, ffn, vocab, seed },
    kvHeads: options.kv_heads,
    ploraRank: options.plora_rank,
    visionHidden: options.vision_hidden,
    visionLayers: options.vision_layers,
    visionHeads: options.vision_heads,
    visionFfn: options.vision_ffn,
    dtype: options.dtype === "fp32" ? "float32" : "bfloat16",
    shardBytes: options.shard,
  };
}

function parametersOf(config: ModelConfig): number {
  const tensors = [...tensorsOf(config).values()];
  return tensors.reduce((sum, { shape }) => sum + shape.reduce((product, extent) => product * extent, 1), 0);
}

/** Returns questions about pages, and their answers. */
function pageTexts(): string[] {
  return Array.from({ length: TEXT_PAGES }, (_, page) =>
    [drawForm, drawReceipts, drawTable].flatMap((draw) => draw(pageDice(0, page), TEXT_PAGE_SIZE).questions),
  )
    .flat()
    .flatMap(({ question, answer }) => [question, answer]);
}

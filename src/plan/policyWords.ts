/**
 * Describes policies in the words of people who train models: what lies elsewhere, what is split into parts,
 * what is computed again.
 */
import { formatCount } from "../errors.ts";
import type { ModelConfig } from "../models/family.ts";
import type { Place } from "../models/places.ts";
import type { BasePart } from "../models/precision/bases.ts";
import { type LayerPolicy, layerPolicies, type Policy, placesOf } from "../step/policy.ts";
import { MOST_MLP_TILE_TOKENS } from "./ladder.ts";

/** The way in which memory is saved or used. */
type Manner = "elsewhere" | "frozen" | "shared" | "parts" | "again" | "rounded" | "speed";

interface Concession {
  manner: Manner;
  what: string;
  /** Words that a short line leaves out. */
  detail?: string;
  /**
   * The frozen part of the base model that this is about, if any. It may be mapped from the checkpoint's
   * files.
   */
  part?: BasePart;
}

/** Returns what a policy does about one thing; undefined if it makes no concession there. */
type Aspect = (policy: Policy, layers: readonly LayerPolicy[]) => Concession | undefined;

/** Aspects in the order in which they are printed: the largest first. */
const ASPECTS: readonly Aspect[] = [
  (policy) => notResident(placesOf(policy).layers, "base", "frozen weights", LAYER_DETAILS),
  ({ boundaryAhead }, layers) => {
    const what = `inputs of ${countOf(layers, ({ boundary }) => boundary === "host")}`;
    const detail = `until the backward pass${boundaryAhead ? ", copied back one layer early" : ""}`;
    return onlyIf(
      layers.some(({ boundary }) => boundary === "host"),
      "elsewhere",
      what,
      detail,
    );
  },
  ({ optimizer }) => onlyIf(optimizer.place === "host", "elsewhere", "optimizer state"),
  ({ embeddings }) => notResident(embeddings, "headBase", "embeddings"),
  ({ vision }) => notResident(vision, "visionBase", "vision tower"),
  ({ head }) => notResident(head, "headBase", "output head"),
  ({ headGroups }) => onlyIf(headGroups > 1, "parts", `attention in ${headGroups} parts`),
  ({ mlpTileTokens: tokens }) =>
    onlyIf(tokens < MOST_MLP_TILE_TOKENS, "parts", `the MLP in slices of ${formatCount(tokens)} tokens`),
  (_, layers) => recomputedValues(layers),
  (_, layers) =>
    onlyIf(
      layers.some(({ boundary }) => boundary === "none"),
      "again",
      `inputs of ${countOf(layers, ({ boundary }) => boundary === "none")}`,
      "from the layers before",
    ),
  ({ attentionInput }) =>
    onlyIf(attentionInput === "recomputed", "again", "attention's input", "for each part"),
  ({ gradients }) => onlyIf(gradients === "bf16", "rounded", "LoRA gradients", "16 bits"),
  ({ optimizer }) =>
    onlyIf(
      optimizer.precision === "8bit",
      "rounded",
      "the optimizer's moments",
      "8 bits, so steps differ a little",
    ),
  (policy) => {
    const [what, detail] = PLORA_WORDS[policy.plora];
    return onlyIf(what !== "", "speed", what, detail);
  },
];

const PLORA = "the model's own adapter for image tokens";

const PLORA_WORDS: Record<Policy["plora"], readonly [what: string, detail: string]> = {
  apart: ["", ""],
  merged: ["PLoRA merged", `${PLORA} is added into a copy of the layer's weights`],
  folded: [
    "PLoRA folded",
    `${PLORA} is added into the weights as they are loaded, rounded once more, and subtracted for text`,
  ],
  "folded-merged": [
    "PLoRA folded and merged",
    `${PLORA} is added into the weights as they are loaded, rounded once more, and subtracted from copies of them for text`,
  ],
};

/** Parts that a layer may keep while the rest of it is computed again. */
const KEPT_PARTS = { attention: "attention's", middle: "the MLP's input" } as const;

/** Describes gradient checkpointing: how many layers it covers, and what they keep. */
function recomputedValues(layers: readonly LayerPolicy[]): Concession | undefined {
  const again = layers.filter(({ keep }) => keep !== "all").length;
  const kept = (Object.keys(KEPT_PARTS) as (keyof typeof KEPT_PARTS)[]).flatMap((part) => {
    const count = layers.filter(({ keep }) => keep === part).length;
    return count > 0 ? [`${KEPT_PARTS[part]} in ${count === again ? "each" : `${count} of them`}`] : [];
  });
  const except = kept.length > 0 ? ` except ${listed(kept)}` : "";
  const what = `the values of ${countOf(layers, ({ keep }) => keep !== "all")}${except}`;
  return onlyIf(again > 0, "again", what, "gradient checkpointing");
}

/** How short lines say it, and the heading over grouped concessions. */
const MANNERS: Record<Manner, { line: (list: string[], where: string) => string; heading: string }> = {
  elsewhere: { line: (list, where) => `${listed(list)} ${where}`, heading: "" },
  frozen: { line: (list) => `${listed(list)} in the checkpoint's files`, heading: "on disk" },
  shared: { line: (list) => `${listed(list)} shared among the ranks`, heading: "shared among the ranks" },
  parts: { line: listed, heading: "in parts" },
  again: { line: (list) => `${listed(list)} computed again`, heading: "computed again" },
  rounded: { line: (list) => `${listed(list)} in fewer bits`, heading: "in fewer bits" },
  speed: { line: listed, heading: "for speed" },
};

interface Telling {
  /** Leave out what this policy does too. */
  beyond?: Policy | undefined;
  /** Words for the place of things that are not on the device. */
  where?: string;
  /** The parts of the base model that are mapped from the checkpoint's files. */
  mapped?: readonly BasePart[];
}

/** Returns a phrase for each way in which a policy saves or uses memory. */
export function concessionsOf(policy: Policy, config: ModelConfig, telling: Telling = {}): string[] {
  const { where = "on the host" } = telling;
  return grouped(policy, config, telling).map(([manner, list]) =>
    MANNERS[manner].line(
      list.map(({ what }) => what),
      where,
    ),
  );
}

/** Returns the full phrases: for each way a heading, and the concessions of that way. */
export function concessionGroups(policy: Policy, config: ModelConfig, where: string): [string, string[]][] {
  return grouped(policy, config, {}).map(([manner, list]) => [
    MANNERS[manner].heading || where,
    list.map(({ what, detail }) => (detail ? `${what} (${detail})` : what)),
  ]);
}

function grouped(
  policy: Policy,
  config: ModelConfig,
  { beyond, mapped = [] }: Telling,
): [Manner, Concession[]][] {
  const mannerOf = ({ manner, part }: Concession): Manner => {
    if (!part || manner === "shared") return manner;
    return mapped.includes(part) ? "frozen" : "elsewhere";
  };
  const all = (of: Policy): (Concession | undefined)[] =>
    ASPECTS.map((aspect) => aspect(of, layerPolicies(of, config)));
  const known = beyond ? all(beyond) : [];
  const news = all(policy).filter((one, index) => one !== undefined && one.what !== known[index]?.what);
  return (Object.keys(MANNERS) as Manner[]).flatMap((manner) => {
    const list = news.filter((one) => mannerOf(one!) === manner) as Concession[];
    return list.length > 0 ? [[manner, list] satisfies [Manner, Concession[]]] : [];
  });
}

function onlyIf(given: boolean, manner: Manner, what: string, detail?: string): Concession | undefined {
  return given ? { manner, what, ...(detail !== undefined && { detail }) } : undefined;
}

/** Returns the concession of a base model's part that is not wholly on the device; undefined if it is. */
function notResident(
  place: Place,
  part: BasePart,
  what: string,
  detail = PLACE_DETAILS,
): Concession | undefined {
  if (place === "device") return undefined;
  const manner = place === "shared" ? "shared" : "elsewhere";
  return { manner, what, ...(detail[place] && { detail: detail[place] }), part };
}

type PlaceDetails = Partial<Record<Place, string>>;
const PLACE_DETAILS: PlaceDetails = {};
const LAYER_DETAILS: PlaceDetails = {
  host: "copied layer by layer",
  shared: "brought together layer by layer",
};

function countOf(layers: readonly LayerPolicy[], belongs: (layer: LayerPolicy) => boolean): string {
  const count = layers.filter(belongs).length;
  return count === layers.length ? "all layers" : `${count} of ${layers.length} layers`;
}

/** Joins items: "a", "a and b", "a, b and c". */
function listed(items: readonly string[]): string {
  return items.length < 2 ? items.join("") : `${items.slice(0, -1).join(", ")} and ${items.at(-1)}`;
}

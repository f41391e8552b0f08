/** Policies in the words of people who train models: what one does for its memory, and what it does beyond another. */
import { formatCount } from "../errors.ts";
import type { ModelConfig } from "../models/spec.ts";
import { type LayerPolicy, layerPolicies, type Policy } from "../step/policy.ts";

/** What a policy does about one thing; nothing where it gives nothing up. */
type Aspect = (policy: Policy, layers: readonly LayerPolicy[]) => string;

const ASPECTS: readonly Aspect[] = [
  (_, layers) => {
    const kept = layers.filter(({ keep }) => keep !== "nothing").length;
    const all = layers.some(({ keep }) => keep === "all");
    return kept > 0
      ? `${countOf(kept, layers)} keep their ${all ? "values" : "attention's values"} for the backward pass instead of computing them again`
      : "";
  },
  ({ plora }) =>
    plora === "merged"
      ? "PLoRA added to copies of a layer's frozen weights that image tokens go through"
      : "",
  ({ headGroups }) => (headGroups > 1 ? `attention in ${headGroups} parts` : ""),
  ({ mlpTileTokens: tokens }) => (tokens < 4096 ? `the MLP in slices of ${formatCount(tokens)} tokens` : ""),
  ({ embeddings }) => (embeddings === "host" ? "embeddings in RAM" : ""),
  ({ vision }) => (vision === "host" ? "vision tower in RAM" : ""),
  ({ boundaryAhead }, layers) => {
    const onHost = layers.filter(({ boundary }) => boundary === "host").length;
    const ahead = boundaryAhead ? ", each fetched while the layer before it goes back" : "";
    return onHost > 0 ? `inputs of ${countOf(onHost, layers)} wait in RAM for the backward pass${ahead}` : "";
  },
  (_, layers) => {
    const lost = layers.filter(({ boundary }) => boundary === "none").length;
    return lost > 0 ? `inputs of ${countOf(lost, layers)} computed again from the layers before` : "";
  },
  ({ head }) => (head === "host" ? "output head in RAM" : ""),
  ({ attentionInput }) =>
    attentionInput === "recomputed" ? "attention's input normalised anew for each part" : "",
  ({ weights }) => (weights.source === "streamed" ? "frozen weights streamed from RAM layer by layer" : ""),
  ({ optimizer }) => (optimizer.place === "host" ? "optimizer state in RAM" : ""),
];

/** Said of a policy under which no layer keeps its values. */
export const ALL_CHECKPOINTED =
  "gradient checkpointing in every layer: the backward pass computes its values again";

/** What a policy does for memory or with it, beyond what another one does; nothing of that changes a result. */
export function concessionsOf(policy: Policy, config: ModelConfig, beyond?: Policy): string[] {
  const words = (of: Policy): string[] => ASPECTS.map((aspect) => aspect(of, layerPolicies(of, config)));
  const known = beyond ? words(beyond) : [];
  return words(policy).filter((what, index) => what !== "" && what !== known[index]);
}

function countOf(count: number, layers: readonly LayerPolicy[]): string {
  if (count === layers.length) return "all layers";
  return `${count} of ${layers.length} layers`;
}

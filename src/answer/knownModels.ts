/** The models that can be planned without a checkpoint. */
import { familyOf, PRESETS, pictureFormOf, tensorsOf } from "../models/families.ts";

/** A model that `lorafit plan` knows by name. */
export interface KnownPreset {
  name: string;
  /** Title of its family. */
  family: string;
  parameters: number;
  /** Tokens of the longest sample in training. */
  maxLength: number;
  /** The option that limits its pictures, with the usual value and the tokens of the largest picture. */
  pictures: { flag: string; limit: number; tokens: number };
}

/** Lists the models in the order of their families. */
export function knownModels(): KnownPreset[] {
  return Object.entries(PRESETS).map(([name, config]) => {
    const family = familyOf(config);
    const { limit, largest } = pictureFormOf(config);
    const shapes = [...tensorsOf(config).values()].map(({ shape }) => shape);
    return {
      name,
      family: family.title,
      parameters: shapes.reduce((sum, shape) => sum + shape.reduce((product, side) => product * side, 1), 0),
      maxLength: family.trained(config).maxLength,
      pictures: { flag: limit.flag, limit: limit.default, tokens: largest(limit.default).tokens },
    };
  });
}

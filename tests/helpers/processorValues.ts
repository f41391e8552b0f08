// Values of pictures as the official processors normalise them: the fast one (torchvision) and the slow one.
import { normalisationOf } from "../../src/data/pictures/processorJson.ts";

/** Returns the float32 value of a channel's byte. */
export type Normalise = (
  value: number,
  channel: number,
  colours: Parameters<typeof normalisationOf>[0],
) => number;

export const fastValue: Normalise = (value, channel, colours) => {
  const { shift, scale } = normalisationOf(colours);
  return Math.fround(value - (shift[channel] as number)) / (scale[channel] as number);
};

export const slowValue: Normalise = (value, channel, { mean, std }) =>
  Math.fround(Math.fround(value / 255) - Math.fround(mean[channel] as number)) /
  Math.fround(std[channel] as number);

/**
 * A form of pictures: how a family of models lays out a picture as tokens, and the pixels that it reads.
 * Other code knows only the tokens and the units of a picture. The rest of a layout is the form's own.
 */
import type { PictureSize } from "./decode.ts";
import type { ImageCompat } from "./imageCompat.ts";
import type { PictureLimit } from "./pictureLimit.ts";

/** All that a plan knows of a picture. A form adds fields that only itself and its family read. */
export interface PictureLayout {
  /** Rows of the sequence that the picture takes. */
  tokens: number;
  /** Parts that the vision tower encodes some at a time, such as tiles: its memory follows their number. */
  units: number;
}

/** The layout of a picture that exists. */
export interface PlacedPicture extends PictureLayout {
  /** Size of the picture before it is scaled. */
  source: PictureSize;
}

/** A picture with the pixels that its model reads, as typed arrays in fields of the form's own. */
export type LoadedPicture = PlacedPicture;

export interface DecodeSettings {
  compat: ImageCompat;
  /** Pixels of the largest picture that is decoded. */
  maxPixels?: number | undefined;
}

/** A drawing of a picture as its model sees it. */
export interface PicturePreview {
  /** The layout, for scripts. */
  facts: Record<string, unknown>;
  /** The layout in words. */
  words: string;
  /** A PNG of exactly the pixels that the model reads. */
  transformed(): Promise<Buffer>;
  /** A PNG with the layout drawn in. */
  drawing(caption: string): Promise<Buffer>;
}

export interface PictureForm {
  /** The option that limits a picture's tokens. */
  limit: PictureLimit;
  /**
   * Lays out a picture of a size under a limit. Throws UserError for a limit or a picture that cannot be.
   * name: of the picture, for messages.
   */
  layout(size: PictureSize, limit: number, name?: string): PlacedPicture;
  /** Returns everything that decides the pixels of a picture of a size, for fingerprints of data. */
  placing(size: PictureSize, limit: number): object;
  /** Decodes and transforms a picture. Throws UserError that names the file. */
  load(path: string, limit: number, settings: DecodeSettings): Promise<LoadedPicture>;
  /** Returns the layout with the most tokens that a limit allows. */
  largest(limit: number): PictureLayout;
  /** Returns a layout of at most so many tokens, and nearly as many; undefined if there is none. */
  within(tokens: number): PictureLayout | undefined;
  /** Returns a layout of so many units, two or more. */
  ofUnits(units: number): PictureLayout;
  /** Returns a black picture of a layout. */
  black(layout: PictureLayout): PictureLayout;
  preview(path: string, limit: number, compat: ImageCompat): Promise<PicturePreview>;
}

/** Returns a picture's layout alone, without its pixels and its size. */
export function layoutOf(picture: PictureLayout): PictureLayout {
  const own = Object.entries(picture).filter(
    ([key, value]) => key !== "source" && !ArrayBuffer.isView(value),
  );
  return Object.fromEntries(own) as unknown as PictureLayout;
}

/** Returns the tokens of several pictures. */
export function pictureTokens(pictures: readonly PictureLayout[]): number {
  return pictures.reduce((sum, { tokens }) => sum + tokens, 0);
}

/** Returns whether two pictures take as many rows and units: all that memory depends on. */
export function isSameLayout(one: PictureLayout, other: PictureLayout): boolean {
  return one.tokens === other.tokens && one.units === other.units;
}

/** Pictures as pages show them: small copies with their names. */
import type { ImageCompat } from "../../data/pictures/imageCompat.ts";
import { pictureName } from "../../data/pictures/source.ts";
import { thumbnailUri } from "../../data/pictures/thumbnail.ts";
import { UserError } from "../../errors.ts";
import { shownName } from "../../printable.ts";
import { escaped } from "./page.ts";

export interface ShownPicture {
  name: string;
  /** Undefined if the file is gone or can't be read. */
  uri: string | undefined;
}

/** Reads pictures for a page; those that can't be read are named only. */
export function shownPictures(paths: readonly string[], compat: ImageCompat): Promise<ShownPicture[]> {
  return Promise.all(
    paths.map(async (path) => ({
      name: shownName(pictureName(path)),
      uri: await thumbnailUri(path, compat).catch((thrown: unknown) => {
        if (thrown instanceof UserError) return undefined;
        throw thrown;
      }),
    })),
  );
}

export const PICTURES_STYLE = `
.pictures { display: flex; flex-wrap: wrap; gap: .6rem } .pictures figure { margin: 0; padding: 0; border: 0; max-width: 20rem }
.pictures img { width: auto; max-width: 100%; max-height: 15rem; border: 1px solid var(--edge); border-radius: 6px; display: block }
.pictures figcaption { color: var(--quiet); font-size: .8rem; overflow-wrap: anywhere }`;

/** Returns the pictures beside each other, each with its name below. */
export function picturesHtml(pictures: readonly ShownPicture[]): string {
  if (pictures.length === 0) return "";
  const figures = pictures.map(({ name, uri }) => {
    const image = uri === undefined ? "" : `<img alt="${escaped(name)}" src="${escaped(uri)}">`;
    return `<figure>${image}<figcaption>${escaped(name)}${uri === undefined ? " (not there)" : ""}</figcaption></figure>`;
  });
  return `<div class="pictures">${figures.join("")}</div>`;
}

/** The part of @agnai/sentencepiece-js in use: the package has no types of its own. */
declare module "@agnai/sentencepiece-js" {
  export class SentencePieceProcessor {
    load(file: string): Promise<void>;
    encodeIds(text: string): number[];
    decodeIds(ids: Int32Array | number[]): string;
  }
}

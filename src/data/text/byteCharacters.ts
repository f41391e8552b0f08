/**
 * The characters that stand for bytes in a byte-level vocabulary. Printable bytes stand for themselves, the
 * others for the characters from U+0100 on. Source: GPT-2's encoder.py, bytes_to_unicode.
 */

const isPrintable = (byte: number): boolean =>
  (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;

/** The characters by byte. */
export const CHARACTERS: readonly string[] = charactersOfBytes();

const BYTES = new Map(CHARACTERS.map((character, byte) => [character, byte]));

/** Returns the byte of a character. Throws a RangeError for one that stands for none. */
export function byteOfCharacter(character: string): number {
  const byte = BYTES.get(character);
  if (byte === undefined) throw new RangeError(`${character} stands for no byte`);
  return byte;
}

function charactersOfBytes(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(isPrintable(byte) ? byte : next++));
}

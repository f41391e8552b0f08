/** Makes random choices for synthetic pages. The same seed and page always make the same choices. */
import { randomAt } from "../data/stream/random.ts";

export interface Dice {
  /** A whole number from min to max, both included. */
  int(min: number, max: number): number;
  pick<T>(items: readonly T[]): T;
  /** Distinct items in random order. */
  some<T>(items: readonly T[], count: number): T[];
  chance(share: number): boolean;
  /** "AA-###": A becomes a capital, # a digit, anything else stays. */
  code(pattern: string): string;
}

/** The dice of one page. */
export function pageDice(seed: number, page: number): Dice {
  let throws = 0;
  const int = (min: number, max: number) =>
    min + Math.floor(randomAt(seed, page, throws++) * (max - min + 1));
  const pick = <T>(items: readonly T[]) => items[int(0, items.length - 1)] as T;
  return {
    int,
    pick,
    some(items, count) {
      const left = [...items];
      return Array.from({ length: Math.min(count, left.length) }, () =>
        left.splice(int(0, left.length - 1), 1),
      ).flat();
    },
    chance: (share) => randomAt(seed, page, throws++) < share,
    code: (pattern) => pattern.replace(/[A#]/g, (sign) => (sign === "#" ? `${int(0, 9)}` : pick(CAPITALS))),
  };
}

/** Capitals without I and O, which print like digits. */
const CAPITALS = [..."ABCDEFGHJKLMNPQRSTUVWXYZ"];

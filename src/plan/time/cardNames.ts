/**
 * Recognises names of cards: those of the table, those that nvidia-smi and CUDA report, and those that people
 * type.
 */

/** A card of the table, with what its names need. */
export interface NamedCard<Name extends string> {
  name: Name;
  title: string;
  memoryGib: number;
}

/** A part of a card: "MIG 3g.20gb" has 3 of the card's compute slices and 20 GB. */
export interface MigSlice {
  profile: string;
  computeSlices: number;
  gigabytes: number;
}

export type Recognised<Name extends string> =
  | { is: "card"; name: Name; slice?: MigSlice }
  /** No card, or several; `near`: the names that may be meant. */
  | { is: "unclear"; why: string; near: string[] }
  /** A name that is understood, but of something that the table cannot have. */
  | { is: "other"; why: string; fix: string };

/** Recognises a name. A name that matches no card of the table is never replaced by a similar one. */
export function recogniseCard<Name extends string>(
  typed: string,
  cards: readonly NamedCard<Name>[],
): Recognised<Name> {
  const other = OTHERS.find(({ pattern }) => pattern.test(typed));
  if (other) return { is: "other", ...other.say(typed) };
  const { slice, rest } = sliceOf(typed);
  const found = wholeCard(rest, cards);
  if (slice && found.is === "unclear") return withSlice(found, { slice, rest, typed });
  if (!slice || found.is !== "card") return found;
  const card = cards.find(({ name }) => name === found.name)!;
  if (slicesOf(card) === undefined || slice.gigabytes > 1.12 * card.memoryGib)
    return {
      is: "other",
      why: `"${typed}": a ${card.title} has no MIG instance ${slice.profile}.`,
      fix: `Pass the memory that nvidia-smi shows for the instance: --memory ${slice.gigabytes}GiB`,
    };
  return { ...found, slice };
}

/** Keeps the MIG instance in the question which card is meant. */
function withSlice(
  { is, why, near }: Extract<Recognised<string>, { is: "unclear" }>,
  { slice, rest, typed }: { slice: MigSlice; rest: string; typed: string },
): Extract<Recognised<string>, { is: "unclear" }> {
  return {
    ...{ is, why: why.replace(`"${rest}"`, `"${typed}"`) },
    near: near.map((name) => `"${name} MIG ${slice.profile}"`),
  };
}

/** Returns the compute slices of a card that has MIG instances. Source: NVIDIA's MIG user guide. */
export function slicesOf({ title }: Pick<NamedCard<string>, "title">): number | undefined {
  if (/^A30$|^RTX PRO 6000/.test(title)) return 4;
  return /^(A100|H100|H200|H20|GH200|B200)\b/.test(title) ? 7 : undefined;
}

interface Other {
  pattern: RegExp;
  say(typed: string): { why: string; fix: string };
}

const MEMORY_FIX =
  "Pass the memory that nvidia-smi shows, as in --memory 16GiB; times are then those of a similar card.";

const OTHER_MAKERS =
  /\b(amd|radeon|instinct|mi ?\d{2,3}[ax]?|rx ?\d{4}|gfx\d+|vega|w[67]\d00|intel|arc|gaudi ?\d?|apple|m[1-5]( ?(pro|max|ultra))?|tpu|ascend|910[abc]|trainium|inferentia|mtt|dcu)\b/i;

const OTHERS: readonly Other[] = [
  {
    pattern: OTHER_MAKERS,
    say: (typed) => ({
      why: `"${typed}" is not an NVIDIA card: lorafit computes on NVIDIA cards only, and on CPUs.`,
      fix: "--list-gpus shows the cards; --device cpu plans for this machine's CPU.",
    }),
  },
  {
    pattern: /\b(laptop|notebook|mobile|max-?q)\b/i,
    say: (typed) => ({
      why: `"${typed}" is a laptop or Max-Q card: slower than the card of the same name, often with less memory.`,
      fix: MEMORY_FIX,
    }),
  },
  {
    pattern: /\b(grid|vgpu)\b|-\d+[abcq]$/i, // NVIDIA A40-48Q, GRID A100-10C
    say: (typed) => ({ why: `"${typed}" is a virtual GPU, which has a part of a card.`, fix: MEMORY_FIX }),
  },
];

/** Splits "MIG 3g.20gb" or "MIG 1c.3g.20gb" from a name. */
function sliceOf(typed: string): { slice?: MigSlice; rest: string } {
  const match = /(?:\bmig[\s-]*)?\b(?:\d+c\.)?((\d+)g\.(\d+)gb)(?:\+\S+)?/i.exec(typed);
  if (!match) return { rest: typed };
  const [whole, profile, computeSlices, gigabytes] = match;
  return {
    slice: { profile: profile!, computeSlices: Number(computeSlices), gigabytes: Number(gigabytes) },
    rest: typed.replace(whole, ""),
  };
}

function wholeCard<Name extends string>(typed: string, cards: readonly NamedCard<Name>[]): Recognised<Name> {
  const exact = cards.find(({ name, title }) => [name, title].map(plain).includes(plain(typed)));
  if (exact && plain(typed) !== "") return { is: "card", name: exact.name };
  const { words, gigabytes } = wordsOf(typed);
  const hasAll = cards.filter((card) => words.length > 0 && words.every((word) => allWords(card).has(word)));
  const asLarge = hasAll.filter(({ memoryGib }) => gigabytes === undefined || isSoldAs(memoryGib, gigabytes));
  const complete = asLarge.filter((card) => neededWords(card).every((word) => words.includes(word)));
  if (complete.length === 1) return { is: "card", name: complete[0]!.name };
  const near = [complete, asLarge, hasAll].find(({ length }) => length > 0)?.map(({ name }) => name);
  if (asLarge.length > 1 || (gigabytes === undefined && hasAll.length > 1))
    return { is: "unclear", why: `"${typed}" could be any of several cards.`, near: near! };
  if (asLarge.length === 0 && hasAll.length > 0)
    return { is: "unclear", why: `"${typed}": no such card with ${gigabytes} GB is known.`, near: near! };
  return { is: "unclear", why: `No card is called "${typed}".`, near: near ?? similar(plain(typed), cards) };
}

/** Words that do not tell which card it is. */
const BRAND = new Set([
  "nvidia",
  "geforce",
  "tesla",
  "quadro",
  "rtx",
  "gpu",
  "edition",
  "workstation",
  "server",
  "generation",
]);

/** Forms of a data-centre card. A name without a form may mean any of them. */
const FORMS = new Set(["sxm", "pcie", "nvl", "hbm"]);

/**
 * Splits a name into groups of letters and of digits, without makers' words and an amount of memory: "RTX
 * 4090 24GB" becomes 4090.
 */
function wordsOf(text: string): { words: string[]; gigabytes: number | undefined } {
  const amount = /(\d+(?:\.\d+)?)\s*gi?b?\b/i.exec(text);
  const rest = amount ? text.replace(amount[0], " ") : text;
  const words = rest.toLowerCase().match(/[a-z]+|\d+/g) ?? [];
  return {
    words: words.filter((word) => !BRAND.has(word)),
    gigabytes: amount ? Number(amount[1]) : undefined,
  };
}

function allWords({ name, title }: NamedCard<string>): Set<string> {
  return new Set([...wordsOf(name).words, ...wordsOf(title).words]);
}

function neededWords({ name }: NamedCard<string>): string[] {
  return wordsOf(name).words.filter((word) => !FORMS.has(word));
}

/**
 * Tells whether a card may be sold with this amount. Drivers report up to 11 % less than a card is sold with.
 */
function isSoldAs(memoryGib: number, gigabytes: number): boolean {
  return gigabytes >= 0.97 * memoryGib && gigabytes <= 1.12 * memoryGib;
}

/** Returns a name in lower case, without separators and makers' words. */
function plain(name: string): string {
  return name.toLowerCase().replaceAll(/nvidia|geforce|tesla|[^a-z0-9]/g, "");
}

/**
 * Returns up to three names that share half of their pairs of letters with the typed name, the best first.
 */
function similar<Name extends string>(typed: string, cards: readonly NamedCard<Name>[]): Name[] {
  const wanted = pairs(typed);
  const share = (name: Name): number => {
    const own = pairs(plain(name));
    return (2 * own.filter((pair) => wanted.includes(pair)).length) / (own.length + wanted.length);
  };
  const near = cards.map(({ name }) => name).filter((name) => share(name) >= 0.5);
  return near.sort((one, other) => share(other) - share(one)).slice(0, 3);
}

function pairs(text: string): string[] {
  return Array.from({ length: Math.max(0, text.length - 1) }, (_, at) => text.slice(at, at + 2));
}

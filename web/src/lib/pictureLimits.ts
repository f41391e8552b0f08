/** Returns the limits of pictures that an address has under their options' names. */
export function limitsIn(query: URLSearchParams, options: readonly string[]): Record<string, number> {
  const given = options.map((option) => [option, Number(query.get(option))] as const);
  return Object.fromEntries(given.filter(([, value]) => Number.isInteger(value) && value > 0));
}

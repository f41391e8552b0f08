/** The known name that a mistyped one is nearest to. */
import { editDistance } from "../../train/evaluate/scores.ts";

/** At most this share of the letters may differ: two in five are two swapped ones. */
const FARTHEST_RATIO = 0.4;

/** "Did you mean --lora-r?", or undefined where no candidate is near; `shown` is how a candidate is written. */
export function didYouMean<T>(typed: string, candidates: Iterable<[name: string, shown: T]>): T | undefined {
  const ranked = [...candidates].map(([name, shown]) => ({
    shown,
    distance: editDistance([...plain(typed)], [...plain(name)]),
  }));
  ranked.sort((one, other) => one.distance - other.distance);
  const [nearest] = ranked;
  return nearest && nearest.distance <= plain(typed).length * FARTHEST_RATIO ? nearest.shown : undefined;
}

function plain(name: string): string {
  return name.toLowerCase().replaceAll(/[-_]/g, "");
}

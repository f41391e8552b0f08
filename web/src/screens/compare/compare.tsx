/** Screen "Compare". */
import { Empty } from "../../parts/states.tsx";

export function Compare() {
  return <Empty>Compare</Empty>;
}

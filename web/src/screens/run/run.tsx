/** Screen "Run". */
import { Empty } from "../../parts/states.tsx";

export function Run() {
  return <Empty>Run</Empty>;
}

/** Screen "Runs". */
import { Empty } from "../../parts/states.tsx";

export function Runs() {
  return <Empty>Runs</Empty>;
}

/** Writes the variables of a rank that lorafit's own launcher starts: torchrun's names, and some more. */
import { OWN_VARIABLES } from "../torch/peers/launchers/launcherName.ts";
import type { PlaceOfNode } from "../torch/peers/node.ts";

/** Descriptors of a rank beside its three streams. */
export const WATCH_FD = 3;
export const STORE_FD = 4;

export interface RankPlace {
  localRank: number;
  localCount: number;
  /** This machine among several; undefined for one machine. */
  node: PlaceOfNode | undefined;
  /** Port of the store. */
  port: number;
}

/** Returns the rank among those of all machines. */
export function globalRank({ localRank, localCount, node }: Omit<RankPlace, "port">): number {
  return (node?.index ?? 0) * localCount + localRank;
}

/** Returns the variables of one rank, for its own process alone. */
export function rankVariables(place: RankPlace): Record<string, string> {
  const { localRank, localCount, node, port } = place;
  const rank = globalRank(place);
  return {
    RANK: `${rank}`,
    WORLD_SIZE: `${localCount * (node?.count ?? 1)}`,
    LOCAL_RANK: `${localRank}`,
    LOCAL_WORLD_SIZE: `${localCount}`,
    MASTER_ADDR: node?.host ?? "127.0.0.1",
    MASTER_PORT: `${port}`,
    [OWN_VARIABLES.launcher]: node ? `lorafit and ${node.launcher}` : "lorafit",
    [OWN_VARIABLES.watchFd]: `${WATCH_FD}`,
    ...(rank === 0 && { [OWN_VARIABLES.listenFd]: `${STORE_FD}` }),
  };
}

/** Collects facts of each rank, so that ranks can be compared. */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statfsSync, statSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { cannotRead } from "../../checkpoint/faults.ts";
import { resolveModel } from "../../checkpoint/folder.ts";
import { cardInfo, getThreads, libtorchVersion } from "../../torch/device.ts";
import { isCard } from "../../torch/dtypes.ts";
import type { PlaceOfRank } from "../../torch/peers/place.ts";
import type { Device } from "../../torch/tensor.ts";

/** A type and not an interface, because it is sent as JSON. */
export type RankFacts = {
  rank: number;
  host: string;
  device: string;
  /** Name of the card; null on the CPU. */
  card: string | null;
  /** CUDA_VISIBLE_DEVICES. */
  visible: string | null;
  threads: number;
  /** Address by which the other ranks reach this one. */
  address: string;
  node: string;
  libtorch: string;
  /** Version, and fingerprint of the program's files. */
  lorafit: string;
  /** Fingerprints of the files of --data and of the model; null if not asked for. */
  data: string | null;
  model: string | null;
  /** Whether the system puts devices' memory accesses through an IOMMU. */
  iommu: boolean;
  /** Bytes of /dev/shm; null if there is none. */
  sharedBytes: number | null;
};

export function factsOf(
  { rank }: PlaceOfRank,
  device: Device,
  {
    address,
    data,
    model,
  }: { address: string; data: readonly string[] | undefined; model: string | undefined },
): RankFacts {
  return {
    ...{ rank, host: hostname(), device, address, threads: getThreads() },
    card: isCard(device) ? cardInfo(device).name : null,
    visible: process.env.CUDA_VISIBLE_DEVICES ?? null,
    node: process.version,
    libtorch: libtorchVersion(),
    lorafit: `${version()} (${programFingerprint()})`,
    data: data ? filesFingerprint(data) : null,
    model: model === undefined ? null : modelFingerprint(resolveModel(model)),
    iommu: hasTranslation(),
    sharedBytes: sharedMemoryBytes(),
  };
}

const DIGITS = 12;

function version(): string {
  return JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")).version;
}

/** Hashes the files of this program: two machines with one hash run the same code. */
function programFingerprint(): string {
  const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
  const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) =>
    /\.[jt]s$/.test(name),
  );
  const hash = createHash("sha256");
  for (const name of files.sort())
    hash.update(relative(root, join(root, name))).update(readFileSync(join(root, name)));
  return hash.digest("hex").slice(0, DIGITS);
}

function filesFingerprint(files: readonly string[]): string {
  const hash = createHash("sha256");
  for (const file of files) {
    try {
      hash.update(readFileSync(file)).update("\0");
    } catch (cause) {
      throw cannotRead(file, cause);
    }
  }
  return hash.digest("hex").slice(0, DIGITS);
}

/** Hashes a model's configuration, and the names and sizes of its other files. */
function modelFingerprint(folder: string): string {
  const hash = createHash("sha256");
  for (const name of readdirSync(folder).sort()) {
    const path = join(folder, name);
    const { size } = statSync(path);
    hash.update(`${name} ${size}\0`);
    if (name === "config.json") hash.update(readFileSync(path));
  }
  return hash.digest("hex").slice(0, DIGITS);
}

const IOMMU_GROUPS = "/sys/kernel/iommu_groups";

/** Whether a group of devices has its addresses translated; "identity" is what iommu=pt sets. */
export function hasTranslation(groups = IOMMU_GROUPS): boolean {
  if (!existsSync(groups)) return false;
  return readdirSync(groups).some((group) => {
    try {
      return readFileSync(join(groups, group, "type"), "utf8").startsWith("DMA");
    } catch {
      return false; // an older kernel does not say
    }
  });
}

function sharedMemoryBytes(): number | null {
  try {
    const { blocks, bsize } = statfsSync("/dev/shm");
    return blocks * bsize;
  } catch {
    return null;
  }
}

/** Returns this machine's network interfaces that reach others: "eth0 10.0.0.4". */
export function interfaceList(interfaces = networkInterfaces()): string[] {
  return Object.entries(interfaces).flatMap(([name, addresses = []]) =>
    addresses
      .filter(({ internal, scopeid }) => !internal && !scopeid)
      .map(({ address }) => `${name} ${address}`),
  );
}

/**
 * Memory that a plan may use if the user names none: of this machine, of a card, and of the host of a card
 * elsewhere.
 */
import { readdirSync, readFileSync } from "node:fs";
import { totalmem } from "node:os";
import { join } from "node:path";
import { GIB, UserError } from "../errors.ts";
import { type Card, findDevice } from "./time/cards.ts";

/** Host memory of a card that is not in this machine: usual for workstations and cloud instances. */
export const USUAL_HOST_BYTES = 64 * GIB;

const MIB = 2 ** 20;

/** Share of this machine's memory that the system and this program need, and the least that they need. */
const SYSTEM = { share: 0.05, leastBytes: GIB };

/** Returns the bytes of this machine's memory, or of the part that a container may use. */
export function machineBytes(): number {
  const constrained = process.constrainedMemory?.() ?? 0; // 0: unknown; without a limit more than the machine has
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}

/** Returns the bytes of this machine's memory that a plan may use. */
export function usableMachineBytes(machine = machineBytes()): number {
  return Math.floor(machine - Math.max(SYSTEM.share * machine, SYSTEM.leastBytes));
}

/** Share of a card's memory that stays free, and the least that a card needs that may drive a display. */
const MARGIN = { share: 0.03, displayBytes: 512 * MIB };

/** Returns the bytes of a card's memory that a plan leaves free. */
export function marginOf({ title, memoryBytes }: Pick<Card, "title" | "memoryBytes">): number {
  const share = MARGIN.share * memoryBytes;
  return mayDriveDisplay(title) ? Math.max(share, MARGIN.displayBytes) : share;
}

/**
 * Tells whether a card may drive a display. GeForce, TITAN, Quadro and RTX cards have display outputs.
 * Data-centre cards have none, or none in use.
 */
function mayDriveDisplay(title: string): boolean {
  return /\b(GeForce|TITAN|Quadro|RTX)\b/.test(title);
}

/** One folder for each card of this machine, in which the driver writes the card's name. */
const DRIVER_FOLDER = "/proc/driver/nvidia/gpus";

/** Returns whether this machine has any NVIDIA card. */
export function isAnyHere(folder = DRIVER_FOLDER): boolean {
  return modelsHere(folder).length > 0;
}

/** Returns whether a card of this kind is in this machine, by what the NVIDIA driver reports. */
export function isHere({ name }: Pick<Card, "name">, folder = DRIVER_FOLDER): boolean {
  return modelsHere(folder).some((model) => isCalled(model, name));
}

function modelsHere(folder: string): string[] {
  try {
    return readdirSync(folder).flatMap((card) => {
      const text = readFileSync(join(folder, card, "information"), "utf8");
      return /^Model:\s*(.+?)\s*$/m.exec(text)?.[1] ?? [];
    });
  } catch {
    return []; // no NVIDIA driver
  }
}

function isCalled(model: string, name: Card["name"]): boolean {
  try {
    return findDevice(model).name === name;
  } catch (unknown) {
    if (unknown instanceof UserError) return false;
    throw unknown;
  }
}

import { readFileSync } from "node:fs";
import { listProcesses, type ProcessInfo, readProcess } from "./process-list.ts";

/** Every process that an engine starts inherits this variable with the engine's own mark, so that one that left both tree and session is found. */
export const MARK_VARIABLE = "FRAZIL_ENGINE_MARK";
/** Looking and killing are repeated, since a process can fork between the two. */
const KILL_ROUNDS_MAX = 50;
/** How long the kernel may take to give back the memory of what was killed. */
const GONE_WITHIN_MS = 10_000;
const GONE_POLL_MS = 10;

export interface TreeRoot {
  readonly pid: number;
  readonly startTime: string;
  readonly mark: string;
  /** Members seen before, pid to start time: they stay members after they lost their parent. */
  readonly known: Map<number, string>;
}

/** Pure: the root, its descendants, everything in its session, and everything known from before that is still the same process. */
export function treeOf(root: TreeRoot, processes: readonly ProcessInfo[]): ProcessInfo[] {
  const children = new Map<number, ProcessInfo[]>();
  for (const info of processes) {
    const siblings = children.get(info.parentPid);
    if (siblings === undefined) children.set(info.parentPid, [info]);
    else siblings.push(info);
  }
  const members = new Map<number, ProcessInfo>();
  // The pid of a dead root can be given to a stranger, whose session then has that number too.
  const reused = processes.some((info) => info.pid === root.pid && info.startTime !== root.startTime);
  const open = processes.filter(
    (info) =>
      (info.pid === root.pid && !reused) ||
      (info.session === root.pid && !reused) ||
      root.known.get(info.pid) === info.startTime,
  );
  for (let info = open.pop(); info !== undefined; info = open.pop()) {
    if (members.has(info.pid)) continue;
    members.set(info.pid, info);
    open.push(...(children.get(info.pid) ?? []));
  }
  return [...members.values()];
}

/** The tree as it is now; what is new in it is remembered in `root.known`. */
export function findTree(root: TreeRoot, processes: readonly ProcessInfo[] = listProcesses()): ProcessInfo[] {
  const members = treeOf(root, processes).filter((info) => !info.zombie);
  root.known.clear();
  for (const info of members) root.known.set(info.pid, info.startTime);
  return members;
}

/**
 * Kills the whole tree. Whole process groups first: the kernel makes that atomic against fork, which is what ends a fork bomb.
 * Returns how many processes it still saw in the last round; they are dying unless the number stays.
 */
export function killTree(root: TreeRoot): number {
  return killMembers(root, () => true).alive;
}

/** Kills all but the root itself, which goes on. Returns how many there were. */
export function killOffspring(root: TreeRoot): number {
  return killMembers(root, (info) => info.pid !== root.pid).killed;
}

function killMembers(root: TreeRoot, isMeant: (info: ProcessInfo) => boolean): { alive: number; killed: number } {
  let alive = 0;
  const killed = new Set<string>();
  for (let round = 0; round < KILL_ROUNDS_MAX; round += 1) {
    const processes = listProcesses();
    const members = findTree(root, processes);
    const found = [...members, ...strayMembers(root, members, processes)].filter(isMeant);
    alive = found.length;
    const fresh = found.filter((info) => !killed.has(`${info.pid} ${info.startTime}`));
    if (fresh.length === 0) break;
    for (const info of fresh) sendKill(-info.pid);
    for (const info of fresh) {
      killed.add(`${info.pid} ${info.startTime}`);
      if (readProcess(info.pid)?.startTime === info.startTime) sendKill(info.pid);
    }
  }
  return { alive, killed: killed.size };
}

/** Waits until nothing of a killed tree is left. False when something still is after the bound. */
export async function waitUntilGone(root: TreeRoot): Promise<boolean> {
  const deadline = Date.now() + GONE_WITHIN_MS;
  for (;;) {
    if (killTree(root) === 0) return true;
    if (Date.now() >= deadline) return false;
    await new Promise((resolve) => setTimeout(resolve, GONE_POLL_MS));
  }
}

/** Marked processes outside the tree: they made a session of their own and lost their parent. Only Linux tells the environment. */
function strayMembers(
  root: TreeRoot,
  members: readonly ProcessInfo[],
  processes: readonly ProcessInfo[],
): ProcessInfo[] {
  if (process.platform !== "linux") return [];
  const inside = new Set(members.map((info) => info.pid));
  return processes.filter((info) => !inside.has(info.pid) && !info.zombie && hasMark(info.pid, root.mark));
}

function hasMark(pid: number, mark: string): boolean {
  try {
    return readFileSync(`/proc/${pid}/environ`, "latin1").includes(`${MARK_VARIABLE}=${mark}`);
  } catch {
    return false;
  }
}

function sendKill(target: number): void {
  try {
    process.kill(target, "SIGKILL");
  } catch {
    // It has ended by itself, or there is no such group.
  }
}

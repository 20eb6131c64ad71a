import { readdirSync, readFileSync, writeFileSync } from "node:fs";

/** What /proc says about processes. Linux only, as the benchmarks are. */
export interface ProcessInfo {
  readonly pid: number;
  readonly parentPid: number;
  readonly command: string;
  /** User and system time so far, of the process and of those of its children that it has waited for. */
  readonly cpuSeconds: number;
}

/** Linux gives times to user space in hundredths of a second, whatever the kernel's own clock. */
const TICKS_PER_SECOND = 100;
const MIB = 1024 * 1024;

export function listProcesses(): ProcessInfo[] {
  return readdirSync("/proc").flatMap((name) => {
    const pid = Number(name);
    if (!Number.isInteger(pid)) return [];
    try {
      return [readProcess(pid)];
    } catch {
      // It has ended.
      return [];
    }
  });
}

function readProcess(pid: number): ProcessInfo {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // The name, in parentheses, may hold spaces. Behind it stand the fields from the third (the state) on.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const ticks = [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0);
  return {
    pid,
    parentPid: Number(fields[1]),
    command: readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " "),
    cpuSeconds: ticks / TICKS_PER_SECOND,
  };
}

/** The process and all that descend from it. */
export function treeOf(rootPid: number): ProcessInfo[] {
  const all = listProcesses();
  const inTree = new Set([rootPid]);
  // Parents may be listed behind their children.
  for (let before = 0; before !== inTree.size; ) {
    before = inTree.size;
    for (const one of all) if (inTree.has(one.parentPid)) inTree.add(one.pid);
  }
  return all.filter((one) => inTree.has(one.pid));
}

const ROLES: readonly (readonly [string, RegExp])[] = [
  ["engines", /frazil_engine/],
  ["agent", /runner\.mjs|runner\/agent\/src\/main\.ts/],
  ["control plane", /control-plane\.mjs|control-plane\/src\/main\.ts|plane-process\.ts/],
  ["postgres", /postgres/],
];

export function roleOf(process: ProcessInfo): string {
  return ROLES.find(([, pattern]) => pattern.test(process.command))?.[0] ?? "other";
}

export interface CpuMeter {
  /** CPU seconds by role since the meter was started. */
  read(): Record<string, number>;
}

/**
 * Meters a tree of processes, and others under names of their own. The time of a process that ends goes to its parent, so that the sum over a tree is right
 * whoever ends meanwhile: a database connection that was busy before and is closed now adds nothing.
 */
export function startCpuMeter(rootPid: number, others: Readonly<Record<string, number>> = {}): CpuMeter {
  const look = () => {
    const byRole: Record<string, number> = {};
    const add = (role: string, { cpuSeconds }: ProcessInfo) => {
      byRole[role] = (byRole[role] ?? 0) + cpuSeconds;
    };
    for (const one of treeOf(rootPid)) add(roleOf(one), one);
    for (const [role, pid] of Object.entries(others)) for (const one of treeOf(pid)) add(role, one);
    return byRole;
  };
  const before = look();
  return {
    read: () =>
      Object.fromEntries(Object.entries(look()).map(([role, seconds]) => [role, seconds - (before[role] ?? 0)])),
  };
}

/** The most resident memory since the process began, or since `resetPeakMemory`. */
export function peakMemoryMiB(pid: number): number {
  const line = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
  if (line === null) throw new Error(`no peak memory of process ${pid}`);
  return (Number(line[1]) * 1024) / MIB;
}

/** 5 is the kernel's word for "forget the peak". */
export function resetPeakMemory(pid: number): void {
  writeFileSync(`/proc/${pid}/clear_refs`, "5");
}

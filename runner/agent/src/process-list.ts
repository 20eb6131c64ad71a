import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";

/** Linux counts process times in hundredths of a second for user space, whatever the kernel's own tick. */
const CLOCK_TICK_MS = 10;
const KIB = 1024;
const PS_TIMEOUT_MS = 5_000;

export interface ProcessInfo {
  readonly pid: number;
  readonly parentPid: number;
  /** Session on Linux; process group on macOS, where `ps` does not tell the session. Both are the engine's own pid for a detached child. */
  readonly session: number;
  /** Together with the pid this names a process for good: pids are given out again. */
  readonly startTime: string;
  readonly zombie: boolean;
  readonly cpuMs: number;
}

/** Every process that this user may see. */
export function listProcesses(): ProcessInfo[] {
  return process.platform === "linux" ? listFromProc() : listFromPs();
}

function listFromProc(): ProcessInfo[] {
  const found: ProcessInfo[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const info = readFromProc(pid);
    if (info !== undefined) found.push(info);
  }
  return found;
}

export function readProcess(pid: number): ProcessInfo | undefined {
  return process.platform === "linux" ? readFromProc(pid) : listFromPs(pid)[0];
}

function readFromProc(pid: number): ProcessInfo | undefined {
  try {
    return parseProcStat(readFileSync(`/proc/${pid}/stat`, "latin1"));
  } catch {
    return undefined;
  }
}

/** proc_pid_stat(5). The name in parentheses may itself hold spaces and parentheses, so fields are counted from its end. */
export function parseProcStat(text: string): ProcessInfo | undefined {
  const nameEnd = text.lastIndexOf(")");
  const pid = Number.parseInt(text, 10);
  if (nameEnd < 0 || !Number.isInteger(pid)) return undefined;
  const fields = text.slice(nameEnd + 2).split(" ");
  return {
    pid,
    zombie: fields[0] === "Z" || fields[0] === "X",
    parentPid: Number(fields[1]),
    session: Number(fields[3]),
    cpuMs: (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK_MS,
    startTime: fields[19] ?? "",
  };
}

function listFromPs(pid?: number): ProcessInfo[] {
  const which = pid === undefined ? ["-ax"] : ["-p", String(pid)];
  try {
    const text = execFileSync("ps", [...which, "-o", "pid=,ppid=,pgid=,stat=,time=,lstart="], {
      encoding: "utf8",
      timeout: PS_TIMEOUT_MS,
      stdio: ["ignore", "pipe", "ignore"],
    });
    return text.split("\n").flatMap((line) => parsePsLine(line) ?? []);
  } catch {
    return [];
  }
}

export function parsePsLine(line: string): ProcessInfo | undefined {
  const [pid, parentPid, group, state, time, ...start] = line.trim().split(/\s+/);
  if (pid === undefined || start.length === 0 || time === undefined) return undefined;
  const seconds = time.split(":").reduce((total, part) => total * 60 + Number(part), 0);
  return {
    pid: Number(pid),
    parentPid: Number(parentPid),
    session: Number(group),
    zombie: state?.startsWith("Z") ?? false,
    cpuMs: Math.round(seconds * 1000),
    startTime: start.join(" "),
  };
}

/**
 * Memory that only killing gives back: anonymous and shared memory. Pages of mapped files are left out, since the kernel drops them by itself:
 * a scan of a large file must not look like a large query.
 */
export function readMemoryBytes(pid: number): number {
  if (process.platform !== "linux") return readMemoryFromPs(pid);
  try {
    const status = readFileSync(`/proc/${pid}/status`, "latin1");
    return (kibField(status, "RssAnon:") + kibField(status, "RssShmem:")) * KIB;
  } catch {
    return 0;
  }
}

/** As `readMemoryBytes`, with pages that several processes share divided among them: dearer to read, right for a tree of forks. */
export function readSharedOutMemoryBytes(pid: number): number {
  if (process.platform !== "linux") return readMemoryFromPs(pid);
  try {
    const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
    return (kibField(rollup, "Pss_Anon:") + kibField(rollup, "Pss_Shmem:")) * KIB;
  } catch {
    return readMemoryBytes(pid);
  }
}

function kibField(text: string, name: string): number {
  const at = text.indexOf(name);
  return at < 0 ? 0 : Number.parseInt(text.slice(at + name.length), 10);
}

function readMemoryFromPs(pid: number): number {
  try {
    const text = execFileSync("ps", ["-p", String(pid), "-o", "rss="], { encoding: "utf8", timeout: PS_TIMEOUT_MS });
    return Number.parseInt(text, 10) * KIB || 0;
  } catch {
    return 0;
  }
}

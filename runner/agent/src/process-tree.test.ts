import { expect, test } from "vitest";
import { type ProcessInfo, parseProcStat, parsePsLine, readProcess } from "./process-list.ts";
import { treeOf } from "./process-tree.ts";

function info(pid: number, parentPid: number, session: number, startTime = "1"): ProcessInfo {
  return { pid, parentPid, session, startTime, zombie: false, cpuMs: 0 };
}

const root = { pid: 10, startTime: "1", mark: "m", known: new Map<number, string>() };
const pidsOf = (from: typeof root, processes: ProcessInfo[]) =>
  treeOf(from, processes)
    .map((one) => one.pid)
    .sort((left, right) => left - right);

test("the tree has the root, its descendants in any session, and its session whoever the parents are", () => {
  const processes = [
    info(1, 0, 1),
    info(10, 5, 10),
    info(11, 10, 10),
    info(12, 11, 12),
    info(13, 1, 10),
    info(20, 1, 20),
  ];
  expect(pidsOf(root, processes)).toEqual([10, 11, 12, 13]);
});

test("a member that has left session and parent is still known, and brings its children", () => {
  const known = new Map([
    [12, "7"],
    [30, "8"],
  ]);
  const processes = [info(12, 1, 12, "7"), info(14, 12, 12), info(30, 1, 30, "9")];
  // Pid 30 was given to another process meanwhile.
  expect(pidsOf({ ...root, known }, processes)).toEqual([12, 14]);
});

test("a stranger that was given the pid of a dead root is not taken for it, nor is its session", () => {
  expect(pidsOf(root, [info(10, 1, 10, "2"), info(11, 10, 10, "3")])).toEqual([]);
});

test("a process name may hold spaces and parentheses", () => {
  const fields = "S 7 40 41 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 98765 1000 200";
  expect(parseProcStat(`42 (a (b) c) d) ${fields}`)).toEqual({
    pid: 42,
    parentPid: 7,
    session: 41,
    zombie: false,
    cpuMs: 3_000,
    startTime: "98765",
  });
  expect(parseProcStat("")).toBeUndefined();
});

test("a line of ps is read with its start time as one text", () => {
  expect(parsePsLine("  501   1   501 Ss    1:02.50 Fri Nov 20 14:46:01 2026")).toEqual({
    pid: 501,
    parentPid: 1,
    session: 501,
    zombie: false,
    cpuMs: 62_500,
    startTime: "Fri Nov 20 14:46:01 2026",
  });
});

test("this very process is found as the system has it", () => {
  expect(readProcess(process.pid)).toMatchObject({ pid: process.pid, parentPid: process.ppid, zombie: false });
});

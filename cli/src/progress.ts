import type { Job } from "@frazil/contracts";
import { formatClock, withoutControls } from "./format.ts";
import type { Output } from "./io.ts";
import { doneCount } from "./job-end.ts";
import { type Paint, paintStatus } from "./paint.ts";
import type { Session } from "./session.ts";

const REDRAWS_PER_SECOND = 8;
const BAR_WIDTH_MAX = 30;
const BAR_WIDTH_MIN = 8;
const STATUS_WIDTH = 9;

export interface Progress {
  update(job: Job): void;
  stop(): void;
}

/** A bar on stderr, on a terminal only; it is gone when stopped. Elsewhere, and with --quiet, nothing is shown. */
export async function openProgress(session: Session, first: Job): Promise<Progress> {
  const { io, quiet, unicode, paintError: paint } = session;
  if (quiet || !io.stderr.isTTY) return { update: () => {}, stop: () => {} };
  const { SingleBar } = (await import("cli-progress")).default;
  let job = first;
  const bar = new SingleBar({
    stream: io.stderr as unknown as NodeJS.WritableStream,
    fps: REDRAWS_PER_SECOND,
    forceRedraw: true,
    clearOnComplete: true,
    hideCursor: true,
    format: () => progressLine(job, { nowMs: io.now(), width: lineWidth(io.stderr), unicode, paint }),
  });
  bar.start(Math.max(first.counts.total, 1), doneCount(first));
  return {
    update(next) {
      job = next;
      bar.update(doneCount(next));
    },
    stop: () => bar.stop(),
  };
}

/** One less than the terminal has, so that the cursor stays in the line. */
function lineWidth(output: Output): number {
  return Math.max((output.columns ?? 80) - 1, 20);
}

export interface LineLook {
  readonly nowMs: number;
  readonly width: number;
  readonly unicode: boolean;
  readonly paint: Paint;
}

/** `running   ━━━━━━╌╌╌╌  120/365  3 failed  12.3/s  00:10`, with what matters least left out where there is too little room. */
export function progressLine(job: Job, look: LineLook): string {
  const { counts } = job;
  const elapsedMs = look.nowMs - Date.parse(job.createdAt);
  const done = doneCount(job);
  const parts: Part[] = [
    {
      text: job.status.padEnd(STATUS_WIDTH),
      show: (text) => text.replace(job.status, (word) => paintStatus(look.paint, word)),
    },
  ];
  const isMany = counts.total > 1;
  if (isMany) {
    parts.push({ text: `${done}/${counts.total}` });
    if (counts.failed > 0) parts.push({ text: `${counts.failed} failed`, show: (text) => look.paint("red", text) });
    const rate = ratePerSecond(job, look.nowMs);
    if (rate !== undefined) parts.push({ text: `${rate}/s`, rank: 3 });
  }
  if (job.phase !== null)
    parts.push({
      text: withoutControls(job.phase).replaceAll("\n", " "),
      rank: isMany ? 4 : 1,
      show: (text) => look.paint("dim", text),
    });
  parts.push({ text: formatClock(elapsedMs), rank: 2 });
  const shown = fitParts(parts, look.width);
  if (isMany) addBar(shown, done / counts.total, look);
  return shown.map(({ text, show }) => (show === undefined ? text : show(text))).join("  ");
}

interface Part {
  text: string;
  /** What to leave out first: the highest. 0 stays. */
  rank?: number;
  show?: (text: string) => string;
}

function fitParts(parts: readonly Part[], width: number): Part[] {
  let kept = [...parts];
  while (widthOf(kept) > width) {
    const worst = kept.reduce((found, part) => ((part.rank ?? 0) > (found.rank ?? 0) ? part : found));
    if ((worst.rank ?? 0) === 0) break;
    const room = worst.text.length - (widthOf(kept) - width);
    if (room >= BAR_WIDTH_MIN) worst.text = `${worst.text.slice(0, room - 1)}~`;
    else kept = kept.filter((part) => part !== worst);
  }
  return kept;
}

function widthOf(parts: readonly Part[]): number {
  return parts.reduce((total, { text }) => total + text.length, 0) + 2 * Math.max(parts.length - 1, 0);
}

function addBar(parts: Part[], share: number, look: LineLook): void {
  const room = Math.min(look.width - widthOf(parts) - 2, BAR_WIDTH_MAX);
  if (room < BAR_WIDTH_MIN) return;
  const filled = Math.floor(Math.min(share, 1) * room);
  const [full, empty] = look.unicode ? ["━", "╌"] : ["#", "-"];
  parts.splice(1, 0, { text: full.repeat(filled) + empty.repeat(room - filled) });
}

/** Ended tasks per second since the job began to run; undefined before there is something to divide. */
function ratePerSecond(job: Job, nowMs: number): string | undefined {
  const done = doneCount(job);
  if (job.startedAt === null || done === 0) return undefined;
  const seconds = (nowMs - Date.parse(job.startedAt)) / 1_000;
  if (seconds < 0.5) return undefined;
  const rate = done / seconds;
  return rate >= 100 ? rate.toFixed(0) : rate.toFixed(1);
}

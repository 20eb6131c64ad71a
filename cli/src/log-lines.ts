import { stripVTControlCharacters } from "node:util";
import type { LogLine } from "@frazil/contracts";
import { withoutControls } from "./format.ts";
import type { Output } from "./io.ts";
import { plain } from "./paint.ts";
import type { Session } from "./session.ts";

export interface LineOptions {
  /** Whether to say which task wrote the line: the end of its id. */
  readonly prefixed: boolean;
  readonly timestamps?: boolean | undefined;
}

const TASK_SUFFIX_CHARS = 6;

/** One line of a log. On a terminal it can't move the cursor or change colours; elsewhere it is left as the query wrote it. */
export function printLogLine(session: Session, output: Output, line: LogLine, options: LineOptions): void {
  const paint = output === session.io.stderr ? session.paintError : session.paint;
  const text = output.isTTY ? withoutControls(stripVTControlCharacters(line.text)) : line.text;
  const parts = [
    ...(options.timestamps ? [paint("dim", line.at)] : []),
    ...(options.prefixed ? [paint("cyan", line.taskId === null ? "job" : line.taskId.slice(-TASK_SUFFIX_CHARS))] : []),
    line.stream === "system" ? paint("dim", text) : (line.stream === "stderr" ? paint : plain)("yellow", text),
  ];
  output.write(`${parts.join(" ")}\n`);
}

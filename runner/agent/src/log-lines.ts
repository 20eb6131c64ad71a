import { StringDecoder } from "node:string_decoder";
import { LOG_BYTES_PER_ATTEMPT_MAX, LOG_LINE_CHARS_MAX, type NodeLogLine } from "@frazil/contracts";

export type LogStream = NodeLogLine["stream"];
type Written = Omit<NodeLogLine, "taskId" | "attempt">;

interface OpenLine {
  text: string;
  /** The line is over the limit; what comes until its end is dropped. */
  cut: boolean;
  readonly decoder: StringDecoder;
}

/** The log of one attempt: makes numbered lines out of chunks of output, within the limits of a line and of an attempt. */
export interface AttemptLog {
  /** Raw output, in whatever pieces it came. */
  write(stream: LogStream, chunk: Buffer, at: Date): Written[];
  /** A whole line, without its end. */
  writeLine(stream: LogStream, text: string, at: Date): Written[];
  /** The last, unended lines. */
  end(at: Date): Written[];
}

export function createAttemptLog(bytesMax: number = LOG_BYTES_PER_ATTEMPT_MAX): AttemptLog {
  const open = new Map<LogStream, OpenLine>();
  let seq = 0;
  let bytes = 0;
  let full = false;

  function emit(stream: LogStream, text: string, at: Date): Written[] {
    if (full) return [];
    const clean = cleanLine(text);
    bytes += Buffer.byteLength(clean) + 1;
    if (bytes <= bytesMax) return [{ seq: seq++, at: at.toISOString(), stream, text: clean }];
    full = true;
    const limit = `${Math.round(bytesMax / 1024)} KiB`;
    return [
      {
        seq: seq++,
        at: at.toISOString(),
        stream: "system",
        text: `The log of this attempt reached its limit of ${limit}; the rest is dropped.`,
      },
    ];
  }

  function lineOf(stream: LogStream): OpenLine {
    const line = open.get(stream) ?? newLine();
    open.set(stream, line);
    return line;
  }

  return {
    write(stream, chunk, at) {
      if (full) return [];
      const line = lineOf(stream);
      const pieces = line.decoder.write(chunk).split("\n");
      const last = pieces.pop() as string;
      const written = pieces.flatMap((piece) => {
        extend(line, piece);
        return emit(stream, finish(line), at);
      });
      extend(line, last);
      return written;
    },
    writeLine(stream, text, at) {
      const line = newLine();
      extend(line, text);
      return emit(stream, line.text, at);
    },
    end(at) {
      return [...open].flatMap(([stream, line]) => {
        extend(line, line.decoder.end());
        return line.text === "" ? [] : emit(stream, finish(line), at);
      });
    },
  };
}

function newLine(): OpenLine {
  return { text: "", cut: false, decoder: new StringDecoder("utf8") };
}

function extend(line: OpenLine, text: string): void {
  if (line.cut) return;
  line.text += text;
  // A progress bar rewrites its line: only what a terminal would show at last is kept.
  const rewritten = line.text.lastIndexOf("\r", line.text.length - 2);
  if (rewritten >= 0) line.text = line.text.slice(rewritten + 1);
  if (line.text.length <= LOG_LINE_CHARS_MAX) return;
  line.text = `${line.text.slice(0, LOG_LINE_CHARS_MAX - 1)}…`;
  line.cut = true;
}

function finish(line: OpenLine): string {
  const text = line.text;
  line.text = "";
  line.cut = false;
  return text;
}

/** What Postgres and JSON take: no NUL, no half of a surrogate pair. */
function cleanLine(text: string): string {
  const ended = text.endsWith("\r") ? text.slice(0, -1) : text;
  return ended.replaceAll("\0", "\uFFFD").toWellFormed();
}

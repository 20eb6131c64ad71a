import { styleText } from "node:util";
import type { Io, Output } from "./io.ts";

type Style = Parameters<typeof styleText>[0];
export type Paint = (style: Style, text: string) => string;

export const plain: Paint = (_style, text) => text;
const coloured: Paint = (style, text) => styleText(style, text, { validateStream: false });

/** Colours for one output: never with --no-color or NO_COLOR, always with FORCE_COLOR, else on a terminal that knows them. */
export function choosePaint(io: Pick<Io, "env">, output: Output, noColor: boolean): Paint {
  const { env } = io;
  if (noColor || env.NO_COLOR) return plain;
  if (env.FORCE_COLOR && env.FORCE_COLOR !== "0") return coloured;
  return output.isTTY && env.TERM !== "dumb" ? coloured : plain;
}

const STATUS_STYLES: Record<string, Style> = {
  queued: "yellow",
  requested: "yellow",
  starting: "yellow",
  leased: "cyan",
  running: "cyan",
  publishing: "cyan",
  stopping: "magenta",
  succeeded: "green",
  ready: "green",
  failed: "red",
  cancelled: "magenta",
  terminated: "gray",
};

export function paintStatus(paint: Paint, status: string): string {
  const style = STATUS_STYLES[status];
  return style === undefined ? status : paint(style, status);
}

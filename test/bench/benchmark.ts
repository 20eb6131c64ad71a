import type { Finding } from "./report.ts";

/** How the command was called. */
export interface Options {
  /** Also say how much CPU time each process took. */
  readonly profile: boolean;
  /** Only Frazil, without the baselines. */
  readonly alone: boolean;
}

export interface Benchmark {
  readonly title: string;
  run(options: Options): Promise<Finding>;
}

export function say(line: string): void {
  process.stderr.write(`bench: ${line}\n`);
}

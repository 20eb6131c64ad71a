import type { Benchmark } from "./benchmark.ts";
import { cancel } from "./cancel.ts";
import { cold } from "./cold.ts";
import { command } from "./command.ts";
import { many } from "./many.ts";
import { partitioned } from "./partitioned.ts";
import { runners } from "./runners.ts";
import { scale } from "./scale.ts";
import { warm } from "./warm.ts";

export const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  warm,
  many,
  scale,
  runners,
  partitioned,
  cancel,
  cold,
  command,
};

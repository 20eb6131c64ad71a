import type { Benchmark } from "./benchmark.ts";
import { many } from "./many.ts";
import { scale } from "./scale.ts";
import { warm } from "./warm.ts";

export const BENCHMARKS: Readonly<Record<string, Benchmark>> = { warm, many, scale };

import type { Benchmark } from "./benchmark.ts";
import { many } from "./many.ts";
import { warm } from "./warm.ts";

export const BENCHMARKS: Readonly<Record<string, Benchmark>> = { warm, many };

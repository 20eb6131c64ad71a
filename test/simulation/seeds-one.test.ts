import { testSeeds } from "./seeds.ts";

// Two files, so that two workers share the seeds.
testSeeds(0, 2);

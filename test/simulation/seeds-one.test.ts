import { testSeeds } from "./seeds.ts";

// Four files, so that four workers share the seeds: a run waits for Postgres more than for anything else.
testSeeds(0, 4);

